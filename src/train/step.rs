//! One optimiser step.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::Freeze;
use crate::autograd::Parameters;
use crate::data::{ImageBatch, Mixed};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Readback};
use crate::ltd::{LayerTokens, TokenDrop};
use crate::models::vit::Vit;
use crate::nn::{Mode, Model, Precision};
use crate::ops::{self, CrossEntropy, RandomKey, Targets, TokenIndices};
use crate::optim::{Ema, LossScale, LrSchedule, Optimizer, OptimizerState, Rule, StepReport, decays, layer_scale};
use crate::tensor::Tensor;

/// What a training run needs besides a model and data.
#[derive(Clone, Debug)]
pub struct TrainSettings {
    /// The update and its settings.
    pub rule: Rule,
    /// Clips the gradient's global norm.
    pub max_norm: Option<f32>,
    /// The rate at each step.
    pub rate: LrSchedule,
    /// The loss.
    pub loss: CrossEntropy,
    /// Which tokens are dropped.
    pub drop: TokenDrop,
    /// What is not trained.
    pub freeze: Freeze,
    /// Layer-wise decay of the learning rate ([`layer_scale`]), above 0; 1 is none.
    pub layer_decay: f32,
    /// A running average of the weights, which then is what [`super::fit`] measures and saves.
    pub ema: Option<Ema>,
    /// Seeds dropout and stochastic depth. (Dropped tokens and the data have their own.)
    pub seed: u64,
    /// Micro-batches that a step's batch is cut into, at least 1: their gradients add up to the whole batch's, in the memory
    /// of one. Tokens kept and dropout masks are those of the undivided batch. A batch of fewer samples is cut into single
    /// ones.
    pub accumulate: usize,
    /// The element type of activations; in half precision the loss is scaled, and a step whose gradient overflows is left out.
    pub precision: Precision,
    /// How the loss is scaled in half precision.
    pub loss_scale: LossScale,
    /// Keeps the input of each block alone and computes the rest again in backward: the same gradients bit for bit, for more
    /// time and much less memory ([`Mode::checkpointed`]).
    pub checkpoint_blocks: bool,
}

impl TrainSettings {
    /// The plainest training: all parameters at one rate, full length, full precision, no clipping, smoothing or averaging,
    /// whole batches, seed 0. Change what differs: `TrainSettings { seed: 7, ..TrainSettings::new(rule, rate) }`.
    pub fn new(rule: Rule, rate: LrSchedule) -> Self {
        TrainSettings {
            rule,
            max_norm: None,
            rate,
            loss: CrossEntropy::default(),
            drop: TokenDrop::None,
            freeze: Freeze::Nothing,
            layer_decay: 1.0,
            ema: None,
            seed: 0,
            accumulate: 1,
            precision: Precision::F32,
            loss_scale: LossScale::default(),
            checkpoint_blocks: false,
        }
    }

