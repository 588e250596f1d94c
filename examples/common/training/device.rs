//! The options about the machine that a program runs on.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions};
use wgrad::train::available_memory;

use super::given::Rule;

/// The device, and what of it may be used.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Adapter, by number or a part of its name.
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub adapter: Option<AdapterChoice>,
    /// Keep each block's input alone and compute the rest again in backward: the same step in less memory and more time.
    #[arg(long, alias = "checkpoint-blocks", help_heading = "Device")]
    #[serde(alias = "checkpoint_blocks")]
    pub recompute_blocks: bool,
    /// Device memory that may be used, in MB [default: what is free, where the device shares the machine's memory].
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub memory: Option<u64>,
    /// Print the memory that the run would take, and end.
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub estimate: bool,
    /// Measure before the first step which kernels are fastest on this device. `off`: those that are expected to be, and so
    /// the same on every run.
    #[arg(long, value_enum, default_value_t = TuneKind::Off, help_heading = "Device")]
    pub tune: TuneKind,
    /// Folder that keeps what was measured [default: the user's cache].
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub tuning_cache: Option<PathBuf>,
    /// Let --tune auto look at matrix units too, for half precision (an experiment of wgpu's).
    #[arg(long, help_heading = "Device")]
    pub matrix_units: bool,
    /// List the adapters and end.
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub list_adapters: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TuneKind {
    Auto,
    Off,
}

impl Device {
    /// What may be given anew to a run that goes on: it is about this machine.
    pub const WITH_RESUME: [&'static str; 5] = ["adapter", "memory", "tuning_cache", "estimate", "list_adapters"];

    /// The device of a run that goes on: as the run was `saved`, on this machine.
    pub fn here(self, saved: Device) -> Device {
        let Device { adapter, memory, tuning_cache, estimate, list_adapters, .. } = self;
        Device { adapter, memory, tuning_cache, estimate, list_adapters, ..saved }
    }

    /// What is not kept in a run's folder, for the command that goes on with it.
    pub fn about_machine(&self) -> [(&'static str, Option<String>); 3] {
        [
            ("--adapter", self.adapter.as_ref().map(AdapterChoice::to_string)),
            ("--memory", self.memory.map(|megabytes| megabytes.to_string())),
            ("--tuning-cache", self.tuning_cache.as_ref().map(|folder| folder.display().to_string())),
        ]
    }

    /// When its options count.
    pub fn rule(&self) -> Rule {
        (&["tuning_cache", "matrix_units"], self.tune == TuneKind::Auto, "with --tune auto")
    }

    pub fn open(&self) -> Result<Gpu> {
        let (adapter, matrix_units) = (self.adapter.clone(), self.matrix_units);
        Ok(Gpu::with_options(&GpuOptions { adapter, matrix_units, ..Default::default() })?)
    }

    /// The bytes that a run may take, as far as they are known.
    pub fn budget(&self, gpu: &Gpu) -> Option<u64> {
        self.memory.map(|megabytes| megabytes.saturating_mul(1_000_000)).or_else(|| available_memory(gpu))
    }
}
