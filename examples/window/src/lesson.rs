//! A model that learns: its data, its trainer, and a frame's share of training.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wgrad::Gpu;
use wgrad::checkpoint::{MatchOptions, load_parameters};
use wgrad::data::{
    self, Batches, Crop, CropMode, DataSet, FolderOptions, ImageBatch, ImageOptions, ImageSource, Key, Loader,
    LoaderOptions, Position, Split, Transform,
};
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::models::vit::{OpenOptions, Pretrained, Vit, VitConfig, open};
use wgrad::optim::{AdamW, LrSchedule, LrShape, Rule, ShapedRate};
use wgrad::train::{Classify, StepMetrics, TrainSettings, Trainer, Workload, available_memory, check_memory, rehearse};

use crate::asking::{Examination, Reading};
use crate::settings::{Data, Settings, Start};

/// Pictures that the model is examined on, at most.
const EXAMINED: usize = 128;
/// Of them, those that go through it together.
const EXAMINED_AT_ONCE: usize = 32;
/// Lengths that R visits on its way up.
const LENGTHS: usize = 8;
/// Steps over which the learning rate rises.
const WARMUP: u64 = 20;
const SEED: u64 = 0;

/// A model with its data, on the window's device.
pub struct Lesson {
    pub trainer: Trainer<Classify<Vit>>,
    loader: Loader<ImageSource>,
    batches: Batches<ImageBatch>,
    /// Pictures that could not be read, as far as the user has been told.
    told_unreadable: usize,
    /// Batches whose steps are recorded, with the steps' numbers: the first is being computed, or was the last that was.
    recorded: VecDeque<(u64, Arc<ImageBatch>)>,
    /// Steps that have ended.
    done: u64,
    pub data: Data,
    pub classes: Vec<String>,
    /// How a picture is shown to the model that it is asked about.
    pub transform: Transform,
    /// The share of a picture's short side that it then sees.
    pub crop_fraction: f64,
    /// What it is examined on; empty if there is nothing.
    examined: Arc<Vec<ImageBatch>>,
    /// What the user may not expect.
    pub remarks: Vec<String>,
}

/// What a lesson is made of, read and found to fit together, before anything is asked of the device.
pub struct Material {
    pub settings: Settings,
    data: DataSet,
    config: VitConfig,
    weights: Option<Pretrained>,
    training: TrainSettings,
    batch_size: usize,
    crop_fraction: f64,
    remarks: Vec<String>,
}

impl Material {
    /// Reads data and weights. Takes a second or more.
    pub fn read(settings: Settings) -> Result<Self> {
        let mut data = read_data(&settings)?;
        let mut remarks: Vec<String> = data.warnings.iter().chain(&data.unused).cloned().collect();
        let (mut config, weights) = read_weights(&settings, &data)?;
        data.interpolation = config.interpolation;
        choose_crop(&mut data, config.crop_mode, weights.as_ref().and_then(|weights| weights.crop_fraction));
        let (crop_mode, crop_fraction) = data.eval_crop.mode_and_fraction();
        config.crop_mode = crop_mode;
        // Of pictures that cannot be read others take the place, as long as there are enough.
        let batch_size = settings.batch_size.min(data.train.probe(settings.batch_size).readable);
        if batch_size < settings.batch_size {
            remarks.push(format!("a batch has {batch_size} pictures: there are no more to train on"));
        }
        let training = training(&settings, &config)?;
        Ok(Material { settings, data, config, weights, training, batch_size, crop_fraction, remarks })
    }
}

impl Lesson {
    /// Prepares the device: all that would make a frame late later. Takes a second or more.
    pub fn new(gpu: &Gpu, material: Material) -> Result<Self> {
        let Material { settings, data, config, weights, training, batch_size, crop_fraction, remarks } = material;
        let side = u32::try_from(config.img_size.0)?;
        prepare(gpu, &config, &training, (batch_size, settings.ltd_steps))?;

        let model = Vit::new(gpu, config, SEED)?;
        if let Some(weights) = weights {
            let options = MatchOptions { head: Vit::HEADS, ..Default::default() };
            load_parameters(model.parameters(), &weights.checkpoint, &options)?;
        }
        let source = ImageSource::new(&data.train, data.train_transform(side), ImageOptions::default())?;
        let loader = Loader::new(source, LoaderOptions::training(batch_size, SEED))?;
        let transform = data.eval_transform(side);
        let lesson = Lesson {
            trainer: Trainer::new(Classify::new(model), training)?,
            batches: loader.batches_from(Position::default())?,
            loader,
            told_unreadable: 0,
            recorded: VecDeque::new(),
            done: 0,
            data: settings.data,
            examined: Arc::new(examined(&data.validation, transform)?),
            crop_fraction,
            classes: data.class_names,
            transform,
            remarks,
        };
        lesson.compile_answers()?;
        Ok(lesson)
    }