    /// What follows from them for the update of a model's parameters.
    fn optimizer(&self, model: &Vit) -> Result<Optimizer> {
        let (parameters, depth) = (model.parameters(), model.config().depth);
        let mut optimizer = Optimizer::new(parameters, self.rule, self.max_norm, decays)?;
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            return Err(Error::argument("Trainer", "layer_decay", "above 0 and at most 1", self.layer_decay));
        }
        if self.layer_decay < 1.0 {
            optimizer = optimizer.with_rate_scales(parameters, |path| layer_scale(path, depth, self.layer_decay))?;
        }
        if let Some(ema) = self.ema {
            optimizer = optimizer.with_ema(parameters, ema)?;
        }
        match self.precision {
            Precision::F32 => Ok(optimizer),
            Precision::F16 => optimizer.with_loss_scale(self.loss_scale),
        }
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMetrics {
    /// Optimiser step, from 0.
    pub step: u64,
    /// The epoch that its batch is of, from 0 ([`ImageBatch::position`]).
    pub epoch: u64,
    /// Mean loss of the batch; not finite where half precision overflowed in forward.
    pub loss: f32,
    /// What the batch counts in a mean over batches: its samples, or the sum of their classes' weights, without those whose
    /// label is ignored.
    pub loss_weight: f64,
    /// Samples of the batch that the model, in training mode, got right; of mixed ones the own label counts, which makes
    /// this only indicative.
    pub correct: u32,
    /// Samples in the batch.
    pub samples: usize,
    /// Samples that could be right: those whose own label is not ignored.
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
struct Pending {
    results: Readback,
    /// Each micro-batch's share of the mean loss.
    weights: Vec<f32>,
    metrics: StepMetrics,
}

/// The results of a micro-batch, on the device.
struct Part {
    loss: Tensor,
    correct: Tensor,
    weight: f32,
}

/// Trains a [`Vit`] step by step.
pub struct Trainer<'a> {
    model: &'a Vit,
    settings: TrainSettings,
    optimizer: Optimizer,
    step: u64,
    /// R of the last step.
    kept: Option<usize>,
    layer_tokens: LayerTokens,
    pending: Option<Pending>,
    host_time: Duration,
}

impl<'a> Trainer<'a> {
    /// A trainer at step 0, which freezes what the settings freeze and thaws what an earlier trainer of the model has
    /// frozen ([`Freeze`]). No weight decay on biases, norms, class token and positions, as timm.
    ///
    /// # Errors
    /// If a setting does not fit the model.
    pub fn new(model: &'a Vit, settings: TrainSettings) -> Result<Self> {
        if settings.accumulate == 0 {
            return Err(Error::argument("Trainer", "accumulate", "at least 1", 0));
        }
        settings.drop.check(model.extent())?;
        let optimizer = settings.optimizer(model)?;
        settings.freeze.apply(model)?;
        Ok(Trainer {
            model,
            settings,
            optimizer,
            step: 0,
            kept: None,
            layer_tokens: LayerTokens::default(),
            pending: None,
            host_time: Duration::ZERO,
        })
    }

    /// Records one step on `batch` and returns what the step before it did, if there was one.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if that step's loss or gradient was not finite: its update was skipped, and so is every one
    /// recorded since with a gradient that is not finite. [`Error::OutOfRange`] if a label was. [`Error::Argument`] if the
    /// batch does not fit the model or itself: nothing is changed, and the results of the step before come with the next.
    pub fn step(&mut self, batch: &ImageBatch) -> Result<Option<StepMetrics>> {
        let (started, compiled) = (Instant::now(), self.model.gpu().stats().compile_time);
        let recorded = self.record(batch)?;
        let compiling = self.model.gpu().stats().compile_time - compiled;
        self.host_time += started.elapsed().saturating_sub(compiling);
        let previous = self.pending.replace(recorded);
        previous.map(|p| self.resolve(p)).transpose()
    }

    /// Waits for the last step's results.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn finish(&mut self) -> Result<Option<StepMetrics>> {
        self.pending.take().map(|p| self.resolve(p)).transpose()
    }

    /// Records the whole step; nothing here waits for the device.
    fn record(&mut self, batch: &ImageBatch) -> Result<Pending> {
        let metrics = self.begin(batch)?;
        // What a step that failed half-way has left is not part of this one.
        self.parameters().zero_grad();
        let parts: Vec<Part> = parts(metrics.samples, self.settings.accumulate)
            .map(|range| self.accumulate(batch, range, metrics.loss_weight))
            .collect::<Result<_>>()?;
        self.optimizer.step(self.model.parameters(), metrics.rate)?;
        // From here on the step counts, whatever becomes of its results.
        let samples = metrics.samples as u64;
        self.layer_tokens += self.settings.drop.layer_tokens(self.step, samples, self.model.extent());
        self.step += 1;
        let losses = parts.iter().map(|part| part.loss.buffer());
        let correct = parts.iter().map(|part| part.correct.buffer());
        let views: Vec<_> = losses.chain(correct).chain([self.optimizer.report().buffer()]).collect();
        let results = self.model.gpu().read(&views)?;
        Ok(Pending { results, weights: parts.iter().map(|part| part.weight).collect(), metrics })
    }

