//! PatchDropout, before a run's number of steps is known.

use wgrad::ltd::{PatchDrop, TokenDrop};

use super::ltd_drop::share;

/// In a run of so many steps, after a share of which it drops no more.
pub fn in_run(drop: PatchDrop, until: f64, steps: u64, seed: u64) -> TokenDrop {
    let drop = drop.with_seed(seed);
    if until < 1.0 { drop.with_until(share(until, steps)) } else { drop }.into()
}
