//! From arguments to data, model and settings, checked before any training.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use wgrad::checkpoint::{
    self, ExportOptions, LoadReport, MatchOptions, OpenOptions, Pretrained, Storage, export_hf, export_timm,
    load_parameters,
};
use wgrad::data::{self, Crop, DataSet, FolderOptions, Loader, LoaderOptions, Split, Transform};
use wgrad::gpu::Gpu;
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::nn::{Vit, VitConfig};
use wgrad::ops::{CrossEntropy, Normalize};
use wgrad::optim::{AdamW, LrSchedule, LrShape, Rule, Sgd};
use wgrad::train::{TrainSettings, Workload};

use crate::args::{Args, Data, ExportKind, LrKind, LtdKind, OptimizerKind, StorageKind};

/// The data set, the model's sizes, and the weights to start from.
pub struct Setup {
    pub data: DataSet,
    pub config: VitConfig,
    weights: Option<(String, Pretrained)>,
    pub steps: u64,
    batch_size: usize,
}

impl Setup {
    pub fn new(args: &Args) -> Result<Self> {
        let mut data = load_data(args)?;
        let (config, weights) = load_weights(args, &data)?;
        // Photos are evaluated on the part of them that the model is used to.
        let crop_fraction = weights.as_ref().and_then(|(_, weights)| weights.crop_fraction);
        if let (Crop::Centre { fraction }, Some(told)) = (&mut data.eval_crop, crop_fraction) {
            *fraction = told.max(Transform::MIN_FRACTION);
        }
        config.check()?;
        let (batch, pictures) = (args.batch_size, data.train.len());
        ensure!((1..=pictures).contains(&batch), "--batch-size {batch}: there are {pictures} training pictures");
        let per_epoch = (pictures / batch) as u64;
        let steps = args.steps.unwrap_or(args.epochs * per_epoch);
        ensure!(
            (1..=batch).contains(&args.accumulate),
            "--accumulate {}: 1 to the batch size, {batch}",
            args.accumulate
        );
        ensure!(steps > 0, "nothing to do: --epochs and --steps must not be 0");
        Ok(Setup { data, config, weights, steps, batch_size: args.batch_size })
    }

    /// A fresh model with the starting weights, and what was loaded.
    pub fn model(&self, gpu: &Gpu, seed: u64) -> Result<(Vit, Option<LoadReport>)> {
        let model = Vit::new(gpu, self.config.clone(), seed)?;
        let load = |(_, weights): &(String, Pretrained)| {
            let options = MatchOptions { head: &["head"], allow_missing: false };
            load_parameters(model.parameters(), &weights.checkpoint, &options)
        };
        let report = self.weights.as_ref().map(load).transpose()?;
        Ok((model, report))
    }

    pub fn train_loader(&self, args: &Args) -> Result<Loader> {
        let options = LoaderOptions {
            strict: args.strict,
            threads: args.threads,
            ..LoaderOptions::training(self.batch_size, args.seed)
        };
        Ok(Loader::new(&self.data.train, self.data.train_transform(self.side()?), options)?)
    }

    /// Every sample of a split once.
    pub fn eval_loader(&self, args: &Args, split: &Split) -> Result<Loader> {
        // No larger than a micro-batch, so that evaluation does not take more memory than training.
        let batch_size = self.batch_size.div_ceil(args.accumulate.max(1));
        let options =
            LoaderOptions { strict: args.strict, threads: args.threads, ..LoaderOptions::evaluation(batch_size) };
        Ok(Loader::new(split, self.data.eval_transform(self.side()?), options)?)
    }

    /// Writes the model into `folder`, where that is asked for.
    pub fn export(&self, args: &Args, model: &Vit, folder: &Path) -> Result<()> {
        let Some(kind) = args.export else { return Ok(()) };
        let folder = folder.join("export");
        let crop_fraction = match self.data.eval_crop {
            Crop::Centre { fraction } => Some(fraction),
            _ => Some(1.0),
        };
        let storage = match args.export_precision {
            StorageKind::F32 => Storage::F32,
            StorageKind::F16 => Storage::F16,
        };
        let options = ExportOptions { class_names: &self.data.class_names, crop_fraction, storage };
        match kind {
            ExportKind::Timm => export_timm(&folder, model, &options)?,
            ExportKind::Hf => export_hf(&folder, model, &options)?,
        }
        println!("exported to {}", folder.display());
        Ok(())
    }

