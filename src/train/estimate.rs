//! How much device memory a run takes, before any is taken: the training step itself, run on a [`Gpu::dry_run`].

use std::fmt;

use super::{TrainSettings, Trainer};
use crate::data::{ImageBatch, Position};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ltd::{PatchDrop, RandomLtd, Schedule, Stage, TokenDrop};
use crate::models::vit::{Vit, VitConfig};

/// A run, as far as its memory depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The model's sizes.
    pub config: &'a VitConfig,
    /// How it is trained.
    pub settings: &'a TrainSettings,
    /// Samples of an optimiser step, over all its micro-batches.
    pub batch: usize,
    /// Optimiser steps: under random-LTD they say which kept lengths the schedule visits.
    pub steps: u64,
}

/// Device memory of a run, in bytes. The first four add up to the peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights.
    pub parameters: u64,
    /// Their gradients.
    pub gradients: u64,
    /// What the optimiser keeps of them: moments, and the running average if there is one.
    pub moments: u64,
    /// Activations, their gradients, and all else that a step holds at its peak.
    pub activations: u64,
    /// The largest [`MemoryUse::allocated`](crate::gpu::MemoryUse::allocated) of the run, less what the device held before.
    pub peak: u64,
}

/// Steps of one kept length that are run: from the second on nothing new is allocated.
const REPEATS: usize = 2;
/// Kept lengths that are looked at, of a schedule that visits more.
const MOST_STAGES: usize = 32;

/// The memory that a run would take on `gpu`. Nothing is allocated there:
/// model, optimiser and steps run on a [`Gpu::dry_run`], so that the answer is what a [`Trainer`] then takes. Under
/// random-LTD it is the peak over the kept lengths that the schedule visits (of more than 32, over 32 spread evenly, the
/// largest among them).
///
/// Evaluation and what else a program holds come on top.
///
/// # Errors
/// [`Error::Limit`] if a tensor or grid exceeds a limit of the device; [`Error::Argument`] as [`Vit::new`] and
/// [`Trainer::new`], or if `batch` or `steps` is 0.
pub fn estimate(gpu: &Gpu, work: &Workload<'_>) -> Result<MemoryEstimate> {
    let &Workload { config, settings, batch, steps } = work;
    if steps == 0 {
        return Err(Error::argument("estimate", "steps", "at least 1", 0));
    }
    let batch = blank_batch(config, batch)?;
    let dry = gpu.dry_run()?;
    let live = || dry.memory().live;
    let empty = live();
    let model = Vit::new(&dry, config.clone(), 0)?;
    // Weights and gradients lie in arenas of one layout.
    let weights = (live() - empty) / 2;
    let mut trainer = Trainer::new(&model, settings.clone())?;
    let held = live() - empty;
    for stage in stages(&settings.drop, steps, config.tokens()) {
        for _ in 0..REPEATS {
            trainer.rehearse(stage.first_step, &batch)?;
        }
    }
    let peak = dry.memory().peak_allocated - empty;
    Ok(MemoryEstimate {
        parameters: weights,
        gradients: weights,
        moments: held - 2 * weights,
        activations: peak - held,
        peak,
    })
}

/// A batch of the right size, all zeros. The system gives zeroed memory when it is touched, and nobody touches this.
pub(super) fn blank_batch(config: &VitConfig, samples: usize) -> Result<ImageBatch> {
    config.check()?;
    let bytes = [samples, 3, config.img_size.0, config.img_size.1].into_iter().try_fold(1usize, usize::checked_mul);
    let bytes = bytes.filter(|&bytes| samples > 0 && u32::try_from(bytes).is_ok());
    let Some(bytes) = bytes else {
        return Err(Error::argument("estimate", "batch", "at least 1 sample and below 4 GiB of pictures", samples));
    };
    Ok(ImageBatch {
        images: vec![0; bytes],
        labels: vec![0; samples],
        mixed: None,
        indices: vec![0; samples],
        position: Position::default(),
    })
}

