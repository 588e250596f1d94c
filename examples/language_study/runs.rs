//! The runs.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use wgrad::data::{Loader, LoaderOptions, Position, Special};
use wgrad::gpu::Gpu;
use wgrad::ltd::{LayerTokenPlan, TokenDrop};
use wgrad::nn::{Extent, Model};
use wgrad::optim::{AdamW, LayerTokenRate, LrSchedule, LrShape, Rule, ShapedRate};
use wgrad::train::{LanguageTask, Objective, TrainSettings, Trainer, evaluate};

use crate::arms::{Arm, Kind, LTD};
use crate::kinds::{Corpus, SmallModel, TOKENS, sizes};
use crate::study::results;
use crate::study::step::seconds_a_step;
use crate::times::StepTimes;

const BATCH: usize = 16;
const RATE: f32 = 2e-3;
const WEIGHT_DECAY: f32 = 0.1;
const MAX_NORM: f32 = 1.0;
/// Of the steps, a share.
const WARMUP: f64 = 0.1;
/// What an old average of an id's losses counts in a new one.
const MOMENTUM: f32 = 0.9;
/// Times that each length is timed.
const TURNS: usize = 9;

/// What all runs of a kind of model share.
pub struct Study<'a, K, O> {
    gpu: &'a Gpu,
    corpus: &'a Corpus,
    steps: u64,
    depth: usize,
    kind: PhantomData<(K, O)>,
}

/// A line of runs.csv.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What other runs must share for a comparison.
    pub settings: String,
    pub arm: String,
    pub seed: u64,
    pub steps: u64,
    /// Mean loss of a predicted token of the held-out text, in nats.
    pub test_loss: f64,
    /// Share of them predicted, in 0..=1.
    pub test_accuracy: f64,
    /// Of the training; the machine may have had other work.
    pub wall_seconds: f64,
    pub layer_tokens: u64,
}

results::run!(Run);

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { arm, seed, test_loss, wall_seconds, .. } = self;
        write!(f, "{arm:18} seed {seed}  perplexity {:.2}  {wall_seconds:.0} s", test_loss.exp())
    }
}

/// How many steps each arm has, and what they take: settled before the first run, and kept with the runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Of the runs that it is for. Plans of 2026-11-28 and before name none.
    #[serde(default)]
    settings: Option<String>,
    pub steps: BTreeMap<String, u64>,
    /// By the times of a step, over full length's.
    pub time: BTreeMap<String, f64>,
}

impl Plan {
    /// By timing steps of all lengths that the arms visit.
    pub fn timed<K: SmallModel<O>, O: Objective>(study: &Study<'_, K, O>, arms: &[Arm]) -> Result<Self> {
        let whole = study.steps;
        let drops: Vec<TokenDrop> =
            arms.iter().map(|arm| arm.kind.drop(study.depth, TOKENS, whole, 0)).collect::<Result<_>>()?;
        let times = StepTimes::measure(drops, (study.depth, TOKENS), whole, TURNS, |drop| {
            seconds_a_step(study.task(0, drop)?, study.settings_of(drop.clone(), whole, false, 0)?, &study.loader(0)?)
        })?;
        let seconds = |arm: &Arm, steps| -> Result<f64> {
            times.run(&arm.kind.drop(study.depth, TOKENS, steps, 0)?, steps, TOKENS)
        };
        let ltd = arms.iter().find(|arm| arm.name == LTD).context("no such arm")?;
        let in_time = times.steps_in(seconds(ltd, whole)?, TOKENS)?;
        let full = times.run(&TokenDrop::None, whole, TOKENS)?;
        let mut plan = Plan { settings: Some(study.settings()), steps: BTreeMap::new(), time: BTreeMap::new() };
        for arm in arms {
            let steps = if matches!(arm.kind, Kind::FullInTime) { in_time } else { whole };
            plan.steps.insert(arm.name.to_owned(), steps);
            plan.time.insert(arm.name.to_owned(), seconds(arm, steps)? / full);
        }
        Ok(plan)
    }

    /// That of a study that goes on, with these settings.
    pub fn saved(path: &Path, settings: &str) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let reading = || format!("reading {}", path.display());
        let plan: Plan = serde_json::from_slice(&std::fs::read(path).with_context(reading)?).with_context(reading)?;
        if let Some(other) = plan.settings.as_deref().filter(|other| *other != settings) {
            bail!("{} is of another study ({other}; this is {settings})", path.display());
        }
        Ok(Some(plan))
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

impl<'a, K: SmallModel<O>, O: Objective> Study<'a, K, O> {
    pub fn new(gpu: &'a Gpu, corpus: &'a Corpus, steps: u64) -> Result<Self> {
        let depth = K::model(&gpu.dry_run()?, corpus.tokenizer.vocab_size(), 0)?.extent().depth;
        Ok(Study { gpu, corpus, steps, depth, kind: PhantomData })
    }

