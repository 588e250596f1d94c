//! The names of transformers' models, and what they are in timm.

use super::infer::REFUSED;
use super::positions::Resampling;
use crate::checkpoint::{Checkpoint, Pair, Renaming};
use crate::ops::Normalize;
use crate::preprocess::{CropMode, Interpolation};

/// Models of transformers, each with names and a function of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// transformers' `ViT`.
    Vit,
    /// transformers' `DeiT`, which has a distillation token.
    Deit,
    /// transformers' `Dinov2`.
    Dinov2,
    /// transformers' `Dinov2WithRegisters`.
    Dinov2WithRegisters,
    /// transformers' `DINOv3ViT`; its larger models have gated MLPs, whose layers have other names.
    Dinov3 { gated: bool },
    /// The tower of pictures of transformers' `CLIP`.
    Clip,
    /// The same of its `Siglip`, with a classifier, which reads the mean of the patches.
    Siglip,
    /// Without one: what attention pooling gives.
    SiglipTower,
}

impl Family {
    /// By the names, which have no prefixes any more; none if they are timm's.
    pub(super) fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let names = || checkpoint.tensors.keys().chain(checkpoint.skipped.keys());
        let is_of_a_dinov2 = |name: &String| name.starts_with(DINOV2.blocks.0) && name.contains(".layer_scale1.");
        if names().any(|name| name == DINOV3_PATCHES.0) {
            return Some(Family::Dinov3 { gated: names().any(|name| name.contains(".mlp.gate_proj.")) });
        }
        if names().any(|name| name == CLIP_PATCHES) {
            let has = |name: &str| names().any(|own| own == name);
            return Some(match (has(CLIP_TOKEN.0), has("classifier.weight"), has("head.probe")) {
                (true, ..) => Family::Clip,
                (false, false, true) => Family::SiglipTower,
                _ => Family::Siglip,
            });
        }
        let is_theirs = names().any(|name| name.starts_with("embeddings.patch_embeddings."));
        is_theirs.then(|| {
            if names().any(|name| name == DISTILLATION.0) {
                Family::Deit
            } else if !names().any(is_of_a_dinov2) {
                Family::Vit
            } else if names().any(|name| name == REGISTERS.0) {
                Family::Dinov2WithRegisters
            } else {
                Family::Dinov2
            }
        })
    }

    /// Its names.
    pub(super) fn renaming(self) -> &'static Renaming {
        match self {
            Family::Vit => &VIT,
            Family::Deit => &DEIT,
            Family::Dinov2 => &DINOV2,
            Family::Dinov2WithRegisters => &DINOV2_WITH_REGISTERS,
            Family::Dinov3 { gated: false } => &DINOV3,
            Family::Dinov3 { gated: true } => &DINOV3_GATED,
            Family::Clip => &CLIP,
            Family::Siglip => &SIGLIP,
            Family::SiglipTower => &SIGLIP_TOWER,
        }
    }

    /// What the pictures of its published models are normalised with.
    pub(super) fn normalize(self) -> Normalize {
        match self {
            Family::Vit | Family::Siglip | Family::SiglipTower => Normalize::INCEPTION,
            Family::Deit | Family::Dinov2 | Family::Dinov2WithRegisters | Family::Dinov3 { .. } => Normalize::IMAGENET,
            Family::Clip => Normalize::CLIP,
        }
    }

    /// How the library cuts them, and the share of a side that is shown, where their files do not say.
    pub(super) fn crop(self) -> (CropMode, f64) {
        match self {
            Family::Vit | Family::Siglip | Family::SiglipTower | Family::Dinov3 { .. } => (CropMode::Squash, 1.0),
            Family::Deit => (CropMode::Squash, 0.875),
            Family::Dinov2 | Family::Dinov2WithRegisters => (CropMode::Center, 0.875),
            Family::Clip => (CropMode::Center, 1.0),
        }
    }

    /// How the library resizes the pictures of its published models, where their files do not say.
    pub(super) fn interpolation(self) -> Interpolation {
        match self {
            Family::Vit | Family::Dinov3 { .. } => Interpolation::Bilinear,
            Family::Deit
            | Family::Dinov2
            | Family::Dinov2WithRegisters
            | Family::Clip
            | Family::Siglip
            | Family::SiglipTower => Interpolation::Bicubic,
        }
    }

    /// The class with a head for pictures.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Family::Vit => "ViTForImageClassification",
            Family::Deit => "DeiTForImageClassificationWithTeacher",
            Family::Dinov2 => "Dinov2ForImageClassification",
            Family::Dinov2WithRegisters => "Dinov2WithRegistersForImageClassification",
            Family::Dinov3 { .. } => "DINOv3ViTModel",
            Family::Clip => "CLIPForImageClassification",
            Family::Siglip => "SiglipForImageClassification",
            Family::SiglipTower => "SiglipVisionModel",
        }
    }

    /// How the library resamples its positions.
    pub(super) fn resampling(self) -> Resampling {
        match self {
            Family::Dinov2WithRegisters | Family::Dinov3 { .. } => Resampling::Antialiased,
            Family::Vit | Family::Deit | Family::Dinov2 | Family::Clip | Family::Siglip | Family::SiglipTower => {
                Resampling::Plain
            }
        }
    }

    /// Whether it is one of the two with layer scale and a head on class token and mean.
    pub(super) fn is_dinov2(self) -> bool {
        matches!(self, Family::Dinov2 | Family::Dinov2WithRegisters)
    }

    pub(super) fn is_dinov3(self) -> bool {
        matches!(self, Family::Dinov3 { .. })
    }
}

