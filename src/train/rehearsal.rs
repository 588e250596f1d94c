//! A run before it is run: its steps on a [`Gpu::dry_run`], where the same code records and nothing is computed.

use super::{MemoryEstimate, Part, Task, TrainSettings, Trainer};
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, KernelUse};
use crate::ltd::{Stage, TokenDrop};
use crate::nn::Mode;
use crate::ops::{self, Demand};

/// A run, as far as can be told beforehand.
pub struct Workload<'a, T> {
    /// Makes the task on the device that it is given, which computes nothing. One on another device is refused: the steps would train it.
    pub make: &'a dyn Fn(&Gpu) -> Result<T>,
    /// How it is trained.
    pub settings: &'a TrainSettings,
    /// Samples of an optimiser step, over all its micro-batches.
    pub batch: usize,
    /// Optimiser steps: under random-LTD they say which kept lengths the schedule visits.
    pub steps: u64,
}

impl<T> Clone for Workload<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Workload<'_, T> {}

/// What the steps of a run ask of the device.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The memory that they take.
    pub memory: MemoryEstimate,
    /// The kinds of matrix products among their operations, for [`ops::tune`].
    pub products: Vec<Demand>,
    /// A step at each kept length that was looked at, the shortest first.
    pub steps: Vec<StepUse>,
}

/// One optimiser step, as the device sees it.
#[derive(Clone, Debug)]
pub struct StepUse {
    /// The first step of its kind, and R in it.
    pub stage: Stage,
    /// Its kernels, by name.
    pub kernels: Vec<KernelUse>,
}

impl StepUse {
    /// Floating-point operations of its matrix products and its attention.
    pub fn flops(&self) -> u64 {
        self.kernels.iter().map(|used| used.flops).sum()
    }
}

impl Rehearsal {
    /// Every kernel of the run, for [`Gpu::warm_up`].
    pub fn kernels(&self) -> impl Iterator<Item = &KernelUse> {
        self.steps.iter().flat_map(|step| &step.kernels)
    }
}

/// Steps of one kept length that are run at most, until one takes no more memory than those before. The second is the first
/// that finds free buffers; in half precision, whose tensors are of two sizes, it may be the fourth or fifth that finds all.
const MOST_REPEATS: usize = 8;
/// Kept lengths that are looked at, of a schedule that visits more.
const MOST_STAGES: usize = 32;

/// What the steps of a run ask of `gpu`, of which nothing is taken: model, optimiser and steps run on a [`Gpu::dry_run`], so that the
/// answer is what a [`Trainer`] then takes. Under random-LTD the steps are those of the kept lengths that the schedule visits (of
/// more than 32, 32 spread evenly, the largest among them).
///
/// What else a program holds comes on top.
///
/// # Errors
/// [`Error::Limit`] if a tensor or grid exceeds a limit of the device; [`Error::Argument`] as the task's own and
/// [`Trainer::new`], if `batch` or `steps` is 0, or if `make` gives a task on another device than the one it was asked for.
pub fn rehearse<T: Task>(gpu: &Gpu, work: &Workload<'_, T>) -> Result<Rehearsal> {
    let &Workload { make, settings, batch: samples, steps } = work;
    if steps == 0 {
        return Err(Error::argument("estimate", "steps", "at least 1", 0));
    }
    let dry = gpu.dry_run()?;
    let live = || dry.memory().live;
    let empty = live();
    let task = make(&dry)?;
    // On a real device the steps would train it.
    if !task.model().parameters().gpu().same(&dry) {
        let expected = "a function that makes the task on the device that it is given";
        return Err(Error::argument("estimate", "make", expected, "one whose task is on another device"));
    }
    let batch = task.blank(samples)?;
    let mut trainer = Trainer::new(task, settings.clone())?;
    let held = live() - empty;
    let (parameters, gradients) = {
        let parameters = trainer.task().model().parameters();
        (parameters.bytes(), parameters.gradient_bytes())
    };
    let tokens = trainer.task().extent().tokens;
    let mut used = Vec::new();
    for stage in stages(&settings.drop, steps, tokens) {
        settle(&dry, || {
            dry.take_usage();
            trainer.rehearse(stage.first_step, &batch)
        })?;
        used.push(StepUse { stage, kernels: dry.take_usage() });
    }
    let peak = dry.memory().peak_allocated - empty;
    let moments = held - parameters - gradients;
    let products = ops::demands(&dry);
    let evaluation = evaluation_of(&dry, trainer.task(), samples.div_ceil(settings.accumulate.max(1)))? - empty;
    let memory = MemoryEstimate { parameters, gradients, moments, activations: peak - held, peak, evaluation };
    Ok(Rehearsal { memory, products, steps: used })
}

/// The peak of an evaluation.
fn evaluation_of<T: Task>(dry: &Gpu, task: &T, samples: usize) -> Result<u64> {
    dry.trim();
    dry.reset_peak_memory();
    let batch = task.blank(samples)?;
    settle(dry, || no_grad(|| task.loss(&Part::whole(&batch), &[], &Mode::evaluation())).map(drop))?;
    Ok(dry.memory().peak_allocated)
}

/// Does it over and over until the peak stays.
fn settle(dry: &Gpu, mut again: impl FnMut() -> Result<()>) -> Result<()> {
    let mut peak = None;
    for _ in 0..MOST_REPEATS {
        again()?;
        let now = Some(dry.memory().peak_allocated);
        if std::mem::replace(&mut peak, now) == now {
            break;
        }
    }
    Ok(())
}

/// The kept lengths to look at.
fn stages(drop: &TokenDrop, steps: u64, tokens: usize) -> Vec<Stage> {
    let all = drop.stages(steps, tokens);
    let count = all.len().min(MOST_STAGES);
    // The last one always, then evenly down.
    (0..count).map(|i| all[all.len() - 1 - i * all.len() / count]).rev().collect()
}
