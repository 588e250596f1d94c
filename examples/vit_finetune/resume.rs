//! Going on with a run that was interrupted: `--resume RUN`.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use wgrad::train::{RunState, STATE_FILE};

use crate::args::Args;
use crate::given::Given;
use crate::report::RunReport;

/// The arguments of the interrupted run where one is to go on, with what is about this machine as it was given now.
pub fn arguments(args: Args, given: &Given) -> Result<Args> {
    let Some(folder) = args.resume.clone() else { return Ok(args) };
    given.check_resumed()?;
    let path = folder.join("args.json");
    let text = std::fs::read(&path).with_context(|| format!("--resume {}: no run's folder", folder.display()))?;
    let saved: Args = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    let Args { resume, adapter, threads, memory, tuning_cache, estimate, .. } = args;
    Ok(Args { output: Some(folder), resume, adapter, threads, memory, tuning_cache, estimate, ..saved })
}

/// Keeps other programs from writing into `folder` too, as long as the file is held; the system lets go of it when a program
/// ends, however that comes.
pub fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bail!("another program is writing into {}", folder.display()),
        // Not every file system has locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Where the run in `folder` stands, if it was ever saved.
pub fn state(folder: &Path) -> Result<Option<RunState>> {
    let path = folder.join(STATE_FILE);
    if path.exists() { Ok(Some(RunState::read(path)?)) } else { Ok(None) }
}

/// Runs of the interrupted program that had ended; those that were stopped go on.
pub fn finished(folder: &Path) -> Result<Vec<RunReport>> {
    let path = folder.join("report.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut report: Value = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    let runs: Vec<RunReport> =
        serde_json::from_value(report["runs"].take()).with_context(|| format!("reading {}", path.display()))?;
    Ok(runs.into_iter().filter(|run| !run.stopped).collect())
}
