//! Whether a run fits its device, before anything is allocated, and with what settings it would.

use std::fmt;

use super::{Task, TrainSettings, Workload, rehearse};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ltd::{PatchDrop, RandomLtd, Schedule, TokenBypass, TokenDrop};

/// Device memory of a run, in bytes. The first four add up to the peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights.
    pub parameters: u64,
    /// Gradients of those that are trained.
    pub gradients: u64,
    /// What the optimiser keeps of those: moments, and the running average if there is one.
    pub moments: u64,
    /// Activations, their gradients, and all else that a step holds at its peak.
    pub activations: u64,
    /// The largest [`MemoryUse::allocated`](crate::gpu::MemoryUse::allocated) of the run, less what the device held before.
    pub peak: u64,
}

/// The memory that a run would take on `gpu`: what [`rehearse`] finds.
///
/// # Errors
/// As [`rehearse`].
pub fn estimate<T: Task>(gpu: &Gpu, work: &Workload<'_, T>) -> Result<MemoryEstimate> {
    Ok(rehearse(gpu, work)?.memory)
}

/// Settings with which a run fits, that differ from the given ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Remedy {
    /// [`TrainSettings::accumulate`].
    pub accumulate: usize,
    /// [`TrainSettings::recompute_blocks`].
    pub recompute_blocks: bool,
    /// The most tokens that may be kept where tokens are dropped, where that must be lower.
    pub longest: Option<usize>,
    /// The run with these.
    pub estimate: MemoryEstimate,
}

impl Remedy {
    /// The settings in words: "accumulate 2, recompute_blocks".
    pub fn settings(&self) -> String {
        let accumulate = (self.accumulate > 1).then(|| format!("accumulate {}", self.accumulate));
        let recompute_blocks = self.recompute_blocks.then(|| "recompute_blocks".to_owned());
        let longest = self.longest.map(|longest| format!("at most {longest} kept tokens"));
        [accumulate, recompute_blocks, longest].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.0} MB)", self.settings(), megabytes(self.estimate.peak))
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// [`estimate`], and an error where a limit of the device or `budget`, in bytes, does not hold the run.
///
/// # Errors
/// [`Error::DoesNotFit`], which names the [`remedies`]; otherwise as [`estimate`].
pub fn check_memory<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Option<u64>) -> Result<MemoryEstimate> {
    let reason = match estimate(gpu, work) {
        Ok(estimate) if budget.is_none_or(|budget| estimate.peak <= budget) => return Ok(estimate),
        Ok(estimate) => {
            let available = megabytes(budget.unwrap_or_default());
            format!("{:.0} MB are needed, {available:.0} MB are there", megabytes(estimate.peak))
        }
        Err(error @ Error::Limit { .. }) => error.to_string(),
        Err(error) => return Err(error),
    };
    let ways = remedies(gpu, work, budget).iter().map(Remedy::to_string).collect();
    Err(Error::DoesNotFit { reason, ways })
}

/// Settings that make a run fit the limits of the device and `budget`, in bytes, found by dry runs: the fewest
/// micro-batches (by doubling); recomputed blocks, with the fewest micro-batches if they alone do not do; and, where
/// tokens are dropped, a lower largest kept length. The batch of an optimiser step stays the same. Each kind comes at most once.
pub fn remedies<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Option<u64>) -> Vec<Remedy> {
    let attempt = |accumulate: usize, recompute_blocks: bool, longest: Option<usize>| {
        let drop = shortened(&work.settings.drop, longest)?;
        let settings = TrainSettings { accumulate, recompute_blocks, drop, ..work.settings.clone() };
        let estimate = estimate(gpu, &Workload { settings: &settings, ..*work }).ok()?;
        let fits = budget.is_none_or(|budget| estimate.peak <= budget);
        fits.then_some(Remedy { accumulate, recompute_blocks, longest, estimate })
    };
    let TrainSettings { accumulate, recompute_blocks, .. } = *work.settings;
    let finer = |recompute_blocks| doublings(accumulate, work.batch).find_map(|n| attempt(n, recompute_blocks, None));
    let mut found = vec![finer(recompute_blocks)];
    if !recompute_blocks {
        found.push(attempt(accumulate, true, None).or_else(|| finer(true)));
    }
    found.push(shorter(gpu, work).find_map(|longest| attempt(accumulate, recompute_blocks, Some(longest))));
    found.into_iter().flatten().collect()
}

/// Twice `from`, four times it, and so on up to `to`.
fn doublings(from: usize, to: usize) -> impl Iterator<Item = usize> {
    let next = move |n: usize| (n < to).then(|| n.saturating_mul(2).clamp(1, to));
    std::iter::successors(next(from), move |&n| next(n))
}

/// Largest kept lengths below that of the schedule, by eighths of the full length.
fn shorter<T: Task>(gpu: &Gpu, work: &Workload<'_, T>) -> impl Iterator<Item = usize> {
    let tokens = gpu.dry_run().and_then(|dry| (work.make)(&dry)).map_or(0, |task| task.extent().tokens);
    let kept = |step| work.settings.drop.kept_length(step, tokens);
    let lengths = kept(0)..kept(work.steps.saturating_sub(1));
    let eighths = (1..8).rev().map(move |i| i * tokens / 8);
    eighths.filter(move |r| lengths.contains(r))
}

/// The same way of dropping with `longest` tokens kept at every step, if that is asked for; `None` if it is not possible.
fn shortened(drop: &TokenDrop, longest: Option<usize>) -> Option<TokenDrop> {
    let Some(longest) = longest else { return Some(drop.clone()) };
    match drop {
        TokenDrop::None => None,
        TokenDrop::RandomLtd(ltd) => {
            let constant = Schedule::constant(longest).ok()?;
            let ltd = RandomLtd::new(ltd.total_blocks(), constant).and_then(|new| new.with_blocks(ltd.ltd_blocks()));
            ltd.ok().map(TokenDrop::RandomLtd)
        }
        TokenDrop::PatchDrop(drop) => PatchDrop::new(longest, drop.keep_prefix_tokens()).ok().map(TokenDrop::PatchDrop),
        TokenDrop::TokenBypass(drop) => {
            let shorter = TokenBypass::new(drop.blocks(), longest, drop.keep_prefix_tokens()).ok()?;
            Some(if drop.is_by_importance() { shorter.by_importance() } else { shorter }.into())
        }
    }
}
