//! What is compared.

use anyhow::Result;
use wgrad::ltd::{RandomLtd, Schedule, TokenBypass, TokenDrop};

/// The arm that all others are compared with.
pub const FULL: &str = "full";
/// Full length in the time of [`LTD`].
pub const IN_TIME: &str = "full-in-time";
/// random-LTD with the rate by steps.
pub const LTD: &str = "ltd";

/// One way to train.
pub struct Arm {
    pub name: &'static str,
    /// For the tables.
    pub what: &'static str,
    pub kind: Kind,
    /// Whether the learning rate follows the layer tokens consumed instead of the steps.
    pub by_layer_tokens: bool,
}

/// Shares are of a run's steps and of the tokens.
#[derive(Clone, Copy)]
pub enum Kind {
    /// All tokens.
    Full,
    /// All tokens, for as many steps as take the time of [`LTD`].
    FullInTime,
    /// From `start` to all over `ramp`.
    Ltd { start: f64, ramp: f64 },
    /// `kept` until `until`, then all.
    LowThenFull { kept: f64, until: f64 },
    /// The most important ones, so many throughout, go through all blocks but the first and the last.
    Bypass { kept: f64 },
}

/// Every arm. Those that drop tokens were to save about as many layer tokens each: of those in the blocks that drop
/// them, (1 - 1/4) / 2 · 0.7 = 26 % under random-LTD, 1/2 · 0.525 = 26 % at low, then full length, and 1/4 under
/// TokenBypass. The first is the straight line's: the kept length rises in steps of 16, which lie below it and save
/// 31 %.
pub fn all() -> [Arm; 6] {
    let ltd = Kind::Ltd { start: 0.25, ramp: 0.7 };
    let arm = |name, what, kind| Arm { name, what, kind, by_layer_tokens: false };
    [
        arm(FULL, "full length", Kind::Full),
        arm(LTD, "random-LTD, rate by steps", ltd),
        Arm { by_layer_tokens: true, ..arm("ltd-layer-token", "random-LTD, LayerToken rate", ltd) },
        arm("tokenbypass", "TokenBypass, three quarters of the tokens", Kind::Bypass { kept: 0.75 }),
        arm(IN_TIME, "full length, fewer steps: in the time of random-LTD", Kind::FullInTime),
        arm(
            "low-then-full",
            "random-LTD at half of the tokens, then all",
            Kind::LowThenFull { kept: 0.5, until: 0.525 },
        ),
    ]
}

impl Kind {
    /// The tokens that a run of `steps` steps drops.
    pub fn drop(self, depth: usize, tokens: usize, steps: u64, seed: u64) -> Result<TokenDrop> {
        let kept = |share: f64| ((share * tokens as f64).round() as usize).max(1);
        let after = |share: f64| ((share * steps as f64) as u64).max(1);
        let ltd = |schedule| -> Result<RandomLtd> { Ok(RandomLtd::new(depth, schedule)?.with_seed(seed)) };
        Ok(match self {
            Kind::Full | Kind::FullInTime => TokenDrop::None,
            Kind::Ltd { start, ramp } => ltd(Schedule::linear(kept(start), tokens, after(ramp), 16)?)?.into(),
            // No length between the two is a multiple of the full one.
            Kind::LowThenFull { kept: low, until } => {
                ltd(Schedule::linear(kept(low), tokens, after(until), tokens)?)?.into()
            }
            Kind::Bypass { kept: share } => TokenBypass::new(1..depth - 1, kept(share), 0)?.by_importance().into(),
        })
    }
}
