//! From the recipe to the library's settings.

use anyhow::{Result, ensure};
use wgrad::gpu::Gpu;
use wgrad::ltd::{PatchDrop, Schedule, TokenDrop};
use wgrad::models::vit::Vit;
use wgrad::ops::CrossEntropy;
use wgrad::optim::{Ema, LrSchedule, ShapedRate};
use wgrad::train::{Classify, FitOptions, RunState, TrainSettings, Workload};

use crate::args::Args;
use crate::drops::{Drops, KeptLength, Rise};
use crate::recipe::{ClassWeights, DropKind, Recipe};
use crate::setup::Setup;
use crate::training::kinds::{LtdSchedule, OptimizerKind};
use crate::training::values::BlockList;

/// Makes what is trained.
type Maker<'a> = dyn Fn(&Gpu) -> wgrad::Result<Classify<Vit>> + 'a;

impl Setup {
    /// Settings of a run of `steps` steps that drops tokens in this way.
    pub fn settings(&self, args: &Args, gpu: &Gpu, drop: DropKind, steps: u64, seed: u64) -> Result<TrainSettings> {
        let recipe = &self.recipe;
        let Recipe { momentum, nesterov, weight_decay, .. } = *recipe;
        let rule = recipe.optimizer.rule(weight_decay, momentum, nesterov);
        let warmup = (f64::from(recipe.warmup) * steps as f64) as u64;
        let shape = recipe.lr_schedule.into();
        let rate = LrSchedule::new(ShapedRate { base: recipe.lr, min: 0.0, warmup, total: steps, shape })?;
        let settings = TrainSettings {
            max_norm: (recipe.clip_grad != 0.0).then_some(recipe.clip_grad),
            freeze: recipe.freeze.into(),
            layer_decay: recipe.layer_decay,
            ema: (recipe.ema != 0.0).then_some(Ema { decay: recipe.ema, warmup: true }),
            seed,
            accumulate: recipe.accumulate,
            precision: recipe.precision.on(gpu),
            recompute_blocks: args.device.recompute_blocks,
            ..TrainSettings::new(rule, rate)
        };
        let settings = self.deepspeed.as_ref().map_or(settings.clone(), |config| config.apply(settings));
        Ok(TrainSettings { drop: self.token_drop(drop, steps, seed)?, ..settings })
    }

    /// What is minimised, and by which the runs are measured.
    pub fn loss(&self) -> CrossEntropy {
        let Recipe { label_smoothing, class_weights, .. } = self.recipe;
        let weights = || self.data.train.class_weights(self.config.num_classes);
        let class_weights = (class_weights == ClassWeights::Balanced).then(weights);
        CrossEntropy { label_smoothing, class_weights, ..CrossEntropy::default() }
    }

    /// Of the run that the arguments describe, with the first seed.
    pub fn main_settings(&self, args: &Args, gpu: &Gpu) -> Result<TrainSettings> {
        self.settings(args, gpu, self.recipe.drop, self.steps, args.seed)
    }

    /// `resume` is where the run stood, if it goes on.
    pub fn fit_options(&self, args: &Args, resume: Option<RunState>) -> FitOptions {
        let patience = (self.recipe.patience > 0).then_some(self.recipe.patience);
        FitOptions { patience, save_state: true, save_every: args.save_every, resume }
    }

    /// Makes what is trained, for rehearsals.
    pub fn maker(&self) -> impl Fn(&Gpu) -> wgrad::Result<Classify<Vit>> {
        |gpu| Ok(Classify::with_loss(Vit::new(gpu, self.config.clone(), 0)?, self.loss()))
    }

    /// A run of what `make` makes with these settings, for estimates.
    pub fn workload<'a>(&'a self, make: &'a Maker<'a>, settings: &'a TrainSettings) -> Workload<'a, Classify<Vit>> {
        Workload { make, settings, batch: self.recipe.batch_size, steps: self.steps }
    }

    fn token_drop(&self, kind: DropKind, steps: u64, seed: u64) -> Result<TokenDrop> {
        let of_file = self.deepspeed.as_ref().and_then(|config| config.random_ltd.clone());
        if let Some(ltd) = of_file.filter(|_| kind == DropKind::RandomLtd) {
            return Ok(ltd.with_seed(seed).into());
        }
        let (recipe, tokens) = (&self.recipe, self.config.tokens());
        let drops = match kind {
            DropKind::None => Drops::None,
            DropKind::RandomLtd => self.random_ltd(self.rising()?),
            DropKind::Constant => self.random_ltd(KeptLength::Constant(recipe.ltd_start.of(tokens))),
            DropKind::Patchdrop => {
                let drop = PatchDrop::share(recipe.patchdrop_keep, tokens, self.config.prefix_tokens())?;
                Drops::PatchDrop { drop, until: recipe.patchdrop_until }
            }
        };
        drops.in_run(self.config.depth, tokens, steps, seed)
    }

    fn rising(&self) -> Result<KeptLength> {
        let (recipe, tokens) = (&self.recipe, self.config.tokens());
        let [start, end] = [recipe.ltd_start, recipe.ltd_end].map(|length| length.of(tokens));
        ensure!(
            start <= tokens && end <= tokens,
            "--ltd-start {start} and --ltd-end {end} must be at most {tokens} tokens"
        );
        let schedule: Rise = match recipe.ltd_schedule {
            LtdSchedule::Linear => Schedule::linear,
            LtdSchedule::FixedLinear => Schedule::fixed_linear,
        };
        let (ramp, granularity) = (recipe.ltd_ramp.into(), recipe.ltd_granularity);
        Ok(KeptLength::Rising { start, end, ramp, granularity, schedule })
    }

    fn random_ltd(&self, length: KeptLength) -> Drops {
        let blocks = match &self.recipe.ltd_blocks {
            BlockList::Auto => None,
            BlockList::These(blocks) => Some(blocks.clone()),
        };
        Drops::Ltd { length, blocks, keep_prefix: self.recipe.ltd_keep_prefix }
    }
}

/// A learning rate that suits a model of this width: a wider one wants a smaller rate.
pub fn rate_by_width(optimizer: OptimizerKind, width: usize) -> f32 {
    let of_one = match optimizer {
        OptimizerKind::Adamw => 0.064,
        OptimizerKind::Sgd => 0.64,
    };
    of_one / width as f32
}
