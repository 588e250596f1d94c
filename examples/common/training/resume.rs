//! Going on with a run that was interrupted: `--resume RUN`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::Table;
use serde::Deserialize;
use serde_json::Value;
use wgrad::train::{RunState, STATE_FILE};

use super::console::say;
use super::files;
use super::report::{REPORT, Run};

/// Where the run in `folder` stands, if it was ever saved.
pub fn state(folder: &Path) -> Result<Option<RunState>> {
    let path = folder.join(STATE_FILE);
    if path.exists() { Ok(Some(RunState::read(path)?)) } else { Ok(None) }
}

/// Runs of the interrupted program that had ended; those that were stopped go on.
pub fn finished<U: Run>(folder: &Path) -> Result<Vec<U>> {
    /// The part of report.json that a program reads again.
    #[derive(Deserialize)]
    struct Runs<U> {
        runs: Vec<U>,
    }
    let path = folder.join(REPORT);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let Runs { runs } = files::read_json::<Runs<U>>(&path)?;
    Ok(runs.into_iter().filter(|run| !run.course().stopped).collect())
}

/// Says what came of runs that have ended: their table, and report.json where that is asked for. Nothing is written.
pub fn show_ended<U: Run>(folder: &Path, runs: &[U], table: &Table, json: bool) -> Result<()> {
    let describe = |run: &U| {
        let steps = run.course().steps;
        format!("{} after {steps} step{}", run.which().name, if steps == 1 { "" } else { "s" })
    };
    let steps: Vec<String> = runs.iter().map(describe).collect();
    say!("{} has ended, {}: there is nothing left to do", folder.display(), steps.join(", "));
    say!("\n{table}");
    if json {
        let report: Value = files::read_json(&folder.join(REPORT))?;
        writeln!(std::io::stdout(), "{report}").context("printing the report")?;
    }
    Ok(())
}

/// What to do about a run that failed, behind its name. `command` goes on; `has_news` tells whether this program has seen a step.
pub fn way_on(command: &str, error: &anyhow::Error, has_news: bool) -> String {
    let is_state = |path: &Path| path.file_name().is_some_and(|name| name == STATE_FILE);
    match error.downcast_ref() {
        _ if has_news => format!("; to go on from what was saved last: {command}"),
        Some(wgrad::Error::File { path, .. }) if is_state(path) => {
            " cannot go on: put back what was changed, or begin a new run (without --resume)".to_owned()
        }
        _ => String::new(),
    }
}