    /// What runs must share to be compared.
    pub fn settings(&self) -> String {
        let (name, steps, corpus) = (K::NAME, self.steps, self.corpus.identity());
        format!("{name} {}, {steps} steps of {BATCH}, lr {RATE}, of {corpus}, on {}", sizes(), self.gpu.info().name)
    }

    /// For the document: its title, and what its runs have in common.
    pub fn describe(&self) -> (&'static str, String) {
        let warmup = 100.0 * WARMUP;
        let steps = self.steps;
        let told = format!(
            "{}. {steps} steps of {BATCH} sequences; AdamW, rate {RATE} after a warm-up of {warmup:.0} % of the steps, falling as a \
             cosine to 0, weight decay {WEIGHT_DECAY}, gradients clipped at {MAX_NORM}, no dropout. The held-out text's perplexity is \
             {:.1} to one who knows only how often each token occurs.",
            sizes(),
            self.corpus.by_frequency
        );
        (K::TITLE, told)
    }

    /// The share of full length's layer tokens that an arm saves in as many steps.
    pub fn saved_share(&self, arm: &Arm) -> Result<f64> {
        let drop = arm.kind.drop(self.depth, TOKENS, self.steps, 0)?;
        Ok(drop.layer_tokens_before(self.steps, BATCH as u64, self.extent()).saved_share())
    }

    fn extent(&self) -> Extent {
        Extent { depth: self.depth, tokens: TOKENS, prefix: 0 }
    }

    fn task(&self, seed: u64, drop: &TokenDrop) -> Result<LanguageTask<K::Model, O>> {
        let tokenizer = &self.corpus.tokenizer;
        let model = K::model(self.gpu, tokenizer.vocab_size(), seed)?;
        let task = LanguageTask::with_objective(model, TOKENS, K::objective())?;
        if !matches!(drop, TokenDrop::TokenBypass(_)) {
            return Ok(task);
        }
        let specials: Vec<u32> = Special::ALL.iter().filter_map(|&special| tokenizer.special(special)).collect();
        Ok(task.with_importance(MOMENTUM, &specials)?)
    }

    fn loader(&self, seed: u64) -> Result<Loader<K::Source>> {
        let source = K::source(self.corpus.train.clone(), &self.corpus.tokenizer)?;
        Ok(Loader::new(source, LoaderOptions::training(BATCH, seed))?)
    }

    fn settings_of(&self, drop: TokenDrop, steps: u64, by_layer_tokens: bool, seed: u64) -> Result<TrainSettings> {
        let warmup = (WARMUP * steps as f64) as u64;
        let rate = if by_layer_tokens {
            let raw = |steps: u64| steps * (BATCH * TOKENS) as u64;
            let LayerTokenPlan { total, warmup } =
                drop.layer_token_plan(raw(steps), raw(warmup), BATCH as u64, self.extent())?;
            LrSchedule::layer_token(LayerTokenRate { max: RATE, min: 0.0, shape: LrShape::Cosine, total, warmup })?
        } else {
            LrSchedule::new(ShapedRate { base: RATE, min: 0.0, warmup, total: steps, shape: LrShape::Cosine })?
        };
        let rule = Rule::AdamW(AdamW { weight_decay: WEIGHT_DECAY, ..AdamW::default() });
        Ok(TrainSettings { max_norm: Some(MAX_NORM), drop, seed, ..TrainSettings::new(rule, rate) })
    }

    /// Trains one arm and tests its last weights: with no choice of a checkpoint, the held-out text is seen once.
    pub fn run(&self, arm: &Arm, seed: u64, plan: &Plan) -> Result<Run> {
        let steps = *plan.steps.get(arm.name).with_context(|| format!("no steps are planned for {}", arm.name))?;
        let drop = arm.kind.drop(self.depth, TOKENS, steps, seed)?;
        let task = self.task(seed, &drop)?;
        let loader = self.loader(seed)?;
        let mut trainer = Trainer::new(task, self.settings_of(drop, steps, arm.by_layer_tokens, seed)?)?;
        let started = Instant::now();
        for batch in loader.batches_from(Position::default())?.take(steps as usize) {
            trainer.step(&batch?)?;
        }
        trainer.finish()?;
        let wall_seconds = started.elapsed().as_secs_f64();
        let source = K::source(self.corpus.test.clone(), &self.corpus.tokenizer)?;
        let test = evaluate(trainer.task(), Loader::new(source, LoaderOptions::evaluation(BATCH))?.epoch(0)?)?;
        Ok(Run {
            settings: self.settings(),
            arm: arm.name.to_owned(),
            seed,
            steps,
            test_loss: test.loss,
            test_accuracy: test.accuracy,
            wall_seconds,
            layer_tokens: trainer.layer_tokens().consumed,
        })
    }
}
