//! What a driver makes of kernels, and the caches of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::clock::Instant;
use super::health::Scopes;
use super::kernel::{Access, Kernel, PARAMS_WINDOW, Source, Trust};
use crate::error::{Error, Result};

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
    modules: FxHashMap<&'static [Source], wgpu::ShaderModule>,
    layouts: FxHashMap<&'static [Access], wgpu::BindGroupLayout>,
    /// By the kernels' addresses: two crates may have given one name.
    pipelines: FxHashMap<usize, Arc<Pipeline>>,
    /// By the same addresses, [`super::sizes`] of other crates' kernels.
    #[cfg(not(target_arch = "wasm32"))]
    least_sizes: FxHashMap<usize, Arc<[u64]>>,
    compile_time: Duration,
}

impl KernelCache {
    /// The fewest bytes of each binding of another crate's kernel, as far as they are known.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn least_sizes(&mut self, kernel: &'static Kernel) -> Arc<[u64]> {
        let read = || super::sizes::least_sizes(kernel).into();
        self.least_sizes.entry(kernel.address()).or_insert_with(read).clone()
    }

    pub(crate) fn get(&self, kernel: &'static Kernel) -> Option<Arc<Pipeline>> {
        self.pipelines.get(&kernel.address()).cloned()
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
    ) -> Result<Arc<Pipeline>> {
        let clock = Instant::now();
        let pipeline = self.source(device, kernel)?.compile(device, params_layout)?;
        self.add_time(clock.elapsed());
        Ok(self.keep(kernel, pipeline))
    }

    /// What a pipeline is made of.
    pub(crate) fn source(&mut self, device: &wgpu::Device, kernel: &'static Kernel) -> Result<Uncompiled> {
        let scopes = Scopes::open(device);
        let source =
            Uncompiled { kernel, module: self.module(device, kernel), layout: self.layout(device, kernel.bindings) };
        closed(scopes, kernel)?;
        Ok(source)
    }

    pub(crate) fn keep(&mut self, kernel: &'static Kernel, pipeline: Pipeline) -> Arc<Pipeline> {
        let pipeline = Arc::new(pipeline);
        self.pipelines.insert(kernel.address(), pipeline.clone());
        pipeline
    }

    pub(crate) fn add_time(&mut self, time: Duration) {
        self.compile_time += time;
    }

    fn module(&mut self, device: &wgpu::Device, kernel: &Kernel) -> wgpu::ShaderModule {
        self.modules.entry(kernel.sources).or_insert_with(|| module_of(device, kernel)).clone()
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

/// A kernel with its module, which any thread may compile.
#[derive(Debug)]
pub(crate) struct Uncompiled {
    pub(crate) kernel: &'static Kernel,
    module: wgpu::ShaderModule,
    layout: wgpu::BindGroupLayout,
}

impl Uncompiled {
    pub(crate) fn compile(self, device: &wgpu::Device, params_layout: &wgpu::BindGroupLayout) -> Result<Pipeline> {
        let Uncompiled { kernel, module, layout } = self;
        let scopes = Scopes::open(device);
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
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: kernel.constants,
                zero_initialize_workgroup_memory: kernel.trust() == Trust::Nobody,
            },
            cache: None,
        });
        closed(scopes, kernel)?;
        Ok(Pipeline { name: kernel.name, pipeline, layout })
    }
}

fn closed(scopes: Scopes, kernel: &Kernel) -> Result<()> {
    scopes.close().map_or(Ok(()), |message| Err(Error::Device { during: kernel.name, message }))
}

/// Joins a kernel's files, kernel first so that its line numbers stay true. Extensions must be enabled before anything
/// else, so they are put in front of the first line, on that line.
pub fn joined_source(sources: &[Source]) -> String {
    let enables: BTreeSet<_> = sources.iter().filter_map(|s| s.enable).collect();
    let enables: String = enables.iter().map(|extension| format!("enable {extension}; ")).collect();
    enables + &sources.iter().map(|s| s.text).collect::<Vec<_>>().join("\n")
}

/// The module of a kernel's files: without injected bounds checks and loop bounds, which have cost others a factor of 100, where
/// somebody answers for all of them.
fn module_of(device: &wgpu::Device, kernel: &Kernel) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: kernel.sources.first().map(|source| source.name),
        source: wgpu::ShaderSource::Wgsl(joined_source(kernel.sources).into()),
    };
    if kernel.trust() == Trust::Nobody {
        return device.create_shader_module(descriptor);
    }
    // SAFETY: each text is part of this crate, or its author has promised what is needed (`Source::trusted`). Kernels
    // of this crate can be dispatched by it alone. Bindings are checked against the buffers before they are recorded.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

fn storage_entry(binding: u32, access: Access) -> wgpu::BindGroupLayoutEntry {
    let ty = wgpu::BufferBindingType::Storage { read_only: access == Access::Read };
    buffer_entry(binding, ty, false, None)
}

/// The layout of `@group(1)`: one uniform window with a dynamic offset, the same for all kernels. A kernel whose `Params` are larger does
/// not compile with it.
pub(crate) fn params_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some("params"),
        entries: &[buffer_entry(
            0,
            wgpu::BufferBindingType::Uniform,
            true,
            wgpu::BufferSize::new(PARAMS_WINDOW as u64),
        )],
    })
}

fn buffer_entry(
    binding: u32,
    ty: wgpu::BufferBindingType,
    has_dynamic_offset: bool,
    min_binding_size: Option<wgpu::BufferSize>,
) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size },
        count: None,
    }
}
