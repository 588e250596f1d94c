//! What the device can do at most, measured in the same run as what is compared with it: multiply-adds in registers, and
//! bytes moved between arrays far beyond any cache.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use wgrad::{Gpu, wgpu};

use crate::cost::Cost;
use crate::stats::median;

/// Bytes of each array: with two or three of them, beyond the caches of today's devices, and within wgpu's default limits.
const ARRAY: u64 = 64 << 20;
/// Invocations of the multiply-add loop, and what each does: `ROUNDS` and the unrolled 16 steps of `fma.wgsl`.
const FMA_INVOCATIONS: u32 = 1 << 16;
const FMA_STEPS: f64 = 64.0 * 16.0;
/// A sample lasts at least this long, so that starting and waiting do not count.
const SAMPLE_SECONDS: f64 = 0.1;
const SAMPLES: usize = 5;

/// Measured rates. An operation whose data stays in a cache can exceed those of memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bounds {
    /// 10⁹ operations a second; a multiply-add is two.
    pub fma_gflops: f64,
    /// 10⁹ bytes a second, read and written, by a kernel that copies, …
    pub copy_gb_s: f64,
    /// … by one that reads two arrays and writes a third, …
    pub triad_gb_s: f64,
    /// … and by the driver's own copy of a buffer.
    pub buffer_copy_gb_s: f64,
}

impl Bounds {
    /// Takes a second or two.
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        let bench = Bench { device: gpu.device(), queue: gpu.queue() };
        let (fma_gflops, [copy_gb_s, triad_gb_s, buffer_copy_gb_s]) = (bench.fma()?, bench.memory()?);
        Ok(Bounds { fma_gflops, copy_gb_s, triad_gb_s, buffer_copy_gb_s })
    }

    /// The best of the three ways to move bytes, in 10⁹ bytes a second.
    pub fn gb_s(&self) -> f64 {
        self.copy_gb_s.max(self.triad_gb_s).max(self.buffer_copy_gb_s)
    }

    /// The seconds below which work of this cost cannot be done, if its data comes from memory.
    pub fn least_seconds(&self, cost: Cost) -> f64 {
        (cost.flops / self.fma_gflops).max(cost.bytes / self.gb_s()) / 1e9
    }

    /// Which bound it is that [`Bounds::least_seconds`] gives.
    pub fn limit(&self, cost: Cost) -> &'static str {
        if cost.flops / self.fma_gflops > cost.bytes / self.gb_s() { "compute" } else { "memory" }
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Bounds { fma_gflops, copy_gb_s, triad_gb_s, buffer_copy_gb_s } = self;
        write!(f, "bounds: {fma_gflops:.1} GFLOP/s multiply-adds; ")?;
        write!(f, "copy {copy_gb_s:.1}, triad {triad_gb_s:.1}, buffer copy {buffer_copy_gb_s:.1} GB/s")
    }
}

struct Bench<'a> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
}

impl Bench<'_> {
    fn fma(&self) -> Result<f64> {
        let module = self.module("fma", include_str!("fma.wgsl"));
        let (seed, result) = (self.buffer(16), self.buffer(16 * u64::from(FMA_INVOCATIONS)));
        self.queue.write_buffer(&seed, 0, bytemuck::cast_slice(&[0.999f32, 0.5, 1.0, 0.0]));
        let rate = |entry, chains: f64| {
            let kernel = self.kernel(&module, entry, &[(0, &seed), (1, &result)]);
            let flops = f64::from(FMA_INVOCATIONS) * FMA_STEPS * chains * 2.0;
            self.rate(flops, |encoder| kernel.dispatch(encoder, FMA_INVOCATIONS / 64))
        };
        Ok(rate("few", 12.0)?.max(rate("many", 32.0)?))
    }

    /// Copy, triad, the driver's copy.
    fn memory(&self) -> Result<[f64; 3]> {
        let module = self.module("triad", include_str!("triad.wgsl"));
        let [x, z, y] = [(); 3].map(|()| self.buffer(ARRAY));
        let groups = (ARRAY / 16 / 256) as u32;
        let copy = self.kernel(&module, "copy", &[(0, &x), (2, &y)]);
        let triad = self.kernel(&module, "triad", &[(0, &x), (1, &z), (2, &y)]);
        let bytes = ARRAY as f64;
        Ok([
            self.rate(2.0 * bytes, |encoder| copy.dispatch(encoder, groups))?,
            self.rate(3.0 * bytes, |encoder| triad.dispatch(encoder, groups))?,
            self.rate(2.0 * bytes, |encoder| encoder.copy_buffer_to_buffer(&x, 0, &y, 0, ARRAY))?,
        ])
    }

    /// 10⁹ units a second of what `encode` records, `units` at a time: median of several samples.
    fn rate(&self, units: f64, encode: impl Fn(&mut wgpu::CommandEncoder)) -> Result<f64> {
        let seconds = |times: usize| -> Result<f64> {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            (0..times).for_each(|_| encode(&mut encoder));
            let commands = encoder.finish();
            let started = Instant::now();
            self.queue.submit([commands]);
            self.device.poll(wgpu::PollType::wait_indefinitely())?;
            Ok(started.elapsed().as_secs_f64() / times as f64)
        };
        seconds(1)?;
        let times = (SAMPLE_SECONDS / seconds(2)?).ceil().clamp(1.0, 1000.0) as usize;
        let samples = (0..SAMPLES).map(|_| seconds(times)).collect::<Result<Vec<_>>>()?;
        Ok(units / median(samples) / 1e9)
    }

    fn module(&self, label: &str, text: &'static str) -> wgpu::ShaderModule {
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(text.into()) };
        // SAFETY: both files index only by the invocation's number, and the buffers and grids above have one vec4 for each
        // invocation; their loops have constant bounds. Injected checks would make for lower bounds than kernels meet.
        unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
    }

    fn buffer(&self, size: u64) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    fn kernel<'b>(&self, module: &wgpu::ShaderModule, entry: &str, buffers: &[(u32, &'b wgpu::Buffer)]) -> BoundKernel {
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module,
            entry_point: Some(entry),
            compilation_options: Default::default(),
            cache: None,
        });
        let entry = |(binding, buffer): (u32, &'b wgpu::Buffer)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        };
        let entries: Vec<_> = buffers.iter().copied().map(entry).collect();
        let layout = pipeline.get_bind_group_layout(0);
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries };
        BoundKernel { group: self.device.create_bind_group(&descriptor), pipeline }
    }
}

/// A pipeline with its buffers.
struct BoundKernel {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
}

impl BoundKernel {
    fn dispatch(&self, encoder: &mut wgpu::CommandEncoder, groups: u32) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(groups, 1, 1);
    }
}