/// The kept lengths to look at.
pub(super) fn stages(drop: &TokenDrop, steps: u64, tokens: usize) -> Vec<Stage> {
    let all = drop.stages(steps, tokens);
    let count = all.len().min(MOST_STAGES);
    // The last one always, then evenly down.
    (0..count).map(|i| all[all.len() - 1 - i * all.len() / count]).rev().collect()
}

/// Settings with which a run fits, that differ from the given ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Remedy {
    /// [`TrainSettings::accumulate`].
    pub accumulate: usize,
    /// [`TrainSettings::checkpoint_blocks`].
    pub checkpoint_blocks: bool,
    /// The most tokens that may be kept where tokens are dropped, where that must be lower.
    pub longest: Option<usize>,
    /// The run with these.
    pub estimate: MemoryEstimate,
}

impl Remedy {
    /// The settings in words: "accumulate 2, checkpoint_blocks".
    pub fn settings(&self) -> String {
        let accumulate = (self.accumulate > 1).then(|| format!("accumulate {}", self.accumulate));
        let checkpoint_blocks = self.checkpoint_blocks.then(|| "checkpoint_blocks".to_owned());
        let longest = self.longest.map(|longest| format!("at most {longest} kept tokens"));
        [accumulate, checkpoint_blocks, longest].into_iter().flatten().collect::<Vec<_>>().join(", ")
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
pub fn check_memory(gpu: &Gpu, work: &Workload<'_>, budget: Option<u64>) -> Result<MemoryEstimate> {
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
/// micro-batches (by doubling); checkpointed blocks, with the fewest micro-batches if they alone do not do; and, where
/// tokens are dropped, a lower largest kept length. The batch of an optimiser step stays the same. Each kind comes at most once.
pub fn remedies(gpu: &Gpu, work: &Workload<'_>, budget: Option<u64>) -> Vec<Remedy> {
    let attempt = |accumulate: usize, checkpoint_blocks: bool, longest: Option<usize>| {
        let drop = shortened(&work.settings.drop, longest)?;
        let settings = TrainSettings { accumulate, checkpoint_blocks, drop, ..work.settings.clone() };
        let estimate = estimate(gpu, &Workload { settings: &settings, ..*work }).ok()?;
        let fits = budget.is_none_or(|budget| estimate.peak <= budget);
        fits.then_some(Remedy { accumulate, checkpoint_blocks, longest, estimate })
    };
    let TrainSettings { accumulate, checkpoint_blocks, .. } = *work.settings;
    let finer = |checkpoint_blocks| doublings(accumulate, work.batch).find_map(|n| attempt(n, checkpoint_blocks, None));
    let mut found = vec![finer(checkpoint_blocks)];
    if !checkpoint_blocks {
        found.push(attempt(accumulate, true, None).or_else(|| finer(true)));
    }
    found.push(shorter(work).find_map(|longest| attempt(accumulate, checkpoint_blocks, Some(longest))));
    found.into_iter().flatten().collect()
}

/// Twice `from`, four times it, and so on up to `to`.
fn doublings(from: usize, to: usize) -> impl Iterator<Item = usize> {
    let next = move |n: usize| (n < to).then(|| n.saturating_mul(2).clamp(1, to));
    std::iter::successors(next(from), move |&n| next(n))
}

/// Largest kept lengths below that of the schedule, by eighths of the full length.
fn shorter(work: &Workload<'_>) -> impl Iterator<Item = usize> {
    let tokens = work.config.tokens();
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
    }
}

/// Memory that is free for a run, in bytes: the machine's own where the device shares it, as CPU drivers and integrated
/// GPUs do, within the limits of a container. `None` for other devices, which do not tell, and where the system does not.
pub fn available_memory(gpu: &Gpu) -> Option<u64> {
    if !gpu.info().shares_host_memory() {
        return None;
    }
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    Some(system.available_memory().min(container)).filter(|&bytes| bytes > 0)
}
