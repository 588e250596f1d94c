//! From arguments to data, model and settings, checked before any training.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use wgrad::checkpoint::{LoadReport, MatchOptions, load_parameters};
use wgrad::data::{
    ColorJitter, Crop, CropMode, DataSet, ImageOptions, ImageSource, Loader, LoaderOptions, Mix, RandomErasing,
    Skipped, Split, Transform,
};
use wgrad::gpu::Gpu;
use wgrad::models::vit::{
    AdapterNames, ExportOptions, Pretrained, Vit, VitConfig, VitFile, check_export_hf, check_export_timm, export_hf,
    export_timm, save_adapter,
};
use wgrad::nn::Classifier;
use wgrad::optim::LrSchedule;
use wgrad::train::{self, Classify, DeepSpeedConfig, LinearProbe, ModelType, STATE_FILE};

use crate::args::{Args, ExportKind};
use crate::check;
use crate::effects;
use crate::recipe::{CropKind, DropKind, MirrorKind, Recipe};
use crate::report::RunReport;
use crate::run::Runner;
use crate::training::console::{printable, say};
use crate::training::deepspeed::{self, of_another_kind, schedules, unfit};
use crate::training::given::Given;
use crate::training::optimisation::check_shares;
use crate::training::resume::{self, Arguments};
use crate::training::{folder, lora};
use crate::weights::{Weights, load_data};

/// The data set, the model's sizes, how to train, and the weights to start from.
pub struct Setup {
    pub data: DataSet,
    /// The model's.
    pub config: VitConfig,
    pub recipe: Recipe,
    pub deepspeed: Option<DeepSpeedConfig>,
    weights: Weights,
    /// Whether the head alone is trained, on features that are computed once.
    is_probe: bool,
    pub steps: u64,
    /// Pictures that are known to be unreadable.
    pub unreadable: Vec<Skipped>,
    /// What of the data is likely to disappoint.
    warnings: Vec<String>,
}

impl Setup {
    pub fn new(args: &Args, given: &Given) -> Result<Self> {
        let deepspeed = deepspeed::read(args.ltd_config.as_deref(), args.output.resume.as_deref())?;
        let mut recipe = with_deepspeed(args.recipe(), deepspeed.as_ref(), args.overrides.drop.is_some());
        let mut data = load_data(args)?;
        let mut warnings = std::mem::take(&mut data.warnings);
        warnings.extend(check::data(&data, recipe.class_weights)?);
        warnings.extend(deepspeed.as_ref().and_then(|config| of_another_kind(config, ModelType::Encoder)));
        let weights = Weights::load(args, &data)?;
        warnings.extend(weights.warning());
        let (drop_path_rate, lora) = (recipe.drop_path, recipe.adapters.config(weights.config.heads()));
        let mut config = VitConfig { drop_path_rate, lora, ..weights.config.clone() };
        if args.overrides.ltd.ltd_keep_prefix.is_none() && args.output.resume.is_none() {
            // Without a class token the first place is a patch like others.
            recipe.ltd.ltd_keep_prefix = recipe.ltd.ltd_keep_prefix.min(config.prefix_tokens());
        }
        recipe.adapters.settle_rate(&mut recipe.training, config.embed_dim);
        config.check()?;
        ensure!(
            weights.has_head()
                || config.lora.as_ref().is_none_or(|lora| !config.heads().iter().any(|head| lora.targets(head))),
            "--lora: the head is of other classes than the checkpoint's and begins anew; without head among the layers it is \
             trained as a whole"
        );
        choose_crops(&mut data, &mut recipe, config.crop_mode, weights.crop_fraction());
        (config.crop_mode, _) = data.eval_crop.mode_and_fraction();
        data.interpolation = config.interpolation;
        let wanted = recipe.training.batch_size;
        ensure!(wanted > 0, "--batch-size 0: at least 1");
        let read = check::pictures(&data, wanted, args.strict)?;
        warnings.extend(read.warnings);
        if wanted > read.training {
            let readable = read.training;
            warnings.push(format!(
                "batches of {readable} pictures instead of {wanted}: no more training pictures can be read"
            ));
            recipe.training.batch_size = readable;
            warnings.extend(deepspeed.as_ref().and_then(|file| of_fewer(file, readable)));
        }
        let steps = recipe.training.settle_steps(data.train.len())?;
        warnings.extend(deepspeed.iter().flat_map(|file| unfit(file, steps, config.tokens())));
        effects::check(given, args, &recipe, steps, deepspeed.as_ref(), &data)?;
        let (unreadable, is_probe) = (read.unreadable, args.probe);
        Ok(Setup { data, config, recipe, deepspeed, weights, is_probe, steps, unreadable, warnings })
    }

