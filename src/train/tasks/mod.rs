//! The objectives that come with the engine. A program's own is a [`super::Task`] like these.

mod classify;
mod predictions;

pub use classify::Classify;
#[cfg(not(target_arch = "wasm32"))]
pub use predictions::predict;
pub use predictions::{ClassAccuracy, Predictions, predict_async};
