//! The same function in the layout of another library: positions and heads that it has no other place for.

use std::collections::BTreeMap;

use super::infer::Hints;
use super::names::GATED;
use crate::checkpoint::{Checkpoint, HostTensor, Packing, cut, fault};
use crate::error::Result;
use crate::models::vit::{Pool, VitConfig};

type Tensors = BTreeMap<String, HostTensor>;

/// Layer scale, as timm's Eva calls it, of which its DINOv3 are, and as its ViT does.
const SCALES: [(&str, &str); 2] = [(".gamma_1", ".ls1.gamma"), (".gamma_2", ".ls2.gamma")];

// The gate, what it lets through, and the layer that has both here and in timm's ViTs: its DINOv3s with gated MLPs have two.
const GATE: &str = ".mlp.fc1_g.";
const UP: &str = ".mlp.fc1_x.";
const PACKED: &str = ".mlp.fc1.";

/// Gives the layer scales of timm's DINOv3 the names that they have in its ViTs, and packs the first layers of gated MLPs.
///
/// # Errors
/// [`crate::Error::Parameter`] for a gate without the layer beside it, or of another shape.
pub(super) fn from_dinov3(tensors: &mut Tensors) -> Result<()> {
    rename_ends(tensors, SCALES);
    let gates: Vec<String> = tensors.keys().filter(|name| name.contains(GATE)).cloned().collect();
    for gate in gates {
        let packed = gate.replace(GATE, PACKED);
        if tensors.contains_key(&packed) {
            return Err(fault(&packed, "is there beside its parts"));
        }
        let found = vec![tensors.remove(&gate), tensors.remove(&gate.replace(GATE, UP))];
        let tensor = Packing { names: &["fc1_g", "fc1_x"], found }.pack(&packed)?;
        tensors.insert(packed, tensor);
    }
    Ok(())
}

/// A gated MLP's layers have names of their own in transformers' Dinov2.
pub(super) fn rename_gated(tensors: &mut Tensors) {
    let renamed = |name: String| GATED.iter().fold(name, |name, (theirs, ours)| name.replace(ours, theirs));
    *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect();
}

/// What transformers has called `model.layer` in memory since its version 5 is `layer` in its files.
pub(super) fn without_inner_model(mut checkpoint: Checkpoint) -> Checkpoint {
    let outer = |name: String| name.strip_prefix("model.").map_or(name.clone(), str::to_owned);
    checkpoint.tensors = checkpoint.tensors.into_iter().map(|(name, tensor)| (outer(name), tensor)).collect();
    checkpoint
}

/// What transformers calls `layers` in memory since its version 5, in ViT and DeiT, is `encoder.layer` in its files.
pub(super) fn with_encoder(mut checkpoint: Checkpoint) -> Checkpoint {
    let renamed = |name: String| match name.strip_prefix("layers.") {
        Some(rest) => format!("encoder.layer.{rest}"),
        None => name,
    };
    checkpoint.tensors = checkpoint.tensors.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect();
    checkpoint
}

/// The way back from [`from_dinov3`].
///
/// # Errors
/// [`crate::Error::Parameter`] for a gated layer of an odd number of rows.
pub(super) fn to_dinov3(tensors: &mut Tensors, config: &VitConfig) -> Result<()> {
    rename_ends(tensors, SCALES.map(|(theirs, ours)| (ours, theirs)));
    let is_packed = |name: &&String| config.gated_mlp && name.contains(PACKED);
    let packed: Vec<String> = tensors.keys().filter(is_packed).cloned().collect();
    for name in packed {
        let parts = tensors.remove(&name).and_then(|tensor| cut(&tensor, 2));
        let parts = parts.ok_or_else(|| fault(&name, "has no two halves"))?;
        tensors.extend([GATE, UP].map(|part| name.replace(PACKED, part)).into_iter().zip(parts));
    }
    Ok(())
}

fn rename_ends(tensors: &mut Tensors, ends: [(&str, &str); 2]) {
    let renamed = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
        let new = ends.iter().find_map(|(from, to)| Some(format!("{}{to}", name.strip_suffix(from)?)));
        (new.unwrap_or(name), tensor)
    });
    *tensors = renamed.collect();
}

/// Makes tensors of transformers' that have timm's names already those of timm's model: what CLIP and SigLIP store without an axis
/// of one gets it, and a last norm that is not computed with is left out.
pub(super) fn from_transformers(tensors: &mut Tensors, hints: &Hints) {
    for name in ["cls_token", "pos_embed"] {
        if let Some(tensor) = tensors.get_mut(name) {
            let missing = 3_usize.saturating_sub(tensor.shape.len());
            tensor.shape.splice(0..0, vec![1; missing]);
        }
    }
    without_distillation(tensors);
    for kind in ["weight", "bias"] {
        split_queries(tensors, kind);
    }
    if hints.final_norm == Some(false) && tensors.remove("norm.weight").is_some() {
        tensors.remove("norm.bias");
        log::info!("post_layernorm, behind which no classifier of transformers reads, is left out");
    }
}

