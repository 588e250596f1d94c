//! Kernels as static data, and the caches of what the driver makes of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::error::{Error, Result};

/// One WGSL file.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// File name below `shaders/`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// The WGSL extension that it needs, such as `f16`.
    pub enable: Option<&'static str>,
}

/// A [`Source`] from a path below `shaders/`, with the extension that it needs.
macro_rules! wgsl {
    ($path:literal) => {
        $crate::gpu::wgsl!($path, None)
    };
    ($path:literal, enable $extension:literal) => {
        $crate::gpu::wgsl!($path, Some($extension))
    };
    ($path:literal, $enable:expr) => {
        $crate::gpu::Source {
            name: $path,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path)),
            enable: $enable,
        }
    };
}
pub(crate) use wgsl;

/// How a kernel uses a storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// A compute entry point with all that the host must know about it. Storage bindings are `@group(0) @binding(i)` in
/// the order of `bindings`; its `Params` are the uniform `@group(1) @binding(0)`.
#[derive(Debug)]
pub struct Kernel {
    /// Unique name, `file.entry` and what else tells variants apart, for caches, profiles and labels.
    pub name: &'static str,
    /// The kernel's file, then the libraries that it uses.
    pub sources: &'static [Source],
    /// Entry point.
    pub entry: &'static str,
    /// Storage bindings in order.
    pub bindings: &'static [Access],
    /// Fields of `Params` with their WGSL types, each four bytes.
    pub params: &'static [(&'static str, &'static str)],
    /// Values of the file's `override`s that differ from their defaults.
    pub constants: &'static [(&'static str, f64)],
    /// The most rounds that an invocation makes, over all its loops together: at most [`MAX_ROUNDS`], or a driver may end
    /// them early. Must hold for all `Params` and grids, and is tested by running the kernel's loops (`tests/rounds.rs`).
    pub rounds: Rounds,
}

impl Kernel {
    /// Whether a dispatch stays within [`MAX_ROUNDS`].
    pub(crate) fn fits<P: Params>(&self, params: &P, grid: Grid) -> bool {
        (self.rounds)(bytemuck::bytes_of(params), grid.groups) <= MAX_ROUNDS
    }
}

/// Rounds from the bytes of a kernel's `Params` and the workgroups of its grid; made by the macro `rounds`.
pub type Rounds = fn(&[u8], [u32; 3]) -> u64;

/// What no invocation may exceed. Mesa's llvmpipe keeps one counter for all loops of an invocation (`lp_bld_limits.h`: "shared
/// between every loop"), and when it has made 65,535 rounds, the loop that it is in ends, and every later one after its first
/// round: wrong numbers, no error. Versions 22 to 25 have that, 26 has not. Operations cut their work to stay below, in the same way
/// on every driver, so that results do not depend on it.
pub const MAX_ROUNDS: u64 = 64_000;

/// The rounds of a loop that runs `turns` times, with loops of `inside` rounds in its body. A driver counts the round that finds
/// the loop at its end too, and goes once through the loops of a body that is masked off.
pub(crate) fn looped(turns: impl Into<u64>, inside: u64) -> u64 {
    turns.into().saturating_add(1).saturating_mul(inside.saturating_add(1))
}

/// A kernel without loops.
pub(crate) const NO_LOOPS: Rounds = |_, _| 0;

/// [`Kernel::rounds`] as a function of the kernel's `Params` and its grid. Bytes that are no such `Params` get no rounds that any
/// driver makes.
macro_rules! rounds {
    ($params:ty, $of:expr) => {{
        fn rounds(params: &[u8], groups: [u32; 3]) -> u64 {
            let of: fn(&$params, [u32; 3]) -> u64 = $of;
            bytemuck::try_pod_read_unaligned(params).map_or(u64::MAX, |params| of(&params, groups))
        }
        rounds
    }};
}
pub(crate) use rounds;

/// A struct of four-byte fields that a kernel reads as its uniform `Params`; made by the macro `params`.
pub trait Params: bytemuck::Pod {
    /// Field names with WGSL types, in order.
    const FIELDS: &'static [(&'static str, &'static str)];
}

/// Declares a `Params` struct once, so that the WGSL's can be compared with it by reflection.
macro_rules! params {
    ($(#[$doc:meta])* $vis:vis $name:ident { $($field:ident: $ty:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name { $($vis $field: $ty),+ }
        impl $crate::gpu::Params for $name {
            const FIELDS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), stringify!($ty))),+];
        }
    };
}
pub(crate) use params;

/// Bytes of the uniform window that each dispatch sees; no `Params` may be larger.
pub(crate) const PARAMS_WINDOW: u64 = 256;

/// The number of workgroups of a dispatch, and its cost as the recorder's time budget sees it.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Workgroups along x, y, z.
    pub groups: [u32; 3],
    /// Estimated floating-point operations; 0 where it does not matter.
    pub flops: u64,
}

/// WebGPU's limit on workgroups along an axis.
pub(crate) const MAX_GROUPS: u64 = 65_535;

impl Grid {
    /// A grid of `x`·`y`·`z` workgroups.
    pub fn new(x: usize, y: usize, z: usize) -> Self {
        Grid { groups: [x as u32, y as u32, z as u32], flops: 0 }
    }

