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

use super::columns::{Column, list, text};
use super::files;

/// Nothing may be loaded or run, whatever a file's text holds.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// A program's part of its page, made of what report.json says.
pub struct Page {
    pub title: fn(&Value) -> String,
    /// As they are printed at the end of the program.
    pub results: Table,
    /// Of the table of runs.
    pub columns: Vec<Column>,
    /// The name of the score.
    pub score: &'static str,
    /// What was found of a run in the test, or where there is none on the validation split, given its folder.
    pub blocks: fn(&Path, &Value) -> Vec<Markup>,
}

/// Writes the page of what report.json says, with the drawings that lie in `folder`.
pub fn write(folder: &Path, report: &impl Serialize, page: &Page) -> Result<()> {
    // By way of the text, which has an f32 of 0.1 as 0.1.
    let report: Value = serde_json::from_str(&serde_json::to_string(report)?)?;
    files::replace(&folder.join("report.html"), whole(folder, &report, page).into_string().as_bytes())
}

fn whole(folder: &Path, report: &Value, page: &Page) -> Markup {
    let title = (page.title)(report);
    let runs = list(report, "runs");
    let curves = format!("Loss, {} and kept tokens over the steps", page.score);
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
                    (result_table(&page.results))
                    details open[runs.len() > 1] {
                        summary { "Each run (" (runs.len()) ")" }
                        (run_table(runs, &page.columns))
                    }
                }
                @if let Some(curves) = drawing(&folder.join("curves.png"), &curves) {
                    section { h2 { "Training" } (curves) }
                }
                @for run in runs { (run_section(folder, run, page.blocks)) }
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
fn run_table(runs: &[Value], columns: &[Column]) -> Markup {
    let columns = || columns.iter().filter(|(_, key, _)| runs.iter().any(|run| !run[*key].is_null()));
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

fn run_section(folder: &Path, run: &Value, blocks: fn(&Path, &Value) -> Vec<Markup>) -> Markup {
    let blocks = blocks(&folder.join(run["folder"].as_str().unwrap_or_default()), run);
    let split = if run["tested_on"] == "validation" { "Validation" } else { "Test" };
    html! {
        @if !blocks.is_empty() {
            section {
                h2 { (split) ": " (text(&run["name"])) }
                @for block in blocks { (block) }
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

/// A PNG inside the page, if the file is there.
pub fn drawing(path: &Path, description: &str) -> Option<Markup> {
    let bytes = std::fs::read(path).ok()?;
    // Its size, so that the page does not jump: two words at a fixed place in a PNG.
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (width, height) = (word(16)?, word(20)?);
    let data = STANDARD.encode(&bytes);
    Some(html! {
        div.card { img src={ "data:image/png;base64," (data) } alt=(description) width=(width) height=(height); }
    })
}
