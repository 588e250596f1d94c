//! The training loop in full view: batch → forward → loss → backward → clip → step → log.
//!
//! [`Trainer`] is one optimiser step after the other, for programs with a loop of their own; [`fit`] is the whole run with
//! evaluation after each epoch and checkpoints. The host never waits inside a step: it records step *t* and then reads the
//! results of step *t − 1*.

mod deepspeed;
mod estimate;
mod evaluate;
mod fit;
mod freeze;
mod identity;
mod predict;
mod state;
mod step;
mod tuning;

pub use deepspeed::{DeepSpeedConfig, parse_deepspeed, read_deepspeed};
pub use estimate::{MemoryEstimate, Remedy, Workload, available_memory, check_memory, estimate, remedies};
pub use evaluate::{Evaluation, evaluate, evaluate_with};
pub use fit::{EpochMetrics, FitData, FitOptions, Observer, Outcome, Timing, fit};
pub use freeze::Freeze;
pub use predict::{ClassAccuracy, Predictions, predict, predict_with};
pub use state::{RunState, STATE_FILE};
pub use step::{StepMetrics, TrainSettings, Trainer};
pub use tuning::{TUNING_BUDGET, TuningStore, tune, tuned};
