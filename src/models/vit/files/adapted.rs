//! Where a ViT's adapters are, and its weights with them merged in.

use crate::error::Result;
use crate::models::adapters::{self, Place, Tensors};
use crate::models::vit::VitConfig;
use crate::nn::BlockNames;

/// All layers of a model that may have adapters, block by block, heads last.
pub(super) fn places(config: &VitConfig) -> impl Iterator<Item = Place> {
    let sizes = [config.embed_dim, config.hidden(), config.hidden_outputs()];
    let head = |head: &&str| Place::whole(*head, config.num_classes, config.head_inputs());
    let heads: Vec<Place> = config.heads().iter().map(head).collect();
    let block = move |block: usize| Place::of_block(&format!("blocks.{block}."), &BlockNames::TIMM, sizes);
    (0..config.depth).flat_map(block).chain(heads)
}

/// Merges the adapters into the weights beside them ([`adapters::merge`]). The result is the configuration of that model.
///
/// # Errors
/// As [`adapters::merge`].
pub(super) fn merge(tensors: &mut Tensors, config: &VitConfig) -> Result<VitConfig> {
    adapters::merge(tensors, places(config), config.lora.as_ref())?;
    Ok(VitConfig { lora: None, ..config.clone() })
}
