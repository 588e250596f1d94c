//! Opening published checkpoints, in whatever of the usual layouts they come.

use std::path::{Path, PathBuf};

use super::config_json::{Described, check_claims};
use super::infer::{check_shapes, infer};
use super::shards::read_shards;
use super::wrappers::unwrapped;
use super::{
    BEST_FILE, Checkpoint, RUN_STATE, class_names, config_json, embedded, foreign, huggingface, positions, read,
    vit_config,
};
use crate::error::{Error, Result};
use crate::models::vit::VitConfig;

/// A folder's weights in one file.
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";
/// A folder's list of shards.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
/// Metadata key of the crop fraction.
pub(super) const CROP_FRACTION: &str = "crop_fraction";

/// A model to start from: weights, sizes, and how its pictures were treated.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The tensors under timm's names.
    pub checkpoint: Checkpoint,
    /// The model that they are of, with the normalisation of its pictures. A checkpoint without a head counts one class.
    pub config: VitConfig,
    /// The classes' names, if they are known, as many as there are classes.
    pub class_names: Option<Vec<String>>,
    /// The share of a picture's short side that the model was evaluated on, timm's `crop_pct`, if it is known. 1 also stands
    /// for transformers' habit of resizing the whole picture to a square.
    pub crop_fraction: Option<f64>,
}

/// What the caller knows better than the files; but a file of this crate tells its model's sizes itself, and others here are
/// an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// The number of heads. timm's files tell it by the name of the architecture at best; a file by itself not at all.
    pub heads: Option<usize>,
    /// Height and width of the pictures that the model was trained on, which a file by itself does not tell either: positions
    /// are only counted.
    pub trained_on: Option<(usize, usize)>,
}

impl OpenOptions {
    /// Whether nothing here contradicts the sizes that a file says itself.
    fn check(&self, file: &Path, config: &VitConfig) -> Result<()> {
        let fault = |name, told, own| {
            let what = format!("tells its sizes itself, and {name} is {own} there, not {told}: leave it out");
            Err(Error::file(file, what))
        };
        let sides = |(height, width): (usize, usize)| format!("{height} x {width}");
        if let Some(heads) = self.heads.filter(|&heads| heads != config.num_heads) {
            return fault("heads", heads.to_string(), config.num_heads.to_string());
        }
        match self.trained_on.filter(|&size| size != config.img_size) {
            Some(size) => fault("trained_on", sides(size), sides(config.img_size)),
            None => Ok(()),
        }
    }
}

/// Opens a checkpoint:
///
/// - a safetensors file of this crate, which says itself what model it is of;
/// - a run's folder ([`crate::train::fit`]): its best checkpoint;
/// - a safetensors file with timm's names, with or without a `config.json` of timm's beside it;
/// - a folder with `model.safetensors`, or `model.safetensors.index.json` (or the path of that) and its shards, and
///   `config.json`, as timm and transformers (`ViTForImageClassification`, also with `preprocessor_config.json`) save them.
///
/// What training programs put around a model's names is taken off: `module.`, `_orig_mod.`, `model.`, `state_dict_ema.` and the
/// like.
///
/// Sizes are taken from the tensors' shapes, and what those do not tell from the files beside them. Where nothing tells, with a
/// warning in the log, heads are taken to be 64 wide and pictures to be square; norms get timm's eps of 1e-6, CLIP's 1e-5 or
/// transformers' 1e-12. Nothing is taken on trust: sizes that disagree are an error.
///
/// # Errors
/// [`Error::Io`] if the system refuses, [`Error::File`] if a file's content is wrong or of another kind, which is named, or
/// says itself otherwise than `options`, [`Error::Parameter`] if a tensor is missing, of an impossible shape, or belongs to a part that this crate's ViT does not
/// have: layer scale, a distillation token, gated MLPs, normed queries, attention pooling and others.
pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Pretrained> {
    let path = path.as_ref();
    let file = if std::fs::metadata(path).map_err(|e| Error::io(path, e))?.is_dir() {
        weights_in(path)?
    } else {
        path.to_owned()
    };
    let is_index = file.to_str().is_some_and(|name| name.ends_with(".safetensors.index.json"));
    let checkpoint = if is_index { read_shards(&file)? } else { read(&file)? };
    Pretrained::from_parts(checkpoint, &file, options).map_err(|error| match foreign::parts(&file) {
        Some(parts) => Error::file(&file, format!("is one of {parts} parts: give their folder ({error})")),
        None => error,
    })
}

