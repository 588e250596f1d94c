//! What transformers' `config.json` and the settings of its image processors say.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::described::{Described, fraction, normalization, square};
use super::forms::{Activation, ShortSide, Sides};
use super::infer::Hints;
use super::names::Family;
use crate::checkpoint::{CONFIG_FILE, Labels, PREPROCESSOR_FILE, PROCESSOR_FILE, claims, read_json};
use crate::error::{Error, Result};
use crate::models::vit::{Pool, VitConfig};
use crate::ops::{Gelu, Normalize};
use crate::preprocess::{CropMode, Interpolation};

/// Pillow's numbers of the ways to resize.
const RESAMPLE: [(u32, Interpolation); 2] = [(2, Interpolation::Bilinear), (3, Interpolation::Bicubic)];

/// Pillow's number of one of them.
pub(super) fn resample(interpolation: Interpolation) -> u32 {
    RESAMPLE.iter().find(|(_, filter)| *filter == interpolation).map_or(3, |(number, _)| *number)
}

/// What transformers multiplies bytes by.
const RESCALE: f64 = 1.0 / 255.0;

/// Values of transformers' `model_type` whose tensors are looked at.
pub(super) const MODEL_TYPES: [&str; 10] = [
    "vit",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "clip",
    "clip_vision_model",
    "siglip",
    "siglip_vision_model",
    "dinov3_vit",
    "timm_wrapper",
];

/// transformers' file; of a model with another one for texts, that of its pictures stands within.
#[derive(Deserialize, Default)]
#[serde(default)]
struct HfConfig {
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    intermediate_size: Option<usize>,
    hidden_act: Option<Activation>,
    layer_norm_eps: Option<f32>,
    image_size: Option<Sides>,
    patch_size: Option<Sides>,
    id2label: Option<Labels>,
    layerscale_value: Option<f32>,
    use_swiglu_ffn: Option<bool>,
    use_gated_mlp: Option<bool>,
    num_register_tokens: Option<usize>,
    vision_config: Option<Box<HfConfig>>,
    rope_theta: Option<f32>,
    hidden_dropout_prob: Option<f64>,
    attention_probs_dropout_prob: Option<f64>,
    attention_dropout: Option<f64>,
    drop_path_rate: Option<f64>,
}

impl HfConfig {
    /// Says which shares that are dropped at random in training are not taken over, and which of [`VitConfig`]'s are the same: they are
    /// for whoever trains to say.
    fn report_dropout(&self, path: &Path) {
        let shares = [
            ("hidden_dropout_prob", self.hidden_dropout_prob, "pos_drop_rate and proj_drop_rate"),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob, "attn_drop_rate"),
            ("attention_dropout", self.attention_dropout, "attn_drop_rate"),
            ("drop_path_rate", self.drop_path_rate, "drop_path_rate"),
        ];
        for (name, share, own) in shares {
            if let Some(share) = share.filter(|&share| share > 0.0) {
                let path = path.display();
                log::warn!("{path}: {name} {share} is not taken over: training drops what VitConfig's {own} says");
            }
        }
    }
}

/// Heads of transformers' models where their file does not say, whatever the width.
fn default_heads(family: Family) -> usize {
    if family.is_dinov3() { 6 } else { 12 }
}

