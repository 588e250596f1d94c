//! Rows of tokens, `f32[B, T, C]`: looking them up in a table, choosing, taking and putting back those that are kept, and
//! averaging and embedding along T.

pub(super) mod embed;
pub(super) mod gather;
mod indices;
pub(super) mod largest;
pub(super) mod lookup;
pub(super) mod mean;
pub(super) mod means;
mod rows;
pub(super) mod scatter;
mod table;

pub use embed::embed_tokens;
pub(super) use gather::GatherRule;
pub use gather::token_gather;
pub use indices::TokenIndices;
pub use largest::keep_largest;
pub use lookup::embedding;
pub use mean::mean_tokens;
pub use means::update_means;
pub(super) use rows::{TokenRows, channels_of};
pub use scatter::token_scatter;

use crate::gpu::Kernel;

/// The kernels of this module.
pub(super) fn kernels() -> Vec<&'static Kernel> {
    [embed::KERNELS, largest::KERNELS, mean::KERNELS, means::KERNELS, rows::KERNELS, table::KERNELS].concat()
}