    /// Finds what would end the run before its first step, while nothing has been written yet.
    pub fn check(&self, args: &Args) -> Result<()> {
        self.train_loader(args, args.seed)?;
        self.eval_loader(args, &self.data.validation)?;
        if self.config.lora.is_some() {
            self.adapter_names(args).check(&self.config)?;
        }
        match args.export {
            Some(ExportKind::Timm) => check_export_timm(&self.config)?,
            Some(ExportKind::Hf) => check_export_hf(&self.config)?,
            None => {}
        }
        let Recipe { training, ltd, patchdrop_until, .. } = &self.recipe;
        let (warmup, ramp) = (training.warmup, ltd.ltd_ramp);
        check_shares(&[("warmup", warmup), ("ltd-ramp", ramp), ("patchdrop-until", *patchdrop_until)])
    }

    /// A fresh model with the starting weights, and what was loaded.
    pub fn model(&self, gpu: &Gpu, seed: u64) -> wgrad::Result<(Vit, Option<LoadReport>)> {
        let seed = self.weights.seed(seed, &self.data.class_names);
        let model = Vit::new(gpu, self.config.clone(), seed)?;
        let new: Vec<&str> = lora::new_parameters(model.parameters()).chain(Vit::HEADS.iter().copied()).collect();
        let options = MatchOptions { head: &new, allow_missing: false };
        let load = |weights: &Pretrained| load_parameters(model.parameters(), &weights.checkpoint, &options);
        let report = self.weights.pretrained().map(load).transpose()?;
        Ok((model, report))
    }

    /// What is trained and measured.
    pub fn task<M: Classifier>(&self, model: M) -> Classify<M> {
        Classify::with_loss(model, self.loss())
    }

    /// The same of its head alone.
    pub fn probe(&self, model: Vit) -> LinearProbe<Vit> {
        LinearProbe::with_loss(model, self.loss())
    }

    /// Writes checkpoints, with the names of the classes and the crop that evaluation shows.
    pub fn writer(&self) -> impl Fn(&Path, &train::Weights) -> wgrad::Result<()> {
        let (config, class_names) = (&self.config, &self.data.class_names);
        let crop_fraction = Some(self.crop_fraction());
        move |path, weights| VitFile { config, class_names, crop_fraction }.write(path, weights)
    }

    pub fn train_loader(&self, args: &Args, seed: u64) -> Result<Loader<ImageSource>> {
        let Recipe { mixup, cutmix, .. } = self.recipe;
        let mix = Mix { mixup_alpha: mixup, cutmix_alpha: cutmix, ..Mix::default() };
        let mix = (mixup != 0.0 || cutmix != 0.0).then_some(mix);
        let options = ImageOptions { strict: args.strict, threads: args.threads, mix };
        let pictures = ImageSource::new(&self.data.train, self.train_transform()?, options)?;
        Ok(Loader::new(pictures, LoaderOptions::training(self.recipe.training.batch_size, seed))?)
    }

    fn train_transform(&self) -> Result<Transform> {
        let Recipe { auto_augment, color_jitter, erasing, .. } = self.recipe;
        let jitter =
            ColorJitter { brightness: color_jitter, contrast: color_jitter, saturation: color_jitter, hue: 0.0 };
        Ok(Transform {
            auto_augment: auto_augment.into(),
            color_jitter: (color_jitter != 0.0).then_some(jitter),
            erasing: (erasing != 0.0).then(|| RandomErasing::new(erasing)),
            ..self.data.train_transform(self.side()?)
        })
    }

    /// Every sample of a split once.
    pub fn eval_loader(&self, args: &Args, split: &Split) -> Result<Loader<ImageSource>> {
        let options = ImageOptions { strict: args.strict, threads: args.threads, mix: None };
        let pictures = ImageSource::new(split, self.eval_transform()?, options)?;
        Ok(Loader::new(pictures, LoaderOptions::evaluation(self.recipe.training.micro_batch()))?)
    }

    /// How pictures are shown to the model in evaluation.
    pub fn eval_transform(&self) -> Result<Transform> {
        Ok(self.data.eval_transform(self.side()?))
    }

