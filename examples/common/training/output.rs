//! The options about what a run leaves behind, and how it goes on.

use std::path::PathBuf;

use clap::value_parser;
use serde::{Deserialize, Serialize};

use super::given::Rule;

/// Where a run is written, and what of it.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
pub struct Output {
    /// Go on with the run in this folder, which was interrupted: the same bits as if it had not been. All settings are
    /// its own, but for what is about this machine, as --adapter and --memory; data and weights must be those that it
    /// began with.
    #[arg(long, value_name = "RUN", conflicts_with = "output", help_heading = "Output")]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
    /// Save where the run stands after every so many steps too. Else that is done after epochs, as often as takes a twentieth of
    /// the time.
    #[arg(long, value_name = "STEPS", value_parser = value_parser!(u64).range(1..), help_heading = "Output")]
    pub save_every: Option<u64>,
    /// Folder for checkpoints, curves and reports, without a run in it [default: runs/N].
    #[arg(long, help_heading = "Output")]
    #[serde(skip)]
    pub output: Option<PathBuf>,
    /// Write event files for TensorBoard into tensorboard/ of the run's folder.
    #[arg(long, help_heading = "Output")]
    pub tensorboard: bool,
    /// Print the report as JSON in the last line.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

impl Output {
    /// That of a run that goes on: as it was `saved`, in the folder that is given now.
    pub fn here(self, saved: Output) -> Output {
        Output { output: self.resume.clone(), resume: self.resume, ..saved }
    }

    /// When its options count, in a run of so many steps; `is_open` where another's number is not known yet.
    pub fn rule(&self, steps: u64, is_open: bool) -> Rule {
        let is_within = self.save_every.is_some_and(|every| every < steps) || is_open;
        (&["save_every"], is_within, "where there are more steps")
    }
}