/// What a model of transformers has where its file does not say, and what it never says. Without a classifier, CLIP's tower is read
/// as what its library calls the pooled output, the class token after the last norm.
fn defaults(family: Family, has_head: bool) -> Hints {
    match family {
        Family::Vit | Family::Deit => Hints { eps: Some(1e-12), ..Hints::default() },
        Family::Dinov2 | Family::Dinov2WithRegisters => Hints {
            eps: Some(1e-6),
            global_pool: Some(Pool::TokenAvg),
            no_embed_reg: family == Family::Dinov2WithRegisters,
            init_values: Some(1.0),
            ..Hints::default()
        },
        Family::Clip => Hints {
            eps: Some(1e-5),
            act_layer: Some(Activation::Gelu(Gelu::Quick)),
            global_pool: Some(if has_head { Pool::Avg } else { Pool::Token }),
            final_norm: Some(!has_head),
            ..Hints::default()
        },
        Family::Dinov3 { .. } => Hints {
            eps: Some(1e-5),
            global_pool: Some(Pool::Token),
            init_values: Some(1.0),
            rope_temperature: Some(100.0),
            ..Hints::default()
        },
        Family::SiglipTower => Hints {
            eps: Some(1e-6),
            act_layer: Some(Activation::Gelu(Gelu::Tanh)),
            global_pool: Some(Pool::Map),
            ..Hints::default()
        },
        Family::Siglip => Hints {
            eps: Some(1e-6),
            act_layer: Some(Activation::Gelu(Gelu::Tanh)),
            global_pool: Some(Pool::Avg),
            ..Hints::default()
        },
    }
}

/// Reads transformers' `config.json` and `preprocessor_config.json` or `processor_config.json` in `folder`.
pub(super) fn huggingface(folder: &Path, family: Family, has_head: bool) -> Result<Described> {
    let path = folder.join(CONFIG_FILE);
    let defaults = defaults(family, has_head);
    let Some(mut config) = read_json::<HfConfig>(&path)? else {
        return preprocessor(folder, family, None, Described { hints: defaults, ..Described::default() });
    };
    let class_names = config.id2label.take().and_then(|names| names.in_order(&path));
    let config = config.vision_config.take().map_or(config, |inner| *inner);
    config.report_dropout(&path);
    let heads = default_heads(family);
    if config.num_attention_heads.is_none() {
        log::warn!("{}: does not tell num_attention_heads: {heads}, as in transformers", path.display());
    }
    let patch = config.patch_size.map(|sides| square(&path, "patch_size", sides)).transpose()?;
    let claims = claims::<VitConfig, _>([
        ("hidden_size", config.hidden_size, |config| config.embed_dim),
        ("num_hidden_layers", config.num_hidden_layers, |config| config.depth),
        ("intermediate_size", config.intermediate_size, VitConfig::hidden_outputs),
        ("patch_size", patch, |config| config.patch_size),
        ("use_swiglu_ffn", config.use_swiglu_ffn.map(usize::from), |config| usize::from(config.gated_mlp)),
        ("use_gated_mlp", config.use_gated_mlp.map(usize::from), |config| usize::from(config.gated_mlp)),
        ("num_register_tokens", config.num_register_tokens, |config| config.reg_tokens),
    ]);
    let own_size = config.image_size.map(|side| (side.height, side.width));
    let described = Described {
        hints: Hints {
            heads: Some(config.num_attention_heads.unwrap_or(heads)),
            eps: config.layer_norm_eps.or(defaults.eps),
            act_layer: activation(&path, config.hidden_act, family, config.use_swiglu_ffn == Some(true))?
                .map(Activation::Gelu)
                .or(defaults.act_layer),
            init_values: config.layerscale_value.or(defaults.init_values),
            rope_temperature: defaults.rope_temperature.map(|base| config.rope_theta.unwrap_or(base)),
            img_size: own_size,
            is_published: true,
            ..defaults
        },
        class_names,
        claims,
        own_heads: config.num_attention_heads,
        own_size,
        ..Described::default()
    };
    preprocessor(folder, family, patch, described)
}

/// That of an MLP. A DINOv3's gate has the one that the file names, which must be SiLU, where a Dinov2's (`is_swiglu`) has that whatever it
/// names.
fn activation(path: &Path, named: Option<Activation>, family: Family, is_swiglu: bool) -> Result<Option<Gelu>> {
    match (named, family) {
        (Some(Activation::Silu), Family::Dinov3 { gated: true }) => Ok(None),
        (_, Family::Dinov2 | Family::Dinov2WithRegisters) if is_swiglu => Ok(None),
        (_, Family::Dinov3 { gated: true }) => {
            Err(Error::file(path, "a gated MLP with another hidden_act than silu is not computed here"))
        }
        (Some(act), _) => act.gelu(path).map(Some),
        (None, _) => Ok(None),
    }
}

