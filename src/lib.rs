//! A portable GPU training engine: WGSL compute shaders through [wgpu], for Vulkan, Metal and DX12; a small autodiff engine; and on top
//! of them Vision Transformers, GPT-2 and BERT, trained on all of their tokens or on some: by random-LTD (random and layerwise
//! token dropping, Yao et al., 2022) or PatchDropout.
//!
//! The layers, each using only those above it in this list:
//!
//! | module | holds |
//! |---|---|
//! | [`error`], [`shape`] | one error enum; element types and shapes |
//! | [`gpu`] | the device: memory, kernels, recorded commands, read-back |
//! | [`tensor`] | a shape on a range of device memory |
//! | [`autograd`] | graph, gradients, parameters |
//! | [`ops`] | differentiable operations with their kernels |
//! | [`nn`] | modules for any model |
//! | `checkpoint` | safetensors, and folders of them, of any model |
//! | [`models`] | networks with their files: the ViT, GPT-2, BERT |
//! | [`ltd`], [`optim`], `data` | random-LTD; optimisers; data sets |
//! | `train` | the training loop |
//!
//! | feature | adds |
//! |---|---|
//! | none | all layers but the last one and `checkpoint`; of `data` what a batch is |
//! | `train` | the training step; `checkpoint` in memory |
//! | `digits` | the embedded digits |
//! | `files` | what needs files and threads: checkpoints on disk, loaders, whole runs |
//! | `pictures`, a default | decoding, augmentation, data sets of pictures |
//! | `text`, a default | tokenizers, data sets of text |
//! | `hub` | checkpoints from the Hugging Face Hub, by name |
//!
//! Up to `digits` everything builds for the browser.
//!
//! Another crate adds an operation with a [`gpu::Kernel`] in WGSL, [`Gpu::dispatch`] and [`autograd::record`], and tests its gradient
//! with [`autograd::check`]: `examples/custom_op.rs` does so in a page.
//!
//! ```
//! use wgrad::{Gpu, Tensor, ops};
//!
//! let gpu = Gpu::new()?;
//! let x = Tensor::from_slice(&gpu, &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?.requires_grad()?;
//! let loss = ops::sum(&ops::mul(&x, &x)?)?;
//! let grads = loss.backward()?;
//! assert_eq!(grads.get(&x).unwrap().to_vec::<f32>()?, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
//! # Ok::<(), wgrad::Error>(())
//! ```

#![warn(unreachable_pub)]
#![warn(clippy::exit, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::unwrap_used)]
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod autograd;
#[cfg(feature = "train")]
pub mod checkpoint;
pub mod data;
pub mod error;
#[cfg(feature = "train")]
mod files;
pub mod gpu;
mod hash;
mod identity;
pub mod ltd;
pub mod models;
pub mod nn;
mod normalize;
pub mod ops;
pub mod optim;
mod preprocess;
#[cfg(feature = "files")]
mod resample;
pub mod shape;
pub mod tensor;
#[cfg(feature = "train")]
pub mod train;

pub use error::{Error, Result};
pub use gpu::Gpu;
pub use shape::{DType, Shape};
pub use tensor::Tensor;
pub use wgpu;

/// The snippets of that page are tests.
#[cfg(all(doctest, feature = "train"))]
#[doc = include_str!("../docs/embedding.md")]
mod embedding {}

/// Every kernel of the crate, for tests and tools that compile them all.
///
/// # Safety
/// None of them, nor one made of their sources, is dispatched: they are compiled without checks, and only the operations that they
/// belong to know with which `Params` and buffers they stay within their bindings.
#[doc(hidden)]
pub unsafe fn kernels() -> Vec<&'static gpu::Kernel> {
    [ops::kernels(), optim::kernels()].concat()
}
