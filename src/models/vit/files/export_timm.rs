//! What timm is told of an exported model.

use serde::Serialize;

use super::layouts;
use crate::models::vit::{Pool, VitConfig};
use crate::ops::Gelu;
use crate::preprocess::{CropMode, Interpolation};

/// timm's `config.json`.
#[derive(Serialize)]
pub(super) struct TimmExport<'a> {
    architecture: &'static str,
    num_classes: usize,
    num_features: usize,
    global_pool: &'static str,
    label_names: &'a [String],
    model_args: Args,
    pretrained_cfg: TimmPretrained,
}

/// Of which class.
#[derive(Serialize)]
#[serde(untagged)]
enum Args {
    Vit(TimmExportArgs),
    DinoV3(DinoV3Args),
    Eva02(Eva02Args),
}

/// Arguments that both have.
#[derive(Serialize)]
struct Sizes {
    img_size: [usize; 2],
    patch_size: usize,
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    mlp_ratio: f64,
}

impl Sizes {
    fn new(config: &VitConfig) -> Self {
        Sizes {
            img_size: config.img_size.into(),
            patch_size: config.patch_size,
            embed_dim: config.embed_dim,
            depth: config.depth,
            num_heads: config.num_heads,
            mlp_ratio: ratio(config.hidden(), config.embed_dim),
        }
    }
}

/// Arguments of timm's `Eva`, for a DINOv3.
#[derive(Serialize)]
struct DinoV3Args {
    #[serde(flatten)]
    sizes: Sizes,
    class_token: bool,
    num_reg_tokens: usize,
    use_fc_norm: bool,
    init_values: Option<f32>,
    rope_temperature: Option<f32>,
    /// Of a gated MLP, of what its halves' width is rounded up to a multiple.
    #[serde(skip_serializing_if = "Option::is_none")]
    swiglu_align_to: Option<usize>,
    global_pool: &'static str,
}

impl DinoV3Args {
    fn new(config: &VitConfig, global_pool: &'static str) -> Self {
        DinoV3Args {
            // The ratio is that of a half here.
            sizes: Sizes { mlp_ratio: ratio(config.hidden_outputs(), config.embed_dim), ..Sizes::new(config) },
            class_token: config.class_token,
            num_reg_tokens: config.reg_tokens,
            use_fc_norm: config.has_fc_norm(),
            init_values: init_values(config),
            rope_temperature: config.rope_temperature,
            swiglu_align_to: config.gated_mlp.then_some(1),
            global_pool,
        }
    }
}

/// The same for an EVA-02, all that may differ from the architecture named.
#[derive(Serialize)]
struct Eva02Args {
    #[serde(flatten)]
    sizes: Sizes,
    qkv_bias: bool,
    qkv_fused: bool,
    swiglu_mlp: bool,
    scale_mlp: bool,
    scale_attn_inner: bool,
    class_token: bool,
    no_embed_class: bool,
    num_reg_tokens: usize,
    use_fc_norm: bool,
    init_values: Option<f32>,
    rope_temperature: Option<f32>,
    ref_feat_shape: Option<(usize, usize)>,
    global_pool: &'static str,
}

impl Eva02Args {
    fn new(config: &VitConfig, global_pool: &'static str) -> Self {
        Eva02Args {
            // The ratio is that of a half here, where there are two.
            sizes: Sizes { mlp_ratio: ratio(config.hidden_outputs(), config.embed_dim), ..Sizes::new(config) },
            qkv_bias: config.qkv_bias,
            qkv_fused: !layouts::is_apart(config),
            swiglu_mlp: config.gated_mlp,
            scale_mlp: config.scale_mlp_norm,
            scale_attn_inner: config.scale_attn_norm,
            class_token: config.class_token,
            no_embed_class: config.no_embed_class,
            num_reg_tokens: config.reg_tokens,
            use_fc_norm: config.has_fc_norm(),
            init_values: init_values(config),
            rope_temperature: config.rope_temperature,
            ref_feat_shape: config.ref_feat_shape,
            global_pool,
        }
    }
}

/// Arguments of timm's `VisionTransformer`, all that may differ from the architecture named.
#[derive(Serialize)]
struct TimmExportArgs {
    #[serde(flatten)]
    sizes: Sizes,
    qkv_bias: bool,
    class_token: bool,
    no_embed_class: bool,
    reg_tokens: usize,
    pre_norm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale_attn_norm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale_mlp_norm: Option<bool>,
    fc_norm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    final_norm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    act_layer: Option<&'static str>,
    /// Named in any case: the architecture of gated MLPs has one.
    init_values: Option<f32>,
    global_pool: &'static str,
}

/// What timm's layer scale begins with. To it 0 is none.
fn init_values(config: &VitConfig) -> Option<f32> {
    config.init_values.map(|value| if value == 0.0 { 1e-5 } else { value })
}

