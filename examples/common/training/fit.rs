//! One run, followed on the console and recorded.

use anyhow::Result;
use wgrad::data::Source;
use wgrad::gpu::Gpu;
use wgrad::train::{FitData, FitOptions, Outcome, RunState, Task, TrainSettings, fit, fit_recovering};

use super::comparison::{Arm, Way};
use super::console::{complain, say};
use super::device::Machine;
use super::history::History;
use super::progress::Progress;
use super::session::Session;
use super::tensorboard::Watched;
use super::words::{Score, Words};

/// Who follows a run.
pub struct Followed<'a, W> {
    pub session: &'a Session<'a, W>,
    /// Its arm and seed.
    pub run: (Arm<W>, u64),
    pub words: &'a Words,
    pub tensorboard: bool,
    pub machine: &'a Machine,
    pub history: &'a mut History,
}

/// What came of a run.
pub struct Fitted {
    pub outcome: Outcome,
    /// The step after which it went on, if it had been interrupted.
    pub resumed_at: u64,
}

impl<W: Way> Followed<'_, W> {
    /// All steps that are left, with a bar and a row of the history for each. `make` makes what is trained, at the start and, where the
    /// device is lost, on another one. Returns it too.
    pub fn fit<T, S, V>(
        self,
        mut make: impl FnMut(&Gpu) -> wgrad::Result<T>,
        data: &FitData<'_, S, V>,
        settings: TrainSettings,
        options: FitOptions,
    ) -> Result<(Fitted, T)>
    where
        T: Task,
        S: Source<Batch = T::Batch>,
        V: Source<Batch = T::Batch>,
    {
        let Followed { session, run: (arm, seed), words, tensorboard, machine, history } = self;
        let name = &session.comparison.name(arm, seed);
        let options = FitOptions { debug_nan: machine.options.debug_nan, ..options };
        let (steps, patience) = (data.steps, options.patience);
        let resumed_at = options.resume.as_ref().map_or(0, RunState::steps);
        if resumed_at > 0 {
            say!("{name} goes on after step {resumed_at} of {steps}");
        }
        history.begin(name, options.resume.as_ref(), steps);
        let mut progress = Progress::new(name, words, steps, resumed_at, history, session.stop);
        let mut watched = Watched::new(tensorboard, session.folder, name, &words.score, &mut progress)?;
        let fitted = match machine.options.recovery()? {
            Some(recovery) => {
                let mut is_first = true;
                let mut again = || {
                    if !std::mem::take(&mut is_first) {
                        machine.reopen()?;
                    }
                    make(&machine.gpu())
                };
                fit_recovering(&mut again, data, settings, options, recovery, &mut watched)
            }
            None => {
                make(&machine.gpu()).and_then(|task| Ok((fit(&task, data, settings, options, &mut watched)?, task)))
            }
        };
        // What has been trained counts, whether or not all of its curves could be written.
        if let Err(error) = watched.finish() {
            complain!("warning: {error:#}");
        }
        progress.finish();
        let (outcome, task) = fitted?;
        if let Some(reason) = end_of_patience(&outcome, steps, patience, &words.score) {
            say!("{name:12} {reason}");
        }
        Ok((Fitted { outcome, resumed_at }, task))
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
