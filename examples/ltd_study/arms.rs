//! What is compared.

use anyhow::Result;
use wgrad::ltd::{PatchDrop, Schedule, TokenDrop};

use crate::ltd_drop::{KeptLength, Ltd};
use crate::patch_drop;

/// The arm that all others are compared with.
pub const FULL: &str = "full";
/// The arm whose time the shorter full-length run gets.
const REFERENCE: &str = "ltd-33-keep";

/// One way to train.
pub struct Arm {
    pub name: String,
    /// For the table.
    pub what: String,
    pub kind: Kind,
}

/// Shares are of a run's steps.
#[derive(Clone, Copy)]
pub enum Kind {
    /// All tokens.
    Full,
    /// All tokens, for as many steps as take the time of the arm of that name.
    FullInTheTimeOf(&'static str),
    /// R from `start` to T over `ramp`, with `prefix` leading tokens always kept.
    Ltd { start: usize, ramp: f64, prefix: usize },
    /// R = `kept` throughout.
    Constant { kept: usize, prefix: usize },
    /// So many of the tokens go through the model, all from `until` on.
    PatchDrop { kept: usize, until: f64 },
}

/// Every arm for a model of `tokens` tokens.
pub fn all(tokens: usize) -> Vec<Arm> {
    let ltd = |name: &str, start, ramp, prefix| {
        let kept = if prefix == 0 { "class token dropped like others" } else { "class token kept" };
        let what = format!("random-LTD {start} to {tokens} over {:.0} %, {kept}", 100.0 * ramp);
        Arm { name: name.to_owned(), what, kind: Kind::Ltd { start, ramp, prefix } }
    };
    let other = |name: &str, what: String, kind| Arm { name: name.to_owned(), what, kind };
    let (quarter, half, most) = (tokens.div_ceil(4), tokens.div_ceil(2), (3 * tokens).div_ceil(4));
    let in_time = Kind::FullInTheTimeOf(REFERENCE);
    vec![
        other(FULL, "full length".to_owned(), Kind::Full),
        other("full-in-time", format!("full length in the time of {REFERENCE}"), in_time),
        ltd("ltd-17", quarter, 0.8, 0),
        ltd("ltd-17-keep", quarter, 0.8, 1),
        ltd("ltd-33", half, 0.8, 0),
        ltd(REFERENCE, half, 0.8, 1),
        ltd("ltd-33-keep-slow", half, 1.0, 1),
        ltd("ltd-49-keep", most, 0.8, 1),
        other(
            "constant-33-keep",
            format!("constant {half}, class token kept"),
            Kind::Constant { kept: half, prefix: 1 },
        ),
        other("patchdrop", format!("PatchDropout {half}"), Kind::PatchDrop { kept: half, until: 1.0 }),
        other(
            "patchdrop-80",
            format!("PatchDropout {half}, full length for the last 20 %"),
            Kind::PatchDrop { kept: half, until: 0.8 },
        ),
    ]
}

impl Kind {
    /// The tokens that a run of `steps` steps drops.
    pub fn drop(self, depth: usize, tokens: usize, steps: u64, seed: u64) -> Result<TokenDrop> {
        let ltd = |length, keep_prefix| Ltd { length, blocks: None, keep_prefix };
        let ltd = match self {
            Kind::Full | Kind::FullInTheTimeOf(_) => return Ok(TokenDrop::None),
            Kind::Ltd { start, ramp, prefix } => {
                ltd(KeptLength::Rising { start, end: tokens, ramp, granularity: 8, schedule: Schedule::linear }, prefix)
            }
            Kind::Constant { kept, prefix } => ltd(KeptLength::Constant(kept), prefix),
            Kind::PatchDrop { kept, until } => {
                return Ok(patch_drop::in_run(PatchDrop::new(kept, 1)?, until, steps, seed));
            }
        };
        ltd.in_run(depth, tokens, steps, seed)
    }
}