/// The first third of attention pooling's rows is of queries.
fn split_queries(tensors: &mut Tensors, kind: &str) {
    let Some(HostTensor { mut shape, mut data }) = tensors.remove(&format!("attn_pool.qkv.{kind}")) else { return };
    let Some(rows) = shape.first_mut() else { return };
    let third = *rows / 3;
    let kv = data.split_off(third * (data.len() / (*rows).max(1)));
    let rest = *rows - third;
    *rows = third;
    let mut kv_shape = shape.clone();
    kv_shape[0] = rest;
    tensors.insert(format!("attn_pool.q.{kind}"), HostTensor { shape, data });
    tensors.insert(format!("attn_pool.kv.{kind}"), HostTensor { shape: kv_shape, data: kv });
}

/// Where only the class token is read, as by `DeiTForImageClassification`, a distillation token is a register.
fn without_distillation(tensors: &mut Tensors) {
    if tensors.contains_key("head.weight")
        && !tensors.contains_key("head_dist.weight")
        && let Some(token) = tensors.remove("dist_token")
    {
        tensors.insert("reg_token".to_owned(), token);
    }
}

/// The way back to CLIP and SigLIP, for which a last norm that is not computed with is made up.
pub(super) fn to_tower(tensors: &mut Tensors, config: &VitConfig) -> Result<()> {
    if let Some(class) = tensors.get_mut("cls_token") {
        class.shape = vec![config.embed_dim];
    }
    tensor(tensors, "pos_embed")?.shape.remove(0);
    if !config.final_norm {
        let of = |value: f32| HostTensor { shape: vec![config.embed_dim], data: vec![value; config.embed_dim] };
        tensors.extend([("norm.weight".to_owned(), of(1.0)), ("norm.bias".to_owned(), of(0.0))]);
    }
    Ok(())
}

/// Makes the tensors those of transformers' Dinov2, whose class token has a position, whose registers have none, and whose head
/// reads class token and mean: what is missing there is 0, and positions of registers become a part of these.
pub(super) fn to_dinov2(tensors: &mut Tensors, config: &VitConfig) -> Result<()> {
    let VitConfig { embed_dim, reg_tokens, no_embed_class, no_embed_reg, .. } = *config;
    if no_embed_class {
        let pos = tensor(tensors, "pos_embed")?;
        pos.data.splice(0..0, vec![0.0; embed_dim]);
        pos.shape[1] += 1;
    } else if reg_tokens > 0 && !no_embed_reg {
        let positions = take_positions(tensors, 1, reg_tokens, embed_dim)?;
        add(tensor(tensors, "reg_token")?, &positions);
    }
    let head = tensor(tensors, "head.weight")?;
    let zeros = vec![0.0; embed_dim];
    let widened = |row: &[f32]| match config.global_pool {
        Pool::Token | Pool::Map => [row, &zeros].concat(),
        Pool::Avg => [&zeros, row].concat(),
        Pool::TokenAvg => row.to_vec(),
    };
    head.data = head.data.chunks_exact(config.head_inputs()).flat_map(widened).collect();
    head.shape = vec![config.num_classes, 2 * embed_dim];
    Ok(())
}

/// Makes the tensors those of a model of timm's, where registers have no positions only if the class token has none either: its
/// position becomes a part of it. The result is the configuration of that model.
///
/// Its patches have a bias where no norm follows them: one of 0 where this model has none.
pub(super) fn to_timm(tensors: &mut Tensors, config: &VitConfig) -> Result<VitConfig> {
    let mut config = config.clone();
    if !config.patch_bias && !config.pre_norm {
        let bias = HostTensor { shape: vec![config.embed_dim], data: vec![0.0; config.embed_dim] };
        tensors.insert("patch_embed.proj.bias".to_owned(), bias);
        config.patch_bias = true;
    }
    if !config.no_embed_reg {
        return Ok(config);
    }
    if config.class_token && config.reg_tokens > 0 && !config.no_embed_class {
        let position = take_positions(tensors, 0, 1, config.embed_dim)?;
        add(tensor(tensors, "cls_token")?, &position);
    }
    let no_embed_class = config.no_embed_class || config.reg_tokens > 0;
    Ok(VitConfig { no_embed_class, no_embed_reg: false, ..config })
}

/// Takes `count` positions out, from the one numbered `first` on.
fn take_positions(tensors: &mut Tensors, first: usize, count: usize, width: usize) -> Result<Vec<f32>> {
    let pos = tensor(tensors, "pos_embed")?;
    pos.shape[1] -= count;
    Ok(pos.data.drain(first * width..(first + count) * width).collect())
}

fn add(tensor: &mut HostTensor, other: &[f32]) {
    tensor.data.iter_mut().zip(other).for_each(|(value, other)| *value += other);
}

fn tensor<'a>(tensors: &'a mut Tensors, name: &str) -> Result<&'a mut HostTensor> {
    tensors.get_mut(name).ok_or_else(|| fault(name, "is not a parameter of this model"))
}
