//! The same function in the layout of another library: positions and heads that it has no other place for.

use std::collections::{BTreeMap, BTreeSet};

use super::infer::Hints;
use super::names;
use crate::checkpoint::{Checkpoint, HostTensor, Packing, cut, fault};
use crate::error::Result;
use crate::models::vit::{Pool, VitConfig};

type Tensors = BTreeMap<String, HostTensor>;

/// Layer scale, as timm's Eva calls it, of which its DINOv3 and EVA-02 are, and as its ViT does.
const SCALES: [(&str, &str); 2] = [(".gamma_1", ".ls1.gamma"), (".gamma_2", ".ls2.gamma")];

/// A layer here and in timm's ViTs, and the layers that some models of its Eva have in its place.
struct Packed {
    /// What their names have in common.
    place: &'static str,
    whole: &'static str,
    parts: &'static [&'static str],
    kinds: &'static [&'static str],
}

/// A gate and what it lets through.
const GATED: Packed = Packed { place: ".mlp.", whole: "fc1", parts: &["fc1_g", "fc1_x"], kinds: &["weight", "bias"] };

/// Queries, keys and values.
const QKV: Packed =
    Packed { place: ".attn.", whole: "qkv", parts: &["q_proj", "k_proj", "v_proj"], kinds: &["weight"] };

/// Their biases, of which keys have none.
const BIASES: [(&str, &str); 2] = [(".attn.q_proj.bias", ".attn.q_bias"), (".attn.v_proj.bias", ".attn.v_bias")];

impl Packed {
    /// What stands before the block's layer of this name, of every tensor that is one.
    fn blocks(&self, tensors: &Tensors, layer: &str, kind: &str) -> Vec<String> {
        let end = format!("{}{layer}.{kind}", self.place);
        tensors.keys().filter_map(|name| name.strip_suffix(&end)).map(str::to_owned).collect()
    }

    /// Puts the parts together, in every block.
    ///
    /// # Errors
    /// [`crate::Error::Parameter`] for a part without the others, of another shape, or beside the whole.
    fn pack(&self, tensors: &mut Tensors) -> Result<()> {
        for kind in self.kinds {
            let blocks: BTreeSet<_> = self.parts.iter().flat_map(|part| self.blocks(tensors, part, kind)).collect();
            for block in blocks {
                let name = |layer: &str| format!("{block}{}{layer}.{kind}", self.place);
                let whole = name(self.whole);
                if tensors.contains_key(&whole) {
                    return Err(fault(&whole, "is there beside its parts"));
                }
                let found = self.parts.iter().map(|part| tensors.remove(&name(part))).collect();
                let tensor = Packing { names: self.parts, found }.pack(&whole)?;
                tensors.insert(whole, tensor);
            }
        }
        Ok(())
    }

    /// The way back.
    ///
    /// # Errors
    /// [`crate::Error::Parameter`] for rows that are no multiple of the parts.
    fn unpack(&self, tensors: &mut Tensors) -> Result<()> {
        for kind in self.kinds {
            for block in self.blocks(tensors, self.whole, kind) {
                let name = |layer: &str| format!("{block}{}{layer}.{kind}", self.place);
                let whole = name(self.whole);
                let parts = tensors.remove(&whole).and_then(|tensor| cut(&tensor, self.parts.len()));
                let parts = parts.ok_or_else(|| fault(&whole, "is not of as many rows in each of its parts"))?;
                tensors.extend(self.parts.iter().map(|part| name(part)).zip(parts));
            }
        }
        Ok(())
    }
}

/// What timm's Eva has in layers of their own, in this model.
fn apart(config: &VitConfig) -> impl Iterator<Item = Packed> {
    [(QKV, is_apart(config)), (GATED, is_gate_apart(config))]
        .into_iter()
        .filter(|(_, is_so)| *is_so)
        .map(|(layer, _)| layer)
}

/// Whether it is written as EVA-02's larger models, whose queries, keys and values are layers of their own.
pub(super) fn is_apart(config: &VitConfig) -> bool {
    config.ref_feat_shape.is_some() && config.scale_mlp_norm
}

/// Whether a gate is: in DINOv3s and EVA-02's larger models. Its ViT-Ti and S have it in one with what it lets through, as here.
pub(super) fn is_gate_apart(config: &VitConfig) -> bool {
    let is_dinov3 = config.rope_temperature.is_some() && config.ref_feat_shape.is_none();
    config.gated_mlp && (is_dinov3 || is_apart(config))
}

/// Gives the layer scales of timm's Eva, which DINOv3 and EVA-02 are, the names that they have in its ViTs, and packs layers that are one
/// there.
///
/// # Errors
/// [`crate::Error::Parameter`] for a part without those beside it, or of another shape.
pub(super) fn from_eva(tensors: &mut Tensors) -> Result<()> {
    rename_ends(tensors, SCALES);
    rename_ends(tensors, BIASES);
    [QKV, GATED].iter().try_for_each(|packed| packed.pack(tensors))
}

/// Puts biases of 0 for keys between those of queries and values: without rotary positions they have no effect.
///
/// # Errors
/// [`crate::Error::Parameter`] for one without the other.
pub(super) fn with_key_biases(tensors: &mut Tensors) -> Result<()> {
    let biases: Vec<String> = tensors.keys().filter(|name| name.ends_with(".attn.q_bias")).cloned().collect();
    for name in biases {
        let zeros =
            tensor(tensors, &name).map(|q| HostTensor { shape: q.shape.clone(), data: vec![0.0; q.data.len()] })?;
        let found = vec![tensors.remove(&name), Some(zeros), tensors.remove(&name.replace("q_bias", "v_bias"))];
        let whole = name.replace("q_bias", "qkv.bias");
        let bias = Packing { names: &["q_bias", "k_bias", "v_bias"], found }.pack(&whole)?;
        tensors.insert(whole, bias);
    }
    Ok(())
}

/// A gated MLP's layers have names of their own in transformers' Dinov2.
pub(super) fn rename_gated(tensors: &mut Tensors) {
    let renamed = |name: String| names::GATED.iter().fold(name, |name, (theirs, ours)| name.replace(ours, theirs));
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

/// The way back from [`from_eva`].
///
/// # Errors
/// [`crate::Error::Parameter`] for a layer that cannot be cut into its parts.
pub(super) fn to_eva(tensors: &mut Tensors, config: &VitConfig) -> Result<()> {
    rename_ends(tensors, SCALES.map(|(theirs, ours)| (ours, theirs)));
    if is_apart(config) {
        rename_ends(tensors, BIASES.map(|(theirs, ours)| (ours, theirs)));
    }
    apart(config).try_for_each(|packed| packed.unpack(tensors))
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
