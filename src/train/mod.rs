//! The training loop in full view: batch → forward → loss → backward → clip → step → log.
//!
//! [`Trainer`] is one optimiser step after the other, for programs with a loop of their own; [`fit`] is the whole run with
//! evaluation after each epoch and checkpoints. The host never waits inside a step: it records step *t* and then reads the
//! results of step *t − 1*.

#[cfg(feature = "files")]
mod deepspeed;
#[cfg(feature = "files")]
mod estimate;
#[cfg(feature = "pictures")]
mod evaluate;
#[cfg(feature = "pictures")]
mod fit;
mod freeze;
#[cfg(feature = "pictures")]
mod identity;
#[cfg(feature = "pictures")]
mod predict;
#[cfg(feature = "pictures")]
mod state;
mod step;
#[cfg(feature = "files")]
mod tuning;

#[cfg(feature = "files")]
pub use deepspeed::{DeepSpeedConfig, parse_deepspeed, read_deepspeed};
#[cfg(feature = "files")]
pub use estimate::{MemoryEstimate, Remedy, Workload, available_memory, check_memory, estimate, remedies};
#[cfg(feature = "pictures")]
pub use evaluate::{Evaluation, evaluate, evaluate_with};
#[cfg(feature = "pictures")]
pub use fit::{EpochMetrics, FitData, FitOptions, Observer, Outcome, Timing, fit};
pub use freeze::Freeze;
#[cfg(feature = "pictures")]
pub use predict::{ClassAccuracy, Predictions, predict, predict_with};
#[cfg(feature = "pictures")]
pub use state::{RunState, STATE_FILE};
pub use step::{StepMetrics, TrainSettings, Trainer};
#[cfg(feature = "files")]
pub use tuning::{TUNING_BUDGET, TuningStore, tune, tuned};