impl TimmExportArgs {
    fn new(config: &VitConfig, global_pool: &'static str) -> Self {
        TimmExportArgs {
            sizes: Sizes::new(config),
            qkv_bias: config.qkv_bias,
            class_token: config.class_token,
            no_embed_class: config.no_embed_class,
            reg_tokens: config.reg_tokens,
            pre_norm: config.pre_norm,
            scale_attn_norm: has_inner_norms(config).then_some(config.scale_attn_norm),
            scale_mlp_norm: has_inner_norms(config).then_some(config.scale_mlp_norm),
            fc_norm: config.has_fc_norm(),
            final_norm: (!config.final_norm).then_some(false),
            act_layer: match config.act_layer {
                // A gate has SiLU, whatever the configuration says.
                Gelu::Tanh if !config.gated_mlp => Some("gelu_tanh"),
                Gelu::Quick if !config.gated_mlp => Some("quick_gelu"),
                _ => None,
            },
            init_values: init_values(config),
            global_pool,
        }
    }
}

fn has_inner_norms(config: &VitConfig) -> bool {
    config.scale_attn_norm || config.scale_mlp_norm
}

#[derive(Serialize)]
struct TimmPretrained {
    input_size: [usize; 3],
    fixed_input_size: bool,
    num_classes: usize,
    interpolation: Interpolation,
    crop_pct: f64,
    crop_mode: CropMode,
    mean: [f32; 3],
    std: [f32; 3],
    first_conv: &'static str,
    classifier: Classifier,
}

/// A name or several.
#[derive(Serialize)]
#[serde(untagged)]
enum Classifier {
    One(&'static str),
    Two([&'static str; 2]),
}

/// Architectures of timm's whose settings are all overridden by the arguments, but for eps.
const PLAIN: &str = "vit_base_patch16_224";
const WITH_FIRST_NORM: &str = "vit_base_patch16_clip_224";
const ROTARY: &str = "vit_small_patch16_dinov3";
const ROTARY_WITH_BIASES: &str = "vit_small_patch16_dinov3_qkvb";
const ROTARY_GATED: &str = "vit_small_plus_patch16_dinov3";
const ROTARY_GATED_WITH_BIASES: &str = "vit_small_plus_patch16_dinov3_qkvb";
const ROTARY_AND_LEARNED: &str = "eva02_tiny_patch14_224";
const ROTARY_AND_LEARNED_NORMED: &str = "eva02_base_patch14_224";
const WITH_INNER_NORMS: &str = "beit3_base_patch16_224";
const GATED: &str = "vit_giant_patch14_dinov2";
const DISTILLED: &str = "deit_base_distilled_patch16_224";

impl<'a> TimmExport<'a> {
    pub(super) fn new(config: &VitConfig, names: &'a [String], crop_pct: f64) -> Self {
        let (height, width) = config.img_size;
        let global_pool = match config.global_pool {
            Pool::Avg => "avg",
            Pool::Map => "map",
            Pool::Token | Pool::TokenAvg => "token",
        };
        TimmExport {
            architecture: match config {
                VitConfig { ref_feat_shape: Some(_), scale_mlp_norm: true, .. } => ROTARY_AND_LEARNED_NORMED,
                VitConfig { ref_feat_shape: Some(_), .. } => ROTARY_AND_LEARNED,
                VitConfig { rope_temperature: Some(_), gated_mlp, qkv_bias, .. } => match (gated_mlp, qkv_bias) {
                    (false, false) => ROTARY,
                    (false, true) => ROTARY_WITH_BIASES,
                    (true, false) => ROTARY_GATED,
                    (true, true) => ROTARY_GATED_WITH_BIASES,
                },
                VitConfig { distilled: true, .. } => DISTILLED,
                VitConfig { gated_mlp: true, .. } => GATED,
                VitConfig { pre_norm: true, .. } => WITH_FIRST_NORM,
                config if has_inner_norms(config) => WITH_INNER_NORMS,
                _ => PLAIN,
            },
            num_classes: config.num_classes,
            num_features: config.embed_dim,
            global_pool,
            label_names: names,
            model_args: match config {
                VitConfig { ref_feat_shape: Some(_), .. } => Args::Eva02(Eva02Args::new(config, global_pool)),
                VitConfig { rope_temperature: Some(_), .. } => Args::DinoV3(DinoV3Args::new(config, global_pool)),
                _ => Args::Vit(TimmExportArgs::new(config, global_pool)),
            },
            pretrained_cfg: TimmPretrained {
                input_size: [3, height, width],
                fixed_input_size: true,
                num_classes: config.num_classes,
                interpolation: config.interpolation,
                crop_pct,
                crop_mode: config.crop_mode,
                mean: config.normalize.mean,
                std: config.normalize.std,
                first_conv: "patch_embed.proj",
                classifier: if config.distilled {
                    Classifier::Two(["head", "head_dist"])
                } else {
                    Classifier::One("head")
                },
            },
        }
    }

    /// What timm's norms of this architecture have.
    pub(super) fn eps(&self) -> f32 {
        let is_pytorchs = [WITH_FIRST_NORM, WITH_INNER_NORMS].contains(&self.architecture);
        if is_pytorchs || self.architecture.contains("_dinov3") { 1e-5 } else { 1e-6 }
    }
}

/// F / C such that int(C · ratio), as timm computes it, is F again.
pub(super) fn ratio(hidden: usize, width: usize) -> f64 {
    let ratio = hidden as f64 / width as f64;
    if ((width as f64 * ratio) as usize) < hidden { ratio.next_up() } else { ratio }
}
