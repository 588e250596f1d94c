//! What transformers is told of an exported model.

use std::collections::BTreeMap;

use serde::Serialize;

use super::hf_json::resample;
use super::names::Family;
use crate::checkpoint::Storage;
use crate::models::library::dtype;
use crate::models::vit::VitConfig;
use crate::ops::Gelu;
use crate::preprocess::{CropMode, resized_side};

/// A number for a square, else height and width.
#[derive(Serialize)]
#[serde(untagged)]
enum Side {
    Both(usize),
    Each([usize; 2]),
}

impl Side {
    fn new((height, width): (usize, usize)) -> Self {
        if height == width { Side::Both(height) } else { Side::Each([height, width]) }
    }
}

/// transformers' `config.json`.
#[derive(Serialize)]
pub(super) struct HfExport<'a> {
    architectures: [&'static str; 1],
    model_type: &'static str,
    #[serde(flatten)]
    place: HfPlace,
    id2label: BTreeMap<usize, &'a str>,
    label2id: BTreeMap<&'a str, usize>,
    dtype: &'static str,
}

/// Where the sizes stand: by themselves, or beside those of a tower for texts.
#[derive(Serialize)]
#[serde(untagged)]
enum HfPlace {
    Alone(HfSizes),
    Tower { vision_config: HfSizes },
}

#[derive(Serialize)]
struct HfSizes {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(flatten)]
    own: HfOwn,
    hidden_act: &'static str,
    layer_norm_eps: f32,
    image_size: Side,
    patch_size: usize,
    num_channels: usize,
}

/// What only some models are told.
#[derive(Serialize)]
#[serde(untagged)]
enum HfOwn {
    Vit {
        intermediate_size: usize,
        qkv_bias: bool,
        hidden_dropout_prob: f32,
        attention_probs_dropout_prob: f32,
    },
    Dinov2 {
        mlp_ratio: usize,
        layerscale_value: f32,
        use_swiglu_ffn: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        num_register_tokens: Option<usize>,
        qkv_bias: bool,
        hidden_dropout_prob: f32,
        attention_probs_dropout_prob: f32,
    },
    Dinov3 {
        intermediate_size: usize,
        layerscale_value: f32,
        num_register_tokens: usize,
        rope_theta: f32,
        query_bias: bool,
        key_bias: bool,
        value_bias: bool,
        use_gated_mlp: bool,
    },
    Tower {
        model_type: &'static str,
        intermediate_size: usize,
        attention_dropout: f32,
        /// Of SigLIP, whether it has attention pooling, which its classifier does not read.
        #[serde(skip_serializing_if = "Option::is_none")]
        vision_use_head: Option<bool>,
    },
}

impl HfOwn {
    fn new(config: &VitConfig, family: Family) -> Self {
        let (intermediate_size, qkv_bias) = (config.hidden_outputs(), config.qkv_bias);
        let (hidden_dropout_prob, attention_probs_dropout_prob) = (0.0, 0.0);
        match family {
            Family::Vit | Family::Deit => {
                HfOwn::Vit { intermediate_size, qkv_bias, hidden_dropout_prob, attention_probs_dropout_prob }
            }
            Family::Dinov2 | Family::Dinov2WithRegisters => HfOwn::Dinov2 {
                // There is one: [`super::export::family`] has looked.
                mlp_ratio: mlp_ratio(config).unwrap_or_default(),
                layerscale_value: config.init_values.unwrap_or(1.0),
                use_swiglu_ffn: config.gated_mlp,
                num_register_tokens: (family == Family::Dinov2WithRegisters).then_some(config.reg_tokens),
                qkv_bias,
                hidden_dropout_prob,
                attention_probs_dropout_prob,
            },
            Family::Dinov3 { gated } => HfOwn::Dinov3 {
                intermediate_size,
                layerscale_value: config.init_values.unwrap_or(1.0),
                num_register_tokens: config.reg_tokens,
                rope_theta: config.rope_temperature.unwrap_or(100.0),
                query_bias: config.qkv_bias,
                key_bias: false,
                value_bias: config.qkv_bias,
                use_gated_mlp: gated,
            },
            Family::Clip => HfOwn::Tower {
                model_type: "clip_vision_model",
                intermediate_size,
                attention_dropout: 0.0,
                vision_use_head: None,
            },
            Family::Siglip | Family::SiglipTower => HfOwn::Tower {
                model_type: "siglip_vision_model",
                intermediate_size,
                attention_dropout: 0.0,
                vision_use_head: Some(false),
            },
        }
    }
}