    fn side(&self) -> Result<u32> {
        let (height, width) = self.config.img_size;
        ensure!(height == width, "the model takes {height}x{width} pictures; only square ones are supported here");
        Ok(u32::try_from(height)?)
    }

    /// Settings of a run, with or without random-LTD.
    pub fn settings(&self, args: &Args, gpu: &Gpu, with_ltd: bool) -> Result<TrainSettings> {
        let warmup = (f64::from(args.warmup) * self.steps as f64) as u64;
        let (rule, default_rate) = rule(args);
        let rate = args.lr.unwrap_or(default_rate);
        let shape = match args.lr_schedule {
            LrKind::Cosine => LrShape::Cosine,
            LrKind::Linear => LrShape::Linear,
            LrKind::Constant => LrShape::Constant,
        };
        let rate = LrSchedule::new(shape, rate, 0.0, warmup, self.steps)?;
        Ok(TrainSettings {
            max_norm: (args.clip_grad != 0.0).then_some(args.clip_grad),
            loss: CrossEntropy { label_smoothing: args.label_smoothing, ..Default::default() },
            drop: if with_ltd { self.ltd(args)?.into() } else { TokenDrop::None },
            seed: args.seed,
            accumulate: args.accumulate,
            precision: args.precision.on(gpu),
            checkpoint_blocks: args.checkpoint_blocks,
            ..TrainSettings::new(rule, rate)
        })
    }

    /// A run with these settings, for estimates.
    pub fn workload<'a>(&'a self, settings: &'a TrainSettings) -> Workload<'a> {
        Workload { config: &self.config, settings, batch: self.batch_size, steps: self.steps }
    }

    fn ltd(&self, args: &Args) -> Result<Option<RandomLtd>> {
        let tokens = self.config.tokens();
        let start = args.ltd_start.unwrap_or((3 * tokens).div_ceil(4));
        let end = args.ltd_end.unwrap_or(tokens);
        ensure!(
            start <= tokens && end <= tokens,
            "--ltd-start {start} and --ltd-end {end} must be at most {tokens} tokens"
        );
        let ramp = ((f64::from(args.ltd_ramp) * self.steps as f64) as u64).max(1);
        let schedule = match args.ltd {
            LtdKind::Off => return Ok(None),
            LtdKind::Linear => Schedule::linear(start, end, ramp, args.ltd_granularity)?,
            LtdKind::FixedLinear => Schedule::fixed_linear(start, end, ramp, args.ltd_granularity)?,
            LtdKind::Constant => Schedule::constant(start)?,
        };
        let mut ltd = RandomLtd::new(self.config.depth, schedule)?;
        if let Some(blocks) = &args.ltd_blocks {
            ltd = ltd.with_blocks(blocks)?;
        }
        let ltd = ltd.with_keep_prefix(args.ltd_keep_prefix)?.with_seed(args.seed);
        ltd.check_length(tokens)?;
        Ok(Some(ltd))
    }

    /// The run folder: the one that was asked for, or the next free number below `runs`.
    pub fn create_folder(&self, args: &Args) -> Result<PathBuf> {
        let folder = match &args.output {
            Some(folder) => folder.clone(),
            None => (1..).map(|i| Path::new("runs").join(i.to_string())).find(|p| !p.exists()).unwrap_or_default(),
        };
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let text = serde_json::to_string_pretty(args)?;
        std::fs::write(folder.join("args.json"), text).with_context(|| format!("writing to {}", folder.display()))?;
        Ok(folder)
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DataSet { name, class_names, train, validation, test, .. } = &self.data;
        let (n, v, t) = (train.len(), validation.len(), test.len());
        writeln!(f, "data: {name}, {} classes, {n} training, {v} validation, {t} test pictures", class_names.len())?;
        let VitConfig { embed_dim, depth, num_heads, patch_size, img_size, .. } = self.config;
        let from = self.weights.as_ref().map_or("random weights", |(name, _)| name.as_str());
        write!(
            f,
            "model: ViT {embed_dim} wide, {depth} deep, {num_heads} heads, patch {patch_size}, {}x{} pictures, {} tokens, from {from}",
            img_size.0,
            img_size.1,
            self.config.tokens()
        )
    }
}