    /// Enough workgroups of `per_group` items for `items`, folded into two dimensions where one does not hold them.
    /// Kernels undo the fold with `grid_group()` of `lib/grid.wgsl`, and must ignore the surplus at the end.
    pub fn linear(items: usize, per_group: usize) -> Self {
        let groups = (items.div_ceil(per_group) as u64).max(1);
        let y = groups.div_ceil(MAX_GROUPS);
        Grid { groups: [groups.div_ceil(y) as u32, y as u32, 1], flops: 0 }
    }

    /// The same grid so many times, along z.
    pub(crate) fn layers(self, z: usize) -> Self {
        let [x, y, _] = self.groups;
        Grid { groups: [x, y, z as u32], ..self }
    }

    /// The same grid with its cost.
    pub fn with_flops(self, flops: u64) -> Self {
        Grid { flops, ..self }
    }
}

/// A compiled kernel.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) name: &'static str,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// Shader modules, layouts and pipelines of one device, made on first use.
#[derive(Debug, Default)]
pub(crate) struct KernelCache {
    modules: HashMap<Vec<&'static str>, wgpu::ShaderModule>,
    layouts: HashMap<&'static [Access], wgpu::BindGroupLayout>,
    pipelines: HashMap<&'static str, std::sync::Arc<Pipeline>>,
    compile_time: Duration,
}

impl KernelCache {
    pub(crate) fn get(&self, kernel: &Kernel) -> Option<std::sync::Arc<Pipeline>> {
        self.pipelines.get(kernel.name).cloned()
    }

    pub(crate) fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// Compiles `kernel`; an invalid module or a failing driver is an error, not a panic.
    pub(crate) fn compile(
        &mut self,
        device: &wgpu::Device,
        params_layout: &wgpu::BindGroupLayout,
        kernel: &'static Kernel,
    ) -> Result<std::sync::Arc<Pipeline>> {
        let clock = Clock::start();
        let scopes = super::health::Scopes::open(device);
        let module = self.module(device, kernel);
        let layout = self.layout(device, kernel.bindings);
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&layout), Some(params_layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            // Kernels write their workgroup memory before they read it.
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: kernel.constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        if let Some(error) = scopes.close() {
            return Err(Error::Device { during: kernel.name, message: error });
        }
        let pipeline = std::sync::Arc::new(Pipeline { name: kernel.name, pipeline, layout });
        self.pipelines.insert(kernel.name, pipeline.clone());
        self.compile_time += clock.elapsed();
        Ok(pipeline)
    }

    fn module(&mut self, device: &wgpu::Device, kernel: &Kernel) -> wgpu::ShaderModule {
        let key: Vec<_> = kernel.sources.iter().map(|s| s.name).collect();
        self.modules.entry(key).or_insert_with(|| trusted_module(device, kernel)).clone()
    }

    fn layout(&mut self, device: &wgpu::Device, bindings: &'static [Access]) -> wgpu::BindGroupLayout {
        let make = || {
            let entries: Vec<_> =
                bindings.iter().enumerate().map(|(i, access)| storage_entry(i as u32, *access)).collect();
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        };
        self.layouts.entry(bindings).or_insert_with(make).clone()
    }
}

/// Joins a kernel's files, kernel first so that its line numbers stay true. Extensions must be enabled before anything
/// else, so they are put in front of the first line, on that line.
pub fn joined_source(sources: &[Source]) -> String {
    let enables: BTreeSet<_> = sources.iter().filter_map(|s| s.enable).collect();
    let enables: String = enables.iter().map(|extension| format!("enable {extension}; ")).collect();
    enables + &sources.iter().map(|s| s.text).collect::<Vec<_>>().join("\n")
}

/// Makes the module without injected bounds checks and loop bounds, which have cost others a factor of 100.
fn trusted_module(device: &wgpu::Device, kernel: &Kernel) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(kernel.sources[0].name),
        source: wgpu::ShaderSource::Wgsl(joined_source(kernel.sources).into()),
    };
    // SAFETY: the text is part of this crate. Every kernel guards its own indices, also those that it reads from
    // buffers, loops only up to bounds in its Params, and is tested on sizes that do not divide its tile. Bindings are
    // checked against the buffers before they are recorded.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

fn storage_entry(binding: u32, access: Access) -> wgpu::BindGroupLayoutEntry {
    let ty = wgpu::BufferBindingType::Storage { read_only: access == Access::Read };
    buffer_entry(binding, ty, false)
}

/// The layout of `@group(1)`: one uniform window with a dynamic offset, the same for all kernels.
pub(crate) fn params_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some("params"),
        entries: &[buffer_entry(0, wgpu::BufferBindingType::Uniform, true)],
    })
}

fn buffer_entry(binding: u32, ty: wgpu::BufferBindingType, has_dynamic_offset: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    }
}

/// Wall time where the platform has a clock; the browser's main target has none in `std`.
pub(crate) struct Clock {
    #[cfg(not(target_arch = "wasm32"))]
    start: std::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Clock {
            #[cfg(not(target_arch = "wasm32"))]
            start: std::time::Instant::now(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        #[cfg(not(target_arch = "wasm32"))]
        return self.start.elapsed();
        #[cfg(target_arch = "wasm32")]
        return Duration::ZERO;
    }
}
