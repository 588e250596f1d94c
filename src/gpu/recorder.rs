//! Commands as data: recorded by the ops, encoded and submitted here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::compile::Pipeline;
use super::kernel::{Access, PARAMS_WINDOW};
use super::pool::Raw;
use super::profiler::Profiler;
use super::staging::Staged;

/// A range of a buffer, as a command keeps it: without the pool handle, so that recording does not hold memory back.
#[derive(Clone, Debug)]
pub(crate) struct RawView {
    pub(crate) raw: Arc<Raw>,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// One thing for the device to do.
#[derive(Debug)]
pub(crate) enum Command {
    Dispatch {
        pipeline: Arc<Pipeline>,
        bindings: &'static [Access],
        buffers: Vec<RawView>,
        /// Byte offset of the `Params` in this submission's ring.
        params: u32,
        groups: [u32; 3],
    },
    Copy {
        from: RawView,
        to: RawView,
    },
    Upload {
        staging: wgpu::Buffer,
        staged: Staged,
        to: RawView,
        size: u64,
    },
    Download {
        from: RawView,
        staging: wgpu::Buffer,
        at: u64,
    },
    Clear {
        to: RawView,
    },
}

/// A submission is cut after this many commands, so that the device starts early, …
const MAX_COMMANDS: usize = 96;
/// … or after this much work: some systems kill a submission that runs for two seconds, and this is about a second on
/// the slowest GPUs in laptops.
const MAX_FLOPS: u64 = 200_000_000_000;
/// … or after uploads of so many bytes, whose staging memory the device then gives back.
const MAX_STAGED: u64 = 16 << 20;

/// More bind groups than any training step has: beyond, a program's buffers come in ever new combinations, and the cache is
/// begun anew.
const MAX_BIND_GROUPS: usize = 1 << 14;

type GroupKey = (&'static [Access], Vec<(u64, u64, u64)>);

/// What has been recorded and not yet submitted, and the bind groups that commands share.
#[derive(Debug)]
pub(crate) struct Recorder {
    commands: Vec<Command>,
    params: Vec<u8>,
    flops: u64,
    staged: u64,
    /// Uploads that were submitted, as far as the host does not know that they have arrived: the number of the submission.
    under_way: VecDeque<(u64, wgpu::SubmissionIndex, Vec<Staged>)>,
    ring: wgpu::Buffer,
    ring_group: wgpu::BindGroup,
    align: usize,
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    pub(crate) dispatches: u64,
    pub(crate) submissions: u64,
    pub(crate) bind_groups: u64,
    last: Option<wgpu::SubmissionIndex>,
}

impl Recorder {
    pub(crate) fn new(device: &wgpu::Device, layout: &wgpu::BindGroupLayout) -> Self {
        let align = device.limits().min_uniform_buffer_offset_alignment as usize;
        let (slot, window) = (PARAMS_WINDOW.next_multiple_of(align) as u64, PARAMS_WINDOW as u64);
        let ring = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params ring"),
            size: slot * MAX_COMMANDS as u64 + window,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let window = wgpu::BufferBinding { buffer: &ring, offset: 0, size: wgpu::BufferSize::new(window) };
        let ring_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("params ring"),
            layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(window) }],
        });
        Recorder {
            commands: Vec::new(),
            params: Vec::new(),
            flops: 0,
            staged: 0,
            under_way: VecDeque::new(),
            ring,
            ring_group,
            align,
            groups: HashMap::new(),
            dispatches: 0,
            submissions: 0,
            bind_groups: 0,
            last: None,
        }
    }

    /// Puts a dispatch's `Params` into the ring and returns their offset.
    pub(crate) fn push_params(&mut self, bytes: &[u8]) -> u32 {
        let at = self.params.len();
        self.params.extend_from_slice(bytes);
        self.params.resize(self.params.len().next_multiple_of(self.align), 0);
        at as u32
    }

    /// Appends a command; says whether the list should be submitted now.
    pub(crate) fn push(&mut self, command: Command, flops: u64) -> bool {
        match &command {
            Command::Dispatch { .. } => self.dispatches += 1,
            Command::Upload { staged, .. } => self.staged += staged.bytes,
            _ => {}
        }
        self.commands.push(command);
        self.flops += flops;
        self.commands.len() >= MAX_COMMANDS || self.flops >= MAX_FLOPS || self.staged >= MAX_STAGED
    }

    /// Whether nothing is waiting to be submitted.
    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    pub(crate) fn last_submission(&self) -> Option<wgpu::SubmissionIndex> {
        self.last.clone()
    }

    /// The submission of the oldest upload under way, with its number.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn oldest_upload(&self) -> Option<(u64, wgpu::SubmissionIndex)> {
        self.under_way.front().map(|(ordinal, index, _)| (*ordinal, index.clone()))
    }

    /// Notes that the device is done with every submission up to that number.
    pub(crate) fn arrived(&mut self, ordinal: u64) {
        while self.under_way.front().is_some_and(|(upload, ..)| *upload <= ordinal) {
            self.under_way.pop_front();
        }
    }

    /// Forgets the bind groups of released buffers.
    pub(crate) fn forget(&mut self, released: &[u64]) {
        if !released.is_empty() {
            let gone: HashSet<_> = released.iter().collect();
            self.groups.retain(|(_, buffers), _| !buffers.iter().any(|(id, _, _)| gone.contains(id)));
        }
    }

    /// Encodes and submits everything recorded, in order. Does not wait. Says whether the device has taken it; else it is lost.
    pub(crate) fn submit(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        profiler: Option<&mut Profiler>,
    ) -> bool {
        if self.commands.is_empty() {
            return true;
        }
        let commands = std::mem::replace(&mut self.commands, Vec::with_capacity(MAX_COMMANDS));
        let is_taken = self.write_params(queue);
        self.params.clear();
        (self.flops, self.staged) = (0, 0);
        if !is_taken {
            return false;
        }
        let submission = match profiler {
            None => self.submit_all(device, queue, &commands),
            Some(profiler) => self.submit_timed(device, queue, &commands, profiler),
        };
        self.submissions += 1;
        self.last = Some(submission.clone());
        let staged: Vec<Staged> = commands.into_iter().filter_map(staged).collect();
        if !staged.is_empty() {
            self.under_way.push_back((self.submissions, submission, staged));
        }
        true
    }

    /// Puts the `Params` of all dispatches on the device. A few bytes are written also where there are none: a lost device
    /// takes commands without a word, but this it refuses.
    fn write_params(&mut self, queue: &wgpu::Queue) -> bool {
        self.params.resize(self.params.len().max(4), 0);
        let size = wgpu::BufferSize::new(self.params.len() as u64);
        let view = size.and_then(|size| queue.write_buffer_with(&self.ring, 0, size));
        view.map(|mut view| view.copy_from_slice(&self.params)).is_some()
    }

    /// The ordinary way: neighbouring dispatches share one compute pass.
    fn submit_all(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        commands: &[Command],
    ) -> wgpu::SubmissionIndex {
        let mut encoder = device.create_command_encoder(&Default::default());
        for run in commands.chunk_by(|a, b| is_dispatch(a) && is_dispatch(b)) {
            if is_dispatch(&run[0]) {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for command in run {
                    self.encode_dispatch(device, &mut pass, command);
                }
            } else {
                run.iter().for_each(|command| encode_transfer(&mut encoder, command));
            }
        }
        queue.submit([encoder.finish()])
    }

    /// The profiler's way: a pass of its own for each dispatch, with timestamps around it where the device has them,
    /// else a submission of its own that is waited for.
    fn submit_timed(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        commands: &[Command],
        profiler: &mut Profiler,
    ) -> wgpu::SubmissionIndex {
        profiler.begin(device, commands.iter().filter(|c| is_dispatch(c)).count());
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut names = Vec::new();
        for command in commands {
            let Command::Dispatch { pipeline, .. } = command else {
                encode_transfer(&mut encoder, command);
                continue;
            };
            let descriptor = profiler.pass_descriptor(names.len());
            let mut pass = encoder.begin_compute_pass(&descriptor);
            self.encode_dispatch(device, &mut pass, command);
            drop(pass);
            names.push(pipeline.name);
            if !profiler.has_timestamps() {
                let full = std::mem::replace(&mut encoder, device.create_command_encoder(&Default::default()));
                profiler.time_on_host(device, queue, full, pipeline.name);
            }
        }
        profiler.finish(device, queue, encoder, &names)
    }

    fn encode_dispatch(&mut self, device: &wgpu::Device, pass: &mut wgpu::ComputePass<'_>, command: &Command) {
        if let Command::Dispatch { pipeline, bindings, buffers, params, groups } = command {
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
            pass.set_bind_group(1, &self.ring_group, &[*params]);
            pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        }
    }
}

fn staged(command: Command) -> Option<Staged> {
    match command {
        Command::Upload { staged, .. } => Some(staged),
        _ => None,
    }
}

fn is_dispatch(command: &Command) -> bool {
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

fn encode_transfer(encoder: &mut wgpu::CommandEncoder, command: &Command) {
    match command {
        Command::Copy { from, to } => {
            encoder.copy_buffer_to_buffer(&from.raw.buffer, from.offset, &to.raw.buffer, to.offset, from.size);
        }
        Command::Upload { staging, to, size, .. } => {
            staging.unmap();
            encoder.copy_buffer_to_buffer(staging, 0, &to.raw.buffer, to.offset, *size);
        }
        Command::Download { from, staging, at } => {
            encoder.copy_buffer_to_buffer(&from.raw.buffer, from.offset, staging, *at, from.size);
        }
        Command::Clear { to } => encoder.clear_buffer(&to.raw.buffer, to.offset, Some(to.size)),
        Command::Dispatch { .. } => {}
    }
}
