//! What `config.json` and `preprocessor_config.json` say, in timm's words and in transformers'.

use std::path::Path;

use serde::Deserialize;

use super::forms::{ShortSide, Sides};
use super::infer::Hints;
use super::names::Family;
use crate::checkpoint::{CONFIG_FILE, Claim, Labels, PREPROCESSOR_FILE, claims, quoted, read_json};
use crate::error::{Error, Result};
use crate::models::vit::{Pool, VitConfig};
use crate::ops::Normalize;

/// Pillow's number of bicubic resampling.
pub(super) const BICUBIC: u32 = 3;

/// What the files beside the weights tell.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) hints: Hints,
    pub(super) class_names: Option<Vec<String>>,
    pub(super) crop_fraction: Option<f64>,
    pub(super) claims: Vec<Claim<VitConfig>>,
}

/// timm's file. Old ones have everything at the top, new ones most of it in `pretrained_cfg`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct TimmConfig {
    architecture: Option<String>,
    global_pool: Option<String>,
    label_names: Option<Labels>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    crop_pct: Option<f64>,
    /// Channels, height, width.
    input_size: Option<[usize; 3]>,
    model_args: Option<TimmArgs>,
    pretrained_cfg: Option<Box<TimmConfig>>,
}

/// Arguments of timm's `VisionTransformer` in which a model differs from its architecture's name.
#[derive(Deserialize, Default)]
#[serde(default)]
struct TimmArgs {
    img_size: Option<Sides>,
    patch_size: Option<Sides>,
    embed_dim: Option<usize>,
    depth: Option<usize>,
    num_heads: Option<usize>,
    global_pool: Option<String>,
    init_values: Option<f32>,
    act_layer: Option<String>,
    pool_include_prefix: bool,
}

/// Parts of timm's architecture names that stand for an activation which is not the exact GELU, or may.
const OTHER_ACTIVATIONS: [&str; 2] = ["quickgelu", "siglip"];

/// Reads timm's `config.json` in `folder`. A file there that is not timm's says nothing.
pub(super) fn timm(folder: &Path) -> Result<Described> {
    let path = folder.join(CONFIG_FILE);
    let Some(mut top) = read_json::<TimmConfig>(&path)? else { return Ok(Described::default()) };
    let Some(architecture) = top.architecture.take() else {
        log::warn!("{}: names no architecture, and is left out", path.display());
        return Ok(Described::default());
    };
    let inner = *top.pretrained_cfg.take().unwrap_or_default();
    let args = top.model_args.or(inner.model_args).unwrap_or_default();
    let activation = args.act_layer.as_deref().unwrap_or("gelu");
    if OTHER_ACTIVATIONS.iter().any(|part| architecture.contains(part)) || activation != "gelu" {
        let what = format!("{} with activation {} is not computed here", quoted(&architecture), quoted(activation));
        return Err(Error::file(path, what));
    }
    if args.pool_include_prefix {
        return Err(Error::file(path, "a mean with the prefix tokens is not computed here"));
    }
    let pool = args.global_pool.or(top.global_pool).or(inner.global_pool);
    let input = top.input_size.or(inner.input_size).map(|[_, height, width]| (height, width));
    let names = top.label_names.or(inner.label_names);
    let patch = args.patch_size.map(|sides| square(&path, "patch_size", sides)).transpose()?;
    let claims = claims::<VitConfig, _>([
        ("model_args.embed_dim", args.embed_dim, |config| config.embed_dim),
        ("model_args.depth", args.depth, |config| config.depth),
        ("model_args.patch_size", patch, |config| config.patch_size),
    ]);
    Ok(Described {
        hints: Hints {
            heads: args.num_heads,
            img_size: args.img_size.map(|side| (side.height, side.width)).or(input),
            global_pool: pool.map(|pool| pool_named(&path, &pool)).transpose()?.flatten(),
            normalize: normalization(&path, top.mean.or(inner.mean), top.std.or(inner.std))?,
            // Of another width than its name stands for, it is another model.
            is_published: !architecture.starts_with("test_") && args.embed_dim.is_none(),
            init_values: args.init_values,
            architecture: Some(architecture),
            ..Hints::default()
        },
        class_names: names.and_then(|names| names.in_order(&path)),
        crop_fraction: fraction(&path, top.crop_pct.or(inner.crop_pct))?,
        claims,
    })
}

/// timm's names of pooling; nothing for a model without a head.
fn pool_named(path: &Path, name: &str) -> Result<Option<Pool>> {
    match name {
        "" => Ok(None),
        "token" => Ok(Some(Pool::Token)),
        "avg" => Ok(Some(Pool::Avg)),
        _ => Err(Error::file(path, format!("pooling {} is not computed here, only token and avg", quoted(name)))),
    }
}

/// Values of transformers' `model_type` whose tensors are looked at.
pub(super) const MODEL_TYPES: [&str; 5] = ["vit", "deit", "dinov2", "dinov2_with_registers", "timm_wrapper"];

/// transformers' file.
#[derive(Deserialize, Default)]
#[serde(default)]
struct HfConfig {
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    intermediate_size: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f32>,
    image_size: Option<Sides>,
    patch_size: Option<Sides>,
    id2label: Option<Labels>,
    layerscale_value: Option<f32>,
    use_swiglu_ffn: bool,
    num_register_tokens: Option<usize>,
}

