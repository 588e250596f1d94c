//! A program with its own wgpu device trains on it, then reads the result in its own compute pass, without a copy to the
//! host in between.
//!
//!     cargo run --release --example embed
//!
//! Last line: `largest weight by the host's own pass: …, by download: …`

#[path = "common/warnings.rs"]
mod warnings;

use anyhow::{Context, Result, ensure};
use wgrad::autograd::Parameters;
use wgrad::optim::{Optimizer, Rule, Sgd};
use wgrad::wgpu::{self, util::DeviceExt};
use wgrad::{Gpu, Tensor, ops};

/// The host program's own shader: the largest absolute value, by one invocation.
const LARGEST: &str = "
    @group(0) @binding(0) var<storage, read> weights: array<f32>;
    @group(0) @binding(1) var<storage, read_write> largest: f32;
    @compute @workgroup_size(1) fn main() {
        for (var i = 0u; i < arrayLength(&weights); i++) { largest = max(largest, abs(weights[i])); }
    }";

fn main() -> Result<()> {
    warnings::show();
    // The host's device, made as it likes.
    let instance = wgpu::Instance::default();
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;

    // The engine on it.
    let gpu = Gpu::from_wgpu(device.clone(), queue.clone(), Some(&adapter))?;
    println!("{}", gpu.info());
    let weights = train(&gpu)?;

    // The host's own pass over the trained weights, where they lie.
    gpu.flush()?;
    let view = weights.buffer();
    let trained = wgpu::BufferBinding {
        buffer: view.wgpu_buffer(),
        offset: view.offset(),
        size: wgpu::BufferSize::new(weights.numel() as u64 * 4),
    };
    let by_pass = largest(&device, &queue, trained)?;
    let by_download = weights.to_vec::<f32>()?.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    println!("largest weight by the host's own pass: {by_pass}, by download: {by_download}");
    ensure!(by_pass == by_download, "the two disagree");
    Ok(())
}

/// Least squares: finds W with x·Wᵀ = y for a known W. Returns the weights.
fn train(gpu: &Gpu) -> Result<Tensor> {
    let wave = |n: usize, step: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * step).sin()).collect() };
    let x = Tensor::from_slice(gpu, &[64, 8], &wave(512, 0.7))?;
    let truth = Tensor::from_slice(gpu, &[4, 8], &wave(32, 1.3))?;
    let y = ops::matmul_nt(&x, &truth)?;
    let mut parameters = Parameters::new(gpu);
    let weight = parameters.add("weight", &[4, 8], &[0.0; 32])?;
    let mut optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, |_, _| false)?;
    for step in 0..50 {
        let loss = ops::mse_loss(&ops::matmul_nt(&x, &weight.tensor())?, &y)?;
        loss.backward()?;
        optimizer.step(&parameters, 0.1)?;
        if step % 10 == 9 {
            println!("step {}: loss {:.6}", step + 1, loss.item()?);
        }
    }
    Ok(weight.value())
}

/// Runs [`LARGEST`] on a range of a buffer and reads its four bytes.
fn largest(device: &wgpu::Device, queue: &wgpu::Queue, weights: wgpu::BufferBinding<'_>) -> Result<f32> {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(LARGEST.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let result = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: &[0; 4],
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(weights) },
            wgpu::BindGroupEntry { binding: 1, resource: result.as_entire_binding() },
        ],
    });
    let readable = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(1, 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&result, 0, &readable, 0, 4);
    queue.submit([encoder.finish()]);
    readable.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let bytes = readable.get_mapped_range(..)?;
    Ok(f32::from_ne_bytes(bytes.first_chunk().copied().context("four bytes")?))
}
