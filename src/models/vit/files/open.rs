//! Opening published checkpoints, in whatever of the usual layouts they come.

use std::path::Path;

use super::described::Described;
use super::hf_json::{self, MODEL_TYPES};
use super::infer::{check_sizes, infer};
use super::names::{Family, LANDMARKS, report_ignored};
use super::{Resampling, architectures, layouts, metadata, positions, timm_json};
use crate::checkpoint::{self, CONFIG_FILE, Checkpoint, check_claims, check_model_type, read_bytes, unwrapped};
use crate::error::{Error, Result};
use crate::models::vit::VitConfig;
use crate::ops::Normalize;

/// A model to start from: weights, sizes, and how its pictures were treated.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The tensors under timm's names.
    pub checkpoint: Checkpoint,
    /// The model that they are of, with the normalisation of its pictures. A checkpoint without a head counts one class.
    pub config: VitConfig,
    /// The classes' names, if they are known, as many as there are classes.
    pub class_names: Option<Vec<String>>,
    /// The share of a picture's short side that the model was evaluated on, timm's `crop_pct`, if it is known; of a file of transformers' that
    /// does not tell, the share that is usual in its family. 1 also stands
    /// for transformers' habit of resizing the whole picture to a square.
    pub crop_fraction: Option<f64>,
    /// How its positions are resampled for pictures of another size. A file of this crate does not tell, and antialiases.
    pub resampling: Resampling,
    /// Height and width of the pictures that its library shows it, if they are others than the positions are for: published DINOv2s have
    /// positions for 518 pixels and see 224. For the library's results [`Pretrained::resize`] it to them.
    pub shown: Option<(usize, usize)>,
}

/// What the caller knows better than the files. What those say themselves, a file of this crate or the config.json beside another, is not
/// of it: something else here is an error. Heads that are only known by the model's name, and the size of pictures in timm's
/// `pretrained_cfg`, are replaced.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// The number of heads. timm's files tell it by the name of the architecture or in `model_args`; a file by itself not at all.
    pub heads: Option<usize>,
    /// Height and width of the pictures that the model was trained on, which a file by itself does not tell either: positions
    /// are only counted.
    pub trained_on: Option<(usize, usize)>,
}

impl OpenOptions {
    /// Whether nothing here contradicts the heads and the size of pictures that a file says itself, if it does.
    fn check(&self, file: &Path, heads: Option<usize>, size: Option<(usize, usize)>) -> Result<()> {
        let fault = |name, told, own| {
            let what = format!("tells its sizes itself, and {name} is {own} there, not {told}: leave it out");
            Err(Error::file(file, what))
        };
        let sides = |(height, width): (usize, usize)| format!("{height} x {width}");
        if let Some((told, own)) = self.heads.zip(heads).filter(|(told, own)| told != own) {
            return fault("heads", told.to_string(), own.to_string());
        }
        match self.trained_on.zip(size).filter(|(told, own)| told != own) {
            Some((told, own)) => fault("trained_on", sides(told), sides(own)),
            None => Ok(()),
        }
    }
}

/// Opens a checkpoint:
///
/// - a safetensors file of this crate, which says itself what model it is of;
/// - a run's folder, such as `train::fit` leaves: its best checkpoint;
/// - a safetensors file with timm's names, with or without a `config.json` of timm's beside it;
/// - a folder with `model.safetensors`, or `model.safetensors.index.json` (or the path of that) and its shards, and
///   `config.json`, as timm and transformers (`ViTForImageClassification`, `Dinov2ForImageClassification`,
///   `Dinov2WithRegistersForImageClassification`, `DeiTForImageClassificationWithTeacher`, `CLIPForImageClassification`,
///   `SiglipForImageClassification`, `DINOv3ViTModel`, and the models within them; also with `preprocessor_config.json`) save
///   them. What serves pretraining alone, such as `mask_token`, and the part of a CLIP or SigLIP that reads texts or projects
///   into the space shared with them, is left out, and a warning says so.
///
/// A DINOv3 of timm's in a file by itself is known by its tensors; its picture size must be told. An EVA or EVA-02 is not, and needs its
/// `config.json`.
///
/// What training programs put around a model's names is taken off: `module.`, `_orig_mod.`, `model.`, `state_dict_ema.` and the
/// like.
///
/// Sizes are taken from the tensors' shapes, and what those do not tell from the files beside them. Where nothing tells, with a
/// warning in the log, heads are taken to be 64 wide and pictures to be square; norms get timm's eps of 1e-6, CLIP's and BEiT-3's 1e-5 or
/// transformers' 1e-12. Nothing is taken on trust: sizes that disagree are an error.
///
/// # Errors
/// [`Error::Io`] if the system refuses, [`Error::File`] if a file's content is wrong or of another kind, which is named, or says
/// itself otherwise than `options`, [`Error::Parameter`] if a tensor is missing, of an impossible shape, or belongs to a part
/// that this crate's ViT does not have: normed queries, relative positions, parallel layers and others.
pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Pretrained> {
    checkpoint::open(path.as_ref(), |checkpoint, file| Pretrained::from_parts(checkpoint, file, options))
}

/// Weights under timm's names and in its shapes, and what transformers' files tell of them.
fn from_transformers(checkpoint: Checkpoint, folder: &Path, family: Family) -> Result<(Checkpoint, Described)> {
    let checkpoint = match family {
        Family::Dinov3 { .. } => layouts::without_inner_model(checkpoint),
        Family::Vit | Family::Deit => layouts::with_encoder(checkpoint),
        _ => checkpoint,
    };
    report_ignored(&checkpoint, family.renaming());
    let mut checkpoint = family.renaming().to_ours(checkpoint)?;
    let described = hf_json::huggingface(folder, family, checkpoint.tensors.contains_key("head.weight"))?;
    layouts::from_transformers(&mut checkpoint.tensors, &described.hints);
    Ok((checkpoint, described))
}