/// Tensors outside the blocks.
const OUTER: [Pair; 8] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
    ("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
    ("layernorm.weight", "norm.weight"),
    ("layernorm.bias", "norm.bias"),
    ("classifier.weight", "head.weight"),
    ("classifier.bias", "head.bias"),
];

/// q, k and v are packed in timm's names, and apart in transformers'. With the names of published files, and those that transformers has
/// used in memory since its version 5.
const VIT: Renaming = Renaming {
    model: "transformers' ViTForImageClassification",
    place: "vit.",
    outside: &["classifier."],
    outer: &OUTER,
    blocks: ("encoder.layer.", "blocks."),
    layers: &[
        ("layernorm_before", "norm1"),
        ("attention.output.dense", "attn.proj"),
        ("attention.o_proj", "attn.proj"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("mlp.fc1", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("mlp.fc2", "mlp.fc2"),
    ],
    tensors: &[],
    packed: &[
        (&["attention.attention.query", "attention.attention.key", "attention.attention.value"], "attn.qkv"),
        (&["attention.q_proj", "attention.k_proj", "attention.v_proj"], "attn.qkv"),
    ],
    // A layer for another task, and a token of pretraining.
    ignored: &["pooler.", "embeddings.mask_token"],
    refused: &REFUSED,
};

const DISTILLATION: Pair = ("embeddings.distillation_token", "dist_token");

/// Tensors outside the blocks of a DeiT; [`OUTER`]'s follow, of a model without the second head.
const OUTER_OF_DEIT: [Pair; 13] = {
    let mut pairs = [DISTILLATION; 13];
    pairs[1] = ("cls_classifier.weight", "head.weight");
    pairs[2] = ("cls_classifier.bias", "head.bias");
    pairs[3] = ("distillation_classifier.weight", "head_dist.weight");
    pairs[4] = ("distillation_classifier.bias", "head_dist.bias");
    pairs.split_at_mut(5).1.copy_from_slice(&OUTER);
    pairs
};

const DEIT: Renaming = Renaming {
    model: "transformers' DeiTForImageClassificationWithTeacher",
    place: "deit.",
    outside: &["classifier.", "cls_classifier.", "distillation_classifier."],
    outer: &OUTER_OF_DEIT,
    ..VIT
};

/// Register tokens.
const REGISTERS: Pair = ("embeddings.register_tokens", "reg_token");

/// Layers of a gated MLP in Dinov2.
pub(super) const GATED: [Pair; 2] = [("mlp.weights_in", "mlp.fc1"), ("mlp.weights_out", "mlp.fc2")];

/// With the names of published files, and those that transformers has used in memory since its version 5.
const DINOV2: Renaming = Renaming {
    model: "transformers' Dinov2ForImageClassification",
    place: "dinov2.",
    layers: &[
        ("norm1", "norm1"),
        ("attention.output.dense", "attn.proj"),
        ("attention.o_proj", "attn.proj"),
        ("norm2", "norm2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
        GATED[0],
        GATED[1],
        ("mlp.down_proj", "mlp.fc2"),
    ],
    tensors: &[("layer_scale1.lambda1", "ls1.gamma"), ("layer_scale2.lambda1", "ls2.gamma")],
    packed: &[
        (&["mlp.gate_proj", "mlp.up_proj"], "mlp.fc1"),
        (&["attention.attention.query", "attention.attention.key", "attention.attention.value"], "attn.qkv"),
        (&["attention.q_proj", "attention.k_proj", "attention.v_proj"], "attn.qkv"),
    ],
    ..VIT
};

/// The same with registers.
const OUTER_WITH_REGISTERS: [Pair; 9] = {
    let mut pairs = [REGISTERS; 9];
    pairs.split_at_mut(8).0.copy_from_slice(&OUTER);
    pairs
};

const DINOV2_WITH_REGISTERS: Renaming = Renaming {
    model: "transformers' Dinov2WithRegistersForImageClassification",
    place: "dinov2_with_registers.",
    outer: &OUTER_WITH_REGISTERS,
    ..DINOV2
};

const DINOV3_PATCHES: Pair = ("embeddings.patch_embeddings.weight", "patch_embed.proj.weight");

/// Its file has no classifier; one of whoever has trained it may stand there.
const DINOV3: Renaming = Renaming {
    model: "transformers' DINOv3ViTModel",
    place: "",
    outer: &[
        ("embeddings.cls_token", "cls_token"),
        REGISTERS,
        DINOV3_PATCHES,
        ("embeddings.patch_embeddings.bias", "patch_embed.proj.bias"),
        ("norm.weight", "norm.weight"),
        ("norm.bias", "norm.bias"),
        ("classifier.weight", "head.weight"),
        ("classifier.bias", "head.bias"),
    ],
    blocks: ("layer.", "blocks."),
    layers: &[
        ("norm1", "norm1"),
        ("attention.o_proj", "attn.proj"),
        ("norm2", "norm2"),
        ("mlp.up_proj", "mlp.fc1"),
        ("mlp.down_proj", "mlp.fc2"),
    ],
    tensors: &[
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("attention.q_proj.bias", "attn.q_bias"),
        ("attention.v_proj.bias", "attn.v_bias"),
    ],
    packed: &[(&["attention.q_proj", "attention.k_proj", "attention.v_proj"], "attn.qkv")],
    ..VIT
};

/// ViT-S+, ViT-H+ and ViT-7B.
const DINOV3_GATED: Renaming = Renaming {
    layers: &[("norm1", "norm1"), ("attention.o_proj", "attn.proj"), ("norm2", "norm2"), ("mlp.down_proj", "mlp.fc2")],
    packed: &[
        (&["mlp.gate_proj", "mlp.up_proj"], "mlp.fc1"),
        (&["attention.q_proj", "attention.k_proj", "attention.v_proj"], "attn.qkv"),
    ],
    ..DINOV3
};

const CLIP_PATCHES: &str = "embeddings.patch_embedding.weight";
const CLIP_TOKEN: Pair = ("embeddings.class_embedding", "cls_token");

/// Tensors outside the blocks of a SigLIP, and, behind them, what only a CLIP has. Its first norm is spelt so.
const OUTER_OF_TOWERS: [Pair; 10] = [
    (CLIP_PATCHES, "patch_embed.proj.weight"),
    ("embeddings.patch_embedding.bias", "patch_embed.proj.bias"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("post_layernorm.weight", "norm.weight"),
    ("post_layernorm.bias", "norm.bias"),
    ("classifier.weight", "head.weight"),
    ("classifier.bias", "head.bias"),
    CLIP_TOKEN,
    ("pre_layrnorm.weight", "norm_pre.weight"),
    ("pre_layrnorm.bias", "norm_pre.bias"),
];

const CLIP: Renaming = Renaming {
    model: "transformers' CLIPForImageClassification",
    place: "vision_model.",
    outside: &["classifier."],
    outer: &OUTER_OF_TOWERS,
    blocks: ("encoder.layers.", "blocks."),
    layers: &[
        ("layer_norm1", "norm1"),
        ("self_attn.out_proj", "attn.proj"),
        ("layer_norm2", "norm2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ],
    tensors: &[],
    packed: &[(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "attn.qkv")],
    ignored: &["embeddings.position_ids", "text_model.", "text_projection.", "visual_projection.", "logit_scale"],
    refused: &REFUSED,
};

const SIGLIP: Renaming = Renaming {
    model: "transformers' SiglipForImageClassification",
    outer: OUTER_OF_TOWERS.split_at(7).0,
    ignored: &["embeddings.position_ids", "text_model.", "logit_scale", "logit_bias", "head."],
    ..CLIP
};

/// Queries, keys and values of attention pooling, which are one tensor there, get their places in `layouts`.
const SIGLIP_TOWER: Renaming = Renaming {
    model: "transformers' SiglipVisionModel",
    outer: &[
        OUTER_OF_TOWERS[0],
        OUTER_OF_TOWERS[1],
        OUTER_OF_TOWERS[2],
        OUTER_OF_TOWERS[3],
        OUTER_OF_TOWERS[4],
        ("head.probe", "attn_pool.latent"),
        ("head.attention.in_proj_weight", "attn_pool.qkv.weight"),
        ("head.attention.in_proj_bias", "attn_pool.qkv.bias"),
        ("head.attention.out_proj.weight", "attn_pool.proj.weight"),
        ("head.attention.out_proj.bias", "attn_pool.proj.bias"),
        ("head.layernorm.weight", "attn_pool.norm.weight"),
        ("head.layernorm.bias", "attn_pool.norm.bias"),
        ("head.mlp.fc1.weight", "attn_pool.mlp.fc1.weight"),
        ("head.mlp.fc1.bias", "attn_pool.mlp.fc1.bias"),
        ("head.mlp.fc2.weight", "attn_pool.mlp.fc2.weight"),
        ("head.mlp.fc2.bias", "attn_pool.mlp.fc2.bias"),
    ],
    ignored: &["embeddings.position_ids", "text_model.", "logit_scale", "logit_bias"],
    ..SIGLIP
};

/// What each ViT has once, in timm's names and in transformers'.
pub(super) const LANDMARKS: [&str; 4] =
    ["patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight", DINOV3_PATCHES.0, CLIP_PATCHES];

/// Of what a model does without, what changes nothing: a token of pretraining, and numbers in a row.
const HARMLESS: [&str; 2] = ["embeddings.mask_token", "embeddings.position_ids"];

/// Says what of a file is left out, since the model that is read does not compute with it.
pub(super) fn report_ignored(checkpoint: &Checkpoint, renaming: &Renaming) {
    for beginning in renaming.ignored {
        let names = checkpoint.tensors.keys().chain(checkpoint.skipped.keys());
        let count = names.filter(|name| name.starts_with(beginning)).count();
        let level = if HARMLESS.contains(beginning) { log::Level::Info } else { log::Level::Warn };
        if count > 0 {
            log::log!(level, "{beginning} ({count} tensors) is no part of {}, and is left out", renaming.model);
        }
    }
}
