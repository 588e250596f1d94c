//! All runs of a program, one after the other.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use maud::Markup;
use serde::Serialize;
use serde_json::Value;

use super::columns::Column;
use super::comparison::{Arm, Comparison, Way};
use super::console::say;
use super::html::{self, Page};
use super::report::{Report, Run};
use super::resume::{self, Arguments};
use super::table::{self, Line};
use super::words::Words;
use super::{curves, history::History};

/// What a program trains, and how it tells of it.
pub trait Program {
    /// The ways to drop tokens that it knows.
    type Way: Way;
    /// Its results.
    type Run: Run + 'static;

    const WORDS: Words;

    /// The seconds of a step of a model that is thrown away.
    fn trial(&self, way: Self::Way) -> Result<f64>;

    /// Trains and tests. `ended` are the runs that have been trained before.
    fn run(&mut self, arm: Arm<Self::Way>, seed: u64, ended: &[Self::Run], history: &mut History) -> Result<Self::Run>;

    /// Its own lines of the table.
    fn lines() -> Vec<Line<Self::Run>>;

    /// Of the table of runs on its page.
    fn columns() -> Vec<Column>;

    /// The page's title, from report.json.
    fn title(report: &Value) -> String;

    /// What the page shows of a run, from report.json, beside its name and numbers; `folder` is the run's.
    fn blocks(folder: &Path, run: &Value) -> Vec<Markup>;

    /// The table at the end.
    fn table(runs: &[Self::Run]) -> comfy_table::Table {
        table::results(runs, &Self::WORDS, &Self::lines())
    }
}

/// Where the runs are written, and how they go on.
pub struct Session<'a, W> {
    pub folder: &'a Path,
    pub comparison: Comparison<W>,
    /// Whether an interrupted program goes on.
    pub goes_on: bool,
    /// The command that goes on with this one.
    pub command: String,
    pub stop: &'a AtomicBool,
}

impl<W: Way> Session<'_, W> {
    /// The steps of a run: `whole`, but for an arm that is cut short to the time of the first one, found by a `trial`. `own` is
    /// the run's folder.
    pub fn steps<U: Run>(
        &self,
        (arm, seed): (Arm<W>, u64),
        ended: &[U],
        own: &Path,
        whole: u64,
        trial: impl Fn(W) -> Result<f64>,
    ) -> Result<u64> {
        match arm {
            Arm::Drop(_) => Ok(whole),
            Arm::EqualTime => self.comparison.equal_steps(seed, ended, own, self.goes_on, trial),
        }
    }

    /// Every run that is asked for and that has not ended before an interruption.
    pub fn run<P, A, C>(&self, program: &mut P, report: &mut Report<'_, A, C, P::Run>) -> Result<()>
    where
        P: Program<Way = W>,
        A: Serialize,
        C: Serialize,
    {
        let Session { folder, comparison, goes_on, .. } = self;
        let mut history = if *goes_on { History::resume(folder) } else { History::create(folder)? };
        if *goes_on {
            report.runs = resume::trained(folder)?;
            if !resume::is_saved(folder) {
                say!("nothing was saved: the run begins anew");
            }
        }
        let missing = comparison.missing(&report.runs);
        if comparison.arms().len() > 1 && !missing.is_empty() {
            for arm in comparison.arms() {
                program.trial(arm.drop())?;
            }
        }
        for (arm, seed) in missing {
            let result = program.run(arm, seed, &report.runs, &mut history);
            // What has been measured so far is written also where a run fails, but nothing where it is refused.
            if result.is_ok() || history.has_news() {
                history.rewrite()?;
                curves::draw(&folder.join("curves.png"), &history, &P::WORDS.score)?;
            }
            let run = result.map_err(|error| {
                let way_on = resume::way_on(&resume::offer(folder, &self.command), &error, history.has_news());
                error.context(format!("run {}{way_on}", comparison.name(arm, seed)))
            })?;
            enter(&mut report.runs, run);
            comparison.sort(&mut report.runs);
            html::write(folder, report, &page::<P>(&report.runs))?;
            // Last, for it says how the run has ended.
            report.write(folder)?;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// Says what came of the runs, how to go on where some are missing, and what else there is to be `told`; in the
    /// last line the report, where that is asked for.
    ///
    /// # Errors
    /// If a run could not be exported, once all of this is said.
    pub fn conclude<P, A, C>(&self, report: &Report<'_, A, C, P::Run>, told: Option<String>) -> Result<()>
    where
        P: Program<Way = W>,
        A: Arguments,
        C: Serialize,
    {
        let runs = &report.runs;
        say!("\n{}", P::table(runs));
        say!("written to {}", self.folder.display());
        if !self.comparison.missing(runs).is_empty() {
            say!("to go on: {}", self.command);
        }
        if let Some(told) = told {
            say!("{told}");
        }
        if report.args.output().json {
            writeln!(std::io::stdout(), "{}", serde_json::to_string(report)?).context("printing the report")?;
        }
        let error = |run: &P::Run| Some((run.which().name.clone(), run.course().export_error.clone()?));
        match runs.iter().find_map(error) {
            Some((name, error)) => bail!("run {name} could not be exported: {error}"),
            None => Ok(()),
        }
    }
}

/// Adds the results of a run, or puts them in the place of earlier ones. Of one that lacked its export alone, what was
/// measured then stays: what has exported it now took no step.
fn enter<U: Run>(runs: &mut Vec<U>, mut run: U) {
    let Some(earlier) = runs.iter_mut().find(|earlier| earlier.which().name == run.which().name) else {
        runs.push(run);
        return;
    };
    if run.course().is_timed() {
        *earlier = run;
    } else {
        earlier.course_mut().export_error = run.course_mut().export_error.take();
    }
}

fn page<P: Program>(runs: &[P::Run]) -> Page {
    Page {
        title: P::title,
        results: P::table(runs),
        columns: P::columns(),
        score: P::WORDS.score.name,
        blocks: P::blocks,
    }
}
