//! One optimiser step.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::slices::Sliced;
use super::{Part, Scored, Task, TokenScores, TrainSettings};
use crate::autograd::Parameter;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuStats, Instant, Readback};
use crate::ltd::{LayerTokens, TokenBypass};
use crate::nn::{Extent, Mode, Span};
use crate::ops::{self, RandomKey, TokenIndices};
use crate::optim::{At, LrSchedule, Optimizer, OptimizerState, StepReport};
use crate::tensor::Tensor;

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMetrics {
    /// Optimiser step, from 0.
    pub step: u64,
    /// The epoch that its batch is of, from 0 ([`Batch::position`]).
    pub epoch: u64,
    /// Mean loss of the batch; not finite where half precision overflowed in forward.
    pub loss: f32,
    /// What the batch counts in a mean over batches ([`Task::weight`]).
    pub loss_weight: f64,
    /// Answers that the model, in training mode, got right.
    pub correct: u32,
    /// Samples in the batch.
    pub samples: usize,
    /// Answers that could be right ([`super::Correct::of`]).
    pub counted: usize,
    /// Whether the update was left out because the loss scale was too large ([`StepReport::excused`]). Such a step is part
    /// of no mean.
    pub excused: bool,
    /// R in the blocks that drop tokens; T at full length.
    pub kept: usize,
    /// T.
    pub tokens: usize,
    /// Learning rate.
    pub rate: f32,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f32,
}

/// A recorded step whose results are on their way.
#[derive(Debug)]
pub struct Pending {
    results: Readback,
    /// Each micro-batch's share of the mean loss.
    shares: Vec<f32>,
    metrics: StepMetrics,
    paths: Arc<[String]>,
}

impl Pending {
    /// Whether the device has come to the end of the step, so that [`Pending::read`] has nothing to wait for.
    pub fn is_ready(&self) -> bool {
        self.results.is_ready()
    }

    /// What the step did; awaiting it blocks no thread.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if its gradient was not finite, as that of a loss that is NaN is not: its update was skipped, and so is
    /// every one recorded since with a gradient that is not finite. [`Error::OutOfRange`] if a label or an index was.
    pub async fn read(self) -> Result<StepMetrics> {
        let Pending { results, shares, metrics, paths } = self;
        resolve(&results.bytes().await?, &shares, metrics, &paths)
    }

    /// Of one that [`Pending::is_ready`].
    pub(super) fn ready(self) -> Result<StepMetrics> {
        let Pending { results, shares, metrics, paths } = self;
        resolve(&results.ready()?, &shares, metrics, &paths)
    }

    /// [`Pending::read`], blocking the thread.
    ///
    /// # Errors
    /// As [`Pending::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(self) -> Result<StepMetrics> {
        let Pending { results, shares, metrics, paths } = self;
        resolve(&results.wait()?, &shares, metrics, &paths)
    }
}

fn resolve(bytes: &[Vec<u8>], shares: &[f32], metrics: StepMetrics, paths: &[String]) -> Result<StepMetrics> {
    let Some((report, parts)) = bytes.split_last() else {
        return Err(Error::Graph { op: "Trainer::step", what: "results are missing" });
    };
    let report = StepReport::decode(report)?;
    report.check_named(metrics.step, |i| paths.get(i).cloned())?;
    let (losses, correct) = parts.split_at(shares.len().min(parts.len()));
    let loss = losses.iter().zip(shares).map(|(loss, &share)| f64::from(f32_of(loss)) * f64::from(share)).sum::<f64>();
    let correct = correct.iter().map(|count| u32_of(count)).sum();
    let (grad_norm, excused) = (report.grad_norm, report.excused);
    Ok(StepMetrics { loss: loss as f32, correct, grad_norm, excused, ..metrics })
}

/// A part of a batch, and what came of it.
type Outcome<'b, T> = (Part<'b, <T as Task>::Batch>, Scored);

/// Trains a [`Task`] step by step.
pub struct Trainer<T: Task> {
    task: T,
    settings: TrainSettings,
    optimizer: Optimizer,
    paths: Arc<[String]>,
    step: u64,
    /// R of the last step.
    kept: Option<usize>,
    layer_tokens: LayerTokens,
    pending: Option<Pending>,
    /// Steps of [`Trainer::step_slice`].
    pub(super) sliced: Sliced,
    host_time: Duration,
    /// [`Trainer::debug_nan`].
    #[cfg(not(target_arch = "wasm32"))]
    debug_nan: bool,
}

