//! Commands as wgpu has them: what a submission reads, its passes and copies, and the bind groups that dispatches share.

use super::clock::Instant;
use super::profiler::Profiler;
use super::recorder::{Command, GroupKey, RawView, Recorder};

/// More bind groups than any training step has: beyond, a program's buffers come in ever new combinations, and the cache is
/// begun anew.
const MAX_BIND_GROUPS: usize = 1 << 14;

impl Recorder {
    /// Takes the `Params` of all dispatches to the device, and the submission's number behind them; tells where each will lie. An error where
    /// there is no memory for them, or the device is lost, which takes commands without a word.
    pub(super) fn write_params(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        commands: &[Command],
    ) -> Result<Offsets, Refused> {
        let (mut bytes, mut params) = (Vec::new(), Vec::with_capacity(commands.len()));
        for command in commands {
            params.push(bytes.len() as u32);
            if let Command::Dispatch { params: own, .. } = command {
                bytes.extend_from_slice(own);
                bytes.resize(bytes.len().next_multiple_of(self.align), 0);
            }
        }
        let number = bytes.len() as u64;
        bytes.extend_from_slice(&(self.submissions as u32).to_ne_bytes());
        let refused = |message| Refused { size: bytes.len() as u64, message };
        let stage = self.stage(device, queue, &bytes).map_err(refused)?;
        Ok(Offsets { params, number, stage })
    }

    /// In a buffer of its own: that of a write of wgpu's ends the device where memory runs short.
    #[cfg(not(target_arch = "wasm32"))]
    fn stage(&self, device: &wgpu::Device, _: &wgpu::Queue, bytes: &[u8]) -> Result<Stage, String> {
        let staging = super::allocate::mapped_buffer(device, bytes.len() as u64)?;
        staging.get_mapped_range_mut(..).map_err(|e| e.to_string())?.slice(..).copy_from_slice(bytes);
        staging.unmap();
        Ok(Stage(Some(staging)))
    }

    /// A browser makes and loses buffers slowly.
    #[cfg(target_arch = "wasm32")]
    fn stage(&self, _: &wgpu::Device, queue: &wgpu::Queue, bytes: &[u8]) -> Result<Stage, String> {
        let size = wgpu::BufferSize::new(bytes.len() as u64);
        let range = size.and_then(|size| queue.write_buffer_with(&self.ring, 0, size));
        range.ok_or("the browser gives none")?.copy_from_slice(bytes);
        Ok(Stage(None))
    }

    /// An encoder whose first command puts the `Params` in their place.
    fn encoder(&self, device: &wgpu::Device, offsets: &Offsets) -> wgpu::CommandEncoder {
        let mut encoder = device.create_command_encoder(&Default::default());
        if let Stage(Some(staging)) = &offsets.stage {
            encoder.copy_buffer_to_buffer(staging, 0, &self.ring, 0, staging.size());
        }
        encoder
    }

    /// The ordinary way: neighbouring dispatches share one compute pass.
    pub(super) fn submit_all(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        commands: &[Command],
        offsets: &Offsets,
    ) -> wgpu::SubmissionIndex {
        let mut encoder = self.encoder(device, offsets);
        let mut params = offsets.params.iter();
        for run in commands.chunk_by(|a, b| is_dispatch(a) && is_dispatch(b)) {
            let params = params.by_ref().take(run.len());
            if is_dispatch(&run[0]) {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for (command, &offset) in run.iter().zip(params) {
                    self.encode_dispatch(device, &mut pass, command, offset);
                }
            } else {
                run.iter().zip(params).for_each(|(command, _)| self.encode_transfer(&mut encoder, command, offsets));
            }
        }
        self.sign(&mut encoder, offsets);
        let encoded = encoder.finish();
        let begun = Instant::now();
        let submission = queue.submit([encoded]);
        self.submitting += begun.elapsed();
        submission
    }

