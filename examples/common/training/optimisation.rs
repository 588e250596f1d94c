//! How the weights are found, whatever they are of: the part of a recipe that all programs have.

use anyhow::{Result, ensure};
use wgrad::gpu::Gpu;
use wgrad::ltd::{LayerTokenPlan, TokenDrop};
use wgrad::nn::Extent;
use wgrad::optim::{AdamW, Ema, LayerTokenRate, LrSchedule, Rule as Update, Sgd, ShapedRate};
use wgrad::train::{DeepSpeedConfig, FitOptions, RunState, TrainSettings};

use super::device::Device;
use super::given::{NO_CONFIG, Rule};
use super::kinds::{LrKind, OptimizerKind, PrecisionKind};
use super::ltd_drop::share;
use super::recipe::{entry, settings};
use super::values::FreezeKind;

settings! {
    /// Steps, batches, the update and its rates.
    Optimisation, OptimisationOptions;
    "Training" {
        /// Passes over the training data
        epochs: u64,
        /// More epochs where those are fewer steps than this, as with little data; 0, or --epochs given without it, keeps them
        min_steps: u64,
        /// Optimiser steps, instead of epochs; 0 goes by epochs
        steps: u64,
        /// Samples a step
        batch_size: usize,
        /// Micro-batches that a step is cut into: the same step in less memory
        accumulate: usize,
        /// Element type of activations. `auto`: f16 on GPUs that have it
        #[clap(value_enum)]
        precision: PrecisionKind,
        /// Optimiser
        #[clap(value_enum)]
        optimizer: OptimizerKind,
        /// Learning rate; 0 goes by the model's width, 0.064 / width with AdamW and ten times as much with SGD
        lr: f32,
        /// Shape of the learning rate after warm-up
        #[clap(value_enum)]
        lr_schedule: LrKind,
        /// Share of the steps that warm up. Where the rate goes by layer tokens it is as many of them as these steps
        /// have at full length, and so more steps under random-LTD
        warmup: f64,
        /// Layer-wise decay of the learning rate: each block's is so much of the next one's; 1 is none
        layer_decay: f32,
        /// Weight decay
        weight_decay: f32,
        /// SGD's momentum
        momentum: f32,
        /// SGD with Nesterov's look ahead
        #[clap(num_args = 0..=1, default_missing_value = "true")]
        nesterov: bool,
        /// Largest norm of the gradient; 0 does not clip
        clip_grad: f32,
        /// Decay of a running average of the weights, which then is evaluated and saved; 0 keeps none
        ema: f32,
        /// What is not trained: none, all-but-head, all-but-biases (BitFit), all-but-norms, all-but-norms-and-biases, or blocks=K for
        /// all up to the K-th block
        freeze: FreezeKind,
        /// End after so many epochs in a row without a better validation result; 0 goes on
        patience: u64,
    }
}

impl Default for Optimisation {
    fn default() -> Self {
        Optimisation {
            epochs: 10,
            min_steps: 150,
            steps: 0,
            batch_size: 16,
            accumulate: 1,
            precision: PrecisionKind::F32,
            optimizer: OptimizerKind::Adamw,
            lr: 0.0,
            lr_schedule: LrKind::Cosine,
            warmup: 0.1,
            layer_decay: 1.0,
            weight_decay: 0.05,
            momentum: 0.9,
            nesterov: false,
            clip_grad: 1.0,
            ema: 0.0,
            freeze: FreezeKind::None,
            patience: 0,
        }
    }
}

impl Optimisation {
    /// Epochs that are given are as many as they are.
    pub fn heed_epochs(&mut self, options: &OptimisationOptions) {
        if options.epochs.is_some() {
            self.min_steps = 0;
        }
    }

    /// What a DeepSpeed configuration says, in their place. Schedules are taken from it as they are.
    pub fn with_deepspeed(self, config: Option<&DeepSpeedConfig>) -> Self {
        let Some(config) = config else { return self };
        let mut settings = Optimisation {
            batch_size: config.batch_size,
            accumulate: config.accumulate,
            clip_grad: config.max_norm.unwrap_or(0.0),
            precision: if config.loss_scale.is_some() { PrecisionKind::F16 } else { self.precision },
            ..self
        };
        match config.rule {
            Some(Update::AdamW(AdamW { weight_decay, .. })) => {
                (settings.optimizer, settings.weight_decay) = (OptimizerKind::Adamw, weight_decay);
            }
            Some(Update::Sgd(Sgd { momentum, nesterov, weight_decay, .. })) => {
                (settings.optimizer, settings.weight_decay) = (OptimizerKind::Sgd, weight_decay);
                (settings.momentum, settings.nesterov) = (momentum, nesterov);
            }
            Some(_) | None => {}
        }
        settings
    }

