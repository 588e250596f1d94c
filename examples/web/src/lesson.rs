//! A model that learns digits, and all that can be asked of it. Nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wgrad::checkpoint::{self, CONFIG, MatchOptions};
use wgrad::data::{Digits, Normalize};
use wgrad::gpu::KernelUse;
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::models::vit::{Pool, Vit, VitConfig};
use wgrad::optim::{AdamW, LrSchedule, LrShape, Rule, ShapedRate};
use wgrad::train::{
    Classify, StepMetrics, Task, TrainSettings, Trainer, Workload, evaluate_async, predict_async, rehearse,
};
use wgrad::{Error, Gpu, Result};

use crate::samples::{BATCH, Samples, unlabelled};

/// P: a token for each 2 × 2 pixels of a digit.
const PATCH: usize = 2;
/// Tokens in a row, and in a column.
pub const GRID: usize = Digits::SIDE / PATCH;
/// T.
pub const TOKENS: usize = GRID * GRID;
/// L.
const DEPTH: usize = 4;
/// R at the first step; it rises to T in so many steps.
const FIRST_KEPT: usize = TOKENS / 4;
const RISING: u64 = 600;

/// A training under way.
pub struct Lesson {
    gpu: Gpu,
    samples: Samples,
    trainer: Trainer<Classify<Vit>>,
}

/// The digits of a step's batch, and which of their tokens its blocks keep.
pub struct View {
    /// Rows of the data set, `u32[BATCH]`.
    pub rows: Vec<u32>,
    /// For each block that drops tokens `u8[BATCH, T]`: 1 where a token is kept.
    pub kept: Vec<Vec<u8>>,
}

/// The kernels that its steps need, to be compiled a few at a time ([`Gpu::warm_up`]) before the first step needs all of them at once.
///
/// # Errors
/// If the device offers too little.
pub fn kernels(gpu: &Gpu) -> Result<Vec<KernelUse>> {
    let work = Workload { make: &task, settings: &settings()?, batch: BATCH, steps: RISING + 1 };
    let mut kernels: Vec<KernelUse> = rehearse(gpu, &work)?.kernels().copied().collect();
    // The rehearsed steps have most of them in common.
    let mut names = BTreeSet::new();
    kernels.retain(|used| names.insert(used.kernel));
    Ok(kernels)
}

impl Lesson {
    /// Begins anew, always alike.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(gpu: Gpu) -> Result<Self> {
        let trainer = Trainer::new(task(&gpu)?, settings()?)?;
        Ok(Lesson { samples: Samples::embedded()?, trainer, gpu })
    }

    /// What it runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Trains for about so much of the device's time, and returns the steps that have ended meanwhile.
    ///
    /// # Errors
    /// As [`Trainer::step_slice`].
    pub fn train(&mut self, budget: Duration) -> Result<Vec<StepMetrics>> {
        let Lesson { trainer, samples, .. } = self;
        let mut numbers = trainer.steps()..;
        trainer.step_slice(budget, || Some(Ok(samples.batch(numbers.next().unwrap_or_default()))))
    }

    /// The data.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The batch of the newest step. What random-LTD keeps follows from its seed and the step, so it need not be asked of the device.
    ///
    /// # Errors
    /// None in practice: the settings fit the model.
    pub fn view(&self) -> Result<View> {
        let (step, task) = (self.trainer.steps().saturating_sub(1), self.trainer.task());
        let spans = self.trainer.settings().drop.draw(step, task.extent(), 0, BATCH)?;
        let kept = spans.iter().map(|span| mask(&span.positions)).collect();
        Ok(View { rows: self.samples.batch(step).indices, kept })
    }

    /// The share of the held-out digits that it reads right, at full length.
    ///
    /// # Errors
    /// If the device fails.
    pub async fn accuracy(&self) -> Result<f64> {
        Ok(evaluate_async(self.trainer.task(), self.samples.held_out()).await?.accuracy)
    }

    /// How likely a picture `u8[8, 8]` is each digit, `f32[10]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is of another size; if the device fails.
    pub async fn read(&self, grey: &[u8]) -> Result<Vec<f32>> {
        let pixels = Digits::SIDE * Digits::SIDE;
        if grey.len() != pixels {
            return Err(Error::argument("read", "picture", format!("{pixels} pixels"), grey.len()));
        }
        Ok(predict_async(self.trainer.task(), [Ok(unlabelled(grey))]).await?.row(0).to_vec())
    }

    /// The weights as a safetensors file with timm's names, and the model's sizes in its metadata.
    ///
    /// # Errors
    /// If the device fails.
    pub async fn save(&self) -> Result<Vec<u8>> {
        let weights = checkpoint::download_async(self.trainer.task().model.parameters()).await?;
        checkpoint::to_bytes(&weights, &BTreeMap::from([(CONFIG.to_owned(), config().identity())]))
    }

    /// Begins anew with the weights of a file. They must fit the model, name by name.
    ///
    /// # Errors
    /// [`Error::File`] if it is no safetensors file, or cut short; [`Error::Parameter`] if it is another model's: nothing is changed
    /// then. If the device fails.
    pub fn load(&mut self, bytes: &[u8], name: &str) -> Result<()> {
        let fresh = Lesson::new(self.gpu.clone())?;
        let weights = checkpoint::read_bytes(bytes, name)?;
        checkpoint::load_parameters(fresh.trainer.task().model.parameters(), &weights, &MatchOptions::default())?;
        *self = fresh;
        Ok(())
    }
}

/// A new model, always the same.
fn task(gpu: &Gpu) -> Result<Classify<Vit>> {
    Ok(Classify::new(Vit::new(gpu, config(), 0)?))
}

/// 64 wide, so that a step takes a GPU a few milliseconds. The mean of the tokens is learnt from sooner than a class token.
fn config() -> VitConfig {
    VitConfig {
        img_size: (Digits::SIDE, Digits::SIDE),
        patch_size: PATCH,
        num_classes: Digits::CLASSES,
        class_token: false,
        global_pool: Pool::Avg,
        normalize: Normalize::DIGITS,
        ..VitConfig::custom(64, DEPTH, 4)
    }
}

fn settings() -> Result<TrainSettings> {
    // It goes on until somebody stops it, so that there is no end to fall towards.
    let rate = ShapedRate { base: 2e-3, min: 0.0, warmup: 20, total: 1000, shape: LrShape::Constant };
    Ok(TrainSettings {
        max_norm: Some(1.0),
        drop: RandomLtd::new(DEPTH, Schedule::linear(FIRST_KEPT, TOKENS, RISING, 1)?)?.into(),
        ..TrainSettings::new(Rule::AdamW(AdamW::default()), LrSchedule::new(rate)?)
    })
}

/// `u8[BATCH, T]` of the kept positions, `u32[BATCH, R]`.
fn mask(positions: &[u32]) -> Vec<u8> {
    let mut mask = vec![0; BATCH * TOKENS];
    for (row, kept) in mask.chunks_mut(TOKENS).zip(positions.chunks(positions.len() / BATCH)) {
        kept.iter().for_each(|&token| row[token as usize] = 1);
    }
    mask
}
