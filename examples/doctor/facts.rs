//! What the machine has, and what the engine makes of it.

use serde::Serialize;
use wgrad::gpu::{AdapterChoice, AdapterInfo, Gpu, GpuOptions, KernelFamily};
use wgrad::nn::Precision;
use wgrad::{train, wgpu};

#[derive(Serialize)]
pub struct Facts {
    pub version: &'static str,
    pub system: String,
    /// All of the machine.
    pub adapters: Vec<String>,
    /// The one that was examined.
    pub adapter: String,
    /// Bytes that are free for a run, where the system tells.
    pub free_memory: Option<u64>,
    pub limits: Vec<(&'static str, u64)>,
    pub features: Vec<&'static str>,
    pub choices: Vec<Choice>,
}

/// Something that the engine decides by the device.
#[derive(Serialize)]
pub struct Choice {
    pub what: &'static str,
    pub chosen: String,
    pub why: &'static str,
}

pub fn of(adapters: &[AdapterInfo], own: &AdapterChoice, gpu: &Gpu) -> Facts {
    let (limits, features) = (gpu.device().limits(), gpu.device().features());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let named = [
        ("SHADER_F16", wgpu::Features::SHADER_F16),
        ("SUBGROUP", wgpu::Features::SUBGROUP),
        ("TIMESTAMP_QUERY", wgpu::Features::TIMESTAMP_QUERY),
        ("PIPELINE_CACHE", wgpu::Features::PIPELINE_CACHE),
    ];
    Facts {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}, {cores} cores", std::env::consts::OS, std::env::consts::ARCH),
        adapters: adapters.iter().map(ToString::to_string).collect(),
        adapter: gpu.info().to_string(),
        free_memory: train::available_memory(gpu),
        limits: vec![
            ("max_buffer_size", limits.max_buffer_size),
            ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size),
            ("max_compute_invocations_per_workgroup", limits.max_compute_invocations_per_workgroup.into()),
            ("max_compute_workgroup_storage_size", limits.max_compute_workgroup_storage_size.into()),
            ("max_compute_workgroups_per_dimension", limits.max_compute_workgroups_per_dimension.into()),
        ],
        features: named.iter().filter(|(_, feature)| features.contains(*feature)).map(|(name, _)| *name).collect(),
        choices: choices(own, gpu),
    }
}

fn choices(own: &AdapterChoice, gpu: &Gpu) -> Vec<Choice> {
    let (family, why_family) = match gpu.family() {
        KernelFamily::Lane => ("one invocation for rows of its own", "the driver computes on the CPU"),
        _ => ("workgroups that share their rows", "the device is a GPU"),
    };
    let (precision, why_precision) = match (Precision::auto(gpu), gpu.has_f16()) {
        (Precision::F16, _) => ("f16", "the device has f16"),
        (_, true) => ("f32", "the driver has f16, but computes on the CPU, and gains nothing by it"),
        (_, false) => ("f32", "the device has no f16"),
    };
    let with_units = GpuOptions { adapter: Some(own.clone()), matrix_units: true, ..Default::default() };
    let chosen = match Gpu::with_options(&with_units).map(|gpu| gpu.matrix_units()) {
        Ok(Some(lanes)) => format!("there are some, for subgroups of {lanes}"),
        Ok(None) => "none".to_owned(),
        Err(error) => format!("unknown: {error}"),
    };
    vec![
        Choice { what: "kernels", chosen: family.to_owned(), why: why_family },
        Choice { what: "precision by default", chosen: precision.to_owned(), why: why_precision },
        Choice {
            what: "matrix units",
            chosen,
            why: "an experiment of wgpu's: used only with --tune, where that finds them right and faster",
        },
    ]
}
