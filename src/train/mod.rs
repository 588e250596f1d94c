//! The training loop in full view: batch → forward → loss → backward → clip → step → log.
//!
//! A [`Task`] is a network with an objective. [`Trainer`] is one optimiser step on it after the other, for programs with a loop of their own;
//! [`fit`] is the whole run with evaluation after each epoch and checkpoints. The host never waits inside a step: it records
//! step *t* and then reads the results of step *t − 1*.
//!
//! | file | holds |
//! |---|---|
//! | `task`, `tasks` | [`Task`]; those that come with the engine: [`Classify`], [`LinearProbe`], [`CausalLm`], [`MaskedLm`] |
//! | `settings`, `freeze`, `deepspeed` | [`TrainSettings`]; [`Freeze`]; [`DeepSpeedConfig`] |
//! | `step`, `slices` | [`Trainer`], [`Pending`]; its steps cut into slices of time ([`Trainer::step_slice`]) |
//! | `evaluate` | [`evaluate`] |
//! | `rehearsal`, `memory` | [`rehearse`]: a run's needs beforehand; whether it fits, and with what settings |
//! | `snapshot` | [`Snapshot`]: where a trainer stands, in the host's memory and as bytes |
//! | `recovery` | [`Recovery`]: from a lost device to another one |
//! | `tuning` | [`tune`]: a run's kernels, chosen by measurement and kept on disk; with the feature `files` |
//! | `fit`, `run`, `run_folder`, `state`, `identity`, `available` | [`fit`]: whole runs; with the feature `files` |

#[cfg(feature = "files")]
mod available;
#[cfg(feature = "files")]
mod deepspeed;
mod evaluate;
#[cfg(feature = "files")]
mod fit;
mod freeze;
#[cfg(feature = "files")]
mod identity;
mod memory;
mod recovery;
mod rehearsal;
#[cfg(feature = "files")]
mod run;
#[cfg(feature = "files")]
mod run_folder;
mod settings;
mod slices;
mod snapshot;
#[cfg(feature = "files")]
mod state;
mod step;
mod task;
mod tasks;
#[cfg(feature = "files")]
mod tuning;

#[cfg(feature = "files")]
pub use available::available_memory;
#[cfg(feature = "files")]
pub use deepspeed::{DeepSpeedConfig, ModelType, parse_deepspeed, read_deepspeed};
#[cfg(not(target_arch = "wasm32"))]
pub use evaluate::evaluate;
pub use evaluate::{Evaluation, evaluate_async};
#[cfg(feature = "files")]
pub use fit::{EpochMetrics, FitData, FitOptions, Observer, Outcome, Timing, fit, fit_recovering};
pub use freeze::Freeze;
pub use memory::{Cut, MemoryEstimate, Remedy, check_memory, cut_to_fit, estimate, remedies};
pub use recovery::Recovery;
pub use rehearsal::{Rehearsal, StepUse, Workload, rehearse};
#[cfg(feature = "files")]
pub use run_folder::{RunFolder, Weights, write_weights};
pub use settings::TrainSettings;
pub use snapshot::Snapshot;
#[cfg(feature = "files")]
pub use state::{RunState, STATE_FILE};
pub use step::{Pending, StepMetrics, Trainer};
pub use task::{Correct, Part, Scored, Task, TokenScores};
pub use tasks::{
    Causal, CausalLm, ClassAccuracy, Classify, LanguageTask, LinearProbe, Masked, MaskedLm, Objective, Predictions,
    extract_async, predict_async,
};
#[cfg(not(target_arch = "wasm32"))]
pub use tasks::{extract, predict};
#[cfg(feature = "files")]
pub use tuning::{TUNING_BUDGET, TuningStore, tune};
