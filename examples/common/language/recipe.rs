//! How a language model trains: everything but data, weights and device.

use super::ways::ways;
use crate::training::kinds::LtdSchedule;
use crate::training::lora::{LoraOptions, LoraSettings};
use crate::training::ltd::{LtdOptions, LtdSettings};
use crate::training::optimisation::{Optimisation, OptimisationOptions};
use crate::training::recipe::{entry, settings, show};
use crate::training::values::{BlockList, Length};

/// By how much the kept length grows at a time where it goes by raw tokens: the paper's.
pub const INCREMENT: usize = 16;

ways! {
    /// The same in all middle blocks, those that the model predicts best (TokenBypass).
    Tokenbypass: "tokenbypass", "TokenBypass.";
    /// Some tokens once, for all blocks (PatchDropout).
    Patchdrop: "patchdrop", "PatchDropout.";
}

settings! {
    /// Everything that a run's training depends on besides data, weights, seed and device.
    Recipe, Overrides;
    "Training" {
        ;
        training: Optimisation / OptimisationOptions;
        /// Take as many steps as consume so many layer-averaged tokens, instead of epochs or --steps; 0 goes by those
        layer_tokens: u64,
    }
    "Adapters" { ; adapters: LoraSettings / LoraOptions; }
    "Regularisation" {
        /// Dropout of embeddings, of what blocks add, and of attention's probabilities
        dropout: f32,
        /// Share of each target spread over the whole vocabulary
        label_smoothing: f32,
    }
    "Dropped tokens" {
        /// Which tokens are dropped in training
        #[clap(value_enum)]
        drop: DropKind,
        ;
        ltd: LtdSettings / LtdOptions;
        /// Raw tokens between two increments of the kept length (MSLG), instead of --ltd-schedule and --ltd-ramp; 0
        /// goes by those. --ltd-granularity is the increment then, 16 unless it is given
        ltd_interval: u64,
        /// Share of the tokens that TokenBypass sends through the middle blocks
        bypass_keep: f64,
        /// Share of the tokens that PatchDropout keeps
        patchdrop_keep: f64,
        /// Share of the steps after which PatchDropout drops no more
        patchdrop_until: f64,
    }
}

/// In full: what a reader of a log needs to repeat the run.
impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show(&self.sections()))
    }
}

impl Default for Recipe {
    /// For a model that has learnt a language already.
    fn default() -> Self {
        Recipe {
            training: Optimisation { epochs: 3, min_steps: 100, weight_decay: 0.01, ..Optimisation::default() },
            layer_tokens: 0,
            adapters: LoraSettings::default(),
            dropout: 0.0,
            label_smoothing: 0.0,
            drop: DropKind::RandomLtd,
            ltd: LtdSettings {
                ltd_schedule: LtdSchedule::Linear,
                ltd_start: Length::Share(0.5),
                ltd_end: Length::Share(1.0),
                ltd_ramp: 0.7,
                ltd_granularity: 8,
                ltd_blocks: BlockList::Auto,
                ltd_keep_prefix: 0,
            },
            ltd_interval: 0,
            bypass_keep: 0.5,
            patchdrop_keep: 0.5,
            patchdrop_until: 1.0,
        }
    }
}