    /// Compiles what answers and examinations need.
    fn compile_answers(&self) -> Result<()> {
        Reading::of(self, &vec![0; self.transform.sample_bytes()])?.wait()?;
        if let Some(examination) = self.examine()? {
            examination.wait()?;
        }
        Ok(())
    }

    /// A frame's share of training: about `budget` of the device's time, in which at most `may_begin` steps begin. Returns what
    /// the steps did that have ended. Waits for nothing, not even for a batch.
    pub fn advance(&mut self, budget: Duration, may_begin: u64) -> wgrad::Result<Vec<StepMetrics>> {
        let Lesson { trainer, batches, recorded, .. } = self;
        let first = trainer.steps();
        let mut step = first;
        let ended = trainer.step_slice(budget, || {
            if step - first >= may_begin {
                return None;
            }
            let batch = batches.try_next()?;
            if let Ok(batch) = &batch {
                recorded.push_back((step, Arc::new(batch.clone())));
                step += 1;
            }
            Some(batch)
        });
        if let Err(wgrad::Error::NonFinite { step, .. }) = &ended {
            // It has ended, if badly.
            self.done = self.done.max(step + 1);
        }
        let ended = ended?;
        if let Some(last) = ended.last() {
            self.done = last.step + 1;
        }
        while self.recorded.len() > 1 && self.recorded.front().is_some_and(|(step, _)| *step < self.done) {
            self.recorded.pop_front();
        }
        Ok(ended)
    }

    /// Whether steps are recorded that have not ended.
    pub fn is_busy(&self) -> bool {
        self.done < self.trainer.steps()
    }

    /// Pictures that could not be read, in words, if there are more than at the call before.
    pub fn unreadable(&mut self) -> Option<String> {
        let skipped = self.loader.source().skipped();
        let is_news = skipped.len() > std::mem::replace(&mut self.told_unreadable, skipped.len());
        let last = skipped.last().filter(|_| is_news)?;
        Some(format!("{} of the pictures cannot be read and are left out, such as {}", skipped.len(), last.reason))
    }

    /// Steps that have ended.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The step that is being computed with its batch, or the last one.
    pub fn current(&self) -> Option<&(u64, Arc<ImageBatch>)> {
        self.recorded.front()
    }

    pub fn model(&self) -> &Vit {
        &self.trainer.task().model
    }

    /// Has the model answer for the pictures that it does not learn from, behind the steps that are recorded; `None` if there are
    /// no such pictures.
    pub fn examine(&self) -> wgrad::Result<Option<Examination>> {
        (!self.examined.is_empty()).then(|| Examination::of(self, &self.examined)).transpose()
    }

    /// A picture as the model is shown it, `u8[3, S, S]`.
    pub fn sample(transform: &Transform, picture: &data::Image<'_>) -> wgrad::Result<Vec<u8>> {
        let mut sample = vec![0; transform.sample_bytes()];
        transform.apply(picture, Key { seed: SEED, epoch: 0, sample: 0 }, &mut sample)?;
        Ok(sample)
    }
}

fn read_data(settings: &Settings) -> Result<DataSet> {
    let data = match settings.folder() {
        None => data::digits()?,
        Some(folder) if folder.as_os_str().is_empty() => anyhow::bail!("no folder of photos is named"),
        Some(folder) => data::image_folder(folder, FolderOptions::default())
            .with_context(|| format!("the photos in {}", folder.display()))?,
    };
    let (classes, name) = (data.class_names.len(), &data.name);
    ensure!(classes > 1, "{name}: two classes at least are needed, each in a folder of its own; there is {classes}");
    let probe = data.train.probe(1);
    ensure!(
        probe.lost.is_empty(),
        "{name}: no picture of the class {} can be read{}",
        data.class_names[probe.lost[0] as usize],
        probe.unreadable.first().map_or_else(String::new, |first| format!(": {}", first.reason))
    );
    Ok(data)
}

