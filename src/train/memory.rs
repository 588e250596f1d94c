//! Whether a run fits its device, before anything is allocated, and with what settings it would.

use std::fmt;

use super::{Task, TrainSettings, Workload, rehearse};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ltd::{RandomLtd, Schedule, TokenDrop};

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
    /// The largest [`MemoryUse::allocated`](crate::gpu::MemoryUse::allocated) of the steps, less what the device held before.
    pub peak: u64,
    /// The same of an evaluation between two steps, on samples of a micro-batch: at full length and in full precision, it may take more
    /// than a short step whose blocks are computed again. What a smaller last batch takes beside those before it is not in it.
    pub evaluation: u64,
}

impl MemoryEstimate {
    /// What a run takes that is measured now and then, as [`super::fit`] does.
    pub fn with_evaluation(&self) -> u64 {
        self.peak.max(self.evaluation)
    }
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
        write!(f, "{} ({:.0} MB)", self.settings(), megabytes(self.estimate.with_evaluation()))
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// [`estimate`], and an error where a limit of the device or `budget`, in bytes, does not hold the run. What the host holds of it, such as
/// snapshots ([`super::Recovery`]), is not counted, also where the device shares the host's memory.
///
/// # Errors
/// [`Error::DoesNotFit`], which names the [`remedies`]; otherwise as [`estimate`].
pub fn check_memory<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Option<u64>) -> Result<MemoryEstimate> {
    let reason = match fitting(gpu, work, budget)? {
        Ok(estimate) => return Ok(estimate),
        Err(reason) => reason,
    };
    let ways = remedies(gpu, work, budget).iter().map(Remedy::to_string).collect();
    Err(Error::DoesNotFit { reason, ways })
}

/// What makes a run fit whose batch is cut for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// What the undivided batch exceeds, and by how much.
    pub reason: String,
    /// The run with the fewest micro-batches that do; it differs in them alone.
    pub remedy: Remedy,
}

/// The micro-batches that a run must be cut into to fit the limits of the device and `budget`, in bytes; `None` where it fits as
/// it is. The gradients are those of the undivided batch, and so are the tokens kept and the masks drawn ([`TrainSettings::accumulate`]).
///
/// # Errors
/// [`Error::DoesNotFit`] where no cut makes it fit, otherwise as [`estimate`].
pub fn cut_to_fit<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Option<u64>) -> Result<Option<Cut>> {
    let Err(reason) = fitting(gpu, work, budget)? else { return Ok(None) };
    match (Attempts { gpu, work, budget }).finer(work.settings.recompute_blocks) {
        Some(remedy) => Ok(Some(Cut { reason, remedy })),
        None => check_memory(gpu, work, budget).map(|_| None),
    }
}

/// The estimate of a run that fits, or in words why it does not.
fn fitting<T: Task>(
    gpu: &Gpu,
    work: &Workload<'_, T>,
    budget: Option<u64>,
) -> Result<std::result::Result<MemoryEstimate, String>> {
    Ok(match estimate(gpu, work) {
        Ok(estimate) if budget.is_none_or(|budget| estimate.with_evaluation() <= budget) => Ok(estimate),
        Ok(estimate) => {
            let available = megabytes(budget.unwrap_or_default());
            Err(format!("{:.0} MB are needed, {available:.0} MB are there", megabytes(estimate.with_evaluation())))
        }
        Err(error @ Error::Limit { .. }) => Err(error.to_string()),
        Err(error) => return Err(error),
    })
}

/// Settings that make a run fit the limits of the device and `budget`, in bytes, found by dry runs: the fewest
/// micro-batches (by doubling); recomputed blocks, with the fewest micro-batches if they alone do not do and those are fewer; and, where
/// tokens are dropped, a lower largest kept length. The batch of an optimiser step stays the same. Each kind comes at most once.
pub fn remedies<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Option<u64>) -> Vec<Remedy> {
    let attempts = Attempts { gpu, work, budget };
    let TrainSettings { accumulate, recompute_blocks, .. } = *work.settings;
    let mut found = vec![attempts.finer(recompute_blocks)];
    if !recompute_blocks {
        let again = attempts.with(accumulate, true, None).or_else(|| attempts.finer(true));
        // In as many micro-batches as without, it would be for nothing.
        let saves = |again: &Remedy| found[0].as_ref().is_none_or(|finer| again.accumulate < finer.accumulate);
        let again = again.filter(saves);
        found.push(again);
    }
    found.push(shorter(gpu, work).find_map(|longest| attempts.with(accumulate, recompute_blocks, Some(longest))));
    found.into_iter().flatten().collect()
}

/// Dry runs with other settings.
struct Attempts<'a, T> {
    gpu: &'a Gpu,
    work: &'a Workload<'a, T>,
    budget: Option<u64>,
}

impl<T: Task> Attempts<'_, T> {
    /// The run with these settings, if it fits.
    fn with(&self, accumulate: usize, recompute_blocks: bool, longest: Option<usize>) -> Option<Remedy> {
        let drop = shortened(&self.work.settings.drop, longest)?;
        let settings = TrainSettings { accumulate, recompute_blocks, drop, ..self.work.settings.clone() };
        let estimate = estimate(self.gpu, &Workload { settings: &settings, ..*self.work }).ok()?;
        let fits = self.budget.is_none_or(|budget| estimate.with_evaluation() <= budget);
        fits.then_some(Remedy { accumulate, recompute_blocks, longest, estimate })
    }

    /// The run with the fewest micro-batches that do, by doubling.
    fn finer(&self, recompute_blocks: bool) -> Option<Remedy> {
        let mut counts = doublings(self.work.settings.accumulate, self.work.batch);
        counts.find_map(|count| self.with(count, recompute_blocks, None))
    }
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

/// The same way of dropping with `longest` tokens kept at every step, if that is asked for; `None` if there is none. What keeps one
/// length, and all tokens at its end, would be another training without that end.
fn shortened(drop: &TokenDrop, longest: Option<usize>) -> Option<TokenDrop> {
    let Some(longest) = longest else { return Some(drop.clone()) };
    match drop {
        TokenDrop::None | TokenDrop::PatchDrop(_) | TokenDrop::TokenBypass(_) => None,
        TokenDrop::RandomLtd(ltd) => {
            let constant = Schedule::constant(longest).ok()?;
            let ltd = RandomLtd::in_blocks(ltd.total_blocks(), ltd.ltd_blocks(), constant);
            ltd.ok().map(TokenDrop::RandomLtd)
        }
    }
}
