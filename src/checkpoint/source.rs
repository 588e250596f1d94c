//! Opening published checkpoints, in whatever of the usual layouts they come.

use std::path::Path;

use super::config_json::{Described, check_claims};
use super::infer::{check_shapes, infer};
use super::shards::read_shards;
use super::{Checkpoint, class_names, config_json, embedded, huggingface, positions, read, vit_config};
use crate::error::{Error, Result};
use crate::nn::VitConfig;

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

/// What the caller knows better than the files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// The number of heads. timm's files tell it by the name of the architecture at best; a file by itself not at all.
    pub heads: Option<usize>,
}

/// Opens a checkpoint:
///
/// - a safetensors file of this crate, which says itself what model it is of;
/// - a safetensors file with timm's names, with or without a `config.json` of timm's beside it;
/// - a folder with `model.safetensors`, or `model.safetensors.index.json` and its shards, and `config.json`, as timm and
///   transformers (`ViTForImageClassification`, also with `preprocessor_config.json`) save them.
///
/// Sizes are taken from the tensors' shapes, and what those do not tell from the files beside them. Where nothing tells,
/// heads are taken to be 64 wide, with a warning in the log; norms get timm's eps of 1e-6, CLIP's 1e-5 or transformers' 1e-12.
/// Nothing is taken on trust: sizes that disagree are an error.
///
/// # Errors
/// [`Error::Io`] if the system refuses, [`Error::File`] if a file's content is wrong, [`Error::Parameter`] if a tensor is
/// missing, of an impossible shape, or belongs to a part that this crate's ViT does not have: layer scale, a distillation
/// token, gated MLPs, normed queries, attention pooling and others.
pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Pretrained> {
    let path = path.as_ref();
    if !std::fs::metadata(path).map_err(|e| Error::io(path, e))?.is_dir() {
        return Pretrained::from_parts(read(path)?, path.parent().unwrap_or(Path::new("")), options);
    }
    let (whole, index) = (path.join(WEIGHTS_FILE), path.join(INDEX_FILE));
    if whole.exists() {
        return Pretrained::from_parts(read(whole)?, path, options);
    }
    if index.exists() {
        return Pretrained::from_parts(read_shards(&index)?, path, options);
    }
    Err(Error::file(path, format!("holds neither {WEIGHTS_FILE} nor {INDEX_FILE}")))
}

impl Pretrained {
    /// The checkpoint inside the crate, see [`embedded`].
    ///
    /// # Errors
    /// None in a build whose asset is intact.
    pub fn embedded() -> Result<Self> {
        Self::from_parts(embedded()?, Path::new(""), &OpenOptions::default())
    }

    /// From tensors and the folder that they lay in.
    fn from_parts(checkpoint: Checkpoint, folder: &Path, options: &OpenOptions) -> Result<Self> {
        if let Some(config) = vit_config(&checkpoint)? {
            check_shapes(&checkpoint, &config)?;
            let class_names = class_names(&checkpoint).filter(|names| names.len() == config.num_classes);
            let crop = checkpoint.metadata.get(CROP_FRACTION).and_then(|text| text.parse().ok());
            let crop_fraction = crop.filter(|f| *f > 0.0 && *f <= 1.0);
            return Ok(Pretrained { checkpoint, config, class_names, crop_fraction });
        }
        let (checkpoint, mut described) = if huggingface::is_theirs(&checkpoint) {
            (huggingface::to_timm(checkpoint)?, config_json::huggingface(folder)?)
        } else {
            (checkpoint, config_json::timm(folder)?)
        };
        described.hints.heads = options.heads.or(described.hints.heads);
        let config = infer(&checkpoint, &described.hints)?;
        check_claims(folder, &described, &config)?;
        let Described { class_names, crop_fraction, hints, .. } = described;
        if hints.normalize.is_none() {
            log::warn!("nothing tells how pictures are normalised: taken to be {:?}", config.normalize);
        }
        // The default names of a model without a head are not its classes'.
        let class_names = class_names
            .filter(|names| names.len() == config.num_classes && checkpoint.tensors.contains_key("head.weight"));
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
