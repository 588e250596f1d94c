//! The runs.

use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use wgrad::checkpoint::{Checkpoint, MatchOptions, load_parameters};
use wgrad::data::{DataSet, ImageOptions, ImageSource, Loader, LoaderOptions, Position, Split};
use wgrad::gpu::Gpu;
use wgrad::ltd::TokenDrop;
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::ops::CrossEntropy;
use wgrad::optim::{AdamW, LrSchedule, LrShape, Rule, ShapedRate};
use wgrad::train::{Classify, TrainSettings, Trainer, evaluate};

use crate::arms::{Arm, Kind, all};
use crate::study::results;
use crate::study::times::StepTimes;

/// What all runs share.
pub struct Study<'a> {
    gpu: &'a Gpu,
    data: DataSet,
    /// A share of `data.train`, with as many pictures of each class.
    train: Split,
    weights: Checkpoint,
    config: VitConfig,
    steps: u64,
    batch_size: usize,
    lr: f32,
}

/// A line of runs.csv. Shares are in 0..=1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What other runs must share for a comparison.
    pub settings: String,
    pub arm: String,
    pub seed: u64,
    pub steps: u64,
    pub test_accuracy: f64,
    pub test_loss: f64,
    /// Of the run, evaluation not counted; the machine may have had other work.
    pub wall_seconds: f64,
    pub layer_tokens: u64,
}

impl results::Run for Run {
    fn settings(&self) -> &str {
        &self.settings
    }

    fn arm(&self) -> &str {
        &self.arm
    }

    fn seed(&self) -> u64 {
        self.seed
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { arm, seed, test_accuracy, wall_seconds, .. } = self;
        write!(f, "{arm:18} seed {seed}  {:.2} %  {wall_seconds:.0} s", 100.0 * test_accuracy)
    }
}

impl<'a> Study<'a> {
    #[expect(clippy::too_many_arguments, reason = "a constructor that names what a study depends on")]
    pub fn new(
        gpu: &'a Gpu,
        data: DataSet,
        weights: Checkpoint,
        config: VitConfig,
        steps: u64,
        pictures: usize,
        batch_size: usize,
        lr: f32,
    ) -> Result<Self> {
        let unused = 1.0 - pictures as f64 / data.train.len() as f64;
        let [train, ..] = data.train.divide(unused, 0.0, 0)?;
        Ok(Study { gpu, data, train, weights, config, steps, batch_size, lr })
    }

    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Of an arm that is not cut short.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What runs must share to be compared.
    pub fn settings(&self) -> String {
        let (pictures, batch, steps, lr) = (self.train.len(), self.batch_size, self.steps, self.lr);
        format!("{pictures} pictures, {steps} steps of {batch}, lr {lr}, on {}", self.gpu.info().name)
    }

    /// The embedded checkpoint with a new head, to be finetuned.
    pub fn task(&self, seed: u64) -> Result<Classify<Vit>> {
        let model = Vit::new(self.gpu, self.config.clone(), seed)?;
        let options = MatchOptions { head: Vit::HEADS, allow_missing: false };
        load_parameters(model.parameters(), &self.weights, &options)?;
        Ok(Classify::with_loss(model, CrossEntropy { label_smoothing: 0.1, ..CrossEntropy::default() }))
    }

    pub fn loader(&self, seed: u64) -> Result<Loader<ImageSource>> {
        let transform = self.data.train_transform(self.side());
        let pictures = ImageSource::new(&self.train, transform, ImageOptions::default())?;
        Ok(Loader::new(pictures, LoaderOptions::training(self.batch_size, seed))?)
    }

    fn side(&self) -> u32 {
        self.config.img_size.0 as u32
    }

    pub fn train_settings(&self, drop: TokenDrop, steps: u64, seed: u64) -> Result<TrainSettings> {
        let rate = LrSchedule::new(ShapedRate {
            base: self.lr,
            min: 0.0,
            warmup: steps / 10,
            total: steps,
            shape: LrShape::Cosine,
        })?;
        Ok(TrainSettings { max_norm: Some(1.0), drop, seed, ..TrainSettings::new(Rule::AdamW(AdamW::default()), rate) })
    }

    /// Those of all arms, but for one that is cut short to the time of another.
    pub fn steps_of(&self, arm: &Arm, times: &StepTimes) -> Result<u64> {
        let Kind::FullInTheTimeOf(name) = arm.kind else { return Ok(self.steps) };
        let (depth, tokens) = (self.config.depth, self.config.tokens());
        let reference = all(tokens).into_iter().find(|arm| arm.name == name).context("no such arm")?;
        let drop = reference.kind.drop(depth, tokens, self.steps, 0)?;
        times.steps_in(times.run(&drop, self.steps, tokens)?, tokens)
    }

    /// Trains one arm and tests its last weights: with no choice of a checkpoint, the test pictures are seen once.
    pub fn run(&self, arm: &Arm, seed: u64, times: &StepTimes) -> Result<Run> {
        let steps = self.steps_of(arm, times)?;
        let drop = arm.kind.drop(self.config.depth, self.config.tokens(), steps, seed)?;
        let loader = self.loader(seed)?;
        let mut trainer = Trainer::new(self.task(seed)?, self.train_settings(drop, steps, seed)?)?;
        let started = Instant::now();
        for batch in loader.batches_from(Position::default())?.take(steps as usize) {
            trainer.step(&batch?)?;
        }
        trainer.finish()?;
        let wall_seconds = started.elapsed().as_secs_f64();
        let transform = self.data.eval_transform(self.side());
        let pictures = ImageSource::new(&self.data.test, transform, ImageOptions::default())?;
        let test = Loader::new(pictures, LoaderOptions::evaluation(128))?;
        let test = evaluate(trainer.task(), test.epoch(0)?)?;
        Ok(Run {
            settings: self.settings(),
            arm: arm.name.clone(),
            seed,
            steps,
            test_accuracy: test.accuracy,
            test_loss: test.loss,
            wall_seconds,
            layer_tokens: trainer.layer_tokens().consumed,
        })
    }
}
