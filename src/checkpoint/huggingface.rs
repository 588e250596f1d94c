//! The names of `ViTForImageClassification` in transformers, and what they are in timm.

use std::collections::BTreeMap;

use super::infer::refusal;
use super::{Checkpoint, HostTensor, READ, quoted};
use crate::error::{Error, Result};

/// Parts outside the blocks: theirs, timm's.
const PARTS: [(&str, &str); 8] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
    ("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
    ("layernorm.weight", "norm.weight"),
    ("layernorm.bias", "norm.bias"),
    ("classifier.weight", "head.weight"),
    ("classifier.bias", "head.bias"),
];

/// Layers of a block: theirs, timm's.
const LAYERS: [(&str, &str); 5] = [
    ("layernorm_before", "norm1"),
    ("attention.output.dense", "attn.proj"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];

/// The three layers that timm packs into `attn.qkv`, in its order.
const QKV: [&str; 3] = ["attention.attention.query", "attention.attention.key", "attention.attention.value"];

/// What is not used: a layer for another task, and a token of pretraining.
const IGNORED: [&str; 2] = ["pooler.", "embeddings.mask_token"];

/// What becomes of one of their tensors.
enum Renamed {
    To(String),
    /// Part number `part` of the packed tensor of this name.
    Packed {
        name: String,
        part: usize,
    },
    Ignored,
    Unknown,
}

fn rename(name: &str) -> Renamed {
    if IGNORED.iter().any(|ignored| name.starts_with(ignored)) {
        return Renamed::Ignored;
    }
    if let Some((_, ours)) = PARTS.iter().find(|(theirs, _)| *theirs == name) {
        return Renamed::To((*ours).to_owned());
    }
    let in_block = || {
        let (block, rest) = name.strip_prefix("encoder.layer.")?.split_once('.')?;
        let (layer, kind) = rest.rsplit_once('.')?;
        matches!(kind, "weight" | "bias").then_some((block, layer, kind))
    };
    let Some((block, layer, kind)) = in_block() else { return Renamed::Unknown };
    if let Some((_, ours)) = LAYERS.iter().find(|(theirs, _)| *theirs == layer) {
        return Renamed::To(format!("blocks.{block}.{ours}.{kind}"));
    }
    match QKV.iter().position(|theirs| *theirs == layer) {
        Some(part) => Renamed::Packed { name: format!("blocks.{block}.attn.qkv.{kind}"), part },
        None => Renamed::Unknown,
    }
}

/// Whether the names, which have no prefixes any more, are those of transformers.
pub(super) fn is_theirs(checkpoint: &Checkpoint) -> bool {
    let names = checkpoint.tensors.keys().chain(checkpoint.skipped.keys());
    names.into_iter().any(|name| name.starts_with("embeddings.patch_embeddings."))
}

/// The same weights under timm's names, q, k and v packed.
///
/// # Errors
/// [`Error::Parameter`] for a tensor that is not a part of this model, is of a type that is not read, or does not fit its
/// siblings.
pub(super) fn to_timm(theirs: Checkpoint) -> Result<Checkpoint> {
    let mut ours = Checkpoint { metadata: theirs.metadata, ..Checkpoint::default() };
    let mut unknown = Vec::new();
    let mut packed: BTreeMap<String, [Option<HostTensor>; 3]> = BTreeMap::new();
    for (name, tensor) in theirs.tensors {
        match rename(&name) {
            Renamed::To(to) => drop(ours.tensors.insert(to, tensor)),
            Renamed::Packed { name, part } => packed.entry(name).or_default()[part] = Some(tensor),
            Renamed::Ignored => {}
            Renamed::Unknown => unknown.push(name),
        }
    }
    if let Some(first) = unknown.first() {
        let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
        return Err(match refusal(&names) {
            Some((name, reason)) => parameter(name, &format!("belongs to {reason}, which is not computed here")),
            None => parameter(first, "is not a part of transformers' ViTForImageClassification"),
        });
    }
    for (name, skipped) in theirs.skipped {
        match rename(&name) {
            Renamed::To(to) => drop(ours.skipped.insert(to, skipped)),
            Renamed::Packed { .. } => {
                return Err(parameter(&name, &format!("is {skipped}, which is not read: {READ} are")));
            }
            Renamed::Ignored => {}
            Renamed::Unknown => drop(ours.skipped.insert(name, skipped)),
        }
    }
    for (name, parts) in packed {
        let tensor = pack(&name, parts)?;
        ours.tensors.insert(name, tensor);
    }
    Ok(ours)
}

/// q, k and v, each `[C, C]` or `[C]`, below each other.
fn pack(name: &str, parts: [Option<HostTensor>; 3]) -> Result<HostTensor> {
    let [Some(q), Some(k), Some(v)] = parts else {
        return Err(parameter(name, "cannot be packed: one of query, key and value is missing"));
    };
    if q.shape != k.shape || q.shape != v.shape || q.shape.is_empty() {
        let what = format!("cannot be packed: query {:?}, key {:?} and value {:?}", q.shape, k.shape, v.shape);
        return Err(parameter(name, &what));
    }
    let mut shape = q.shape;
    shape[0] = shape[0].saturating_mul(3);
    Ok(HostTensor { shape, data: [q.data, k.data, v.data].concat() })
}

fn parameter(name: &str, what: &str) -> Error {
    Error::Parameter { name: quoted(name), what: what.to_owned() }
}

/// timm's tensors under transformers' names, q, k and v apart.
///
/// # Errors
/// [`Error::Parameter`] for a tensor that they have no name for.
pub(super) fn from_timm(ours: BTreeMap<String, HostTensor>) -> Result<BTreeMap<String, HostTensor>> {
    let mut theirs = BTreeMap::new();
    for (name, tensor) in ours {
        if let Some((to, _)) = PARTS.iter().find(|(_, timm)| *timm == name) {
            let prefix = if to.starts_with("classifier.") { "" } else { "vit." };
            theirs.insert(format!("{prefix}{to}"), tensor);
            continue;
        }
        let no_name = || parameter(&name, "has no place in transformers' ViTForImageClassification");
        let (block, rest) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')).ok_or_else(no_name)?;
        let (layer, kind) = rest.rsplit_once('.').ok_or_else(no_name)?;
        let their_name = |layer: &str| format!("vit.encoder.layer.{block}.{layer}.{kind}");
        if let Some((to, _)) = LAYERS.iter().find(|(_, timm)| *timm == layer) {
            theirs.insert(their_name(to), tensor);
        } else if layer == "attn.qkv" && tensor.shape.first().is_some_and(|rows| rows.is_multiple_of(3)) {
            let mut shape = tensor.shape.clone();
            shape[0] /= 3;
            let parts = tensor.data.chunks(shape.iter().product::<usize>().max(1));
            theirs.extend(
                QKV.iter()
                    .zip(parts)
                    .map(|(to, data)| (their_name(to), HostTensor { shape: shape.clone(), data: data.to_vec() })),
            );
        } else {
            return Err(no_name());
        }
    }
    Ok(theirs)
}
