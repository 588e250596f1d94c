//! Descriptions of what decides on a run, and in words what two of them differ in.

use serde_json::Value;

/// How much of a description a message repeats, in characters.
const MAX_QUOTED: usize = 200;

/// The first setting in which two descriptions in JSON differ: `"seed: 1" there, "seed: 2" here`. If one of them is no JSON,
/// how they begin. `None` if they are equal.
pub(crate) fn difference(saved: &str, now: &str) -> Option<String> {
    if saved == now {
        return None;
    }
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    let setting = parse(saved).zip(parse(now)).and_then(|(saved, now)| first_difference("", &saved, &now));
    let [saved, now] = setting.unwrap_or_else(|| [saved, now].map(str::to_owned));
    let [saved, now] = [saved, now].map(|text| text.chars().take(MAX_QUOTED).collect::<String>());
    Some(format!("{saved:?} there, {now:?} here"))
}

/// The innermost setting that differs, with its name, in both.
fn first_difference(name: &str, saved: &Value, now: &Value) -> Option<[String; 2]> {
    match (saved, now) {
        _ if saved == now => None,
        // Two variants of one choice have no name in common: they differ as a whole.
        (Value::Object(saved), Value::Object(now)) if saved.keys().any(|key| now.contains_key(key)) => {
            let of = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or_default();
            saved.keys().chain(now.keys()).find_map(|key| first_difference(key, &of(saved, key), &of(now, key)))
        }
        _ => Some([saved, now].map(|value| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if name.is_empty() { text } else { format!("{name}: {text}") }
        })),
    }
}
