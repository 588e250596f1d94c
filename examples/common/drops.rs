//! How runs drop tokens, before their number of steps is known.

use anyhow::Result;
use wgrad::ltd::{PatchDrop, RandomLtd, Schedule, TokenDrop};

/// Shares are of a run's steps.
#[derive(Clone)]
pub enum Drops {
    None,
    /// Random-LTD.
    Ltd {
        length: KeptLength,
        /// Those that drop tokens; all but the first and last by default.
        blocks: Option<Vec<usize>>,
        /// First tokens that are never dropped.
        keep_prefix: usize,
    },
    /// PatchDropout, which drops no more after so much of the run.
    PatchDrop {
        drop: PatchDrop,
        until: f64,
    },
}

/// The kept length of random-LTD.
#[derive(Clone, Copy)]
pub enum KeptLength {
    Constant(usize),
    /// Rises from the start to the end over the ramp, in multiples of the granularity, as the schedule says.
    Rising {
        start: usize,
        end: usize,
        ramp: f64,
        granularity: usize,
        schedule: Rise,
    },
}

/// A schedule of start, end, steps and granularity, such as [`Schedule::linear`].
pub type Rise = fn(usize, usize, u64, usize) -> wgrad::Result<Schedule>;

impl Drops {
    /// In a run of so many steps of a model of so many blocks and tokens.
    pub fn in_run(&self, depth: usize, tokens: usize, steps: u64, seed: u64) -> Result<TokenDrop> {
        Ok(match self {
            Drops::None => TokenDrop::None,
            Drops::Ltd { length, blocks, keep_prefix } => {
                let ltd = random_ltd(depth, length.schedule(steps)?, blocks.as_deref(), *keep_prefix)?;
                ltd.check_length(tokens)?;
                ltd.with_seed(seed).into()
            }
            Drops::PatchDrop { drop, until } => {
                let drop = drop.clone().with_seed(seed);
                if *until < 1.0 { drop.with_until(share(*until, steps)) } else { drop }.into()
            }
        })
    }
}

impl KeptLength {
    fn schedule(self, steps: u64) -> Result<Schedule> {
        Ok(match self {
            KeptLength::Constant(kept) => Schedule::constant(kept)?,
            KeptLength::Rising { start, end, ramp, granularity, schedule } => {
                schedule(start, end, share(ramp, steps).max(1), granularity)?
            }
        })
    }
}

/// random-LTD in a model of so many blocks: in these, or in all but the first and the last.
pub fn random_ltd(
    depth: usize,
    schedule: Schedule,
    blocks: Option<&[usize]>,
    keep_prefix: usize,
) -> wgrad::Result<RandomLtd> {
    let ltd = RandomLtd::new(depth, schedule)?;
    blocks.map_or(Ok(ltd.clone()), |blocks| ltd.with_blocks(blocks))?.with_keep_prefix(keep_prefix)
}

fn share(of_run: f64, steps: u64) -> u64 {
    (of_run * steps as f64) as u64
}
