//! random-LTD, before a run's number of steps is known. Shares are of these steps.

use anyhow::{Result, ensure};
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};

/// random-LTD.
#[derive(Clone)]
pub struct Ltd {
    pub length: KeptLength,
    /// Those that drop tokens; all but the first and last by default.
    pub blocks: Option<Vec<usize>>,
    /// First tokens that are never dropped.
    pub keep_prefix: usize,
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

impl Ltd {
    /// In a run of so many steps of a model of so many blocks and tokens.
    pub fn in_run(&self, depth: usize, tokens: usize, steps: u64, seed: u64) -> Result<TokenDrop> {
        let ltd = random_ltd(depth, self.length.schedule(steps)?, self.blocks.as_deref(), self.keep_prefix)?;
        ltd.check_length(tokens)?;
        Ok(ltd.with_seed(seed).into())
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
pub fn random_ltd(depth: usize, schedule: Schedule, blocks: Option<&[usize]>, keep_prefix: usize) -> Result<RandomLtd> {
    let ltd = match blocks {
        Some(blocks) => RandomLtd::in_blocks(depth, blocks, schedule)?,
        None => {
            ensure!(
                depth > 2,
                "random-LTD drops tokens in all blocks but the first and the last, and this model has {depth}: in a training program \
                 --drop none trains at full length, and --ltd-blocks names blocks that drop some all the same"
            );
            RandomLtd::new(depth, schedule)?
        }
    };
    Ok(ltd.with_keep_prefix(keep_prefix)?)
}

/// Whole steps of a share of a run: 70 of 100 for 0.7, whose product may be a little less.
pub fn share(of_run: f64, steps: u64) -> u64 {
    (of_run * steps as f64 + 1e-9) as u64
}
