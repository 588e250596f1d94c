//! report.html: all that a run leaves behind on one page, in one file. It asks for nothing from elsewhere and runs no script;
//! `html!` escapes every value.

use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::Table;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use serde_json::Value;

use crate::files;

/// Nothing may be loaded or run, whatever a file's text holds.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// Writes the page of what report.json says, with the table of results and the pictures that lie in `folder`.
pub fn write(folder: &Path, report: &impl Serialize, results: &Table) -> Result<()> {
    // By way of the text, which has an f32 of 0.1 as 0.1.
    let report: Value = serde_json::from_str(&serde_json::to_string(report)?)?;
    files::replace(&folder.join("report.html"), page(folder, &report, results).into_string().as_bytes())
}

fn page(folder: &Path, report: &Value, results: &Table) -> Markup {
    let title = title(report);
    let runs = list(report, "runs");
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(include_str!("report.css"))) }
            }
            body {
                header {
                    h1 { (title) }
                    p.quiet { (text(&report["adapter"])) }
                }
                section {
                    h2 { "Results" }
                    (result_table(results))
                    details open[runs.len() > 1] { summary { "Each run (" (runs.len()) ")" } (run_table(runs)) }
                }
                @if let Some(curves) = picture(&folder.join("curves.png"), "Loss, accuracy and kept tokens over the steps") {
                    section { h2 { "Training" } (curves) }
                }
                @for run in runs { (run_section(folder, run)) }
                section {
                    h2 { "Settings" }
                    (settings(&report["recipe"]))
                    h3 { "Data, model and output" }
                    (settings(&report["args"]))
                }
            }
        }
    }
}

fn title(report: &Value) -> String {
    let settings = &report["args"];
    let folder = settings["data_dir"].as_str().and_then(|dir| Path::new(dir).file_name()?.to_str().map(str::to_owned));
    let data = folder.or_else(|| settings["data"].as_str().map(str::to_owned));
    data.map_or_else(|| "Finetuning".to_owned(), |data| format!("Finetuning on {data}"))
}

/// A column of the table of runs: its title, the field, and how a value is printed.
type Column = (&'static str, &'static str, fn(&Value) -> String);

const COLUMNS: [Column; 15] = [
    ("run", "name", text),
    ("seed", "seed", text),
    ("test accuracy", "test_accuracy", percent),
    ("test loss", "test_loss", decimals),
    ("validation accuracy", "validation_accuracy", percent),
    ("best epoch", "best_epoch", text),
    ("steps", "steps", text),
    ("training time", "wall_seconds", time),
    ("saving", "checkpoint_seconds", time),
    ("images/s", "images_per_second", whole),
    ("layer tokens saved", "layer_tokens_saved", percent),
    ("device memory", "peak_device_bytes", megabytes),
    ("pictures skipped", "skipped", count),
    ("out of patience", "out_of_patience", text),
    ("interrupted", "stopped", text),
];

/// As it is printed at the end of the program.
fn result_table(table: &Table) -> Markup {
    html! {
        div.wide {
            table.results {
                thead { @if let Some(row) = table.header() { tr { @for cell in row.cell_iter() { th { (cell.content()) } } } } }
                tbody {
                    @for row in table.row_iter() { tr { @for cell in row.cell_iter() { td { (cell.content()) } } } }
                }
            }
        }
    }
}

/// One line a run; columns that no run has are left out.
fn run_table(runs: &[Value]) -> Markup {
    let columns = || COLUMNS.iter().filter(|(_, key, _)| runs.iter().any(|run| !run[*key].is_null()));
    html! {
        div.wide {
            table {
                thead { tr { @for (title, ..) in columns() { th { (title) } } } }
                tbody {
                    @for run in runs {
                        tr { @for (_, key, print) in columns() { td { (print(&run[*key])) } } }
                    }
                }
            }
        }
    }
}

/// What was found of one run in the test.
fn run_section(folder: &Path, run: &Value) -> Markup {
    let name = text(&run["name"]);
    let place = folder.join(run["folder"].as_str().unwrap_or_default());
    let confusion =
        picture(&place.join("confusion.png"), "Confusion matrix: true classes in rows, predictions in columns");
    let mistakes = picture(&place.join("mistakes.png"), "The mistakes that the model was surest of");
    let classes = list(run, "per_class");
    html! {
        @if confusion.is_some() || mistakes.is_some() || !classes.is_empty() {
            section {
                h2 { "Test: " (name) }
                @if let Some(picture) = confusion { (picture) }
                @if let Some(picture) = mistakes { (picture) }
                @if !classes.is_empty() { (class_table(classes)) }
                @let skipped = list(run, "skipped");
                @if !skipped.is_empty() {
                    details {
                        summary { "Pictures that could not be read (" (skipped.len()) ")" }
                        ul { @for line in skipped { li { (text(line)) } } }
                    }
                }
            }
        }
    }
}

fn class_table(classes: &[Value]) -> Markup {
    html! {
        details open[classes.len() <= 20] {
            summary { "Accuracy by class (" (classes.len()) ")" }
            div.wide {
                table.classes {
                    thead { tr { th { "class" } th { "samples" } th { "accuracy" } th {} } }
                    tbody {
                        @for class in classes {
                            tr {
                                td { (text(&class["name"])) }
                                td { (text(&class["samples"])) }
                                td { (percent(&class["accuracy"])) }
                                td.bar {
                                    @if let Some(share) = class["accuracy"].as_f64() {
                                        span style={ "width:" (format!("{:.1}", 100.0 * share)) "%" } {}
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Every setting that has a value, in the order of their names; groups of settings within them have a place of their own.
fn settings(settings: &Value) -> Markup {
    let has_line =
        |value: &Value| !value.is_null() && !value.is_object() && value.as_array().is_none_or(|v| !v.is_empty());
    let lines = settings.as_object().into_iter().flatten().filter(|(_, value)| has_line(value));
    html! {
        dl {
            @for (name, value) in lines { div { dt { (name.replace('_', "-")) } dd { (text(value)) } } }
        }
    }
}

/// A picture inside the page, if the file is there.
fn picture(path: &Path, description: &str) -> Option<Markup> {
    let bytes = std::fs::read(path).ok()?;
    // Its size, so that the page does not jump: two words at a fixed place in a PNG.
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (width, height) = (word(16)?, word(20)?);
    let data = STANDARD.encode(&bytes);
    Some(html! {
        div.card { img src={ "data:image/png;base64," (data) } alt=(description) width=(width) height=(height); }
    })
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// A value as a reader expects it.
fn text(value: &Value) -> String {
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

fn percent(value: &Value) -> String {
    number(value, |share| format!("{:.2} %", 100.0 * share))
}

fn decimals(value: &Value) -> String {
    number(value, |value| format!("{value:.4}"))
}

fn whole(value: &Value) -> String {
    number(value, |value| format!("{value:.0}"))
}

fn time(value: &Value) -> String {
    number(value, |seconds| format!("{seconds:.1} s"))
}

fn megabytes(value: &Value) -> String {
    number(value, |bytes| format!("{:.1} MB", bytes / 1e6))
}

fn count(value: &Value) -> String {
    value.as_array().map_or_else(|| "–".to_owned(), |list| list.len().to_string())
}
