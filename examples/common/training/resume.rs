//! Going on with a run that was interrupted: `--resume RUN`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::Table;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wgrad::train::{RunState, STATE_FILE};

use super::comparison::{Arm, Comparison};
use super::console::say;
use super::device::Device;
use super::given::Given;
use super::output::Output;
use super::report::{REPORT, Run};
use super::session::Program;
use super::{command, files, folder};

/// A program's arguments, as its runs keep them.
pub trait Arguments: Serialize + DeserializeOwned {
    /// Of its own options, those about this machine: they may be given anew to a run that goes on, and no folder keeps them.
    const ABOUT_MACHINE: &'static [&'static str];

    fn output(&self) -> &Output;

    fn device(&self) -> &Device;

    /// Those of an interrupted run, with what is about this machine, and the folder, as given now.
    fn here(self, saved: Self) -> Self;

    /// As they are kept: their paths lead to the same files from any folder.
    fn kept(&self) -> Result<Self>;

    /// The values of [`Arguments::ABOUT_MACHINE`], as options.
    fn about_machine(&self) -> Vec<(&'static str, Option<String>)>;
}

/// The arguments of the interrupted run where one is to go on.
pub fn arguments<A: Arguments>(args: A, given: &Given) -> Result<A> {
    let Some(folder) = &args.output().resume else { return Ok(args) };
    given.check_resumed(&[A::ABOUT_MACHINE, &Device::WITH_RESUME].concat())?;
    let saved = folder::saved_args(folder)?;
    Ok(args.here(saved))
}

/// Where a run that is to go on has nothing left to do, says so. `comparison` has the runs that were asked for, of which the first
/// drops tokens in the given way.
pub fn has_ended<P: Program>(
    args: &impl Arguments,
    comparison: impl FnOnce(P::Way) -> Comparison<P::Way>,
) -> Result<bool>
where
    P::Way: DeserializeOwned,
{
    let Some(folder) = args.output().resume.as_ref().filter(|_| !args.device().estimate) else { return Ok(false) };
    let ended: Vec<P::Run> = finished(folder)?;
    if ended.is_empty() {
        return Ok(false);
    }
    if !comparison(main_way(folder)?).missing(&ended).is_empty() {
        return Ok(false);
    }
    show_ended(folder, &ended, &P::table(&ended), args.output().json)?;
    Ok(true)
}

/// How the first arm of the run in `folder` drops tokens, by its recipe: arguments say it only where somebody chose it, and another
/// release may do otherwise where nobody did.
pub fn main_way<W: DeserializeOwned>(folder: &Path) -> Result<W> {
    /// What of recipe.json tells it.
    #[derive(Deserialize)]
    struct Main<W> {
        drop: W,
    }
    let Main { drop } = folder::saved_recipe(folder)?;
    Ok(drop)
}

/// The command that goes on with the run in `folder`.
pub fn command(args: &impl Arguments, folder: &Path) -> String {
    let [adapter, rest @ ..] = args.device().about_machine();
    command::resuming(folder, [adapter].into_iter().chain(args.about_machine()).chain(rest))
}

/// Where the run in `folder` stands, if it was ever saved.
pub fn state(folder: &Path) -> Result<Option<RunState>> {
    let path = folder.join(STATE_FILE);
    if path.exists() { Ok(Some(RunState::read(path)?)) } else { Ok(None) }
}

/// Runs of the interrupted program that had ended; those that were stopped go on.
pub fn finished<U: Run>(folder: &Path) -> Result<Vec<U>> {
    Ok(trained(folder)?.into_iter().filter(|run: &U| run.course().has_ended()).collect())
}

/// Those that had seen their last step, of which some may be left to be exported.
pub fn trained<U: Run>(folder: &Path) -> Result<Vec<U>> {
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

/// Whether there is anything of the run in `folder` to go on from: a state, or a run that has ended.
pub fn is_saved(folder: &Path) -> bool {
    [STATE_FILE, REPORT].iter().any(|file| folder.join(file).exists())
}

/// What `command` does about the run in `folder`, with it.
pub fn offer(folder: &Path, command: &str) -> String {
    if is_saved(folder) {
        format!("to go on from what was saved last: {command}")
    } else {
        format!("nothing was saved yet; to begin anew: {command}")
    }
}

/// Refuses to train where a run that is left to do could not be exported at its end. `exports` are the folders in its
/// own, of an arm and a seed.
pub fn check_exports<P: Program>(
    folder: &Path,
    comparison: &Comparison<P::Way>,
    goes_on: bool,
    exports: impl Fn(Arm<P::Way>, u64) -> Vec<&'static str>,
) -> Result<()> {
    let ended: Vec<P::Run> = if goes_on { finished(folder)? } else { Vec::new() };
    comparison.missing(&ended).into_iter().try_for_each(|(arm, seed)| {
        folder::refuse_exports(&comparison.place(folder, arm, seed), &exports(arm, seed), goes_on)
    })
}

/// Says what came of runs that have ended: their table, and report.json where that is asked for. Nothing is written.
fn show_ended<U: Run>(folder: &Path, runs: &[U], table: &Table, json: bool) -> Result<()> {
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

/// What to do about a run that failed, behind its name. `offer` is [`offer`]'s; `has_news` tells whether this program
/// has seen a step.
pub fn way_on(offer: &str, error: &anyhow::Error, has_news: bool) -> String {
    let is_state = |path: &Path| path.file_name().is_some_and(|name| name == STATE_FILE);
    match error.downcast_ref() {
        Some(wgrad::Error::NonFinite { .. }) if has_news => {
            format!("; {offer}; with --debug-nan it names the kernel that is at fault")
        }
        _ if has_news => format!("; {offer}"),
        Some(wgrad::Error::File { path, .. }) if is_state(path) => {
            " cannot go on: put back what was changed, or begin a new run (without --resume)".to_owned()
        }
        _ => String::new(),
    }
}