    /// What is known of the step beforehand, of a batch that fits the model.
    fn begin(&mut self, batch: &ImageBatch) -> Result<StepMetrics> {
        let config = self.model.config();
        check(batch, config.img_size)?;
        let (samples, tokens) = (batch.labels.len(), config.tokens());
        Ok(StepMetrics {
            step: self.step,
            epoch: batch.position.epoch,
            loss: 0.0,
            loss_weight: self.loss_weight(batch, 0..samples),
            correct: 0,
            samples,
            counted: counted(&batch.labels, &self.settings.loss),
            excused: false,
            kept: self.next_kept(tokens),
            tokens,
            rate: self.settings.rate.rate(self.step),
            grad_norm: 0.0,
        })
    }

    /// Records optimiser step `step` and looks at no result: there is none on a dry run.
    pub(super) fn rehearse(&mut self, step: u64, batch: &ImageBatch) -> Result<()> {
        self.step = step;
        self.record(batch).map(drop)
    }

    /// R of the step that begins, of T `tokens`.
    fn next_kept(&mut self, tokens: usize) -> usize {
        let kept = self.settings.drop.kept_length(self.step, tokens);
        if self.kept.replace(kept).is_some_and(|before| before != kept) {
            // Buffers of the old length are of no more use; kept, they would lie beside those of the new.
            self.model.gpu().trim();
        }
        kept
    }

    /// What the samples in `range` count in the batch's mean loss: how many have a label that counts, or the sum of
    /// their weights.
    fn loss_weight(&self, batch: &ImageBatch, range: Range<usize>) -> f64 {
        let (classes, loss) = (self.model.config().num_classes, &self.settings.loss);
        let mixed = |i: usize| batch.mixed.as_ref().map(|mixed| (mixed.labels[i], mixed.shares[i]));
        range.map(|i| loss.row_weight(classes, batch.labels[i], mixed(i))).sum()
    }

    /// Adds the gradients of the samples in `range` of a batch that counts `whole` in all.
    fn accumulate(&self, batch: &ImageBatch, range: Range<usize>, whole: f64) -> Result<Part> {
        let gpu = self.model.gpu();
        let own = self.loss_weight(batch, range.clone());
        let weight = if whole > 0.0 { (own / whole) as f32 } else { 0.0 };
        let (images, labels) = upload(gpu, batch, range.clone(), self.model.config().img_size)?;
        let mixed = batch.mixed.as_ref().map(|mixed| upload_mixed(gpu, mixed, range.clone())).transpose()?;
        let key = RandomKey { seed: self.settings.seed, step: self.step, layer: 0, first_sample: range.start as u64 };
        let TrainSettings { checkpoint_blocks, precision, .. } = self.settings;
        let mode = Mode::training(key).checkpointed(checkpoint_blocks).with_precision(precision);
        let logits = self.forward(&images, range, &mode)?;
        let targets = match &mixed {
            Some((others, shares)) => Targets::mixed(&labels, others, shares),
            None => Targets::from(&labels),
        };
        let loss = ops::cross_entropy(&logits, targets, &self.settings.loss)?;
        let correct = ops::count_correct(&logits.detach(), &labels, self.settings.loss.ignore_index)?;
        // The graph keeps what backward needs; from here on it alone decides when.
        drop((images, logits));
        let share = match self.optimizer.loss_scale() {
            Some(scale) => ops::scale(scale, weight)?,
            None => Tensor::from_slice(gpu, &[], &[weight])?,
        };
        loss.backward_from(&share)?;
        Ok(Part { loss: loss.detach(), correct, weight })
    }

    /// Logits of the samples in `range`, without the tokens that this step drops.
    fn forward(&self, images: &Tensor, range: Range<usize>, mode: &Mode) -> Result<Tensor> {
        let (gpu, extent, samples) = (self.model.gpu(), self.model.extent(), range.len());
        let drop = &self.settings.drop;
        let kept = drop.kept_length(self.step, extent.tokens);
        let upload = |positions: Vec<u32>| TokenIndices::new(gpu, samples, kept, extent.tokens, &positions);
        let drawn = drop.draw(self.step, extent, range.start as u64, samples)?;
        let spans: Vec<_> = drawn.into_iter().map(|span| span.try_map(upload)).collect::<Result<_>>()?;
        self.model.forward(images, &spans, mode)
    }