    /// The share of a picture's short side that evaluation shows.
    pub fn crop_fraction(&self) -> f64 {
        self.data.eval_crop.mode_and_fraction().1
    }

    /// Whose names adapters are written with: those that the model is exported with, if it is.
    fn adapter_names(&self, args: &Args) -> AdapterNames {
        match args.export {
            Some(ExportKind::Timm) => AdapterNames::Timm,
            Some(ExportKind::Hf) => AdapterNames::Transformers,
            None => AdapterNames::of(&self.config),
        }
    }

    /// Writes the model into `folder`, where that is asked for, and its adapters, if it has any.
    pub fn export(&self, args: &Args, model: &Vit, folder: &Path) -> Result<()> {
        if self.config.lora.is_some() {
            let folder = folder.join("adapter");
            let base = args.weights.as_deref().and_then(Path::to_str).map(|name| name.trim_start_matches("hub:"));
            save_adapter(&folder, model, self.adapter_names(args), base)?;
            say!("adapters, as PEFT has them, in {}", folder.display());
        }
        let Some(kind) = args.export else { return Ok(()) };
        let folder = folder.join("export");
        let storage = args.export_precision.into();
        let options =
            ExportOptions { class_names: &self.data.class_names, crop_fraction: Some(self.crop_fraction()), storage };
        match kind {
            ExportKind::Timm => export_timm(&folder, model, &options)?,
            ExportKind::Hf => export_hf(&folder, model, &options)?,
        }
        say!("exported to {}", folder.display());
        Ok(())
    }

    fn side(&self) -> Result<u32> {
        let (height, width) = self.config.img_size;
        ensure!(height == width, "the model takes {height}x{width} pictures; only square ones are supported here");
        Ok(u32::try_from(height)?)
    }

    /// What the checkpoint has settled becomes the arguments', which a run that goes on is made of.
    pub fn settle(&self, args: &mut Args) {
        let (height, width) = self.config.img_size;
        if height == width {
            args.img_size = Some(height);
        }
        args.overrides.ltd.ltd_keep_prefix = Some(self.recipe.ltd.ltd_keep_prefix);
    }

    /// The run's folder, which holds neither pictures nor another run.
    pub fn create_folder(&self, args: &Args) -> Result<PathBuf> {
        let folder = folder::create(args.output.output.as_deref())?;
        self.check_output(args, &folder)?;
        let goes_on = args.output.resume.is_some();
        if !goes_on {
            folder::refuse_another(&folder)?;
        }
        let (model, adapters) = (args.export.map(|_| "export"), self.config.lora.as_ref().map(|_| "adapter"));
        let comparison = args.comparison(self.recipe.drop);
        // The first run alone is exported.
        let exports = |arm, seed| {
            let is_exported = comparison.is_first(arm, seed);
            model.into_iter().chain(adapters).filter(|_| is_exported).collect()
        };
        resume::check_exports::<Runner<'_>>(&folder, &comparison, goes_on, exports)?;
        Ok(folder)
    }

    /// Keeps in the folder of a new run what it is made of. What has not begun of one that goes on is to begin with the
    /// same weights as the rest.
    pub fn keep(&self, args: &Args, folder: &Path) -> Result<()> {
        if args.output.resume.is_none() {
            deepspeed::keep(args.ltd_config.as_deref(), folder)?;
            self.weights.keep(folder)?;
            return folder::save(folder, &args.kept()?, &self.recipe);
        }
        let comparison = args.comparison(self.recipe.drop);
        let has_begun = |(arm, seed)| comparison.place(folder, arm, seed).join(STATE_FILE).exists();
        let is_open = !comparison.missing::<RunReport>(&[]).into_iter().all(has_begun);
        if is_open { self.weights.check(folder) } else { Ok(()) }
    }

