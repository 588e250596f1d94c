//! From the recipe to the library's settings.

use anyhow::Result;
use wgrad::data::Split;
use wgrad::gpu::Gpu;
use wgrad::ltd::{PatchDrop, TokenDrop};
use wgrad::models::vit::Vit;
use wgrad::nn::Extent;
use wgrad::ops::CrossEntropy;
use wgrad::train::{Classify, Task, TrainSettings, Workload};

use crate::args::Args;
use crate::probed::Probed;
use crate::recipe::{ClassWeights, DropKind, Recipe};
use crate::savings;
use crate::setup::Setup;
use crate::training::comparison::Arm;
use crate::training::given::Given;
use crate::training::optimisation::Plan;
use crate::training::{deepspeed, memory, patch_drop};

/// Makes what is trained.
pub type Maker<'a, T> = dyn Fn(&Gpu) -> wgrad::Result<T> + 'a;

impl Setup {
    /// Settings of a run of `steps` steps that drops tokens in this way.
    pub fn settings(&self, args: &Args, gpu: &Gpu, drop: DropKind, steps: u64, seed: u64) -> Result<TrainSettings> {
        let extent =
            Extent { depth: self.config.depth, tokens: self.config.tokens(), prefix: self.config.prefix_tokens() };
        let plan = Plan { steps, drop: self.token_drop(drop, steps, seed)?, extent };
        self.recipe.training.settings(self.deepspeed.as_ref(), &args.device, gpu, plan, seed)
    }

    /// What is minimised, and by which the runs are measured.
    pub fn loss(&self) -> CrossEntropy {
        let Recipe { label_smoothing, class_weights, .. } = self.recipe;
        let weights = || self.data.train.class_weights(self.config.num_classes);
        let class_weights = (class_weights == ClassWeights::Balanced).then(weights);
        CrossEntropy { label_smoothing, class_weights, ..CrossEntropy::default() }
    }

    /// Of each kind of run that the arguments describe, with the first seed; that of the first arm first.
    pub fn settings_of_arms(&self, args: &Args, gpu: &Gpu) -> Result<Vec<TrainSettings>> {
        let ways = args.comparison(self.recipe.drop).ways();
        ways.into_iter().map(|way| self.settings(args, gpu, way, self.steps, args.seed)).collect()
    }

    /// Cuts a step's batch where a run would not fit: for all runs alike, and only where nobody has said in how many parts.
    pub fn fit_memory(&mut self, args: &mut Args, gpu: &Gpu, given: &Given) -> Result<()> {
        let (budget, is_new) = (args.device.budget(gpu), args.output.resume.is_none());
        let is_open = is_new && self.deepspeed.is_none() && !given.has("accumulate");
        for way in args.comparison(self.recipe.drop).ways() {
            let settings = self.settings(args, gpu, way, self.steps, args.seed)?;
            let count = if args.probe {
                memory::micro_batches(gpu, &self.workload(&self.probe_maker(), &settings), budget, is_open)?
            } else {
                memory::micro_batches(gpu, &self.workload(&self.maker(), &settings), budget, is_open)?
            };
            if count > settings.accumulate {
                self.recipe.training.accumulate = count;
                args.overrides.training.accumulate = Some(count);
            }
        }
        Ok(())
    }

    /// Makes what is trained, for rehearsals.
    pub fn maker(&self) -> impl Fn(&Gpu) -> wgrad::Result<Classify<Vit>> {
        |gpu| Ok(Classify::with_loss(Vit::new(gpu, self.config.clone(), 0)?, self.loss()))
    }

    /// The same of a probe, with the memory that its features take.
    pub fn probe_maker(&self) -> impl Fn(&Gpu) -> wgrad::Result<Probed> {
        let pictures = [&self.data.train, &self.data.validation].map(Split::len);
        move |gpu| Ok(Probed::new(self.probe(self.maker()(gpu)?.model), pictures))
    }

    /// A run of what `make` makes with these settings, for estimates.
    pub fn workload<'a, T: Task>(&self, make: &'a Maker<'a, T>, settings: &'a TrainSettings) -> Workload<'a, T> {
        Workload { make, settings, batch: self.recipe.training.batch_size, steps: self.steps }
    }

    /// Why random-LTD saves little, where a run drops tokens by it and it does.
    pub fn about_saving(&self, args: &Args) -> Result<Option<String>> {
        let comparison = args.comparison(self.recipe.drop);
        if !comparison.arms().contains(&Arm::Drop(DropKind::RandomLtd)) {
            return Ok(None);
        }
        let drop = self.token_drop(DropKind::RandomLtd, self.steps, args.seed)?;
        let by_file = self.deepspeed.as_ref().is_some_and(|config| config.random_ltd.is_some());
        Ok(savings::told(&drop, self.config.tokens(), self.steps, by_file)?)
    }

    fn token_drop(&self, kind: DropKind, steps: u64, seed: u64) -> Result<TokenDrop> {
        let (recipe, tokens) = (&self.recipe, self.config.tokens());
        let ltd = match (kind, deepspeed::of_file(self.deepspeed.as_ref(), seed)) {
            (DropKind::None, _) => return Ok(TokenDrop::None),
            (DropKind::RandomLtd, Some(ltd)) => return Ok(ltd.into()),
            (DropKind::Constant, Some(ltd)) => return Ok(deepspeed::at_start_length(&ltd)?.into()),
            (DropKind::RandomLtd, None) => recipe.ltd.rising(tokens)?,
            (DropKind::Constant, None) => recipe.ltd.constant(tokens),
            (DropKind::Patchdrop, _) => {
                let drop = PatchDrop::share(recipe.patchdrop_keep, tokens, self.config.prefix_tokens())?;
                return Ok(patch_drop::in_run(drop, recipe.patchdrop_until, steps, seed));
            }
        };
        ltd.in_run(self.config.depth, tokens, steps, seed)
    }
}