fn load_data(args: &Args) -> Result<DataSet> {
    let dir = || args.data_dir.as_deref().context("--data-dir DIR is needed for this data set");
    let data = match args.data {
        Data::Digits => data::digits()?,
        Data::Cifar10 => data::cifar10(dir()?)?,
        Data::Cifar100 => data::cifar100(dir()?)?,
        Data::Folder => data::image_folder(dir()?, FolderOptions { seed: args.seed, ..Default::default() })?,
    };
    if data.validation.is_empty() {
        bail!("{} has no validation pictures: more pictures, or a val/ folder, are needed", data.name);
    }
    Ok(data)
}

/// The model's sizes for this data's classes, and the checkpoint.
fn load_weights(args: &Args, data: &DataSet) -> Result<(VitConfig, Option<(String, Pretrained)>)> {
    let num_classes = data.class_names.len();
    if args.from_scratch {
        let normalize = Normalize { mean: data.normalization.mean, std: data.normalization.std };
        let side = args.img_size.unwrap_or(32);
        let (img_size, patch_size) = ((side, side), args.patch_size);
        let config = VitConfig { img_size, patch_size, num_classes, normalize, ..preset(&args.model)? };
        return Ok((VitConfig { drop_path_rate: args.drop_path, ..config }, None));
    }
    let (name, mut weights) = match &args.weights {
        Some(path) => (path.display().to_string(), open_weights(path, &OpenOptions { heads: args.heads })?),
        None => ("the embedded checkpoint".to_owned(), Pretrained::embedded()?),
    };
    if let Some(side) = args.img_size {
        weights.resize((side, side))?;
    }
    let config = weights.config.clone();
    Ok((VitConfig { num_classes, drop_path_rate: args.drop_path, ..config }, Some((name, weights))))
}

/// A file, a folder, or a name on the Hub.
fn open_weights(path: &Path, options: &OpenOptions) -> Result<Pretrained> {
    match path.to_str().and_then(|text| text.strip_prefix("hub:")) {
        Some(name) => Ok(checkpoint::open(fetch(name)?, options)?),
        None => Ok(checkpoint::open(path, options)?),
    }
}

#[cfg(feature = "hub")]
fn fetch(name: &str) -> Result<PathBuf> {
    println!("fetching {name}");
    Ok(checkpoint::hub::fetch(name)?)
}

#[cfg(not(feature = "hub"))]
fn fetch(name: &str) -> Result<PathBuf> {
    bail!("--weights hub:{name}: this build is without the Hub; build it with --features hub")
}

fn preset(name: &str) -> Result<VitConfig> {
    let sizes: Vec<_> = name.split('x').map(str::parse).collect();
    Ok(match (name, sizes.as_slice()) {
        ("tiny", _) => VitConfig::tiny(),
        ("small", _) => VitConfig::small(),
        ("base", _) => VitConfig::base(),
        ("large", _) => VitConfig::large(),
        (_, &[Ok(width), Ok(depth), Ok(heads)]) => VitConfig::custom(width, depth, heads),
        _ => bail!("--model {name}: expected tiny, small, base, large or WIDTHxDEPTHxHEADS"),
    })
}

/// The update, and the learning rate that suits it.
fn rule(args: &Args) -> (Rule, f32) {
    match args.optimizer {
        OptimizerKind::Adamw => {
            let defaults = AdamW::default();
            let weight_decay = args.weight_decay.unwrap_or(defaults.weight_decay);
            (Rule::AdamW(AdamW { weight_decay, ..defaults }), 1e-3)
        }
        OptimizerKind::Sgd => {
            let defaults = Sgd::default();
            let weight_decay = args.weight_decay.unwrap_or(defaults.weight_decay);
            (Rule::Sgd(Sgd { momentum: args.momentum, nesterov: args.nesterov, weight_decay, ..defaults }), 1e-2)
        }
    }
}
