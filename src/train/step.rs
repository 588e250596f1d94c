//! One optimiser step.

use crate::autograd::Parameters;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Readback};
use crate::ltd::{LayerTokens, Layers, RandomLtd};
use crate::nn::{Mode, Vit};
use crate::ops::{self, CrossEntropy, RandomKey, TokenIndices};
use crate::optim::{LrSchedule, Optimizer, Rule, StepReport, decays};
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
    /// Random-LTD; `None` trains at full length.
    pub ltd: Option<RandomLtd>,
    /// Seeds dropout and stochastic depth. (Random-LTD and the data have their own.)
    pub seed: u64,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMetrics {
    /// Optimiser step, from 0.
    pub step: u64,
    /// Mean loss of the batch.
    pub loss: f32,
    /// Samples of the batch that the model, in training mode, got right.
    pub correct: u32,
    /// Samples in the batch.
    pub samples: usize,
    /// R in the LTD blocks; T at full length.
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
    metrics: StepMetrics,
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
}

impl<'a> Trainer<'a> {
    /// A trainer at step 0. No weight decay on biases, norms, class token and positions, as timm.
    ///
    /// # Errors
    /// If a setting does not fit the model.
    pub fn new(model: &'a Vit, settings: TrainSettings) -> Result<Self> {
        if let Some(ltd) = &settings.ltd {
            ltd.check_length(model.config().tokens())?;
            if ltd.total_blocks() != model.config().depth {
                let expected = format!("{}, the model's depth", model.config().depth);
                return Err(Error::argument("random-LTD", "total_blocks", expected, ltd.total_blocks()));
            }
        }
        let optimizer = Optimizer::new(model.parameters(), settings.rule, settings.max_norm, decays)?;
        Ok(Trainer {
            model,
            settings,
            optimizer,
            step: 0,
            kept: None,
            layer_tokens: LayerTokens::default(),
            pending: None,
        })
    }

    /// Records one step on `batch` and returns what the step before it did, if there was one.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if that step's loss or gradient was not finite: its update was skipped, and so is every one
    /// recorded since with a gradient that is not finite. [`Error::OutOfRange`] if a label was.
    pub fn step(&mut self, batch: &Batch) -> Result<Option<StepMetrics>> {
        let recorded = self.record(batch)?;
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

    fn record(&mut self, batch: &Batch) -> Result<Pending> {
        let samples = batch.labels.len();
        let config = self.model.config();
        let (images, labels) = upload(self.model.gpu(), batch, config.img_size)?;
        let kept = self.draw(samples)?;
        let key = RandomKey { seed: self.settings.seed, step: self.step, layer: 0, first_sample: 0 };
        let logits = self.model.forward(&images, &kept, &Mode::Training(key))?;
        let loss = ops::cross_entropy(&logits, &labels, &self.settings.loss)?;
        let correct = ops::count_correct(&logits.detach(), &labels, self.settings.loss.ignore_index)?;
        drop(logits);
        loss.backward()?;
        let rate = self.settings.rate.rate(self.step);
        self.optimizer.step(self.model.parameters(), rate)?;
        let views = [loss.buffer(), correct.buffer(), self.optimizer.report().buffer()];
        let results = self.model.gpu().read(&views)?;
        let metrics = StepMetrics {
            step: self.step,
            loss: 0.0,
            correct: 0,
            samples,
            kept: kept.iter().flatten().map(TokenIndices::kept).next().unwrap_or(config.tokens()),
            tokens: config.tokens(),
            rate,
            grad_norm: 0.0,
        };
        self.step += 1;
        Ok(Pending { results, metrics })
    }

    /// This step's kept tokens for each block, and their account.
    fn draw(&mut self, samples: usize) -> Result<Vec<Option<TokenIndices>>> {
        let (gpu, config) = (self.model.gpu(), self.model.config());
        let tokens = config.tokens();
        let Some(ltd) = &self.settings.ltd else {
            let all_plain = Layers { total: config.depth as u64, ltd: 0 };
            self.layer_tokens += all_plain.layer_tokens(samples as u64, tokens as u64, tokens as u64);
            return Ok(Vec::new());
        };
        let plan = ltd.plan(self.step, tokens);
        self.layer_tokens += plan.layer_tokens(samples as u64);
        if self.kept.replace(plan.kept()).is_some_and(|kept| kept != plan.kept()) {
            // Buffers of the old length are of no more use; kept, they would lie beside those of the new.
            gpu.trim();
        }
        let upload = |positions: Vec<u32>| TokenIndices::new(gpu, samples, plan.kept(), tokens, &positions);
        plan.draw(0, samples)?.into_iter().map(|positions| positions.map(upload).transpose()).collect()
    }

    fn resolve(&self, pending: Pending) -> Result<StepMetrics> {
        let bytes = pending.results.wait()?;
        let [loss, correct, report] = bytes.as_slice() else {
            return Err(Error::Graph { op: "Trainer::step", what: "results are missing" });
        };
        let report = StepReport::decode(report)?;
        report.check(pending.metrics.step, self.parameters())?;
        let metrics = pending.metrics;
        Ok(StepMetrics { loss: f32_of(loss), correct: u32_of(correct), grad_norm: report.grad_norm, ..metrics })
    }

    fn parameters(&self) -> &Parameters {
        self.model.parameters()
    }

    /// Steps recorded so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Layer tokens consumed so far, and at full length.
    pub fn layer_tokens(&self) -> LayerTokens {
        self.layer_tokens
    }
}

/// A batch on the device: `u8[B, 3, H, W]` and `u32[B]`.
pub(super) fn upload(gpu: &Gpu, batch: &Batch, (height, width): (usize, usize)) -> Result<(Tensor, Tensor)> {
    let samples = batch.labels.len();
    let images = Tensor::from_slice(gpu, &[samples, 3, height, width], &batch.images)?;
    Ok((images, Tensor::from_slice(gpu, &[samples], &batch.labels)?))
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