    /// A learning rate that suits a model of this width, where none was given: a wider one wants a smaller rate.
    pub fn settle_rate(&mut self, width: usize) {
        let of_one = match self.optimizer {
            OptimizerKind::Adamw => 0.064,
            OptimizerKind::Sgd => 0.64,
        };
        if self.lr == 0.0 {
            self.lr = of_one / width as f32;
        }
    }

    /// The steps of a run, where there are so many samples: `steps` if that is not 0, else those of the epochs, which become more
    /// where those are fewer than `min_steps`.
    ///
    /// # Errors
    /// If there is no step, or a batch cannot be cut as it is meant to be.
    pub fn settle_steps(&mut self, samples: usize) -> Result<u64> {
        let (batch, micro) = (self.batch_size, self.accumulate);
        ensure!((1..=batch).contains(&micro), "--accumulate {micro}: 1 to the batch size, {batch}");
        let per_epoch = (samples / batch) as u64;
        if self.steps == 0 {
            self.epochs = self.epochs.max(self.min_steps.div_ceil(per_epoch.max(1)));
        }
        let steps = if self.steps > 0 { self.steps } else { self.epochs.saturating_mul(per_epoch) };
        ensure!(steps > 0, "nothing to do: --epochs must not be 0 where --steps is");
        Ok(steps)
    }

    /// Samples that go through the model at once, in evaluation too, so that it does not take more memory than training.
    pub fn micro_batch(&self) -> usize {
        self.batch_size.div_ceil(self.accumulate.max(1))
    }

    /// Those of a run, with what a DeepSpeed configuration says in their place; but tokens are dropped as planned.
    pub fn settings(
        &self,
        config: Option<&DeepSpeedConfig>,
        device: &Device,
        gpu: &Gpu,
        plan: Plan,
        seed: u64,
    ) -> Result<TrainSettings> {
        let rule = self.optimizer.rule(self.weight_decay, self.momentum, self.nesterov);
        let settings = TrainSettings {
            max_norm: (self.clip_grad != 0.0).then_some(self.clip_grad),
            freeze: self.freeze.into(),
            layer_decay: self.layer_decay,
            ema: (self.ema != 0.0).then_some(Ema { decay: self.ema, warmup: true }),
            seed,
            accumulate: self.accumulate,
            precision: self.precision.on(gpu),
            recompute_blocks: device.recompute_blocks,
            ..TrainSettings::new(rule, self.rate(&plan)?)
        };
        let settings = match config {
            Some(config) => config.apply(settings),
            None => settings,
        };
        Ok(TrainSettings { drop: plan.drop, ..settings })
    }

    fn rate(&self, plan: &Plan) -> wgrad::Result<LrSchedule> {
        let (base, steps, shape) = (self.lr, plan.steps, self.lr_schedule.into());
        let warmup = share(self.warmup, steps);
        if !self.lr_schedule.is_by_layer_tokens() {
            return LrSchedule::new(ShapedRate { base, min: 0.0, warmup, total: steps, shape });
        }
        let batch = self.batch_size as u64;
        let raw = |steps: u64| steps.saturating_mul(batch).saturating_mul(plan.extent.tokens as u64);
        let LayerTokenPlan { total, warmup } =
            plan.drop.layer_token_plan(raw(steps), raw(warmup), batch, plan.extent)?;
        LrSchedule::layer_token(LayerTokenRate { max: base, min: 0.0, shape, total, warmup })
    }

    /// `resume` is where the run stood, if it goes on.
    pub fn fit_options(&self, save_every: Option<u64>, resume: Option<RunState>) -> FitOptions {
        let patience = (self.patience > 0).then_some(self.patience);
        FitOptions { patience, save_state: true, save_every, resume, ..FitOptions::default() }
    }

    /// When its options count.
    pub fn rules(&self, config: Option<&DeepSpeedConfig>) -> [Rule; 6] {
        let is_rule_free = config.is_none_or(|config| config.rule.is_none());
        [
            (&["epochs", "min_steps"], self.steps == 0, "without --steps"),
            (&["batch_size", "accumulate", "clip_grad"], config.is_none(), NO_CONFIG),
            (&["optimizer", "weight_decay", "momentum", "nesterov"], is_rule_free, NO_CONFIG),
            (&["lr", "lr_schedule", "warmup"], config.is_none_or(|config| config.rate.is_none()), NO_CONFIG),
            (&["precision"], config.is_none_or(|config| config.loss_scale.is_none()), NO_CONFIG),
            (&["momentum", "nesterov"], self.optimizer == OptimizerKind::Sgd, "with --optimizer sgd"),
        ]
    }
}

/// A run, as far as its settings depend on it.
pub struct Plan {
    pub steps: u64,
    pub drop: TokenDrop,
    pub extent: Extent,
}

/// Shares of a run's steps, by the names of their options.
pub fn check_shares(shares: &[(&str, f64)]) -> Result<()> {
    for (name, share) in shares {
        ensure!(*share >= 0.0, "--{name} {share}: a share of the steps, 0 or more");
    }
    Ok(())
}
