//! The table in docs/portability.md, written and compared.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use wgrad::gpu::Kernel;

use crate::columns::{COLUMNS, Cell};
use crate::report;

/// What of the page is written by this program stands between these lines.
const BEGIN: &str = "<!-- Written by `.ci/portability write` from here -->";
const END: &str = "<!-- to here -->";

/// From here on a compiler is slow enough to say so.
const SLOW: u64 = 1000;

/// A kernel with its cells.
pub struct Row {
    pub kernel: &'static Kernel,
    pub cells: Vec<Cell>,
}

impl Row {
    fn line(&self) -> String {
        let constants: Vec<_> = self.kernel.constants.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let cells = self.cells.iter().map(text);
        let all: Vec<_> = [format!("`{}`", self.kernel.name), constants.join(", ")].into_iter().chain(cells).collect();
        format!("| {} |", all.join(" | "))
    }
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Taken(milliseconds) if *milliseconds >= SLOW => format!("ok, {:.1} s", *milliseconds as f64 / 1e3),
        Cell::Taken(_) => "ok".to_owned(),
        Cell::Written => "written".to_owned(),
        Cell::Lacks(what) => format!("no {what}"),
        Cell::Refused(message) => format!("**refused**: {}", message.replace('|', "\\|")),
        Cell::NotAsked => "not asked".to_owned(),
    }
}

/// A cell without its time.
fn timeless(cell: &str) -> &str {
    if cell.starts_with("ok") { "ok" } else { cell }
}

/// Puts the table into the page.
pub fn write(path: &Path, rows: &[Row], versions: &str) -> Result<()> {
    let page = read(path)?;
    let [before, _, after] = parts(path, &page)?;
    let tables = [versions.to_owned(), summary(rows), table(rows)].join("\n\n");
    let page = format!("{before}{BEGIN}\n\n{tables}\n\n{END}{after}");
    std::fs::write(path, page).with_context(|| format!("writing {}", path.display()))
}

/// What stands before the table, it, and what stands behind.
fn parts<'a>(path: &Path, page: &'a str) -> Result<[&'a str; 3]> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{}: no line {BEGIN}", path.display()))?;
    let (table, after) = rest.split_once(END).with_context(|| format!("{}: no line {END}", path.display()))?;
    Ok([before, table, after])
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// How many kernels have which cell, by column, with the slowest.
pub fn summary(rows: &[Row]) -> String {
    let mut table = report::table(&["", "slowest", "ok", "written", "no device", "refused"], 2);
    for (i, column) in COLUMNS.iter().enumerate() {
        let count = |is: fn(&Cell) -> bool| rows.iter().filter(|row| is(&row.cells[i])).count().to_string();
        let time = |row: &Row| if let Cell::Taken(milliseconds) = row.cells[i] { milliseconds } else { 0 };
        let slowest = rows.iter().max_by_key(|row| time(row)).filter(|row| time(row) >= SLOW);
        let slowest = slowest.map(|row| format!("{:.1} s, {}", time(row) as f64 / 1e3, row.kernel.name));
        table.add_row([
            column.heading.to_owned(),
            slowest.unwrap_or_default(),
            count(|cell| matches!(cell, Cell::Taken(_))),
            count(|cell| matches!(cell, Cell::Written)),
            count(|cell| matches!(cell, Cell::Lacks(_))),
            count(|cell| matches!(cell, Cell::Refused(_))),
        ]);
    }
    table.to_string()
}

fn table(rows: &[Row]) -> String {
    let headings: Vec<_> = ["kernel", "overrides"].into_iter().chain(COLUMNS.iter().map(|c| c.heading)).collect();
    let head = [format!("| {} |", headings.join(" | ")), format!("|{}", "---|".repeat(headings.len()))];
    head.into_iter().chain(rows.iter().map(Row::line)).collect::<Vec<_>>().join("\n")
}

/// What the page says otherwise than `rows`: kernels that either lacks, and cells but for their times. What was not asked is
/// no difference.
pub fn differences(path: &Path, rows: &[Row], is_asked: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let page = read(path)?;
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let [_, table, _] = parts(path, &page)?;
    let lines = table.lines().filter(|line| line.starts_with("| `")).map(cells);
    let mut known: BTreeMap<_, _> = lines.map(|cells| (cells[0].clone(), cells)).collect();
    let mut found = Vec::new();
    for row in rows {
        let now = cells(&row.line());
        let Some(then) = known.remove(&now[0]) else {
            found.push(format!("{} has no row", now[0]));
            continue;
        };
        let headings = ["kernel", "overrides"].into_iter().chain(COLUMNS.iter().map(|c| c.heading));
        for (heading, (now, then)) in headings.zip(now.iter().zip(&then)) {
            if now != "not asked" && timeless(now) != timeless(then) {
                found.push(format!("{}, {heading}: the page says {then}, and it is {now}", cells(&row.line())[0]));
            }
        }
    }
    let gone = known.into_keys().filter(|kernel| is_asked(kernel));
    found.extend(gone.map(|kernel| format!("{kernel} has a row, and there is no such kernel")));
    Ok(found)
}
