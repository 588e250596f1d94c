//! The kinds of runs that are set side by side.

use crate::args::{Args, Rival};
use crate::recipe::DropKind;
use crate::report::RunReport;

/// A kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// Drops tokens in this way.
    Drop(DropKind),
    /// Full length, for as many steps as take the time of the first arm.
    EqualTime,
}

impl Arm {
    /// The run that the arguments describe, then those that it is compared with.
    pub fn all(args: &Args, main: DropKind) -> Vec<Arm> {
        let mut arms = vec![Arm::Drop(main)];
        for &rival in &args.compare {
            let arm = Arm::from(rival);
            if !arms.contains(&arm) {
                arms.push(arm);
            }
        }
        arms
    }

    /// In tables, curves and names of folders.
    pub fn name(self) -> &'static str {
        match self {
            Arm::Drop(DropKind::None) => "full-length",
            Arm::Drop(DropKind::RandomLtd) => "random-ltd",
            Arm::Drop(DropKind::Constant) => "constant",
            Arm::Drop(DropKind::Patchdrop) => "patchdrop",
            Arm::EqualTime => "equal-time",
        }
    }

    /// How its runs drop tokens.
    pub fn drop(self) -> DropKind {
        match self {
            Arm::Drop(kind) => kind,
            Arm::EqualTime => DropKind::None,
        }
    }
}

/// The runs that the arguments ask for, each an arm with a seed, which are not among those that have ended.
pub fn missing(args: &Args, main: DropKind, ended: &[RunReport]) -> Vec<(Arm, u64)> {
    let arms = Arm::all(args, main);
    // A seed at a time: what slows the machine for a while then slows all arms.
    let seeds = args.seed..args.seed.saturating_add(args.seeds.max(1));
    let runs = seeds.flat_map(|seed| arms.iter().map(move |&arm| (arm, seed)));
    let has_ended =
        |(arm, seed): &(Arm, u64)| ended.iter().any(|run| run.arm == arm.name() && run.seed == *seed && !run.stopped);
    runs.filter(|run| !has_ended(run)).collect()
}

impl From<Rival> for Arm {
    fn from(rival: Rival) -> Arm {
        match rival {
            Rival::None => Arm::Drop(DropKind::None),
            Rival::RandomLtd => Arm::Drop(DropKind::RandomLtd),
            Rival::Constant => Arm::Drop(DropKind::Constant),
            Rival::Patchdrop => Arm::Drop(DropKind::Patchdrop),
            Rival::EqualTime => Arm::EqualTime,
        }
    }
}
