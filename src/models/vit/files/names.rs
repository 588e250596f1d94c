//! The names of `ViTForImageClassification` in transformers, and what they are in timm.

use super::infer::REFUSED;
use crate::checkpoint::{Checkpoint, Renaming};

/// q, k and v are packed in timm's names, and apart in transformers'.
pub(super) const HUGGINGFACE: Renaming = Renaming {
    model: "transformers' ViTForImageClassification",
    place: "vit.",
    outside: &["classifier."],
    outer: &[
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
        ("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
        ("layernorm.weight", "norm.weight"),
        ("layernorm.bias", "norm.bias"),
        ("classifier.weight", "head.weight"),
        ("classifier.bias", "head.bias"),
    ],
    blocks: ("encoder.layer.", "blocks."),
    layers: &[
        ("layernorm_before", "norm1"),
        ("attention.output.dense", "attn.proj"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ],
    packed: &[(&["attention.attention.query", "attention.attention.key", "attention.attention.value"], "attn.qkv")],
    // A layer for another task, and a token of pretraining.
    ignored: &["pooler.", "embeddings.mask_token"],
    refused: &REFUSED,
};

/// What each ViT has once, in timm's names and in transformers'.
pub(super) const LANDMARKS: [&str; 2] = ["patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"];

/// Whether the names, which have no prefixes any more, are those of transformers.
pub(super) fn is_theirs(checkpoint: &Checkpoint) -> bool {
    let names = checkpoint.tensors.keys().chain(checkpoint.skipped.keys());
    names.into_iter().any(|name| name.starts_with("embeddings.patch_embeddings."))
}