impl<'a> HfExport<'a> {
    pub(super) fn new(config: &VitConfig, family: Family, names: &'a [String], storage: Storage) -> Self {
        let sizes = HfSizes {
            hidden_size: config.embed_dim,
            num_hidden_layers: config.depth,
            num_attention_heads: config.num_heads,
            own: HfOwn::new(config, family),
            hidden_act: match config.act_layer {
                _ if family == (Family::Dinov3 { gated: true }) => "silu",
                Gelu::Erf => "gelu",
                Gelu::Tanh => "gelu_pytorch_tanh",
                Gelu::Quick => "quick_gelu",
            },
            layer_norm_eps: config.eps,
            image_size: Side::new(config.img_size),
            patch_size: config.patch_size,
            num_channels: 3,
        };
        let (model_type, place) = match family {
            Family::Vit => ("vit", HfPlace::Alone(sizes)),
            Family::Deit => ("deit", HfPlace::Alone(sizes)),
            Family::Dinov2 => ("dinov2", HfPlace::Alone(sizes)),
            Family::Dinov2WithRegisters => ("dinov2_with_registers", HfPlace::Alone(sizes)),
            Family::Dinov3 { .. } => ("dinov3_vit", HfPlace::Alone(sizes)),
            Family::Clip => ("clip", HfPlace::Tower { vision_config: sizes }),
            Family::Siglip | Family::SiglipTower => ("siglip", HfPlace::Tower { vision_config: sizes }),
        };
        HfExport {
            architectures: [family.architecture()],
            model_type,
            place,
            id2label: names.iter().map(String::as_str).enumerate().collect(),
            // Of equal names the first.
            label2id: names.iter().map(String::as_str).enumerate().rev().map(|(i, name)| (name, i)).collect(),
            dtype: dtype(storage),
        }
    }
}

/// transformers' `preprocessor_config.json`.
#[derive(Serialize)]
pub(super) struct HfPreprocessor {
    image_processor_type: &'static str,
    do_resize: bool,
    size: BTreeMap<&'static str, usize>,
    #[serde(flatten)]
    crop: Option<HfCrop>,
    resample: u32,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

/// A crop of the middle.
#[derive(Serialize)]
struct HfCrop {
    do_center_crop: bool,
    crop_size: BTreeMap<&'static str, usize>,
}

impl HfPreprocessor {
    pub(super) fn new(config: &VitConfig, family: Family, crop_pct: f64) -> Self {
        let (height, width) = config.img_size;
        let whole = |side: usize| resized_side(side, crop_pct);
        let both = |height: usize, width: usize| BTreeMap::from([("height", height), ("width", width)]);
        let larger = || both(whole(height), whole(width));
        let (image_processor_type, size, is_cropped) = match (config.crop_mode, family) {
            (CropMode::Center, _) => {
                let name = if family == Family::Clip { "CLIPImageProcessor" } else { "BitImageProcessor" };
                (name, BTreeMap::from([("shortest_edge", whole(height.min(width)))]), true)
            }
            (CropMode::Squash, Family::Deit) => ("DeiTImageProcessor", larger(), true),
            // Others resize to the size that they show.
            (CropMode::Squash, _) if whole(height) > height => ("DeiTImageProcessor", larger(), true),
            (CropMode::Squash, Family::Dinov3 { .. }) => ("DINOv3ViTImageProcessor", both(height, width), false),
            (CropMode::Squash, Family::Siglip | Family::SiglipTower) => {
                ("SiglipImageProcessor", both(height, width), false)
            }
            (CropMode::Squash, _) => ("ViTImageProcessor", both(height, width), false),
        };
        let crop = is_cropped.then(|| HfCrop { do_center_crop: true, crop_size: both(height, width) });
        HfPreprocessor {
            image_processor_type,
            do_resize: true,
            size,
            crop,
            resample: resample(config.interpolation),
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: config.normalize.mean,
            image_std: config.normalize.std,
        }
    }
}

/// F / C, where that is a whole number, as transformers' Dinov2 has it; of a gated MLP the number of whose C-fold two thirds, rounded up
/// to a multiple of eight, are a half.
pub(super) fn mlp_ratio(config: &VitConfig) -> Option<usize> {
    let (width, outputs) = (config.embed_dim, config.hidden_outputs());
    let of = |ratio: usize| if config.gated_mlp { (2 * width * ratio / 3).next_multiple_of(8) } else { width * ratio };
    (1..=64).find(|&ratio| of(ratio) == outputs)
}
