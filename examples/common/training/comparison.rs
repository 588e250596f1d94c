//! The kinds of runs that are set side by side.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::files;
use super::report::{Course, Run, Which};

/// The arm that drops no tokens, in tables, curves and names of folders.
pub const FULL_LENGTH: &str = "full-length";

/// The ways to drop tokens that a program knows.
pub trait Way: Copy + PartialEq {
    /// To drop none.
    const NONE: Self;

    /// In tables, curves and names of folders; that of [`Way::NONE`] is [`FULL_LENGTH`].
    fn name(self) -> &'static str;
}

/// A kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm<W> {
    /// Drops tokens in this way.
    Drop(W),
    /// Full length, for as many steps as take the time of the first arm.
    EqualTime,
}

impl<W: Way> Arm<W> {
    /// In tables, curves and names of folders.
    pub fn name(self) -> &'static str {
        match self {
            Arm::Drop(way) => way.name(),
            Arm::EqualTime => "equal-time",
        }
    }

    /// How its runs drop tokens.
    pub fn drop(self) -> W {
        match self {
            Arm::Drop(way) => way,
            Arm::EqualTime => W::NONE,
        }
    }
}

/// The runs that a program is asked for: each arm with each seed.
pub struct Comparison<W> {
    main: W,
    arms: Vec<Arm<W>>,
    seed: u64,
    seeds: u64,
}

impl<W: Way> Comparison<W> {
    /// The run that drops tokens in the way `main`, and those that it is compared with; with so many seeds from `seed` on.
    pub fn new(main: W, rivals: impl IntoIterator<Item = Arm<W>>, seed: u64, seeds: u64) -> Self {
        let mut arms = vec![Arm::Drop(main)];
        for arm in rivals {
            if !arms.contains(&arm) {
                arms.push(arm);
            }
        }
        Comparison { main, arms, seed, seeds }
    }

    pub fn arms(&self) -> &[Arm<W>] {
        &self.arms
    }

    /// How the arms drop tokens, each way once: the first arm's first.
    pub fn ways(&self) -> Vec<W> {
        let mut ways = Vec::new();
        for way in self.arms.iter().map(|arm| arm.drop()) {
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        ways
    }

    /// The runs, each an arm with a seed, which are not among those that have ended.
    pub fn missing<U: Run>(&self, ended: &[U]) -> Vec<(Arm<W>, u64)> {
        let has_ended =
            |&(arm, seed): &(Arm<W>, u64)| run_of(arm, seed, ended).is_some_and(|run| run.course().has_ended());
        self.runs().filter(|run| !has_ended(run)).collect()
    }

    /// Brings results into the order of their runs.
    pub fn sort<U: Run>(&self, results: &mut [U]) {
        let place = |result: &U| {
            let Which { arm: name, seed: own, .. } = result.which();
            self.runs().position(|(arm, seed)| arm.name() == name && seed == *own)
        };
        results.sort_by_key(place);
    }

    /// A seed at a time: what slows the machine for a while then slows all arms.
    fn runs(&self) -> impl Iterator<Item = (Arm<W>, u64)> + '_ {
        let seeds = (0..self.seeds.max(1)).map(move |i| self.seed.wrapping_add(i));
        seeds.flat_map(move |seed| self.arms.iter().map(move |&arm| (arm, seed)))
    }

    /// How a run is called.
    pub fn which(&self, arm: Arm<W>, seed: u64) -> Which {
        Which { name: self.name(arm, seed), arm: arm.name().to_owned(), seed }
    }

    /// The arm's, with the seed where there are several.
    pub fn name(&self, arm: Arm<W>, seed: u64) -> String {
        let mut name = arm.name().to_owned();
        if self.seeds > 1 {
            // A String takes whatever is written to it.
            let _ = write!(name, "-seed{seed}");
        }
        name
    }

    pub fn is_first(&self, arm: Arm<W>, seed: u64) -> bool {
        arm == Arm::Drop(self.main) && seed == self.seed
    }

    /// The first run's checkpoints lie at the top of the program's folder, those of the others below it.
    pub fn run_folder(&self, top: &Path, arm: Arm<W>, seed: u64) -> Result<PathBuf> {
        let folder = self.place(top, arm, seed);
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(folder)
    }

    /// The run's folder, whether it is there or not.
    pub fn place(&self, top: &Path, arm: Arm<W>, seed: u64) -> PathBuf {
        if self.is_first(arm, seed) { top.to_owned() } else { top.join(self.name(arm, seed)) }
    }

    /// How many steps of [`Arm::EqualTime`] take the time of the first arm's run with this seed. It follows from that of a step:
    /// of the runs with this seed, if there are such and they were timed, else of a `trial`; but where the first arm's run was interrupted, or
    /// lost its device, from the layer tokens. A run that goes on keeps its
    /// number, which another measurement would change: `folder` has it.
    pub fn equal_steps<U: Run>(
        &self,
        seed: u64,
        runs: &[U],
        folder: &Path,
        goes_on: bool,
        trial: impl Fn(W) -> Result<f64>,
    ) -> Result<u64> {
        let path = folder.join("steps.json");
        if goes_on && path.exists() {
            return files::read_json(&path);
        }
        let main = run_of(Arm::Drop(self.main), seed, runs).context("the first arm has not been run")?;
        // A run that went on after its last step has timed none.
        let measured =
            |run: Option<&U>, way: W| run.and_then(|run| run.course().seconds_a_step()).map_or_else(|| trial(way), Ok);
        let Course { steps, resumed_at, device_losses, layer_tokens_saved, .. } = *main.course();
        let steps = if resumed_at > 0 || device_losses > 0 {
            // Only its last steps were timed, which may be longer than the others, or some of them twice: by what it computed.
            (1.0 - layer_tokens_saved) * steps as f64
        } else {
            let full = measured(run_of(Arm::Drop(W::NONE), seed, runs), W::NONE)?;
            measured(Some(main), self.main)? * steps as f64 / full
        };
        let steps = (steps.round() as u64).max(2);
        files::replace(&path, steps.to_string().as_bytes())?;
        Ok(steps)
    }
}

fn run_of<W: Way, U: Run>(arm: Arm<W>, seed: u64, runs: &[U]) -> Option<&U> {
    runs.iter().find(|run| run.which().arm == arm.name() && run.which().seed == seed)
}
