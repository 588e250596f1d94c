//! What timm's `config.json` says.

use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IntoDeserializer};

use super::architectures;
use super::described::{Described, fraction, normalization, square};
use super::forms::{Activation, Sides};
use super::infer::Hints;
use crate::checkpoint::{CONFIG_FILE, Labels, claims, quoted, read_json};
use crate::error::{Error, Result};
use crate::models::vit::{Pool, VitConfig};

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
    crop_mode: Option<String>,
    interpolation: Option<String>,
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
    act_layer: Option<Activation>,
    final_norm: Option<bool>,
    rope_temperature: Option<f32>,
    ref_feat_shape: Option<Sides>,
    pool_include_prefix: bool,
}

/// Reads timm's `config.json` in `folder`. A file there that is not timm's says nothing.
pub(super) fn timm(folder: &Path) -> Result<Described> {
    let path = folder.join(CONFIG_FILE);
    let Some(mut top) = read_json::<TimmConfig>(&path)? else { return Ok(Described::default()) };
    let Some(architecture) = top.architecture.take() else {
        log::warn!("{}: names no architecture, and is left out", path.display());
        return Ok(Described::default());
    };
    if let Some(what) = architectures::refused(&architecture) {
        return Err(Error::file(path, format!("{} is {what}, which is not computed here", quoted(&architecture))));
    }
    let inner = *top.pretrained_cfg.take().unwrap_or_default();
    let args = top.model_args.or(inner.model_args).unwrap_or_default();
    if args.pool_include_prefix {
        return Err(Error::file(path, "pooling of the prefix tokens too (pool_include_prefix) is not computed here"));
    }
    let pool = args.global_pool.or(top.global_pool).or(inner.global_pool);
    let crop_mode = top.crop_mode.or(inner.crop_mode).map(|name| way_named(&path, "crop_mode", &name));
    let interpolation = top.interpolation.or(inner.interpolation).map(|name| way_named(&path, "interpolation", &name));
    let input = top.input_size.or(inner.input_size).map(|[_, height, width]| (height, width));
    let names = top.label_names.or(inner.label_names);
    let patch = args.patch_size.map(|sides| square(&path, "patch_size", sides)).transpose()?;
    let claims = claims::<VitConfig, _>([
        ("model_args.embed_dim", args.embed_dim, |config| config.embed_dim),
        ("model_args.depth", args.depth, |config| config.depth),
        ("model_args.patch_size", patch, |config| config.patch_size),
    ]);
    let own_size = args.img_size.map(|side| (side.height, side.width));
    Ok(Described {
        hints: Hints {
            heads: args.num_heads.or_else(|| architectures::heads(&architecture)),
            img_size: own_size.or(input),
            global_pool: pool.map(|pool| pool_named(&path, &pool)).transpose()?.flatten(),
            normalize: normalization(&path, top.mean.or(inner.mean), top.std.or(inner.std))?,
            interpolation,
            crop_mode: crop_mode.unwrap_or_default(),
            // Of another width than its name stands for, it is another model.
            is_published: !architecture.starts_with("test_") && args.embed_dim.is_none(),
            init_values: args.init_values,
            final_norm: args.final_norm.or_else(|| architectures::final_norm(&architecture)),
            eps: architectures::eps(&architecture),
            rope_temperature: architectures::rope_temperature(&architecture)
                .map(|base| args.rope_temperature.unwrap_or(base)),
            ref_feat_shape: architectures::ref_feat_shape(&architecture)
                .map(|shape| args.ref_feat_shape.map_or(shape, |Sides { height, width }| (height, width))),
            act_layer: args.act_layer.or_else(|| architectures::activation(&architecture).map(Activation::Gelu)),
            architecture: Some(architecture),
            ..Hints::default()
        },
        class_names: names.and_then(|names| names.in_order(&path)),
        crop_fraction: fraction(&path, top.crop_pct.or(inner.crop_pct))?,
        shown: None,
        claims,
        own_heads: args.num_heads,
        own_size,
    })
}

/// A way to show pictures, by timm's name; in the place of one that is not here, the usual one.
fn way_named<W: DeserializeOwned + Default>(path: &Path, setting: &str, name: &str) -> W {
    W::deserialize(name.into_deserializer()).unwrap_or_else(|_: serde::de::value::Error| {
        log::warn!("{}: {setting} is {}, which is not done here; the usual one is", path.display(), quoted(name));
        W::default()
    })
}

/// timm's names of pooling; nothing for a model without a head.
fn pool_named(path: &Path, name: &str) -> Result<Option<Pool>> {
    match name {
        "" => Ok(None),
        "token" => Ok(Some(Pool::Token)),
        "avg" => Ok(Some(Pool::Avg)),
        "map" => Ok(Some(Pool::Map)),
        _ => Err(Error::file(path, format!("pooling {} is not computed here, only token, avg and map", quoted(name)))),
    }
}
