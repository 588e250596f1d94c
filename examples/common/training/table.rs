//! The table at a program's end.

use comfy_table::{Cell, CellAlignment, Table};

use super::comparison::FULL_LENGTH;
use super::report::{Course, Run};
use super::words::Words;

/// A line of the table: what it shows, and how to print it for an arm's runs.
pub type Line<U> = (&'static str, fn(&[&U]) -> String);

/// The arms side by side, each in the mean of its runs, with the program's own lines at the end, those that say
/// anything.
pub fn results<U: Run>(all: &[U], words: &Words, own: &[Line<U>]) -> Table {
    let mut arms: Vec<(&str, Vec<&U>)> = Vec::new();
    for run in all {
        match arms.iter_mut().find(|(name, _)| *name == run.which().arm) {
            Some((_, runs)) => runs.push(run),
            None => arms.push((&run.which().arm, vec![run])),
        }
    }
    let mut table = with_columns("", arms.iter().map(|(name, _)| *name));
    let mut row = |name: &str, value: &dyn Fn(&[&U]) -> String| {
        let values: Vec<String> = arms.iter().map(|(_, runs)| value(runs)).collect();
        if values.iter().any(|value| !value.is_empty()) {
            add_row(&mut table, name, values.into_iter());
        }
    };
    let score = words.score;
    let split = if all.iter().all(U::is_tested) { "test" } else { "validation" };
    row(&format!("{split} {}", score.name), &|runs| spread(runs, |r| score.times * r.score(), 2, score.unit));
    if arms.iter().any(|(_, runs)| runs.len() > 1) {
        row("  less full length's, paired", &|runs| difference(runs, all, score.times));
        row("runs", &|runs| runs.len().to_string());
    }
    row("steps", &|runs| spread(runs, |r| r.course().steps as f64, 0, ""));
    if all.iter().any(|run| run.course().resumed_at > 0) {
        let timed = |course: &Course| (course.steps - course.resumed_at) as f64;
        row("  timed, since it went on", &|runs| spread(runs, |r| timed(r.course()), 0, ""));
    }
    for (name, value) in times() {
        row(name, &value);
    }
    row(&format!("{}/s", words.units), &|runs| spread(runs, U::speed, 0, ""));
    for (name, value) in sizes().iter().chain(own) {
        row(name, value);
    }
    table
}

/// A table without lines, of columns of numbers behind one of names.
pub fn with_columns<'a>(first: &str, columns: impl Iterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    let header = columns.map(|name| Cell::new(name).set_alignment(CellAlignment::Right));
    let header = std::iter::once(Cell::new(first)).chain(header);
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(header);
    table
}

/// A line of such a table.
pub fn add_row(table: &mut Table, name: &str, values: impl Iterator<Item = String>) {
    let cells = values.map(|value| Cell::new(value).set_alignment(CellAlignment::Right));
    table.add_row(std::iter::once(Cell::new(name)).chain(cells));
}

/// The score, `times` itself, less that of full length with the same seed, among all runs.
fn difference<U: Run>(runs: &[&U], all: &[U], times: f64) -> String {
    let pair = |run: &U| {
        let rival =
            all.iter().find(|other| other.which().arm == FULL_LENGTH && other.which().seed == run.which().seed)?;
        Some(times * (run.score() - rival.score()))
    };
    let differences: Vec<f64> =
        runs.iter().filter(|run| run.which().arm != FULL_LENGTH).filter_map(|run| pair(run)).collect();
    if differences.is_empty() { String::new() } else { mean_and_deviation(&differences, 2, "") }
}

fn times<U: Run>() -> [Line<U>; 6] {
    [
        ("wall time, training", |runs| spread(runs, |r| r.course().wall_seconds, 1, " s")),
        ("  of it waiting for data", |runs| share_of_wall(runs, |r| r.data_wait_seconds)),
        ("  of it recording, submitting", |runs| share_of_wall(runs, |r| r.host_seconds)),
        ("evaluation", |runs| spread(runs, |r| r.course().evaluation_seconds, 1, " s")),
        ("saving", |runs| spread(runs, |r| r.course().checkpoint_seconds, 1, " s")),
        ("compilation", |runs| spread(runs, |r| r.course().compilation_seconds, 1, " s")),
    ]
}

fn sizes<U: Run>() -> [Line<U>; 3] {
    [
        ("layer tokens", |runs| thousands(mean(runs, |r| r.course().layer_tokens as f64) as u64)),
        ("  saved", |runs| format!("{:.1} %", 100.0 * mean(runs, |r| r.course().layer_tokens_saved))),
        ("peak device memory", |runs| spread(runs, |r| r.course().peak_device_bytes as f64 / 1e6, 1, " MB")),
    ]
}

pub fn mean<U>(runs: &[&U], value: impl Fn(&U) -> f64) -> f64 {
    runs.iter().map(|run| value(run)).sum::<f64>() / runs.len().max(1) as f64
}

/// The mean over the runs, and their standard deviation where there are several.
pub fn spread<U>(runs: &[&U], value: impl Fn(&U) -> f64, digits: usize, unit: &str) -> String {
    mean_and_deviation(&runs.iter().map(|run| value(run)).collect::<Vec<_>>(), digits, unit)
}

fn mean_and_deviation(values: &[f64], digits: usize, unit: &str) -> String {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    if values.len() < 2 {
        return format!("{mean:.digits$}{unit}");
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (values.len() - 1) as f64).sqrt();
    format!("{mean:.digits$} ± {deviation:.digits$}{unit}")
}

/// Seconds, and their share of the training time.
fn share_of_wall<U: Run>(runs: &[&U], seconds: fn(&Course) -> f64) -> String {
    let (part, whole) = (mean(runs, |r| seconds(r.course())), mean(runs, |r| r.course().wall_seconds));
    format!("{part:.1} s ({:.1} %)", 100.0 * part / whole.max(1e-9))
}

/// 305784192 as 305,784,192.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
