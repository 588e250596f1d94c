//! Where a model's adapters are, and its weights with them merged in.

use std::collections::BTreeMap;

use crate::checkpoint::{HostTensor, fault};
use crate::error::Result;
use crate::models::vit::VitConfig;
use crate::nn::{LORA_A, LORA_B, LoraConfig};

type Tensors = BTreeMap<String, HostTensor>;

/// A layer that may have an adapter, or a part of the packed queries, keys and values that may.
pub(super) struct Place {
    /// The path that its adapter lies below.
    pub(super) path: String,
    /// Whose weight it adds to.
    pub(super) layer: String,
    /// The first of these rows.
    pub(super) first: usize,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

impl Place {
    /// The names and shapes of an adapter's A and B.
    pub(super) fn tensors(&self, rank: usize) -> [(String, Vec<usize>); 2] {
        [
            (format!("{}.{LORA_A}", self.path), vec![rank, self.inputs]),
            (format!("{}.{LORA_B}", self.path), vec![self.outputs, rank]),
        ]
    }
}

/// All such layers of a model, block by block, the head last.
pub(super) fn places(config: &VitConfig) -> impl Iterator<Item = Place> {
    let (width, hidden, activated) = (config.embed_dim, config.hidden(), config.hidden_outputs());
    let whole = |layer: String, outputs, inputs| Place { path: layer.clone(), layer, first: 0, outputs, inputs };
    let head = whole("head".to_owned(), config.num_classes, config.head_inputs());
    let in_block = move |block: usize| {
        let name = |layer: &str| format!("blocks.{block}.{layer}");
        let part = |(i, part)| {
            let (path, layer) = (name(&format!("attn.qkv.{part}")), name("attn.qkv"));
            Place { path, layer, first: i * width, outputs: width, inputs: width }
        };
        let parts = ["query", "key", "value"].into_iter().enumerate().map(part);
        let layers = [
            whole(name("attn.qkv"), 3 * width, width),
            whole(name("attn.proj"), width, width),
            whole(name("mlp.fc1"), hidden, width),
            whole(name("mlp.fc2"), width, activated),
        ];
        layers.into_iter().chain(parts).collect::<Vec<_>>()
    };
    (0..config.depth).flat_map(in_block).chain([head])
}

/// Those that have an adapter.
pub(super) fn adapted<'a>(config: &'a VitConfig, lora: &'a LoraConfig) -> impl Iterator<Item = Place> + 'a {
    places(config).filter(|place| lora.targets(&place.path))
}

/// Merges the adapters into the weights beside them, W + α/r · B·A, and leaves them out: what is left computes the same within
/// rounding. The result is the configuration of that model.
///
/// # Errors
/// [`crate::Error::Parameter`] naming a tensor that is missing or of another shape.
pub(super) fn merge(tensors: &mut Tensors, config: &VitConfig) -> Result<VitConfig> {
    let plain = VitConfig { lora: None, ..config.clone() };
    let Some(lora) = &config.lora else { return Ok(plain) };
    for place in adapted(config, lora) {
        let [a, b] = place.tensors(lora.rank).map(|(name, shape)| match tensors.remove(&name) {
            Some(tensor) if tensor.shape == shape => Ok(tensor.data),
            Some(tensor) => Err(fault(&name, format!("is {:?}, expected {shape:?}", tensor.shape))),
            None => Err(fault(&name, "is not in the checkpoint")),
        });
        let name = format!("{}.weight", place.layer);
        let weight = tensors.get_mut(&name).ok_or_else(|| fault(&name, "is not in the checkpoint"))?;
        if weight.shape.get(1) != Some(&place.inputs)
            || weight.data.len() < (place.first + place.outputs) * place.inputs
        {
            return Err(fault(&name, format!("is {:?}, another shape than its adapter's", weight.shape)));
        }
        let rows = weight.data.chunks_exact_mut(place.inputs).skip(place.first);
        add_product(rows, &b?, &a?, lora.rank, f64::from(lora.scale()));
    }
    Ok(plain)
}

/// W += scale · B·A, for as many rows of W as B has.
fn add_product<'a>(rows: impl Iterator<Item = &'a mut [f32]>, b: &[f32], a: &[f32], rank: usize, scale: f64) {
    for (row, b) in rows.zip(b.chunks_exact(rank)) {
        let width = row.len();
        for (column, value) in row.iter_mut().enumerate() {
            let terms = b.iter().zip(a.iter().skip(column).step_by(width));
            let sum: f64 = terms.map(|(b, a)| f64::from(*b) * f64::from(*a)).sum();
            *value = (f64::from(*value) + scale * sum) as f32;
        }
    }
}
