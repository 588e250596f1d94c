//! What the benches print and write, and how they read their arguments.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// The program's arguments without the `--bench` that cargo adds.
pub fn arguments<A: Parser>() -> A {
    A::parse_from(std::env::args_os().filter(|argument| argument != "--bench"))
}

/// A table in Markdown, so that it can go into the documentation as it is. All columns but the first `names` are numbers.
pub fn table(header: &[&str], names: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.iter().copied());
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// `value` as JSON in a file, if one is named.
pub fn write_json(path: Option<&Path>, value: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