/// A square of that side, if it is of whole patches.
fn whole_patches(side: f64, patch: usize) -> Option<(usize, usize)> {
    let whole = side as usize;
    let fits = whole > 0 && whole as f64 == side && patch > 0 && whole.is_multiple_of(patch);
    fits.then_some((whole, whole))
}

/// transformers' `preprocessor_config.json`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Preprocessor {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    do_center_crop: Option<bool>,
    size: Option<ShortSide>,
    crop_size: Option<ShortSide>,
    resample: Option<u32>,
}

/// transformers' `processor_config.json`, where its fifth version keeps the same beside a tokenizer's settings.
#[derive(Deserialize)]
struct Processor {
    image_processor: Option<Preprocessor>,
}

/// What the files in `folder` say of pictures, and the file that says it. As in transformers `processor_config.json` goes first.
fn read_preprocessor(folder: &Path) -> Result<Option<(PathBuf, Preprocessor)>> {
    let path = folder.join(PROCESSOR_FILE);
    if let Some(file) = read_json::<Processor>(&path)?.and_then(|file| file.image_processor) {
        return Ok(Some((path, file)));
    }
    let path = folder.join(PREPROCESSOR_FILE);
    Ok(read_json(&path)?.map(|file| (path, file)))
}

/// Adds what is said of pictures, or what is usual in the family.
fn preprocessor(folder: &Path, family: Family, patch: Option<usize>, mut described: Described) -> Result<Described> {
    let Some((path, file)) = read_preprocessor(folder)? else {
        let (mode, fraction) = family.crop();
        (described.hints.crop_mode, described.crop_fraction) = (mode, Some(fraction));
        return Ok(described);
    };
    let factor = file.rescale_factor.unwrap_or(RESCALE);
    if file.do_rescale == Some(false) || (factor / RESCALE - 1.0).abs() > 1e-3 {
        let what = format!("do_rescale false, or a rescale_factor of {factor}, is not computed here, only 1/255 is");
        return Err(Error::file(path, what));
    }
    described.hints.normalize = if file.do_normalize == Some(false) {
        Some(Normalize::NONE)
    } else {
        normalization(&path, file.image_mean, file.image_std)?
    };
    let is_cropped = file.do_center_crop == Some(true);
    if family.is_dinov2() {
        let of = if is_cropped { file.crop_size } else { file.size.filter(|size| size.is_of_both == Some(true)) };
        described.shown = of.filter(|of| of.is_square).zip(patch).and_then(|(of, patch)| whole_patches(of.side, patch));
    }
    described.crop_fraction = match (file.crop_size.filter(|_| is_cropped), file.size) {
        (Some(crop), Some(size)) => fraction(&path, Some((crop.side / size.side).min(1.0)))?,
        _ => Some(1.0),
    };
    // A number by itself is a side of a square where a processor only resizes, and in DeiT's; others resize the short side.
    let is_deit = file
        .image_processor_type
        .or(file.feature_extractor_type)
        .map_or(family == Family::Deit, |name| name.starts_with("DeiT"));
    let is_squashed = file.size.and_then(|size| size.is_of_both).unwrap_or(is_deit || !is_cropped);
    described.hints.crop_mode = if is_squashed { CropMode::Squash } else { CropMode::Center };
    if let Some(number) = file.resample {
        described.hints.interpolation = RESAMPLE.iter().find(|(known, _)| *known == number).map(|(_, filter)| *filter);
        if described.hints.interpolation.is_none() {
            log::warn!("{}: its model saw pictures resized by another filter than those here", path.display());
        }
    }
    Ok(described)
}