/// The file in a folder that holds its weights, or says where they are.
fn weights_in(folder: &Path) -> Result<PathBuf> {
    let places = [BEST_FILE, WEIGHTS_FILE, INDEX_FILE].map(|name| folder.join(name));
    if let Some(file) = places.into_iter().find(|file| file.exists()) {
        return Ok(file);
    }
    let io = |e| Error::io(folder, e);
    let entries = std::fs::read_dir(folder).map_err(io)?.collect::<std::io::Result<Vec<_>>>().map_err(io)?;
    let mut names: Vec<String> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Err(Error::file(folder, foreign::in_place_of_weights(&names)))
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
    /// The checkpoint inside the crate, see [`embedded`].
    ///
    /// # Errors
    /// None in a build whose asset is intact.
    pub fn embedded() -> Result<Self> {
        Self::from_parts(embedded()?, Path::new("embedded checkpoint"), &OpenOptions::default())
    }

    /// From tensors and the file that they lay in.
    fn from_parts(checkpoint: Checkpoint, file: &Path, options: &OpenOptions) -> Result<Self> {
        if checkpoint.metadata.contains_key(RUN_STATE) {
            let what = format!("is the state of a run, not a model: give {BEST_FILE} beside it, or the folder");
            return Err(Error::file(file, what));
        }
        if let Some(config) = vit_config(&checkpoint)? {
            check_shapes(&checkpoint, &config)?;
            options.check(file, &config)?;
            let class_names = class_names(&checkpoint).filter(|names| is_one_each(names, &config));
            let crop = checkpoint.metadata.get(CROP_FRACTION).and_then(|text| text.parse().ok());
            let crop_fraction = crop.filter(|f| *f > 0.0 && *f <= 1.0);
            return Ok(Pretrained { checkpoint, config, class_names, crop_fraction });
        }
        let folder = file.parent().unwrap_or(Path::new(""));
        let checkpoint = unwrapped(checkpoint)?;
        config_json::check_model_type(folder)?;
        let (checkpoint, mut described) = if huggingface::is_theirs(&checkpoint) {
            (huggingface::to_timm(checkpoint)?, config_json::huggingface(folder)?)
        } else {
            (checkpoint, config_json::timm(folder)?)
        };
        described.hints.heads = options.heads.or(described.hints.heads);
        described.hints.img_size = options.trained_on.or(described.hints.img_size);
        let config = infer(&checkpoint, &described.hints)?;
        check_claims(folder, &described, &config)?;
        let Described { class_names, crop_fraction, hints, .. } = described;
        if hints.normalize.is_none() {
            log::warn!("nothing tells how pictures are normalised: taken to be {:?}", config.normalize);
        }
        // The default names of a model without a head are not its classes'.
        let has_head = checkpoint.tensors.contains_key("head.weight");
        let class_names = class_names.filter(|names| has_head && is_one_each(names, &config));
        Ok(Pretrained { checkpoint, config, class_names, crop_fraction })
    }

    /// Makes it a model for images of `img_size` = (height, width): the position embeddings are resampled, see
    /// [`super::resample_pos_embed`].
    ///
    /// # Errors
    /// [`Error::Argument`] if the sizes are not multiples of the patch size, [`Error::Parameter`] if the positions do not fit
    /// the configuration.
    pub fn resize(&mut self, img_size: (usize, usize)) -> Result<()> {
        let resized = VitConfig { img_size, ..self.config.clone() };
        resized.check()?;
        let grid = |config: &VitConfig| (config.img_size.0 / config.patch_size, config.img_size.1 / config.patch_size);
        let prefix = self.config.prefix_positions();
        let pos = self.checkpoint.get("pos_embed")?;
        let pos = positions::resample_pos_embed(pos, prefix, grid(&self.config), grid(&resized))?;
        self.checkpoint.tensors.insert("pos_embed".to_owned(), pos);
        self.config = resized;
        Ok(())
    }
}
