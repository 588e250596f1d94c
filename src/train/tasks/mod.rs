//! The objectives that come with the engine. A program's own is a [`super::Task`] like these.

mod classify;
mod language;
mod predictions;
mod probe;

pub use classify::Classify;
pub use language::{Causal, CausalLm, LanguageTask, Masked, MaskedLm, Objective};
#[cfg(not(target_arch = "wasm32"))]
pub use predictions::predict;
pub use predictions::{ClassAccuracy, Predictions, predict_async};
#[cfg(not(target_arch = "wasm32"))]
pub use probe::extract;
pub use probe::{LinearProbe, extract_async};

use std::borrow::Cow;

use crate::nn::Mode;
use crate::ops::CrossEntropy;

/// A loss in one of the two modes: in evaluation without label smoothing, so that results of runs that smooth otherwise
/// compare.
fn in_mode<'a>(loss: &'a CrossEntropy, mode: &Mode) -> Cow<'a, CrossEntropy> {
    if mode.is_training() || loss.label_smoothing == 0.0 {
        return Cow::Borrowed(loss);
    }
    Cow::Owned(CrossEntropy { label_smoothing: 0.0, ..loss.clone() })
}
