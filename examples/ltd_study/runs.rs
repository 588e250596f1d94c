//! The runs.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use wgrad::autograd::Parameter;
use wgrad::checkpoint::{MatchOptions, download, load_parameters};
use wgrad::data::{DataSet, ImageOptions, ImageSource, Loader, LoaderOptions, Position, Split};
use wgrad::gpu::Gpu;
use wgrad::ltd::TokenDrop;
use wgrad::models::vit::{self, OpenOptions, Pretrained, Vit};
use wgrad::nn::{Classifier, Extent, LoraConfig};
use wgrad::ops::CrossEntropy;
use wgrad::optim::{AdamW, At, LrSchedule, LrShape, Rule, ShapedRate};
use wgrad::train::{Classify, Evaluation, LinearProbe, TrainSettings, Trainer, evaluate};

use crate::arms::{Arm, Kind};
use crate::study::results;
use crate::sub_batch::Trainee;
use crate::thinned::Thinned;

const WEIGHT_DECAY: f32 = 0.05;
const WARMUP: f64 = 0.1;
/// Pictures at a time outside training.
const EVALUATED: usize = 64;

/// What all runs share.
pub struct Study<'a> {
    pub gpu: &'a Gpu,
    pub data: DataSet,
    /// Of those that the data set has for it, with as many of each class.
    pub splits: Splits,
    /// The embedded checkpoint, if none.
    pub weights: Option<PathBuf>,
    pub side: usize,
    /// Of an arm that is not shorter.
    pub steps: u64,
    pub batch_size: usize,
}

/// Samples.
pub struct Splits {
    pub train: Split,
    /// For the learning rates.
    pub validation: Split,
    pub test: Split,
    /// For what a model makes of a share of the tokens.
    pub thinned: Split,
}

/// A line of runs.csv. Shares are in 0..=1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What other runs must share for a comparison.
    pub settings: String,
    pub arm: String,
    pub seed: u64,
    pub steps: u64,
    pub rate: f32,
    pub test_accuracy: f64,
    pub test_loss: f64,
    /// With all, 75, 50 and 25 % of the tokens in the middle blocks, of fewer pictures.
    pub accuracy_100: f64,
    pub accuracy_75: f64,
    pub accuracy_50: f64,
    pub accuracy_25: f64,
    /// Of the run, evaluation not counted; the machine may have had other work.
    pub wall_seconds: f64,
}

results::run!(Run);

/// A line of tuning.csv.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    pub settings: String,
    /// With the rate behind it.
    pub arm: String,
    pub seed: u64,
    pub rate: f32,
    pub validation_loss: f64,
    pub validation_accuracy: f64,
}

results::run!(Trial);

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trial { arm, validation_loss, validation_accuracy, .. } = self;
        write!(f, "{arm:20}  loss {validation_loss:.4}  {:.2} %", 100.0 * validation_accuracy)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { arm, seed, rate, test_accuracy, wall_seconds, .. } = self;
        write!(f, "{arm:14} seed {seed}  lr {rate}  {:.2} %  {wall_seconds:.0} s", 100.0 * test_accuracy)
    }
}

/// A piece of a run: steps of one trainer.
#[derive(Clone)]
pub struct Piece {
    pub side: usize,
    pub drop: TokenDrop,
    pub rate: LrSchedule,
    pub steps: u64,
}

/// A model that has been trained, and what that took.
struct Trained {
    vit: Vit,
    seconds: f64,
}

