//! In words, what two descriptions differ in.

use serde_json::Value;

/// How much of a description a message repeats, in characters.
const MAX_QUOTED: usize = 200;
/// How much of that comes before the difference, where a text is too long to be repeated from its start.
const MAX_BEFORE: usize = 40;

/// The first setting in which two descriptions in JSON differ: `"seed: 1" there, "seed: 2" here`, in a list the first element, `"widths[3]: ..`.
/// If one of them is no JSON, where they begin to differ. `None` if they are equal.
pub(crate) fn difference(saved: &str, now: &str) -> Option<String> {
    if saved == now {
        return None;
    }
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    let setting = parse(saved).zip(parse(now)).and_then(|(saved, now)| first_difference("", &saved, &now));
    let (name, texts) = setting.unwrap_or_else(|| (String::new(), [saved, now].map(str::to_owned)));
    let [saved, now] =
        quoted(&texts).map(|text| if name.is_empty() { text } else { format!("{}: {text}", start(&name)) });
    Some(format!("{saved:?} there, {now:?} here"))
}

/// The innermost setting that differs: its name, and what it is in both.
fn first_difference(name: &str, saved: &Value, now: &Value) -> Option<(String, [String; 2])> {
    match (saved, now) {
        _ if saved == now => None,
        // Two variants of one choice have no name in common: they differ as a whole.
        (Value::Object(saved), Value::Object(now)) if saved.keys().any(|key| now.contains_key(key)) => {
            let of = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or_default();
            // A list's elements are told apart by what comes before their settings' names.
            let named = |key: &str| if name.contains(']') { format!("{name}.{key}") } else { key.to_owned() };
            let mut keys = saved.keys().chain(now.keys());
            keys.find_map(|key| first_difference(&named(key), &of(saved, key), &of(now, key)))
        }
        (Value::Array(saved), Value::Array(now)) => {
            let of = |list: &[Value], i: usize| list.get(i).cloned().unwrap_or_default();
            let named = |i| format!("{name}[{i}]");
            (0..saved.len().max(now.len())).find_map(|i| first_difference(&named(i), &of(saved, i), &of(now, i)))
        }
        _ => {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((name.to_owned(), [text(saved), text(now)]))
        }
    }
}

/// So much of two texts that their first difference is seen.
fn quoted(texts: &[String; 2]) -> [String; 2] {
    let [saved, now] = texts;
    let alike = saved.chars().zip(now.chars()).take_while(|(a, b)| a == b).count();
    if alike + MAX_BEFORE < MAX_QUOTED {
        return [saved, now].map(|text| start(text));
    }
    let from = |text: &String| start(&text.chars().skip(alike - MAX_BEFORE).collect::<String>());
    [saved, now].map(|text| format!("...{}", from(text)))
}

fn start(text: &str) -> String {
    text.chars().take(MAX_QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn the_first_difference_is_named() {
        let said = |saved: &str, now: &str| difference(saved, now).unwrap();
        let settings = |at: usize, value: u32| {
            let mut widths = vec![7; 1000];
            widths[at] = value;
            format!(r#"{{"seed":1,"model":{{"widths":{widths:?}}}}}"#)
        };
        assert_eq!(said(&settings(900, 7), &settings(900, 8)), r#""widths[900]: 7" there, "widths[900]: 8" here"#);
        assert_eq!(said(r#"{"a":[1,2]}"#, r#"{"a":[1]}"#), r#""a[1]: 2" there, "a[1]: null" here"#);
        let groups = |lr| format!(r#"{{"groups":[{{"lr":1}},{{"lr":{lr}}}]}}"#);
        assert_eq!(said(&groups(1), &groups(2)), r#""groups[1].lr: 1" there, "groups[1].lr: 2" here"#);
        let deep = |lr| format!(r#"[{{"a":{{"lr":1}}}},{{"a":{{"lr":{lr}}}}}]"#);
        assert_eq!(said(&deep(1), &deep(2)), r#""[1].a.lr: 1" there, "[1].a.lr: 2" here"#);
        assert_eq!(said("[3]", "[4]"), r#""[0]: 3" there, "[0]: 4" here"#);
        assert_eq!(said(r#"{"x":{"seed":1}}"#, r#"{"x":{"seed":2}}"#), r#""seed: 1" there, "seed: 2" here"#);
        assert_eq!(said(r#"{"way":{"on":1}}"#, r#"{"way":"off"}"#), r#""way: {\"on\":1}" there, "way: off" here"#);
        assert_eq!(difference("{}", "{}"), None);
    }

    #[test]
    fn long_texts_are_cut_where_they_differ() {
        let long = "a".repeat(1000);
        for (there, here) in [("x", "y"), ("x", ""), ("", "y")] {
            for wrap in [|text: String| text, |text: String| format!(r#"{{"name":"{text}"}}"#)] {
                let said = difference(&wrap(format!("{long}{there}")), &wrap(format!("{long}{here}"))).unwrap();
                let (saved, now) = said.split_once(" there, ").unwrap();
                assert!(saved.trim_matches('"') != now.trim_end_matches(" here").trim_matches('"'), "{said}");
                assert!(said.len() < 600, "{said}");
            }
        }
    }
}