/// eps of transformers' ViTs where their file does not say.
const HF_EPS: f32 = 1e-12;

/// The same of its Dinov2.
const DINOV2_EPS: f32 = 1e-6;

/// What Dinov2's layer scale begins with where its file does not say.
const DINOV2_INIT_VALUES: f32 = 1.0;

/// Heads of transformers' ViTs where their file does not say, whatever the width.
const HF_HEADS: usize = 12;

/// Reads transformers' `config.json` and `preprocessor_config.json` in `folder`.
pub(super) fn huggingface(folder: &Path, family: Family) -> Result<Described> {
    let path = folder.join(CONFIG_FILE);
    let defaults = Hints {
        eps: Some(if family.is_dinov2() { DINOV2_EPS } else { HF_EPS }),
        global_pool: family.is_dinov2().then_some(Pool::TokenAvg),
        no_embed_reg: family == Family::Dinov2WithRegisters,
        init_values: family.is_dinov2().then_some(DINOV2_INIT_VALUES),
        ..Hints::default()
    };
    let Some(config) = read_json::<HfConfig>(&path)? else {
        return preprocessor(folder, Described { hints: defaults, ..Described::default() });
    };
    if config.use_swiglu_ffn {
        return Err(Error::file(path, "use_swiglu_ffn: a gated MLP (SwiGLU) is not computed here"));
    }
    // Both names stand for the exact one.
    if let Some(other) = config.hidden_act.as_deref().filter(|act| !["gelu", "gelu_python"].contains(act)) {
        return Err(Error::file(path, format!("hidden_act {} is not computed here, only gelu", quoted(other))));
    }
    if config.num_attention_heads.is_none() {
        log::warn!("{}: does not tell num_attention_heads: {HF_HEADS}, as in transformers", path.display());
    }
    let patch = config.patch_size.map(|sides| square(&path, "patch_size", sides)).transpose()?;
    let claims = claims::<VitConfig, _>([
        ("hidden_size", config.hidden_size, |config| config.embed_dim),
        ("num_hidden_layers", config.num_hidden_layers, |config| config.depth),
        ("intermediate_size", config.intermediate_size, VitConfig::hidden),
        ("patch_size", patch, |config| config.patch_size),
        ("num_register_tokens", config.num_register_tokens, |config| config.reg_tokens),
    ]);
    let described = Described {
        hints: Hints {
            heads: Some(config.num_attention_heads.unwrap_or(HF_HEADS)),
            eps: config.layer_norm_eps.or(defaults.eps),
            init_values: config.layerscale_value.or(defaults.init_values),
            img_size: config.image_size.map(|side| (side.height, side.width)),
            is_published: true,
            ..defaults
        },
        class_names: config.id2label.and_then(|names| names.in_order(&path)),
        crop_fraction: None,
        claims,
    };
    preprocessor(folder, described)
}

/// transformers' `preprocessor_config.json`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Preprocessor {
    do_normalize: Option<bool>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    do_center_crop: Option<bool>,
    size: Option<ShortSide>,
    crop_size: Option<ShortSide>,
    resample: Option<u32>,
}

/// Adds what `preprocessor_config.json` says, if it is there.
fn preprocessor(folder: &Path, mut described: Described) -> Result<Described> {
    let path = folder.join(PREPROCESSOR_FILE);
    let Some(file) = read_json::<Preprocessor>(&path)? else { return Ok(described) };
    described.hints.normalize = if file.do_normalize == Some(false) {
        Some(Normalize::NONE)
    } else {
        normalization(&path, file.image_mean, file.image_std)?
    };
    described.crop_fraction = match (file.do_center_crop, file.crop_size, file.size) {
        (Some(true), Some(crop), Some(size)) => fraction(&path, Some((crop.0 / size.0).min(1.0)))?,
        _ => Some(1.0),
    };
    if file.resample.is_some_and(|filter| filter != BICUBIC) {
        log::warn!("{}: its model saw pictures resized by another filter than bicubic", path.display());
    }
    Ok(described)
}

/// Mean and deviation, if both are there.
fn normalization(path: &Path, mean: Option<[f32; 3]>, std: Option<[f32; 3]>) -> Result<Option<Normalize>> {
    let (Some(mean), Some(std)) = (mean, std) else { return Ok(None) };
    if !mean.iter().all(|m| m.is_finite()) || !std.iter().all(|s| s.is_normal() && *s > 0.0) {
        let what = format!("mean {mean:?} must be finite and deviation {std:?} positive");
        return Err(Error::file(path, what));
    }
    Ok(Some(Normalize { mean, std }))
}

fn fraction(path: &Path, fraction: Option<f64>) -> Result<Option<f64>> {
    match fraction.filter(|f| !(*f > 0.0 && *f <= 1.0)) {
        Some(f) => Err(Error::file(path, format!("the crop must be a share of the picture in 0 to 1, got {f}"))),
        None => Ok(fraction),
    }
}

fn square(path: &Path, key: &str, Sides { height, width }: Sides) -> Result<usize> {
    if height != width {
        return Err(Error::file(path, format!("{key} {height} x {width} is not square")));
    }
    Ok(height)
}
