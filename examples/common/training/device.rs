//! The options about the machine that a program runs on.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::Result;
use clap::{ValueEnum, value_parser};
use serde::{Deserialize, Serialize};
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions};
use wgrad::train::{Recovery, available_memory};

use super::given::Rule;
use super::same_adapter::same_adapter;

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
    /// When the device is lost in training, as by a driver's failure or a laptop's sleep: open it again and go on from the last snapshot,
    /// or end.
    #[arg(long, value_enum, default_value_t = LossKind::Recover, value_name = "WHAT", help_heading = "Device")]
    #[serde(skip)]
    pub on_device_lost: LossKind,
    /// Take a snapshot into the machine's memory every so many steps, for a loss of the device.
    #[arg(
        long,
        value_name = "STEPS",
        default_value_t = Recovery::EVERY,
        value_parser = value_parser!(u64).range(1..),
        help_heading = "Device"
    )]
    #[serde(skip)]
    pub snapshot_every: u64,
    /// Where a step fails for a NaN or an infinity, name the kernel that made it. Steps are slower.
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub debug_nan: bool,
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LossKind {
    #[default]
    Recover,
    Stop,
}

impl Device {
    /// What may be given anew to a run that goes on: it is about this machine.
    pub const WITH_RESUME: [&'static str; 8] = [
        "adapter",
        "memory",
        "tuning_cache",
        "estimate",
        "on_device_lost",
        "snapshot_every",
        "debug_nan",
        "list_adapters",
    ];

    /// The device of a run that goes on: as the run was `saved`, on this machine.
    pub fn here(self, saved: Device) -> Device {
        let Device { recompute_blocks, tune, matrix_units, .. } = saved;
        Device { recompute_blocks, tune, matrix_units, ..self }
    }

    /// What is not kept in a run's folder, for the command that goes on with it.
    pub fn about_machine(&self) -> [(&'static str, Option<String>); 5] {
        let recovers = self.on_device_lost == LossKind::Recover;
        let every = (recovers && self.snapshot_every != Recovery::EVERY).then(|| self.snapshot_every.to_string());
        [
            ("--adapter", self.adapter.as_ref().map(AdapterChoice::to_string)),
            ("--memory", self.memory.map(|megabytes| megabytes.to_string())),
            ("--tuning-cache", self.tuning_cache.as_ref().map(|folder| folder.display().to_string())),
            ("--on-device-lost", (!recovers).then(|| "stop".to_owned())),
            ("--snapshot-every", every),
        ]
    }

    /// When its options count.
    pub fn rules(&self) -> [Rule; 3] {
        let recovers = self.on_device_lost == LossKind::Recover;
        [
            (&["tuning_cache", "matrix_units"], self.tune == TuneKind::Auto, "with --tune auto"),
            (&["snapshot_every"], recovers, "with --on-device-lost recover"),
            (&["json"], !self.estimate, "without --estimate, after which there is no report to print"),
        ]
    }

    pub fn open(&self) -> wgrad::Result<Gpu> {
        let (adapter, matrix_units) = (self.adapter.clone(), self.matrix_units);
        Gpu::with_options(&GpuOptions { adapter, matrix_units, ..Default::default() })
    }

    /// What a run goes on with when its device is lost, if it is to.
    pub fn recovery(&self) -> wgrad::Result<Option<Recovery>> {
        (self.on_device_lost == LossKind::Recover).then(|| Recovery::new(self.snapshot_every)).transpose()
    }

    /// The bytes that a run may take, as far as they are known.
    pub fn budget(&self, gpu: &Gpu) -> Option<u64> {
        self.memory.map(|megabytes| megabytes.saturating_mul(1_000_000)).or_else(|| available_memory(gpu))
    }
}

/// The device that a program is on: another one, once it was lost.
pub struct Machine {
    pub options: Device,
    gpu: RefCell<Gpu>,
}

impl Machine {
    pub fn open(options: &Device) -> Result<Self> {
        Ok(Machine { options: options.clone(), gpu: RefCell::new(options.open()?) })
    }

    pub fn gpu(&self) -> Gpu {
        self.gpu.borrow().clone()
    }

    /// Opens the adapter of the device that was lost again: on another one the run would have other last bits.
    pub fn reopen(&self) -> wgrad::Result<()> {
        let adapter = Some(same_adapter(self.options.adapter.as_ref(), &self.gpu()));
        let gpu = Device { adapter, ..self.options.clone() }.open()?;
        self.gpu.replace(gpu);
        Ok(())
    }
}
