//! What all runs of a program share, checked before any training.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use wgrad::checkpoint::{Checkpoint, MatchOptions, load_parameters};
use wgrad::data::{Loader, LoaderOptions, Source, Special, Tokenizer};
use wgrad::gpu::Gpu;
use wgrad::ltd::{PatchDrop, Schedule, TokenBypass, TokenDrop};
use wgrad::nn::{Extent, LanguageModel, Model};
use wgrad::ops::CrossEntropy;
use wgrad::train::{self, DeepSpeedConfig, LanguageTask, ModelType, TrainSettings, Workload, evaluate};

use super::args::Common;
use super::effects;
use super::kind::{Kind, Sizes};
use super::recipe::{DropKind, Recipe};
use super::report::Fluency;
use super::texts::Texts;
use crate::training::console::printable;
use crate::training::deepspeed::{self, of_another_kind, schedules, unfit};
use crate::training::given::{Given, Rule};
use crate::training::lora;
use crate::training::ltd_drop::random_ltd;
use crate::training::memory;
use crate::training::optimisation::{Plan, check_shares};
use crate::training::patch_drop;
use crate::training::start;
use crate::training::values::{LayerList, Length};

/// What a program's arguments name.
pub struct Beginning<K: Kind> {
    /// The model's.
    pub config: K::Config,
    /// Nothing of random weights.
    pub weights: Option<Weights>,
    pub texts: Texts<K>,
}

/// A checkpoint to start from.
pub struct Weights {
    /// As it was named.
    pub name: String,
    /// The file or folder that it was read from.
    pub place: Option<PathBuf>,
    pub checkpoint: Checkpoint,
}

/// The texts, the model's sizes, how to train, and the weights to start from.
pub struct Setup<K: Kind> {
    pub texts: Texts<K>,
    config: K::Config,
    weights: Option<Weights>,
    pub recipe: Recipe,
    deepspeed: Option<DeepSpeedConfig>,
    pub steps: u64,
}

/// What is trained: a model, or a reference to one.
pub type Task<K, M> = LanguageTask<M, <K as Kind>::Objective>;

/// Makes it.
type Maker<'a, K> = dyn Fn(&Gpu) -> wgrad::Result<Task<K, <K as Kind>::Model>> + 'a;

/// Rounds in which a number of steps is settled, at the most.
const SETTLING: usize = 20;

/// What an old average of an id's losses counts in a new one, by which TokenBypass chooses.
const MOMENTUM: f32 = 0.9;

impl<K: Kind> Setup<K> {
    /// `recipe` is the program's.
    pub fn new(args: &Common, recipe: Recipe, beginning: Beginning<K>) -> Result<Self> {
        let Beginning { config, weights, texts } = beginning;
        let deepspeed = deepspeed::read(args.ltd_config.as_deref(), args.output.resume.as_deref())?;
        let recipe = args.recipe(recipe);
        let drop = args.main_way(deepspeed.as_ref(), recipe.drop);
        let mut recipe = Recipe { training: recipe.training.with_deepspeed(deepspeed.as_ref()), drop, ..recipe };
        let Sizes { width, positions, vocabulary, .. } = K::sizes(&config);
        let (length, tokens) = (texts.length(), texts.tokenizer.vocab_size());
        ensure!((2..=positions).contains(&length), "--length {length}: 2 to the model's {positions} positions");
        ensure!(tokens <= vocabulary, "the tokenizer has {tokens} tokens, the model only {vocabulary}");
        recipe.adapters.settle_rate(&mut recipe.training, width);
        let sequences = texts.train()?.len();
        ensure!(
            recipe.training.batch_size <= sequences,
            "--batch-size {}: the text has {sequences} training sequences of {length} tokens; a smaller batch, or a \
             shorter --length",
            recipe.training.batch_size
        );
        // What is too short is found before there is a folder.
        texts.validation()?;
        texts.test()?;
        let steps = recipe.training.settle_steps(sequences)?;
        let config = K::with_lora(K::with_dropout(config, recipe.dropout), recipe.adapters.config(&[]));
        let mut setup = Setup { texts, config, weights, recipe, deepspeed, steps };
        setup.steps = setup.steps_of(drop)?;
        Ok(setup)
    }

    /// Finds what would end the run before its first step, and options without effect; `own` are the program's.
    pub fn check(&self, args: &Common, given: &Given, own: &[Rule]) -> Result<()> {
        let Recipe { training, ltd, patchdrop_until, .. } = &self.recipe;
        let own = [own, &self.recipe.adapters.rules(training.freeze), &[self.texts.rule()]].concat();
        effects::check(given, args, &own, &self.recipe, self.steps, self.deepspeed.as_ref())?;
        let (warmup, ramp) = (training.warmup, ltd.ltd_ramp);
        check_shares(&[("warmup", warmup), ("ltd-ramp", ramp), ("patchdrop-until", *patchdrop_until)])
    }