/// Weights under the names of timm's ViT, and what its files tell of them.
fn from_timm(mut checkpoint: Checkpoint, folder: &Path) -> Result<(Checkpoint, Described)> {
    let mut described = timm_json::timm(folder)?;
    if described.hints.architecture.is_none()
        && let Some(hints) = architectures::dinov3_by_tensors(&checkpoint)
    {
        log::warn!(
            "nothing names the model: taken to be a DINOv3, with positions as published ones have, whose head reads the patches' mean"
        );
        described.hints = hints;
    }
    if described.hints.rope_temperature.is_some() {
        layouts::from_eva(&mut checkpoint.tensors)?;
    }
    if described.hints.architecture.as_deref().is_some_and(architectures::has_idle_key_bias) {
        layouts::with_key_biases(&mut checkpoint.tensors)?;
    }
    Ok((checkpoint, described))
}

/// Whether there is a name for each class. If not, that is reported.
fn is_one_each(names: &[String], config: &VitConfig) -> bool {
    let is_each = names.len() == config.num_classes;
    if !is_each && !names.is_empty() {
        log::warn!("{} class names for {} classes are left out", names.len(), config.num_classes);
    }
    is_each
}

impl Pretrained {
    /// The small ViT in assets/, pretrained on CIFAR-100 by `examples/vit_pretrain.rs`: patch 4, 32×32 pictures, 65 tokens.
    ///
    /// # Errors
    /// None in a build whose asset is intact.
    pub fn embedded() -> Result<Self> {
        const NAME: &str = "embedded checkpoint";
        let checkpoint = read_bytes(include_bytes!("../../../../assets/vit_cifar100.safetensors"), NAME)?;
        Self::from_parts(checkpoint, Path::new(NAME), &OpenOptions::default())
    }

    /// From tensors and the file that they lay in.
    fn from_parts(mut checkpoint: Checkpoint, file: &Path, options: &OpenOptions) -> Result<Self> {
        if let Some(config) = metadata::config(&checkpoint)? {
            if config.rope_temperature.is_some() {
                // Exported for timm.
                layouts::from_eva(&mut checkpoint.tensors)?;
            }
            check_sizes(&checkpoint, &config)?;
            options.check(file, Some(config.num_heads), Some(config.img_size))?;
            let has_head = checkpoint.tensors.contains_key("head.weight");
            let config = if has_head { config } else { VitConfig { num_classes: 1, ..config } };
            let names = metadata::class_names(&checkpoint);
            let class_names = names.filter(|names| has_head && is_one_each(names, &config));
            let crop_fraction = metadata::crop_fraction(&checkpoint);
            let resampling = Resampling::default();
            return Ok(Pretrained { checkpoint, config, class_names, crop_fraction, resampling, shown: None });
        }
        let folder = file.parent().unwrap_or(Path::new(""));
        let checkpoint = unwrapped(checkpoint, &LANDMARKS)?;
        check_model_type(folder, &MODEL_TYPES)?;
        let family = Family::of(&checkpoint);
        let (checkpoint, mut described) = match family {
            Some(family) => from_transformers(checkpoint, folder, family)?,
            None => from_timm(checkpoint, folder)?,
        };
        options.check(&folder.join(CONFIG_FILE), described.own_heads, described.own_size)?;
        described.hints.interpolation = described.hints.interpolation.or(family.map(Family::interpolation));
        described.hints.heads = options.heads.or(described.hints.heads);
        described.hints.img_size = options.trained_on.or(described.hints.img_size);
        let mut config = infer(&checkpoint, &described.hints)?;
        check_claims(folder, &described.claims, &config)?;
        let Described { class_names, crop_fraction, shown, hints, .. } = described;
        if hints.normalize.is_none() {
            // timm's models with a first norm are CLIP's.
            let usual = if config.pre_norm { Normalize::CLIP } else { config.normalize };
            config.normalize = family.map_or(usual, Family::normalize);
            log::warn!("nothing tells how pictures are normalised: taken to be {:?}", config.normalize);
        }
        // The default names of a model without a head are not its classes'.
        let has_head = checkpoint.tensors.contains_key("head.weight");
        let class_names = class_names.filter(|names| has_head && is_one_each(names, &config));
        let by_name = || hints.architecture.as_deref().map(architectures::resampling).unwrap_or_default();
        let resampling = family.map_or_else(by_name, Family::resampling);
        let shown = shown.filter(|shown| *shown != config.img_size);
        Ok(Pretrained { checkpoint, config, class_names, crop_fraction, resampling, shown })
    }

    /// Makes it a model for images of `img_size` = (height, width): the position embeddings are resampled, see
    /// [`super::resample_pos_embed`], as the library does that the file is of.
    ///
    /// # Errors
    /// [`Error::Argument`] if the sizes are not multiples of the patch size, [`Error::Parameter`] if the positions do not fit
    /// the configuration.
    pub fn resize(&mut self, img_size: (usize, usize)) -> Result<()> {
        let resized = VitConfig { img_size, ..self.config.clone() };
        resized.check()?;
        if resized.positions() == 0 {
            // What the positions are follows from the size.
            self.config = resized;
            return Ok(());
        }
        let grid = |config: &VitConfig| (config.img_size.0 / config.patch_size, config.img_size.1 / config.patch_size);
        let prefix = self.config.prefix_positions();
        let pos = self.checkpoint.get("pos_embed")?;
        let pos = positions::resample_pos_embed(pos, prefix, grid(&self.config), grid(&resized), self.resampling)?;
        self.checkpoint.tensors.insert("pos_embed".to_owned(), pos);
        self.config = resized;
        Ok(())
    }
}
