//! The names of `ViTForImageClassification` and `Dinov2ForImageClassification` in transformers, and what they are in timm.

use super::infer::REFUSED;
use crate::checkpoint::{Checkpoint, Renaming};

/// Models of transformers, each with names and a function of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// transformers' `ViT` and `DeiT`.
    Vit,
    /// transformers' `Dinov2`.
    Dinov2,
    /// transformers' `Dinov2WithRegisters`.
    Dinov2WithRegisters,
}

impl Family {
    /// By the names, which have no prefixes any more; none if they are timm's.
    pub(super) fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let names = || checkpoint.tensors.keys().chain(checkpoint.skipped.keys());
        let is_of_a_dinov2 = |name: &String| name.starts_with(DINOV2.blocks.0) && name.contains(".layer_scale1.");
        let is_theirs = names().any(|name| name.starts_with("embeddings.patch_embeddings."));
        is_theirs.then(|| {
            if !names().any(is_of_a_dinov2) {
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
            Family::Dinov2 => &DINOV2,
            Family::Dinov2WithRegisters => &DINOV2_WITH_REGISTERS,
        }
    }

    /// Whether it is one of the two with layer scale and a head on class token and mean.
    pub(super) fn is_dinov2(self) -> bool {
        matches!(self, Family::Dinov2 | Family::Dinov2WithRegisters)
    }
}

/// A name of theirs, and ours.
type Pair = (&'static str, &'static str);

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

/// q, k and v are packed in timm's names, and apart in transformers'.
const VIT: Renaming = Renaming {
    model: "transformers' ViTForImageClassification",
    place: "vit.",
    outside: &["classifier."],
    outer: &OUTER,
    blocks: ("encoder.layer.", "blocks."),
    layers: &[
        ("layernorm_before", "norm1"),
        ("attention.output.dense", "attn.proj"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ],
    tensors: &[],
    packed: &[(&["attention.attention.query", "attention.attention.key", "attention.attention.value"], "attn.qkv")],
    // A layer for another task, and a token of pretraining.
    ignored: &["pooler.", "embeddings.mask_token"],
    refused: &REFUSED,
};

/// Register tokens.
const REGISTERS: Pair = ("embeddings.register_tokens", "reg_token");

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
    ],
    tensors: &[("layer_scale1.lambda1", "ls1.gamma"), ("layer_scale2.lambda1", "ls2.gamma")],
    packed: &[
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

/// What each ViT has once, in timm's names and in transformers'.
pub(super) const LANDMARKS: [&str; 2] = ["patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"];
