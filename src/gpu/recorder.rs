//! Commands as data: recorded by the ops and submitted here, as `encode` puts them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::budget::Budget;
use super::clock::Instant;
use super::compile::Pipeline;
use super::encode::{Refused, is_dispatch};
use super::kernel::{Access, PARAMS_WINDOW};
use super::mapped::Landing;
use super::pool::Raw;
use super::profiler::Profiler;
use super::staging::Staged;
use super::witness::Witness;

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
        params: Box<[u8]>,
        groups: [u32; 3],
        /// As far as the matrix products say.
        flops: u64,
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
    /// The last of a read-back: once submitted, its memory is mapped for the host.
    Land {
        staging: wgpu::Buffer,
        landing: Landing,
        /// Where the witness goes.
        at: u64,
    },
}

/// A submission is cut after this many commands, so that the device starts early, after the time that it may take ([`Budget`]), …
const MAX_COMMANDS: usize = 96;
/// … or after uploads of so many bytes, whose staging memory the device then gives back.
const MAX_STAGED: u64 = 16 << 20;

pub(super) type GroupKey = (&'static [Access], Vec<(u64, u64, u64)>);

/// A command, and what it takes by the budget's guess.
#[derive(Debug)]
struct Waiting {
    command: Command,
    work: u64,
}

/// What is submitted together: commands, what they take by the budget's guess, bytes of uploads.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    commands: usize,
    work: u64,
    staged: u64,
}

impl Load {
    fn with(self, Waiting { command, work }: &Waiting) -> Load {
        let staged = if let Command::Upload { staged, .. } = command { staged.bytes } else { 0 };
        Load { commands: self.commands + 1, work: self.work + work, staged: self.staged + staged }
    }

    fn is_full(&self, budget: &Budget) -> bool {
        self.commands >= MAX_COMMANDS || self.staged >= MAX_STAGED || budget.is_spent(self.work)
    }
}

/// What was submitted, as far as the host does not know that the device is done with it.
#[derive(Debug)]
#[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "a browser waits for none, and the memory is only held"))]
struct UnderWay {
    ordinal: u64,
    index: wgpu::SubmissionIndex,
    /// What it takes by the budget's guess, and when it was made.
    work: u64,
    made: Instant,
    /// Memory of uploads, which the device may still read.
    staged: Vec<Staged>,
}

/// A submission that was just made.
#[derive(Debug, Default)]
pub(crate) struct Submitted {
    pub(crate) ordinal: u64,
    pub(crate) commands: usize,
}

/// What has been recorded and not yet submitted, and the bind groups that commands share.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// The oldest first.
    commands: VecDeque<Waiting>,
    load: Load,
    /// How many of them are to be submitted. It is not 0 for long but in a browser with too much under way.
    due: usize,
    pub(crate) budget: Budget,
    under_way: VecDeque<UnderWay>,
    pub(super) witness: Witness,
    pub(super) ring: wgpu::Buffer,
    pub(super) ring_group: wgpu::BindGroup,
    pub(super) align: usize,
    pub(super) groups: FxHashMap<GroupKey, wgpu::BindGroup>,
    /// Buffers that the pool has let go of, and waiting commands may still name.
    released: FxHashSet<u64>,
    pub(crate) dispatches: u64,
    pub(crate) submissions: u64,
    pub(crate) bind_groups: u64,
    /// Time that the driver took to accept submissions.
    pub(super) submitting: Duration,
    last: Option<wgpu::SubmissionIndex>,
}

