//! wgrad
pub mod autograd;
pub mod error;
pub mod gpu;
pub mod ops;
pub mod shape;
pub mod tensor;

pub use error::{Error, Result};
pub use gpu::Gpu;
pub use tensor::Tensor;
pub use wgpu;
