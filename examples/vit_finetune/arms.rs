//! The kinds of runs that are set side by side.

use crate::args::{Args, Rival};
use crate::recipe::DropKind;

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
