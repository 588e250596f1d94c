//! Where a model's adapters are, and its weights with them merged in: of any model of [`crate::nn::Block`]s.

use std::collections::BTreeMap;

use crate::checkpoint::{HostTensor, fault};
use crate::error::Result;
use crate::nn::{BlockNames, GATED_PARTS, LORA_A, LORA_B, LoraConfig, QKV_PARTS};

pub(super) type Tensors = BTreeMap<String, HostTensor>;

/// A layer that may have an adapter, or a part of a packed one that may.
pub(super) struct Place {
    /// The path that its adapter lies below.
    pub(super) path: String,
    /// Whose weight it adds to.
    pub(super) layer: String,
    /// The first of these rows.
    first: usize,
    outputs: usize,
    inputs: usize,
}

impl Place {
    /// A layer by itself.
    pub(super) fn whole(layer: impl Into<String>, outputs: usize, inputs: usize) -> Self {
        let layer = layer.into();
        Place { path: layer.clone(), layer, first: 0, outputs, inputs }
    }

    /// Those of a block whose layers begin with `block`, such as "blocks.0.": of `width` numbers a token, whose MLP's first layer
    /// gives `hidden` and whose second takes `activated`: where it is gated, half of that.
    pub(super) fn of_block(block: &str, names: &BlockNames, [width, hidden, activated]: [usize; 3]) -> Vec<Place> {
        let name = |layer: &str| format!("{block}{layer}");
        let parts = |layer: &str, parts: &'static [&str], outputs: usize| {
            let layer = name(layer);
            let part = move |(i, part)| Place {
                path: format!("{layer}.{part}"),
                layer: layer.clone(),
                first: i * outputs,
                outputs,
                inputs: width,
            };
            parts.iter().enumerate().map(part)
        };
        let gated: &[&str] = if activated < hidden { &GATED_PARTS } else { &[] };
        let layers = [
            Place::whole(name(names.qkv), 3 * width, width),
            Place::whole(name(names.proj), width, width),
            Place::whole(name(names.fc1), hidden, width),
            Place::whole(name(names.fc2), width, activated),
        ];
        layers
            .into_iter()
            .chain(parts(names.qkv, &QKV_PARTS, width))
            .chain(parts(names.fc1, gated, activated))
            .collect()
    }

    /// The names and shapes of an adapter's A and B.
    pub(super) fn tensors(&self, rank: usize) -> [(String, Vec<usize>); 2] {
        [
            (format!("{}.{LORA_A}", self.path), vec![rank, self.inputs]),
            (format!("{}.{LORA_B}", self.path), vec![self.outputs, rank]),
        ]
    }
}

/// Takes the adapters out of a model's tensors: what is left has the names of a model without.
pub(super) fn take(tensors: &mut Tensors) -> Tensors {
    let (adapters, rest) = std::mem::take(tensors).into_iter().partition(|(name, _)| LoraConfig::is_adapter(name));
    *tensors = rest;
    adapters
}

/// The names and shapes of the adapters at those of `places` that have one.
pub(super) fn shapes<'a>(
    places: impl Iterator<Item = Place> + 'a,
    lora: Option<&'a LoraConfig>,
) -> impl Iterator<Item = (String, Vec<usize>)> + 'a {
    let of = move |place: Place| lora.filter(|lora| lora.targets(&place.path)).map(|lora| place.tensors(lora.rank));
    places.filter_map(of).flatten()
}

/// Merges the adapters at those of `places` that have one into the weights, W + α/r · B·A, and leaves them out: what is left computes
/// the same within rounding. A model without `lora` stays as it is.
///
/// # Errors
/// [`crate::Error::Parameter`] naming a tensor that is missing or of another shape.
pub(super) fn merge(
    tensors: &mut Tensors,
    places: impl Iterator<Item = Place>,
    lora: Option<&LoraConfig>,
) -> Result<()> {
    let Some(lora) = lora else { return Ok(()) };
    for place in places.filter(|place| lora.targets(&place.path)) {
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
    Ok(())
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