    /// A run's folder is not searched for pictures: in the place of a class's, it would take that class from later runs.
    fn check_output(&self, args: &Args, folder: &Path) -> Result<()> {
        let Some(data_dir) = &args.data_dir else { return Ok(()) };
        let (output, data_dir) = (std::fs::canonicalize(folder)?, std::fs::canonicalize(data_dir)?);
        let is_inside = output.starts_with(&data_dir);
        let DataSet { train, validation, test, .. } = &self.data;
        let files =
            [train, validation, test].into_iter().flat_map(|split| (0..).map_while(|sample| split.file(sample)));
        let parents: BTreeSet<&Path> = files.filter_map(Path::parent).collect();
        let mut parents = parents.into_iter().filter_map(|path| path.canonicalize().ok());
        let holds = (output == data_dir && train.file(0).is_some())
            || parents.any(|path| path == output || (is_inside && path.starts_with(&output)));
        ensure!(!holds, "--output {}: holds the pictures; a folder of the run's own is needed", folder.display());
        Ok(())
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DataSet { name, class_names, train, validation, test, .. } = &self.data;
        let (n, v, t) = (train.len(), validation.len(), test.len());
        writeln!(f, "data: {name}, {} classes, {n} training, {v} validation, {t} test pictures", class_names.len())?;
        if !self.data.unused.is_empty() {
            writeln!(f, "not used: {}", printable(&self.data.unused.join(", ")))?;
        }
        if validation.is_drawn() && validation.file(0).is_some() {
            writeln!(f, "splits: drawn by the pictures' names and --split-seed; splits.csv lists them")?;
        }
        let VitConfig { embed_dim, depth, num_heads, patch_size, img_size, .. } = self.config;
        writeln!(
            f,
            "model: ViT {embed_dim} wide, {depth} deep, {num_heads} heads, patch {patch_size}, {}x{} pictures, {} tokens, from {}",
            img_size.0,
            img_size.1,
            self.config.tokens(),
            self.weights
        )?;
        if self.is_probe {
            writeln!(f, "probe: the head alone learns, from features of each picture as evaluation shows it")?;
        }
        write!(f, "{} steps:\n{}", self.steps, self.recipe)?;
        if let Some(config) = &self.deepspeed {
            write!(
                f,
                "\nin the place of these, from the configuration file:{}",
                schedules(config, self.steps, self.config.tokens())
            )?;
        }
        let of_deepspeed = self.deepspeed.iter().flat_map(|config| &config.warnings);
        for warning in self.warnings.iter().chain(of_deepspeed) {
            write!(f, "\nwarning: {}", printable(warning))?;
        }
        Ok(())
    }
}

/// What a DeepSpeed configuration says of a recipe's settings, in their place; `has_chosen` where somebody said which
/// tokens are dropped.
fn with_deepspeed(recipe: Recipe, config: Option<&DeepSpeedConfig>, has_chosen: bool) -> Recipe {
    let drop = deepspeed::main_way(config, DropKind::RandomLtd, recipe.drop, has_chosen);
    let mut ltd = recipe.ltd;
    if let Some(of_file) = config.and_then(|config| config.random_ltd.as_ref()) {
        ltd.ltd_keep_prefix = of_file.keep_prefix_tokens();
    }
    Recipe { training: recipe.training.with_deepspeed(config), drop, ltd, ..recipe }
}

/// That its rate by layer tokens is planned for larger batches than the run has, if it is.
fn of_fewer(config: &DeepSpeedConfig, batch: usize) -> Option<String> {
    config.rate.as_ref().is_some_and(LrSchedule::follows_layer_tokens).then(|| {
        format!(
            "the configuration file's layer_token_lr_schedule is planned for batches of {}: with {batch} pictures the \
             rate comes to its end too late",
            config.batch_size
        )
    })
}

/// Photos are shown in random parts in training, and evaluated on the part of them that the model is used to. What the recipe
/// leaves to the data is written into it, to be printed and saved.
fn choose_crops(data: &mut DataSet, recipe: &mut Recipe, mode: CropMode, pretrained: Option<f64>) {
    let are_photos = matches!(data.eval_crop, Crop::Center { .. });
    if recipe.crop == CropKind::Auto {
        recipe.crop = if are_photos { CropKind::RandomResized } else { CropKind::Data };
    }
    if recipe.crop == CropKind::RandomResized {
        data.train_crop = Crop::RandomResized { scale: (recipe.crop_scale, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0) };
    }
    match recipe.mirror {
        MirrorKind::Auto => recipe.mirror = if data.flip { MirrorKind::On } else { MirrorKind::Off },
        MirrorKind::On => data.flip = true,
        MirrorKind::Off => data.flip = false,
    }
    let wanted = (recipe.eval_crop != 0.0).then_some(recipe.eval_crop);
    let told = pretrained.map(|fraction| fraction.max(Transform::MIN_FRACTION));
    if are_photos {
        let (_, usual) = data.eval_crop.mode_and_fraction();
        data.eval_crop = Crop::evaluation(mode, wanted.or(told).unwrap_or(usual));
    }
}