/// The model's sizes for the data's classes, and its weights unless they are random.
fn read_weights(settings: &Settings, data: &DataSet) -> Result<(VitConfig, Option<Pretrained>)> {
    let num_classes = data.class_names.len();
    let mut weights = match settings.start {
        Start::Embedded => Pretrained::embedded()?,
        Start::File => {
            let path = Path::new(settings.weights.trim());
            ensure!(!path.as_os_str().is_empty(), "no checkpoint is named");
            open(path, &OpenOptions::default()).with_context(|| format!("the weights in {}", path.display()))?
        }
        Start::Random => {
            let config = Pretrained::embedded()?.config;
            return Ok((VitConfig { num_classes, normalize: data.normalize, ..config }, None));
        }
    };
    // As `vit_finetune` and `vit_predict` have it: with what a run's adapters have made of it, for pictures as its library shows them.
    weights.merge_adapters()?;
    if let Some(size) = weights.shown {
        weights.resize(size)?;
    }
    let (height, width) = weights.config.img_size;
    ensure!(height == width, "the checkpoint's model takes pictures of {height}x{width}; square ones are needed");
    weights.set_classes(&data.class_names);
    Ok((weights.config.clone(), Some(weights)))
}

/// Photos are evaluated on the part of them that the checkpoint's model is used to, where that is told.
fn choose_crop(data: &mut DataSet, mode: CropMode, told: Option<f64>) {
    if matches!(data.eval_crop, Crop::Center { .. }) {
        let (_, usual) = data.eval_crop.mode_and_fraction();
        let fraction = told.map_or(usual, |told| told.max(Transform::MIN_FRACTION));
        data.eval_crop = Crop::evaluation(mode, fraction);
    }
}

/// random-LTD from the share of tokens that is kept at first up to all, with AdamW.
fn training(settings: &Settings, config: &VitConfig) -> Result<TrainSettings> {
    let tokens = config.tokens();
    ensure!(tokens > config.prefix_tokens() + 1, "the model's pictures are of one patch, of which none can be dropped");
    let first = (tokens * settings.kept_at_first).div_ceil(100).clamp(config.prefix_tokens() + 1, tokens - 1);
    let schedule = Schedule::linear(first, tokens, settings.ltd_steps, ((tokens - first) / LENGTHS).max(1))?;
    let ltd = RandomLtd::new(config.depth, schedule)?.with_keep_prefix(config.prefix_tokens())?.with_seed(SEED);
    let rate = ShapedRate {
        base: settings.rate,
        min: settings.rate,
        warmup: WARMUP,
        total: WARMUP + 1,
        shape: LrShape::Constant,
    };
    let rule = Rule::AdamW(AdamW::default());
    Ok(TrainSettings { drop: ltd.into(), max_norm: Some(1.0), ..TrainSettings::new(rule, LrSchedule::new(rate)?) })
}

/// Sees that there is memory for steps of so many pictures, and compiles the kernels of all lengths that R visits in so many steps.
fn prepare(gpu: &Gpu, config: &VitConfig, settings: &TrainSettings, (batch, steps): (usize, u64)) -> Result<()> {
    // What an earlier lesson had is free, but the system does not know.
    gpu.trim();
    let make = |gpu: &Gpu| Ok(Classify::new(Vit::new(gpu, config.clone(), SEED)?));
    let work = Workload { make: &make, settings, batch, steps: steps + 1 };
    check_memory(gpu, &work, available_memory(gpu))?;
    gpu.warm_up(rehearse(gpu, &work)?.kernels())?;
    Ok(())
}

/// Some of the pictures that the model does not learn from, spread over all of them.
fn examined(validation: &Split, transform: Transform) -> Result<Vec<ImageBatch>> {
    let (all, count) = (validation.len(), validation.len().min(EXAMINED));
    if count == 0 {
        return Ok(Vec::new());
    }
    let some: Vec<u32> = (0..count).map(|i| (i * all / count) as u32).collect();
    let source = ImageSource::new(&validation.subset(&some)?, transform, ImageOptions::default())?;
    let loader = Loader::new(source, LoaderOptions::evaluation(EXAMINED_AT_ONCE))?;
    Ok(loader.epoch(0)?.collect::<wgrad::Result<_>>()?)
}
