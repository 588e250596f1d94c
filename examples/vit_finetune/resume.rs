//! Going on with a run that was interrupted: `--resume RUN`.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use wgrad::gpu::AdapterChoice;
use wgrad::train::{RunState, STATE_FILE};

use crate::args::Args;
use crate::console::say;
use crate::given::Given;
use crate::recipe::DropKind;
use crate::report::{self, REPORT, RunReport};
use crate::{arms, files};

/// The arguments of the interrupted run where one is to go on, with what is about this machine as it was given now.
pub fn arguments(args: Args, given: &Given) -> Result<Args> {
    let Some(folder) = args.resume.clone() else { return Ok(args) };
    given.check_resumed()?;
    let path = folder.join("args.json");
    ensure!(
        path.exists(),
        "--resume {}: holds no args.json, so it is no run's folder; give the one that is printed at a run's end (\"written to\")",
        folder.display()
    );
    let saved: Args = files::read_json(&path).with_context(|| {
        format!("--resume {}: was begun by another release of this program, or has been changed", folder.display())
    })?;
    let Args { resume, adapter, threads, memory, tuning_cache, estimate, list_adapters, .. } = args;
    let output = Some(folder);
    Ok(Args { output, resume, adapter, threads, memory, tuning_cache, estimate, list_adapters, ..saved })
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
    let path = folder.join(REPORT);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let Runs { runs } = files::read_json(&path)?;
    Ok(runs.into_iter().filter(|run| !run.stopped).collect())
}

/// The part of report.json that a program reads again.
#[derive(Deserialize)]
struct Runs {
    runs: Vec<RunReport>,
}

/// Whether a run that is to go on has nothing left to do.
pub fn has_ended(args: &Args) -> Result<bool> {
    /// What of recipe.json tells the arms.
    #[derive(Deserialize)]
    struct Main {
        drop: DropKind,
    }
    let Some(folder) = args.resume.as_ref().filter(|_| !args.estimate) else { return Ok(false) };
    let ended = finished(folder)?;
    if ended.is_empty() {
        return Ok(false);
    }
    let Main { drop } = files::read_json(&folder.join("recipe.json"))?;
    Ok(arms::missing(args, drop, &ended).is_empty())
}

/// Says what came of a run that has ended. Nothing is written.
pub fn show_ended(args: &Args) -> Result<()> {
    let Some(folder) = &args.resume else { return Ok(()) };
    let runs = finished(folder)?;
    let steps: Vec<String> = runs
        .iter()
        .map(|run| format!("{} after {} step{}", run.name, run.steps, if run.steps == 1 { "" } else { "s" }))
        .collect();
    say!("{} has ended, {}: there is nothing left to do", folder.display(), steps.join(", "));
    say!("\n{}", report::table(&runs));
    if args.json {
        let report: Value = files::read_json(&folder.join(REPORT))?;
        writeln!(std::io::stdout(), "{report}").context("printing the report")?;
    }
    Ok(())
}

/// What to do about a run that failed, behind its name. `has_news` tells whether this program has seen a step.
pub fn way_on(args: &Args, folder: &Path, error: &anyhow::Error, has_news: bool) -> String {
    let is_state = |path: &Path| path.file_name().is_some_and(|name| name == STATE_FILE);
    match error.downcast_ref() {
        _ if has_news => format!("; to go on from what was saved last: {}", command(args, folder)),
        Some(wgrad::Error::File { path, .. }) if is_state(path) => {
            " cannot go on: put back what was changed, or begin a new run (without --resume)".to_owned()
        }
        _ => String::new(),
    }
}

/// The command that goes on with the run in `folder`, from the folder that this program was started in and on the same
/// machine.
pub fn command(args: &Args, folder: &Path) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "vit_finetune".to_owned());
    let mut words = vec![program, "--resume".to_owned(), folder.display().to_string()];
    let adapter = args.adapter.as_ref().map(AdapterChoice::to_string);
    let own = [
        ("--adapter", adapter),
        ("--threads", (args.threads > 0).then(|| args.threads.to_string())),
        ("--memory", args.memory.map(|megabytes| megabytes.to_string())),
        ("--tuning-cache", args.tuning_cache.as_ref().map(|folder| folder.display().to_string())),
    ];
    words.extend(own.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten());
    words.iter().map(|word| in_shell(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell takes it whole.
fn in_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/\\._-:=,+@%".contains(c);
    match word {
        _ if !word.is_empty() && word.chars().all(|c| is_plain(c) && (cfg!(windows) || c != '\\')) => word.to_owned(),
        _ if cfg!(windows) => format!("\"{word}\""),
        _ => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The arguments as they are kept: their paths lead to the same files from any folder.
pub fn kept(args: &Args) -> Result<Args> {
    let absolute =
        |path: &PathBuf| std::path::absolute(path).with_context(|| format!("finding out where {} is", path.display()));
    let is_file = |path: &&PathBuf| !path.to_str().is_some_and(|text| text.starts_with("hub:"));
    let weights = match &args.weights {
        Some(path) if is_file(&path) => Some(absolute(path)?),
        other => other.clone(),
    };
    Ok(Args {
        data_dir: args.data_dir.as_ref().map(absolute).transpose()?,
        ltd_config: args.ltd_config.as_ref().map(absolute).transpose()?,
        weights,
        ..args.clone()
    })
}
