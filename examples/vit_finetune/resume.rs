//! Going on with a run that was interrupted: `--resume RUN`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;

use crate::args::Args;
use crate::recipe::DropKind;
use crate::report::RunReport;
use crate::run::Runner;
use crate::training::device::Device;
use crate::training::given::Given;
use crate::training::session::Program;
use crate::training::{command, folder, resume};

/// The arguments of the interrupted run where one is to go on, with what is about this machine as it was given now.
pub fn arguments(args: Args, given: &Given) -> Result<Args> {
    let Some(folder) = args.resume.clone() else { return Ok(args) };
    given.check_resumed(&[&["threads"][..], &Device::WITH_RESUME].concat())?;
    let saved: Args = folder::saved_args(&folder)?;
    let Args { resume, threads, device, .. } = args;
    Ok(Args { output: Some(folder), resume, threads, device: device.here(saved.device), ..saved })
}

/// Where a run that is to go on has nothing left to do, says so.
pub fn has_ended(args: &Args) -> Result<bool> {
    /// What of recipe.json tells the arms.
    #[derive(Deserialize)]
    struct Main {
        drop: DropKind,
    }
    let Some(folder) = args.resume.as_ref().filter(|_| !args.device.estimate) else { return Ok(false) };
    let ended: Vec<RunReport> = resume::finished(folder)?;
    if ended.is_empty() {
        return Ok(false);
    }
    let Main { drop } = folder::saved_recipe(folder)?;
    if !args.comparison(drop).missing(&ended).is_empty() {
        return Ok(false);
    }
    resume::show_ended(folder, &ended, &Runner::table(&ended), args.json)?;
    Ok(true)
}

/// The command that goes on with the run in `folder`.
pub fn command(args: &Args, folder: &Path) -> String {
    let [adapter, memory, tuning_cache] = args.device.about_machine();
    let threads = ("--threads", (args.threads > 0).then(|| args.threads.to_string()));
    command::resuming(folder, [adapter, threads, memory, tuning_cache])
}

/// The arguments as they are kept: their paths lead to the same files from any folder.
pub fn kept(args: &Args) -> Result<Args> {
    let is_file = |path: &&PathBuf| !path.to_str().is_some_and(|text| text.starts_with("hub:"));
    let weights = match &args.weights {
        Some(path) if is_file(&path) => Some(folder::absolute(path)?),
        other => other.clone(),
    };
    Ok(Args {
        data_dir: args.data_dir.as_deref().map(folder::absolute).transpose()?,
        ltd_config: args.ltd_config.as_deref().map(folder::absolute).transpose()?,
        weights,
        ..args.clone()
    })
}
