//! PatchDropout, before a run's number of steps is known.

use wgrad::ltd::{PatchDrop, TokenDrop};

use super::ltd_drop::share;

/// In a run of so many steps, after a share of which it drops no more.
pub fn in_run(drop: PatchDrop, until: f64, steps: u64, seed: u64) -> TokenDrop {
    let drop = drop.with_seed(seed);
    // Of a short run a small share is still a step; a share of 0 is none, and refused.
    let until = if until < 1.0 { share(until, steps).max(u64::from(until > 0.0)) } else { u64::MAX };
    drop.with_until(until).into()
}