    /// What --ltd-interval has settled becomes the arguments', which a run that goes on is made of.
    pub fn settle(&self, args: &mut Common) {
        args.overrides.ltd.ltd_granularity = Some(self.recipe.ltd.ltd_granularity);
    }

    /// The steps of a run that drops tokens in this way: those that consume the layer-averaged tokens that it is to have, if that is
    /// said.
    pub fn steps_of(&self, drop: DropKind) -> Result<u64> {
        let (budget, Recipe { training, .. }) = (self.recipe.layer_tokens, &self.recipe);
        let mut steps = self.steps;
        // The kept length may go by the number of steps, which goes by the kept length: it settles soon.
        for _ in 0..if budget > 0 { SETTLING } else { 0 } {
            let drop = self.token_drop(drop, steps, 0)?;
            // However a step's batch is cut.
            let end = drop.budget_end(budget, training.batch_size as u64, 1, self.extent())?.steps;
            if std::mem::replace(&mut steps, end) == end {
                break;
            }
        }
        Ok(steps)
    }

    /// Settings of a run of `steps` steps that drops tokens in this way.
    pub fn settings(&self, args: &Common, gpu: &Gpu, drop: DropKind, steps: u64, seed: u64) -> Result<TrainSettings> {
        let plan = Plan { steps, drop: self.token_drop(drop, steps, seed)?, extent: self.extent() };
        self.recipe.training.settings(self.deepspeed.as_ref(), &args.device, gpu, plan, seed)
    }

    fn token_drop(&self, kind: DropKind, steps: u64, seed: u64) -> Result<TokenDrop> {
        let (recipe, Extent { depth, tokens, .. }) = (&self.recipe, self.extent());
        let ltd = match (kind, deepspeed::of_file(self.deepspeed.as_ref(), seed)) {
            (DropKind::None, _) => return Ok(TokenDrop::None),
            (DropKind::RandomLtd, Some(ltd)) => return Ok(ltd.into()),
            (DropKind::Constant, Some(ltd)) => return Ok(deepspeed::at_start_length(&ltd)?.into()),
            (DropKind::RandomLtd, None) if recipe.ltd_interval > 0 => {
                let (blocks, keep_prefix) = (recipe.ltd.ltd_blocks.chosen(), recipe.ltd.ltd_keep_prefix);
                return Ok(random_ltd(depth, self.by_tokens()?, blocks, keep_prefix)?.with_seed(seed).into());
            }
            (DropKind::RandomLtd, None) => recipe.ltd.rising(tokens)?,
            (DropKind::Constant, None) => recipe.ltd.constant(tokens),
            (DropKind::Tokenbypass, _) => return Ok(self.bypass(depth)?.into()),
            (DropKind::Patchdrop, _) => {
                let drop = PatchDrop::share(recipe.patchdrop_keep, tokens, 0)?;
                return Ok(patch_drop::in_run(drop, recipe.patchdrop_until, steps, seed));
            }
        };
        ltd.in_run(depth, tokens, steps, seed)
    }

    fn extent(&self) -> Extent {
        Extent { depth: K::sizes(&self.config).depth, tokens: self.texts.length(), prefix: 0 }
    }

    /// MSLG's kept length, which rises with the raw tokens seen.
    fn by_tokens(&self) -> Result<Schedule> {
        let (ltd, tokens) = (&self.recipe.ltd, self.texts.length());
        let [start, end] = ltd.ends(tokens)?;
        let a_step = (self.recipe.training.batch_size * tokens) as u64;
        Ok(Schedule::by_tokens(start, end, ltd.ltd_granularity, self.recipe.ltd_interval, a_step)?)
    }

    /// Through all blocks but the first and the last go as many tokens as are to.
    fn bypass(&self, depth: usize) -> Result<TokenBypass> {
        let (share, tokens) = (self.recipe.bypass_keep, self.texts.length());
        ensure!(share > 0.0 && share < 1.0, "--bypass-keep {share}: a share of the tokens, above 0 and below 1");
        ensure!(
            depth > 2,
            "TokenBypass goes around all blocks but the first and the last, and this model has {depth}: --drop none trains at full length"
        );
        let kept = Length::Share(share).of(tokens);
        Ok(TokenBypass::new(1..depth - 1, kept, 0)?.by_importance())
    }

    /// A fresh model with the starting weights.
    pub fn model(&self, gpu: &Gpu, seed: u64) -> wgrad::Result<K::Model> {
        let model = K::model(gpu, self.config.clone(), seed)?;
        if let Some(Weights { checkpoint, .. }) = &self.weights {
            let new: Vec<&str> = lora::new_parameters(model.parameters()).collect();
            load_parameters(model.parameters(), checkpoint, &MatchOptions { head: &new, allow_missing: false })?;
        }
        Ok(model)
    }