impl Recorder {
    pub(crate) fn new(device: &wgpu::Device, layout: &wgpu::BindGroupLayout, budget: Budget) -> Self {
        let align = device.limits().min_uniform_buffer_offset_alignment as usize;
        let (slot, window) = (PARAMS_WINDOW.next_multiple_of(align) as u64, PARAMS_WINDOW as u64);
        let ring = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params ring"),
            size: slot * MAX_COMMANDS as u64 + window,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let window = wgpu::BufferBinding { buffer: &ring, offset: 0, size: wgpu::BufferSize::new(window) };
        let ring_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("params ring"),
            layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(window) }],
        });
        Recorder {
            commands: VecDeque::new(),
            load: Load::default(),
            due: 0,
            budget,
            under_way: VecDeque::new(),
            witness: Witness::new(device),
            ring,
            ring_group,
            align,
            groups: FxHashMap::default(),
            released: FxHashSet::default(),
            dispatches: 0,
            submissions: 0,
            bind_groups: 0,
            submitting: Duration::ZERO,
            last: None,
        }
    }

    /// Bind groups that are kept for commands to come.
    pub(crate) fn held_bind_groups(&self) -> usize {
        self.groups.len()
    }

    /// Appends a command; says whether there are enough for a submission.
    pub(crate) fn push(&mut self, command: Command) -> bool {
        if is_dispatch(&command) {
            self.dispatches += 1;
        }
        let waiting = Waiting { work: self.budget.work_of(&command), command };
        self.load = self.load.with(&waiting);
        self.commands.push_back(waiting);
        self.load.is_full(&self.budget)
    }

    /// Says that all that waits is to be submitted.
    pub(crate) fn call_for_all(&mut self) {
        self.due = self.commands.len();
    }

    /// How many of the oldest commands are to be submitted.
    pub(crate) fn due(&self) -> usize {
        self.due
    }

    /// What waits to be submitted, the oldest first.
    pub(crate) fn waiting(&self) -> impl ExactSizeIterator<Item = &Command> {
        self.commands.iter().map(|waiting| &waiting.command)
    }

    pub(crate) fn last_submission(&self) -> Option<wgpu::SubmissionIndex> {
        self.last.clone()
    }

    /// The oldest submission that the host does not know to have ended, with its number; but for the newest `but`.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn oldest_under_way(&self, but: usize) -> Option<(u64, wgpu::SubmissionIndex)> {
        let oldest = self.under_way.front().filter(|_| self.under_way.len() > but)?;
        Some((oldest.ordinal, oldest.index.clone()))
    }

    /// The same of those with an upload.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn oldest_upload(&self) -> Option<(u64, wgpu::SubmissionIndex)> {
        let oldest = self.under_way.iter().find(|submission| !submission.staged.is_empty())?;
        Some((oldest.ordinal, oldest.index.clone()))
    }

    /// How many submissions the host does not know to have ended.
    pub(crate) fn count_under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Notes that the device is done with every submission up to that number, and when with the last of them, if that is known.
    pub(crate) fn arrived(&mut self, ordinal: u64, end: Option<Instant>) {
        let (mut work, mut begun) = (0, None);
        while let Some(oldest) = self.under_way.pop_front_if(|oldest| oldest.ordinal <= ordinal) {
            work += oldest.work;
            begun.get_or_insert(oldest.made);
        }
        if let Some(begun) = begun {
            self.budget.learn(work, begun, end);
        }
    }

    /// Forgets the bind groups of released buffers, whose memory they hold. Commands that wait and name such buffers have theirs made anew,
    /// so that they are forgotten once more when none waits.
    pub(crate) fn forget(&mut self, released: impl IntoIterator<Item = u64>) {
        let known = self.released.len();
        self.released.extend(released);
        let is_last = self.commands.is_empty();
        if self.released.len() > known || (is_last && known > 0) {
            let gone = &self.released;
            self.groups.retain(|(_, buffers), _| !buffers.iter().any(|(id, _, _)| gone.contains(id)));
        }
        if is_last {
            self.released.clear();
        }
    }

    /// Encodes and submits the oldest commands, at most so many and no more than a submission holds. Does not wait.
    /// Where it is refused, the commands are still there.
    pub(crate) fn submit(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        profiler: Option<&mut Profiler>,
        most: usize,
    ) -> Result<Submitted, Refused> {
        let due = self.due;
        let (commands, load) = self.take(most);
        if commands.is_empty() {
            return Ok(Submitted::default());
        }
        self.submissions += 1;
        let offsets = match self.write_params(device, queue, &commands) {
            Ok(offsets) => offsets,
            Err(refused) => {
                self.put_back(commands);
                self.due = due;
                return Err(refused);
            }
        };
        let index = match profiler {
            None => self.submit_all(device, queue, &commands, &offsets),
            Some(profiler) => self.submit_timed(device, queue, &commands, &offsets, profiler),
        };
        self.last = Some(index.clone());
        let (ordinal, count) = (self.submissions, commands.len());
        let staged = commands.into_iter().filter_map(|command| submitted(command, ordinal, &index)).collect();
        self.under_way.push_back(UnderWay { ordinal, index, work: load.work, made: Instant::now(), staged });
        self.forget([]);
        Ok(Submitted { ordinal, commands: count })
    }

    /// The oldest commands: at most so many, and no more than fill a submission. One that takes too long by itself goes alone.
    fn take(&mut self, most: usize) -> (Vec<Command>, Load) {
        let mut load = Load::default();
        let mut taken = Vec::with_capacity(most.min(self.commands.len()).min(MAX_COMMANDS));
        // One at least, whatever the budget.
        while taken.len() < most && (taken.is_empty() || !load.is_full(&self.budget)) {
            let Some(waiting) = self.commands.pop_front() else { break };
            let with = load.with(&waiting);
            if !taken.is_empty() && self.budget.is_spent(with.work) {
                self.commands.push_front(waiting);
                break;
            }
            load = with;
            taken.push(waiting.command);
        }
        self.due = self.due.saturating_sub(taken.len());
        self.load.commands -= load.commands;
        self.load.work -= load.work;
        self.load.staged -= load.staged;
        (taken, load)
    }

    /// Makes commands that were taken the oldest again.
    fn put_back(&mut self, commands: Vec<Command>) {
        self.submissions -= 1;
        for command in commands.into_iter().rev() {
            let waiting = Waiting { work: self.budget.work_of(&command), command };
            self.load = self.load.with(&waiting);
            self.commands.push_front(waiting);
        }
    }
}

/// What becomes of a command that has been submitted: an upload's memory stays until it has ended, a read-back's is mapped.
fn submitted(command: Command, ordinal: u64, index: &wgpu::SubmissionIndex) -> Option<Staged> {
    match command {
        #[cfg(target_arch = "wasm32")]
        Command::Upload { staged, staging, .. } => {
            // As in `pool.rs`.
            staging.destroy();
            return Some(staged);
        }
        #[cfg(not(target_arch = "wasm32"))]
        Command::Upload { staged, .. } => return Some(staged),
        Command::Land { staging, landing, .. } => landing.begin(&staging, ordinal, index),
        _ => {}
    }
    None
}
