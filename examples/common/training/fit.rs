//! One run, followed on the console and recorded.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use wgrad::data::Source;
use wgrad::train::{FitData, FitOptions, Outcome, RunState, Task, TrainSettings, fit};

use super::console::say;
use super::history::History;
use super::progress::Progress;
use super::tensorboard::Watched;
use super::words::{Score, Words};

/// Who follows a run.
pub struct Followed<'a> {
    pub name: &'a str,
    pub words: &'a Words,
    /// The program's folder.
    pub folder: &'a Path,
    pub tensorboard: bool,
    pub stop: &'a AtomicBool,
    pub history: &'a mut History,
}

/// What came of a run.
pub struct Fitted {
    pub outcome: Outcome,
    /// The step after which it went on, if it had been interrupted.
    pub resumed_at: u64,
}

impl Followed<'_> {
    /// All steps that are left, with a bar and a row of the history for each.
    pub fn fit<T, S, V>(
        self,
        task: T,
        data: &FitData<'_, S, V>,
        settings: TrainSettings,
        options: FitOptions,
    ) -> Result<Fitted>
    where
        T: Task,
        S: Source<Batch = T::Batch>,
        V: Source<Batch = T::Batch>,
    {
        let Followed { name, words, folder, tensorboard, stop, history } = self;
        let (steps, patience) = (data.steps, options.patience);
        let resumed_at = options.resume.as_ref().map_or(0, RunState::steps);
        if resumed_at > 0 {
            say!("{name} goes on after step {resumed_at} of {steps}");
        }
        history.begin(name, options.resume.as_ref(), steps);
        let mut progress = Progress::new(name, words, steps, resumed_at, history, stop);
        let mut watched = Watched::new(tensorboard, folder, name, &words.score, &mut progress)?;
        let outcome = fit(task, data, settings, options, &mut watched);
        watched.finish()?;
        progress.finish();
        let outcome = outcome?;
        if let Some(reason) = end_of_patience(&outcome, steps, patience, &words.score) {
            say!("{name:12} {reason}");
        }
        Ok(Fitted { outcome, resumed_at })
    }
}

/// Why a run ended before its last step, if that was for want of progress.
fn end_of_patience(outcome: &Outcome, steps: u64, patience: Option<u64>, score: &Score) -> Option<String> {
    let (epoch, best) = outcome.best.filter(|_| outcome.out_of_patience)?;
    Some(format!(
        "ended after step {} of {steps}: no epoch of the last {} (--patience) had a better validation {} than {}, last reached \
         in epoch {}",
        outcome.steps,
        patience?,
        score.name,
        score.show(best.into(), 2),
        epoch + 1
    ))
}