impl<T: Task> Trainer<T> {
    /// A trainer at step 0, which freezes what the settings freeze and thaws what an earlier trainer of the model has
    /// frozen ([`super::Freeze`]).
    ///
    /// # Errors
    /// If a setting does not fit the model.
    pub fn new(task: T, settings: TrainSettings) -> Result<Self> {
        settings.check(task.extent())?;
        let model = task.model();
        // First: the optimiser makes memory for what is trained.
        settings.freeze.apply(model)?;
        if !model.parameters().iter().any(Parameter::is_trainable) {
            return Err(Error::argument("Trainer", "freeze", "one that leaves something to train", "all is frozen"));
        }
        let optimizer = settings.optimizer(model)?;
        let paths = model.parameters().iter().map(|p| p.path().to_owned()).collect();
        Ok(Trainer {
            task,
            settings,
            optimizer,
            paths,
            step: 0,
            kept: None,
            layer_tokens: LayerTokens::default(),
            pending: None,
            sliced: Sliced::default(),
            host_time: Duration::ZERO,
            #[cfg(not(target_arch = "wasm32"))]
            debug_nan: false,
        })
    }

    /// Records one step on `batch` and returns what the step before it did, if there was one. The thread waits for that, while
    /// the device has this step to work on.
    ///
    /// # Errors
    /// As [`Trainer::record`], and as [`Pending::read`] for the step before. After an error of [`Trainer::record`] the results of
    /// the step before come with the next.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn step(&mut self, batch: &T::Batch) -> Result<Option<StepMetrics>> {
        if self.debug_nan {
            return self.explained(batch);
        }
        let recorded = self.record(batch)?;
        self.pending.replace(recorded).map(Pending::wait).transpose()
    }

    /// Has [`Trainer::step`] find out where a NaN or an infinity comes from ([`Trainer::find_non_finite`]). It then waits for each
    /// step before the next one is recorded, so that the weights are still those of the step that failed; and returns that step's
    /// results. To be switched before the first step, or behind [`Trainer::finish`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn debug_nan(&mut self, on: bool) {
        self.debug_nan = on;
    }

    /// Records one step; its results, and the kernel that is at fault where they are not finite.
    #[cfg(not(target_arch = "wasm32"))]
    fn explained(&mut self, batch: &T::Batch) -> Result<Option<StepMetrics>> {
        // With what the task has learnt of the step, tokens that are kept for their importance would be others at the second look.
        let copied = |(_, tensor): (String, Tensor)| Ok((tensor.copied()?, tensor));
        let held = self.task.held().into_iter().map(copied).collect::<Result<Vec<_>>>()?;
        match self.record(batch)?.wait() {
            Err(error @ Error::NonFinite { .. }) => {
                held.iter().try_for_each(|(before, now)| self.gpu().copy(before.buffer(), now.buffer()))?;
                self.find_non_finite(self.step.saturating_sub(1), batch)?;
                Err(error)
            }
            metrics => metrics.map(Some),
        }
    }

    /// Computes the gradients of step `step` on its batch again and looks at what each kernel writes ([`Gpu::check_values`]). For a
    /// step that was refused ([`Error::NonFinite`]), with the weights that it was refused with: no other step has been recorded since, or
    /// the trainer was brought back to a snapshot and has done the steps up to it again. Nothing is trained.
    ///
    /// # Errors
    /// [`Error::NonFiniteValue`] names the first kernel that made a NaN or an infinity; else as [`Trainer::record`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn find_non_finite(&mut self, step: u64, batch: &T::Batch) -> Result<()> {
        self.task.check(batch)?;
        let now = std::mem::replace(&mut self.step, step);
        let gpu = self.gpu().clone();
        let found = gpu.check_values(|| self.gradients(batch));
        self.step = now;
        self.task.model().parameters().zero_grad();
        found.map(drop).map_err(|error| error.in_step(step))
    }

    /// Waits for the results of the last [`Trainer::step`].
    ///
    /// # Errors
    /// As [`Pending::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn finish(&mut self) -> Result<Option<StepMetrics>> {
        self.pending.take().map(Pending::wait).transpose()
    }

    /// Records one step on `batch`, for programs that must not wait: nothing here does, as long as the device has no more than a few
    /// steps before it (16 submissions; a browser keeps back the rest). The results may be asked for later, in any order, or not at
    /// all; a program that records much faster than its device computes looks at [`Pending::is_ready`] before it goes on.
    ///
    /// # Errors
    /// [`Error::Argument`] if the batch does not fit the model or itself: nothing is changed. [`Error::Shape`] if the
    /// task's loss is not one f32 or its count of right answers not one u32: nothing is trained. Else if the device
    /// fails.
    pub fn record(&mut self, batch: &T::Batch) -> Result<Pending> {
        let not_its_own = |stats: GpuStats| stats.compile_time + stats.wait_time;
        let (clock, before) = (Instant::now(), not_its_own(self.gpu().stats()));
        let pending = self.record_step(batch)?;
        let other = not_its_own(self.gpu().stats()) - before;
        self.host_time += clock.elapsed().saturating_sub(other);
        Ok(pending)
    }

    fn record_step(&mut self, batch: &T::Batch) -> Result<Pending> {
        self.task.check(batch)?;
        let metrics = self.begin(batch);
        let (scored, shares, loss_weight) = self.gradients(batch)?;
        self.task.follow(&scored)?;
        let counted = scored.iter().filter_map(|(_, scored)| scored.correct.as_ref()).map(|correct| correct.of).sum();
        let metrics = StepMetrics { loss_weight, counted, ..metrics };
        self.optimizer.step(self.task.model().parameters(), metrics.rate)?;
        // From here on the step counts, whatever becomes of its results.
        let (samples, extent) = (metrics.samples as u64, self.extent());
        self.layer_tokens += self.settings.drop.layer_tokens(self.step, samples, extent);
        self.step += 1;
        let losses = scored.iter().map(|(_, scored)| scored.loss.buffer());
        let correct = scored.iter().filter_map(|(_, scored)| Some(scored.correct.as_ref()?.count.buffer()));
        let views: Vec<_> = losses.chain(correct).chain([self.optimizer.report().buffer()]).collect();
        let results = self.gpu().read(&views)?;
        Ok(Pending { results, shares, metrics, paths: self.paths.clone() })
    }

    /// Records forward and backward of a batch; what came of each of its parts, the part's share of the loss, and what the batch counts.
    fn gradients<'b>(&self, batch: &'b T::Batch) -> Result<(Vec<Outcome<'b, T>>, Vec<f32>, f64)> {
        // What a step that failed half-way has left is not part of this one.
        self.task.model().parameters().zero_grad();
        let parts = parts(batch.samples(), self.settings.accumulate).map(|samples| Part { batch, samples });
        // Of all parts first, since what a part counts depends on the tokens that stay.
        let weighed = |part: Part<'b, T::Batch>| {
            let spans = self.spans(&part)?;
            let weight = self.task.weight_of(&part, &spans)?;
            Ok((part, spans, weight))
        };
        let parts = parts.map(weighed).collect::<Result<Vec<_>>>()?;
        let whole: f64 = parts.iter().map(|(_, _, weight)| weight).sum();
        let (mut scored, mut shares): (Vec<_>, Vec<_>) = Default::default();
        for (part, spans, weight) in parts {
            let share = if whole > 0.0 { (weight / whole) as f32 } else { 0.0 };
            let came = self.accumulate(&part, &spans, share)?;
            scored.push((part, came));
            shares.push(share);
        }
        Ok((scored, shares, whole))
    }

    /// What is known of the step beforehand, of a batch that fits the model.
    fn begin(&mut self, batch: &T::Batch) -> StepMetrics {
        let (samples, tokens) = (batch.samples(), self.extent().tokens);
        StepMetrics {
            step: self.step,
            epoch: batch.position().epoch,
            loss: 0.0,
            loss_weight: 0.0,
            correct: 0,
            samples,
            counted: 0,
            excused: false,
            kept: self.next_kept(tokens),
            tokens,
            rate: self.settings.rate.rate(At { step: self.step, layer_tokens: self.layer_tokens.consumed }),
            grad_norm: 0.0,
        }
    }

    /// Records optimiser step `step` and looks at no result: there is none on a dry run.
    pub(super) fn rehearse(&mut self, step: u64, batch: &T::Batch) -> Result<()> {
        self.step = step;
        self.record_step(batch).map(drop)
    }

    /// R of the step that begins, of T `tokens`.
    fn next_kept(&mut self, tokens: usize) -> usize {
        let kept = self.settings.drop.kept_length(self.step, tokens);
        if self.kept.replace(kept).is_some_and(|before| before != kept) {
            // Buffers of the old length are of no more use; kept, they would lie beside those of the new.
            self.gpu().trim();
        }
        kept
    }

    /// Adds the gradients of a part of a batch, of whose loss it is a share.
    fn accumulate(&self, part: &Part<'_, T::Batch>, spans: &[Span<TokenIndices>], share: f32) -> Result<Scored> {
        let first_sample = part.samples.start as u64;
        let key = RandomKey { seed: self.settings.seed, step: self.step, layer: 0, first_sample };
        let TrainSettings { recompute_blocks, precision, .. } = self.settings;
        let mode = Mode::training(key).recomputing(recompute_blocks).with_precision(precision);
        let scored = self.task.loss(part, spans, &mode)?;
        scored.check()?;
        let scaled = match self.optimizer.loss_scale() {
            Some(scale) => ops::scale(scale, share)?,
            None => Tensor::from_slice(self.gpu(), &[], &[share])?,
        };
        scored.loss.backward_from(&scaled)?;
        Ok(Scored { loss: scored.loss.detach(), ..scored })
    }

    /// The tokens of a part that this step keeps, on the device.
    fn spans(&self, part: &Part<'_, T::Batch>) -> Result<Vec<Span<TokenIndices>>> {
        let (extent, drop, range) = (self.extent(), &self.settings.drop, &part.samples);
        if let Some(bypass) = drop.by_importance(self.step, extent.tokens) {
            return Ok(vec![Span::bypass(bypass.blocks(), self.most_important(part, bypass)?)]);
        }
        let kept = drop.kept_length(self.step, extent.tokens);
        let upload =
            |positions: Vec<u32>| TokenIndices::new(self.gpu(), [range.len(), kept], extent.tokens, &positions);
        let drawn = drop.draw(self.step, extent, range.start as u64, range.len())?;
        drawn.into_iter().map(|span| span.try_map(upload)).collect()
    }

    /// The tokens of a part that a bypass keeps for their importance.
    fn most_important(&self, part: &Part<'_, T::Batch>, bypass: &TokenBypass) -> Result<TokenIndices> {
        let Some(TokenScores { scores, lengths }) = self.task.importance(part)? else {
            let expected = "by chance where the task knows of no importance";
            return Err(Error::argument("Trainer", "drop", expected, "TokenBypass by importance"));
        };
        ops::keep_largest(&scores, bypass.kept(), bypass.keep_prefix_tokens(), lengths.as_ref())
    }

    fn extent(&self) -> Extent {
        self.task.extent()
    }

    pub(super) fn gpu(&self) -> &Gpu {
        self.task.model().parameters().gpu()
    }

    /// What `f` gives while the model has the running average for its weights ([`TrainSettings::ema`]); without one, while it
    /// has its own. They are exchanged in place, which takes no memory, before and after ([`Optimizer::averaged`]).
    ///
    /// # Errors
    /// Those of `f`, or if the device fails.
    pub fn averaged<R>(&mut self, f: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        self.optimizer.averaged(|| f(&self.task))
    }

    /// What is trained.
    pub fn task(&self) -> &T {
        &self.task
    }

    /// What is trained, for itself. Results that were not read are given up.
    pub fn into_task(self) -> T {
        self.task
    }

    /// How it is trained.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// Sets the schedule of the steps that are recorded from now on in place of [`TrainSettings::rate`], for loops that
    /// find their rate on the way. It is asked for the rate at [`Trainer::steps`], which goes on counting.
    ///
    /// The schedule is a part of the [`Trainer::settings`], not of a [`super::Snapshot`]: [`Trainer::restore`] leaves
    /// it as it is, and [`super::Recovery`] goes on with the last one, by which steps that come again learn too. A loop
    /// that is to repeat itself bit for bit sets the schedule again where it did before, or has one from the beginning
    /// ([`LrSchedule::piecewise`]).
    ///
    /// # Errors
    /// [`Error::Argument`] if it follows layer tokens, and the task has none: nothing is changed.
    pub fn set_rate(&mut self, rate: LrSchedule) -> Result<()> {
        let settings = TrainSettings { rate, ..self.settings.clone() };
        settings.check(self.extent())?;
        self.settings = settings;
        Ok(())
    }

    pub(super) fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    pub(super) fn restore_optimizer<'v>(
        &mut self,
        saved: &OptimizerState,
        values: impl Fn(&str) -> Result<&'v [f32]>,
    ) -> Result<()> {
        self.optimizer.restore(self.task.model().parameters(), saved, values)
    }

    /// Goes on from step `step`.
    pub(super) fn go_to(&mut self, step: u64, layer_tokens: LayerTokens) {
        (self.step, self.layer_tokens, self.kept, self.pending) = (step, layer_tokens, None, None);
        self.sliced.give_up();
    }

    /// Steps recorded so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Layer tokens consumed so far, and at full length.
    pub fn layer_tokens(&self) -> LayerTokens {
        self.layer_tokens
    }

    /// The host's own time in all steps so far: drawing, recording and submitting, without compiling kernels and without
    /// waiting for the device. Where other threads use the device too, what they wait and compile is left out as well.
    pub fn host_time(&self) -> Duration {
        self.host_time
    }
}

/// `samples` in `count` nearly equal ranges, none of them empty.
fn parts(samples: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    let count = count.clamp(1, samples.max(1));
    let start = move |i: usize| (samples as u128 * i as u128 / count as u128) as usize;
    (0..count).map(move |i| start(i)..start(i + 1))
}

/// The first word of a read-back.
fn word(bytes: &[u8]) -> [u8; 4] {
    bytes.first_chunk().copied().unwrap_or_default()
}

pub(super) fn f32_of(bytes: &[u8]) -> f32 {
    f32::from_ne_bytes(word(bytes))
}

pub(super) fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(word(bytes))
}