    /// Keeps what tells the starting weights in the folder of a new run. One that goes on is to have the same: runs
    /// that have not begun begin with them, and those that have are compared with them at their end.
    pub fn keep_weights(&self, run: &Path, goes_on: bool) -> Result<()> {
        let Some(Weights { place, checkpoint, .. }) = &self.weights else { return Ok(()) };
        if goes_on { start::check(run, checkpoint) } else { start::keep(run, place.as_deref(), checkpoint) }
    }

    /// What is trained in a run that drops tokens in this way.
    pub fn task<M: LanguageModel>(&self, model: M, drop: DropKind) -> wgrad::Result<Task<K, M>> {
        let length = self.texts.length();
        let loss = CrossEntropy { label_smoothing: self.recipe.label_smoothing, ..CrossEntropy::default() };
        let mut task = LanguageTask::with_objective(model, length, self.texts.objective())?.with_loss(loss);
        task.is_padded = self.texts.are_padded();
        if drop != DropKind::Tokenbypass {
            return Ok(task);
        }
        let tokenizer = &self.texts.tokenizer;
        let specials: Vec<u32> = Special::ALL.iter().filter_map(|&special| tokenizer.special(special)).collect();
        task.with_importance(MOMENTUM, &specials)
    }

    /// Of a model with initial values, for rehearsals of runs that drop tokens so.
    pub fn blank_task(&self, gpu: &Gpu, drop: DropKind) -> wgrad::Result<Task<K, K::Model>> {
        self.task(K::model(gpu, self.config.clone(), 0)?, drop)
    }

    /// Cuts a step's batch where a run would not fit: for all runs alike, and only where nobody has said in how many parts.
    pub fn fit_memory(&mut self, args: &mut Common, gpu: &Gpu, given: &Given) -> Result<()> {
        let (budget, is_new) = (args.device.budget(gpu), args.output.resume.is_none());
        let is_open = is_new && self.deepspeed.is_none() && !given.has("accumulate");
        for way in args.comparison(self.recipe.drop).ways() {
            let settings = self.settings(args, gpu, way, self.steps_of(way)?, args.seed)?;
            let make = |gpu: &Gpu| self.blank_task(gpu, way);
            let count = memory::micro_batches(gpu, &self.workload(&make, &settings), budget, is_open)?;
            if count > settings.accumulate {
                self.recipe.training.accumulate = count;
                args.overrides.training.accumulate = Some(count);
            }
        }
        self.steps = self.steps_of(self.recipe.drop)?;
        Ok(())
    }

    /// A run of what `make` makes with these settings, for estimates.
    pub fn workload<'a>(
        &'a self,
        make: &'a Maker<'a, K>,
        settings: &'a TrainSettings,
    ) -> Workload<'a, Task<K, K::Model>> {
        Workload { make, settings, batch: self.recipe.training.batch_size, steps: self.steps }
    }

    /// Writes checkpoints.
    pub fn writer(&self) -> impl Fn(&Path, &train::Weights) -> wgrad::Result<()> {
        |path, weights| K::write(path, &self.config, weights)
    }

    pub fn train_loader(&self, seed: u64) -> Result<Loader<K::Source>> {
        Ok(Loader::new(self.texts.train()?, LoaderOptions::training(self.recipe.training.batch_size, seed))?)
    }

    /// Every sequence of a text once.
    pub fn eval_loader(&self, text: K::Source) -> Result<Loader<K::Source>> {
        Ok(Loader::new(text, LoaderOptions::evaluation(self.recipe.training.micro_batch()))?)
    }

    /// How well a model predicts the test text.
    pub fn test(&self, model: &K::Model) -> Result<Fluency> {
        let evaluation = evaluate(&self.task(model, DropKind::None)?, self.eval_loader(self.texts.test()?)?.epoch(0)?)?;
        Ok(Fluency::new(evaluation, self.texts.bytes_per_token))
    }

    /// Whether adapters are trained, and all else stays.
    pub fn has_adapters(&self) -> bool {
        self.recipe.adapters.lora != LayerList::None
    }

    /// The folders that each run is exported to, in its own.
    pub fn exports(&self) -> &'static [&'static str] {
        if self.has_adapters() { &["export", "adapter"] } else { &["export"] }
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.texts.tokenizer
    }
}

impl<K: Kind> fmt::Display for Setup<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "text: {}", self.texts)?;
        let weights = self.weights.as_ref().map_or("random weights", |weights| &weights.name);
        writeln!(f, "model: {}, from {weights}", K::describe(&self.config))?;
        write!(f, "{} steps:\n{}", self.steps, self.recipe)?;
        let Some(config) = &self.deepspeed else { return Ok(()) };
        let told = schedules(config, self.steps, self.texts.length());
        write!(f, "\nin the place of these, from the configuration file:{told}")?;
        let own = if K::IS_CAUSAL { ModelType::Decoder } else { ModelType::Encoder };
        let of_file = config.warnings.iter().cloned().chain(of_another_kind(config, own));
        let mut warnings = of_file.chain(unfit(config, self.steps, self.texts.length()));
        warnings.try_for_each(|warning| write!(f, "\nwarning: {}", printable(&warning)))
    }
}