    /// The profiler's way: a pass of its own for each dispatch, with timestamps around it where the device has them,
    /// else a submission of its own that is waited for.
    pub(super) fn submit_timed(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        commands: &[Command],
        offsets: &Offsets,
        profiler: &mut Profiler,
    ) -> wgpu::SubmissionIndex {
        profiler.begin(device, commands.iter().filter(|c| is_dispatch(c)).count());
        let mut encoder = self.encoder(device, offsets);
        let mut names = Vec::new();
        for (command, &offset) in commands.iter().zip(&offsets.params) {
            let Command::Dispatch { pipeline, .. } = command else {
                self.encode_transfer(&mut encoder, command, offsets);
                continue;
            };
            let descriptor = profiler.pass_descriptor(names.len());
            let mut pass = encoder.begin_compute_pass(&descriptor);
            self.encode_dispatch(device, &mut pass, command, offset);
            drop(pass);
            names.push(pipeline.name);
            if !profiler.has_timestamps() {
                let full = std::mem::replace(&mut encoder, device.create_command_encoder(&Default::default()));
                profiler.time_on_host(device, queue, full, pipeline.name);
            }
        }
        self.sign(&mut encoder, offsets);
        profiler.finish(device, queue, encoder, &names)
    }

    /// Lets the submission that is being encoded leave its number.
    fn sign(&self, encoder: &mut wgpu::CommandEncoder, offsets: &Offsets) {
        self.witness.sign(encoder, self.submissions, (&self.ring, offsets.number));
    }

    fn encode_transfer(&self, encoder: &mut wgpu::CommandEncoder, command: &Command, offsets: &Offsets) {
        match command {
            Command::Copy { from, to } => {
                encoder.copy_buffer_to_buffer(&from.raw.buffer, from.offset, &to.raw.buffer, to.offset, from.size);
            }
            Command::Upload { staging, to, size, .. } => {
                #[cfg(not(target_arch = "wasm32"))]
                staging.unmap();
                encoder.copy_buffer_to_buffer(staging, 0, &to.raw.buffer, to.offset, *size);
            }
            Command::Download { from, staging, at } => {
                encoder.copy_buffer_to_buffer(&from.raw.buffer, from.offset, staging, *at, from.size);
            }
            Command::Clear { to } => encoder.clear_buffer(&to.raw.buffer, to.offset, Some(to.size)),
            Command::Land { staging, at, .. } => {
                self.sign(encoder, offsets);
                self.witness.show(encoder, staging, *at);
            }
            Command::Dispatch { .. } => {}
        }
    }

    /// `offset` is that of its `Params` in the ring.
    fn encode_dispatch(
        &mut self,
        device: &wgpu::Device,
        pass: &mut wgpu::ComputePass<'_>,
        command: &Command,
        offset: u32,
    ) {
        if let Command::Dispatch { pipeline, bindings, buffers, groups, .. } = command {
            if self.groups.len() >= MAX_BIND_GROUPS {
                self.groups.clear();
            }
            let key: GroupKey = (bindings, buffers.iter().map(|b| (b.raw.id, b.offset, b.size)).collect());
            let group = self.groups.entry(key).or_insert_with(|| {
                self.bind_groups += 1;
                bind_group(device, &pipeline.layout, buffers)
            });
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &*group, &[]);
            pass.set_bind_group(1, &self.ring_group, &[offset]);
            pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        }
    }
}

/// There is no memory for what a submission reads, or the device is lost.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Bytes that were asked for.
    pub(super) size: u64,
    pub(super) message: String,
}

/// Where what a submission reads lies in the ring.
pub(super) struct Offsets {
    /// Of each command, the `Params`.
    params: Vec<u32>,
    /// The submission's number.
    number: u64,
    stage: Stage,
}

/// What the submission copies there first; nothing where a write has done so.
struct Stage(Option<wgpu::Buffer>);

pub(super) fn is_dispatch(command: &Command) -> bool {
    matches!(command, Command::Dispatch { .. })
}

fn bind_group(device: &wgpu::Device, layout: &wgpu::BindGroupLayout, buffers: &[RawView]) -> wgpu::BindGroup {
    let entries: Vec<_> = buffers
        .iter()
        .enumerate()
        .map(|(i, view)| wgpu::BindGroupEntry {
            binding: i as u32,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &view.raw.buffer,
                offset: view.offset,
                size: wgpu::BufferSize::new(view.size),
            }),
        })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}
