//! Networks, each in a folder of its own, which alone knows its name: its sizes, its forward pass, what others call its
//! parameters, and its files. `extended` holds a model's parameters, and those that a program adds; `transformers` and
//! `settings` what language models have in common on disk, `library` what folders for other libraries have, `adapters`
//! and `peft` what all models have of low-rank adapters there.

#[cfg(feature = "files")]
mod adapters;
pub mod bert;
mod extended;
pub mod gpt2;
#[cfg(feature = "files")]
mod library;
#[cfg(feature = "files")]
mod peft;
mod settings;
#[cfg(feature = "files")]
mod transformers;
pub mod vit;

#[cfg(feature = "files")]
pub use transformers::FolderOptions;

/// The layer that a parameter of a model of `depth` blocks belongs to, if it does not lie below them: i + 1 for block i, whose
/// parameters' paths begin with `blocks` and its number, `depth` + 1 for the others.
fn layer_of_block(blocks: &str, path: &str, depth: usize) -> usize {
    let number = path.strip_prefix(blocks).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    number.map_or(depth + 1, |block| block.saturating_add(1).min(depth + 1))
}
