//! The model, and how it wants its pictures.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use wgrad::data::{Crop, CropMode, Transform};
use wgrad::models::vit::{OpenOptions, Pretrained, VitConfig, open};

use crate::hub;

/// timm's usual share, for checkpoints that do not tell theirs.
const USUAL_CROP: f64 = 0.875;

pub struct Source {
    pub pretrained: Pretrained,
    name: String,
    crop: f64,
    /// Whether nothing tells the crop.
    is_guess: bool,
}

impl Source {
    /// What [`open`] takes, with the adapter in a folder of PEFT's; without a path the embedded checkpoint.
    pub fn open(path: Option<&Path>, lora: Option<&Path>, options: &OpenOptions, crop: Option<f64>) -> Result<Self> {
        let (name, mut pretrained, known) = match path {
            Some(path) => {
                let mut pretrained =
                    open(hub::found(path)?, options).with_context(|| format!("--weights {}", path.display()))?;
                if let Some(size) = pretrained.shown {
                    pretrained.resize(size)?;
                }
                let known = pretrained.crop_fraction;
                (path.display().to_string(), pretrained, known)
            }
            // It was trained on whole pictures.
            None => ("the embedded checkpoint".to_owned(), Pretrained::embedded()?, Some(1.0)),
        };
        if let Some(folder) = lora {
            pretrained.load_adapter(folder).with_context(|| format!("--lora {}", folder.display()))?;
        }
        let has_head = pretrained.checkpoint.tensors.contains_key("head.weight");
        ensure!(has_head, "{name}: has no head.weight: it knows features, but no classes");
        let source =
            Source { pretrained, name, crop: crop.or(known).unwrap_or(USUAL_CROP), is_guess: crop.or(known).is_none() };
        source.transform()?.check()?;
        Ok(source)
    }

    /// How a picture becomes a sample.
    pub fn transform(&self) -> Result<Transform> {
        let (height, width) = self.pretrained.config.img_size;
        ensure!(height == width, "the model takes {height}x{width} pictures; only square ones are supported here");
        let VitConfig { interpolation, crop_mode, .. } = self.pretrained.config;
        let crop = Crop::evaluation(crop_mode, self.crop);
        Ok(Transform { interpolation, ..Transform::new(u32::try_from(height)?, crop) })
    }

    pub fn classes(&self) -> usize {
        self.pretrained.config.num_classes
    }

    /// What a class is called.
    pub fn class(&self, class: u32) -> String {
        let name = self.pretrained.class_names.as_ref().and_then(|names| names.get(class as usize));
        name.map_or_else(|| format!("class {class}"), Clone::clone)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VitConfig { img_size: (size, _), normalize, crop_mode, .. } = self.pretrained.config;
        let side = if crop_mode == CropMode::Squash { "both sides, squashed" } else { "the short side" };
        write!(
            f,
            "model: {}, {} classes, {size}x{size} pictures, {} of {side}{}, mean {:?}, std {:?}",
            self.name,
            self.classes(),
            self.crop,
            if self.is_guess { " (the checkpoint does not tell: --crop)" } else { "" },
            normalize.mean,
            normalize.std
        )
    }
}