impl Study<'_> {
    /// What runs must share to be compared.
    pub fn settings(&self) -> String {
        let Splits { train, validation, test, thinned } = &self.splits;
        format!(
            "{}, {} + {} + {} + {} pictures of {} pixels, {} steps of {}, {}, on {}",
            self.data.name,
            train.len(),
            validation.len(),
            test.len(),
            thinned.len(),
            self.side,
            self.steps,
            self.batch_size,
            self.weights.as_ref().map_or("embedded checkpoint".into(), |path| path.display().to_string()),
            self.gpu.info().name
        )
    }

    /// The checkpoint for pictures of this side, with a new head.
    pub fn pretrained(&self, side: usize) -> Result<Pretrained> {
        let mut weights = match &self.weights {
            Some(path) => vit::open(path, &OpenOptions::default()).with_context(|| path.display().to_string())?,
            None => Pretrained::embedded()?,
        };
        weights.merge_adapters()?;
        weights.resize((side, side))?;
        weights.set_classes(&self.data.class_names);
        Ok(weights)
    }

    /// What an arm trains.
    pub fn trainee(&self, arm: &Arm, weights: &Pretrained, seed: u64) -> Result<Trainee> {
        let heads = weights.config.heads().iter().map(|&head| head.to_owned()).collect();
        let lora = LoraConfig { modules_to_save: heads, ..LoraConfig::new(8, 16.0, &["qkv", "proj"]) };
        let mut config = weights.config.clone();
        config.lora = arm.adapters.then_some(lora);
        let vit = Vit::new(self.gpu, config, seed)?;
        let adapters = vit.parameters().iter().map(Parameter::path).filter(|path| LoraConfig::is_adapter(path));
        let new: Vec<&str> = adapters.chain(Vit::HEADS.iter().copied()).collect();
        let options = MatchOptions { head: &new, allow_missing: false };
        load_parameters(vit.parameters(), &weights.checkpoint, &options)?;
        let share = match arm.kind {
            Kind::SubBatch { share } => Some(share),
            _ => None,
        };
        Ok(Trainee { vit, share })
    }

    /// What an arm does in `steps` steps.
    pub fn pieces(&self, arm: &Arm, rate: f32, steps: u64, seed: u64) -> Result<Vec<Piece>> {
        let config = self.pretrained(self.side)?.config;
        let warmup = (WARMUP * steps as f64) as u64;
        let shaped =
            |base, warmup, total| LrSchedule::new(ShapedRate { base, min: 0.0, warmup, total, shape: LrShape::Cosine });
        let whole = shaped(rate, warmup, steps)?;
        let &Kind::LowResolution { until } = &arm.kind else {
            let extent = Extent { depth: config.depth, tokens: config.tokens(), prefix: config.prefix_tokens() };
            let drop = arm.drop(extent, steps, seed)?;
            return Ok(vec![Piece { side: self.side, drop, rate: whole, steps }]);
        };
        let patch = config.patch_size;
        let low = ((0.75 * self.side as f64 / patch as f64).round() as usize).max(1) * patch;
        let first = ((until * steps as f64) as u64).clamp(1, steps - 1);
        // From the rate that was reached, down to 0 over the rest.
        let reached = whole.rate(At { step: first, ..At::default() });
        let rest = shaped(reached, 0, steps - first)?;
        Ok(vec![
            Piece { side: low, drop: TokenDrop::None, rate: whole, steps: first },
            Piece { side: self.side, drop: TokenDrop::None, rate: rest, steps: steps - first },
        ])
    }

    pub fn loader(&self, side: usize, seed: u64) -> Result<Loader<ImageSource>> {
        let transform = self.data.train_transform(side as u32);
        let pictures = ImageSource::new(&self.splits.train, transform, ImageOptions::default())?;
        Ok(Loader::new(pictures, LoaderOptions::training(self.batch_size, seed))?)
    }

    pub fn task(&self, trainee: Trainee) -> Classify<Trainee> {
        Classify::with_loss(trainee, loss())
    }

    pub fn train_settings(&self, piece: &Piece, seed: u64) -> TrainSettings {
        let rule = Rule::AdamW(AdamW { weight_decay: WEIGHT_DECAY, ..AdamW::default() });
        let Piece { drop, rate, .. } = piece.clone();
        TrainSettings { max_norm: Some(1.0), drop, seed, ..TrainSettings::new(rule, rate) }
    }

    /// Trains an arm for so many steps, after which its rate is 0.
    fn train(&self, arm: &Arm, rate: f32, steps: u64, seed: u64) -> Result<Trained> {
        if let Kind::Probe { .. } = arm.kind {
            return self.train_probe(arm, rate, steps, seed);
        }
        let mut weights = self.pretrained(self.side)?;
        let (mut seconds, mut done) = (0.0, 0);
        let mut last = None;
        for piece in self.pieces(arm, rate, steps, seed)? {
            let loader = self.loader(piece.side, seed)?;
            let an_epoch = loader.batches_per_epoch();
            let from = Position { epoch: done / an_epoch as u64, batch: (done % an_epoch as u64) as usize };
            if let Some(vit) = last.take() {
                weights = trained(&weights, &vit)?;
            }
            weights.resize((piece.side, piece.side))?;
            let task = self.task(self.trainee(arm, &weights, seed)?);
            let mut trainer = Trainer::new(task, self.train_settings(&piece, seed))?;
            let started = Instant::now();
            for batch in loader.batches_from(from)?.take(piece.steps as usize) {
                trainer.step(&batch?)?;
            }
            trainer.finish()?;
            seconds += started.elapsed().as_secs_f64();
            done += piece.steps;
            last = Some(trainer.into_task().model.vit);
        }
        Ok(Trained { vit: last.context("an arm without steps")?, seconds })
    }

    /// Trains the head on what the rest makes of each picture as evaluation shows it.
    fn train_probe(&self, arm: &Arm, rate: f32, steps: u64, seed: u64) -> Result<Trained> {
        let Trainee { vit, .. } = self.trainee(arm, &self.pretrained(self.side)?, seed)?;
        let started = Instant::now();
        let task = self.probe(vit);
        let source = task.source(self.pictures(&self.splits.train)?)?;
        let loader = Loader::new(source, LoaderOptions::training(self.batch_size, seed))?;
        let piece = self.pieces(arm, rate, steps, seed)?.remove(0);
        let mut trainer = Trainer::new(task, self.train_settings(&piece, seed))?;
        for batch in loader.batches_from(Position::default())?.take(steps as usize) {
            trainer.step(&batch?)?;
        }
        trainer.finish()?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Trained { vit: trainer.into_task().model, seconds })
    }

    pub fn probe(&self, vit: Vit) -> LinearProbe<Vit> {
        LinearProbe::with_loss(vit, loss())
    }

    /// As evaluation shows them.
    pub fn pictures(&self, split: &Split) -> Result<Loader<ImageSource>> {
        let pictures = ImageSource::new(split, self.data.eval_transform(self.side as u32), ImageOptions::default())?;
        Ok(Loader::new(pictures, LoaderOptions::evaluation(EVALUATED))?)
    }

    fn evaluate<M: Classifier>(&self, model: M, split: &Split) -> Result<Evaluation> {
        Ok(evaluate(&Classify::new(model), self.pictures(split)?.epoch(0)?)?)
    }

    /// Trains one arm for half of its steps, and says what it makes of the pictures that are for choosing.
    pub fn trial(&self, arm: &Arm, rate: f32, seed: u64) -> Result<Trial> {
        let Trained { vit, .. } = self.train(arm, rate, arm.steps(self.steps) / 2, seed)?;
        let Evaluation { loss, accuracy, .. } = self.evaluate(&vit, &self.splits.validation)?;
        let arm = format!("{}@{rate}", arm.name);
        Ok(Trial { settings: self.settings(), arm, seed, rate, validation_loss: loss, validation_accuracy: accuracy })
    }

    /// Trains one arm and tests its last weights: with no choice of a checkpoint, the test pictures are seen once.
    pub fn run(&self, arm: &Arm, rate: f32, seed: u64) -> Result<Run> {
        let steps = arm.steps(self.steps);
        let Trained { vit, seconds } = self.train(arm, rate, steps, seed)?;
        let test = self.evaluate(&vit, &self.splits.test)?;
        let thinned =
            |share| -> Result<f64> { Ok(self.evaluate(Thinned::new(&vit, share)?, &self.splits.thinned)?.accuracy) };
        Ok(Run {
            settings: self.settings(),
            arm: arm.name.to_owned(),
            seed,
            steps,
            rate,
            test_accuracy: test.accuracy,
            test_loss: test.loss,
            accuracy_100: self.evaluate(&vit, &self.splits.thinned)?.accuracy,
            accuracy_75: thinned(0.75)?,
            accuracy_50: thinned(0.5)?,
            accuracy_25: thinned(0.25)?,
            wall_seconds: seconds,
        })
    }
}

fn loss() -> CrossEntropy {
    CrossEntropy { label_smoothing: 0.1, ..CrossEntropy::default() }
}

/// What training has made of the weights.
fn trained(weights: &Pretrained, vit: &Vit) -> Result<Pretrained> {
    let mut next = weights.clone();
    next.checkpoint.tensors = download(vit.parameters())?;
    next.config = vit.config().clone();
    Ok(next)
}
