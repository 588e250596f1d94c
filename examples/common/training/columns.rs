//! The columns of the table of runs in report.html, and how values of report.json are printed there.

use serde_json::Value;

/// A column: its title, the field of a run, and how a value is printed.
pub type Column = (&'static str, &'static str, fn(&Value) -> String);

/// The columns of any program, with its own in their places: what the test and the best checkpoint gave, the speed, and what else
/// there is.
pub fn columns(results: &[Column], speed: Column, more: &[Column]) -> Vec<Column> {
    let which: [Column; 2] = [("run", "name", text), ("seed", "seed", text)];
    let times: [Column; 3] =
        [("steps", "steps", text), ("training time", "wall_seconds", time), ("saving", "checkpoint_seconds", time)];
    let sizes: [Column; 2] =
        [("layer tokens saved", "layer_tokens_saved", percent), ("device memory", "peak_device_bytes", megabytes)];
    let ends: [Column; 3] = [
        ("out of patience", "out_of_patience", text),
        ("interrupted", "stopped", text),
        ("not exported", "export_error", text),
    ];
    [&which[..], results, &times, &[speed], &sizes, more, &ends].concat()
}

pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// A value as a reader expects it.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(set) => if *set { "yes" } else { "no" }.to_owned(),
        Value::Array(values) if values.iter().all(|value| !value.is_object() && !value.is_array()) => {
            values.iter().map(text).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn number(value: &Value, print: impl Fn(f64) -> String) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), print)
}

pub fn percent(value: &Value) -> String {
    number(value, |share| format!("{:.2} %", 100.0 * share))
}

pub fn decimals(value: &Value) -> String {
    number(value, |value| format!("{value:.4}"))
}

pub fn whole(value: &Value) -> String {
    number(value, |value| format!("{value:.0}"))
}

pub fn time(value: &Value) -> String {
    number(value, |seconds| format!("{seconds:.1} s"))
}

fn megabytes(value: &Value) -> String {
    number(value, |bytes| format!("{:.1} MB", bytes / 1e6))
}