    fn resolve(&self, pending: Pending) -> Result<StepMetrics> {
        let Pending { results, weights, metrics } = pending;
        let bytes = results.wait()?;
        let Some((report, parts)) = bytes.split_last() else {
            return Err(Error::Graph { op: "Trainer::step", what: "results are missing" });
        };
        let report = StepReport::decode(report)?;
        report.check(metrics.step, self.parameters())?;
        let (losses, correct) = parts.split_at(weights.len().min(parts.len()));
        let loss =
            losses.iter().zip(weights).map(|(loss, weight)| f64::from(f32_of(loss)) * f64::from(weight)).sum::<f64>();
        let correct = correct.iter().map(|count| u32_of(count)).sum();
        let (grad_norm, excused) = (report.grad_norm, report.excused);
        Ok(StepMetrics { loss: loss as f32, correct, grad_norm, excused, ..metrics })
    }

    fn parameters(&self) -> &Parameters {
        self.model.parameters()
    }

    /// What `f` gives while the model has the running average for its weights ([`TrainSettings::ema`]); without one, while it
    /// has its own. They are exchanged in place, which takes no memory, before and after ([`Optimizer::averaged`]).
    ///
    /// # Errors
    /// Those of `f`, or if the device fails.
    pub fn averaged<T>(&mut self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        self.optimizer.averaged(f)
    }

    pub(super) fn model(&self) -> &'a Vit {
        self.model
    }

    pub(super) fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    pub(super) fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Goes on from step `step`, with what the optimiser had there.
    pub(super) fn restore<'v>(
        &mut self,
        step: u64,
        layer_tokens: LayerTokens,
        optimizer: &OptimizerState,
        values: impl Fn(&str) -> Result<&'v [f32]>,
    ) -> Result<()> {
        self.optimizer.restore(self.model.parameters(), optimizer, values)?;
        (self.step, self.layer_tokens, self.kept) = (step, layer_tokens, None);
        Ok(())
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
    /// waiting for results. On CPU drivers submitting may wait for computing, and this be most of a step.
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

/// Whether a batch has samples, each with all that belongs to it and of a picture's size.
fn check(batch: &ImageBatch, (height, width): (usize, usize)) -> Result<()> {
    let samples = batch.labels.len();
    if samples == 0 {
        return Err(Error::argument("batch", "labels", "at least one", 0));
    }
    if samples.checked_mul(3 * height * width) != Some(batch.images.len()) {
        let expected = format!("{samples} pictures of 3·{height}·{width} bytes");
        return Err(Error::argument("batch", "images", expected, format_args!("{} bytes", batch.images.len())));
    }
    batch.check()
}

/// How many labels are not ignored.
pub(super) fn counted(labels: &[u32], loss: &CrossEntropy) -> usize {
    labels.iter().filter(|&&label| Some(label) != loss.ignore_index).count()
}

/// Samples `range` of a batch on the device: `u8[B, 3, H, W]` and `u32[B]`.
pub(super) fn upload(
    gpu: &Gpu,
    batch: &ImageBatch,
    range: Range<usize>,
    (height, width): (usize, usize),
) -> Result<(Tensor, Tensor)> {
    check(batch, (height, width))?;
    let sample = 3 * height * width;
    let pixels = &batch.images[range.start * sample..range.end * sample];
    let images = Tensor::from_slice(gpu, &[range.len(), 3, height, width], pixels)?;
    Ok((images, Tensor::from_slice(gpu, &[range.len()], &batch.labels[range])?))
}

/// The second labels and the shares of the first ones, of samples `range`: `u32[B]` and `f32[B]`.
fn upload_mixed(gpu: &Gpu, mixed: &Mixed, range: Range<usize>) -> Result<(Tensor, Tensor)> {
    let labels = Tensor::from_slice(gpu, &[range.len()], &mixed.labels[range.clone()])?;
    Ok((labels, Tensor::from_slice(gpu, &[range.len()], &mixed.shares[range])?))
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
