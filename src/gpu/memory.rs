//! Ranges of device memory, and what is known of their contents.

use std::sync::Arc;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pool::{Buffer, Pool, Raw};
use super::recorder::RawView;
#[cfg(not(target_arch = "wasm32"))]
use crate::error::TensorInfo;
use crate::error::{Error, Result};

/// A range of device memory. It keeps the memory alive.
#[derive(Clone, Debug)]
pub struct BufferView {
    region: Arc<Region>,
    offset: u64,
    size: u64,
}

/// Memory with a history of its own: a buffer, or a tensor's place in a buffer of many.
#[derive(Debug)]
struct Region {
    memory: Memory,
    /// Of what is overwritten in place while others may rely on it: a parameter's path.
    name: Option<Arc<str>>,
    /// How often it was overwritten in place.
    version: AtomicU64,
    /// The sets of faults that its contents depend on, and that they carry: see [`super::fault`]. Written under the lock of
    /// the recorded commands, in whose order alone they mean something.
    mark: AtomicU64,
    carried: AtomicU64,
    /// The tensor that was made of it first, and where it begins in the buffer.
    #[cfg(not(target_arch = "wasm32"))]
    tensor: OnceLock<(TensorInfo, u64)>,
}

#[derive(Debug)]
enum Memory {
    Whole(Buffer),
    Part(Arc<Region>),
}

impl Region {
    fn new(memory: Memory, name: Option<Arc<str>>) -> Arc<Self> {
        let [version, mark, carried] = [const { AtomicU64::new(0) }; 3];
        Arc::new(Region {
            memory,
            name,
            version,
            mark,
            carried,
            #[cfg(not(target_arch = "wasm32"))]
            tensor: OnceLock::new(),
        })
    }

    fn buffer(&self) -> &Buffer {
        match &self.memory {
            Memory::Whole(buffer) => buffer,
            Memory::Part(region) => region.buffer(),
        }
    }

    fn raw(&self) -> &Arc<Raw> {
        &self.buffer().raw
    }

    /// How often it, or the whole that it is a part of, was overwritten.
    fn version(&self) -> u64 {
        let own = self.version.load(Ordering::Acquire);
        match &self.memory {
            Memory::Whole(_) => own,
            Memory::Part(whole) => own + whole.version(),
        }
    }
}

/// A parameter's memory as it was at some time.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    region: Arc<Region>,
    version: u64,
}

impl Stamp {
    /// # Errors
    /// [`Error::Parameter`] if the memory has been overwritten since.
    pub(crate) fn check(&self) -> Result<()> {
        if self.region.version() == self.version {
            return Ok(());
        }
        let what = "its value has changed since the forward pass, whose gradients need the old one: run backward first";
        let name = self.region.name.as_deref().unwrap_or_default().to_owned();
        Err(Error::Parameter { name, what: what.to_owned() })
    }
}

impl BufferView {
    /// The start of a buffer.
    pub(super) fn new(buffer: Buffer, size: u64) -> Self {
        BufferView { region: Region::new(Memory::Whole(buffer), None), offset: 0, size }
    }

    /// Bytes, rounded up to 16. A tensor's own are [`Tensor::numel`](crate::Tensor::numel) times its dtype's; what lies behind them may be
    /// anything.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Byte offset in [`BufferView::wgpu_buffer`].
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The wgpu buffer, for a host program's own passes. Its contents are what has been recorded so far once
    /// [`Gpu::flush`](crate::Gpu::flush) has been called.
    pub fn wgpu_buffer(&self) -> &wgpu::Buffer {
        &self.region.raw().buffer
    }

    /// Whether the memory is of this pool, and so of its device.
    pub(super) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        self.region.buffer().is_of(pool)
    }

    /// Whether a dispatch that writes one of the two ranges, or both, cannot bind the other. wgpu takes a buffer that is written
    /// for nothing else, not even where ranges do not meet.
    pub(super) fn interferes(&self, other: &BufferView, both_written: bool) -> bool {
        let meets = || self.offset < other.offset + other.size && other.offset < self.offset + self.size;
        self.shares_buffer(other) && (!both_written || meets())
    }

    pub(super) fn shares_buffer(&self, other: &BufferView) -> bool {
        Arc::ptr_eq(self.region.raw(), other.region.raw())
    }

    /// Whether no other tensor lies in its buffer.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.region.memory, Memory::Whole(_))
    }

    /// Whether no other handle shares this memory.
    pub(crate) fn is_sole(&self) -> bool {
        self.is_whole() && Arc::strong_count(&self.region) == 1
    }

    /// The path of the parameter whose memory it is.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn name(&self) -> Option<&str> {
        self.region.name.as_deref()
    }

    /// What tells it from other memory: its buffer, and where it begins there.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn place(&self) -> (u64, u64) {
        (self.region.raw().id, self.offset)
    }

    /// Notes what was made of this memory.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn note_tensor(&self, info: TensorInfo) {
        // What is called otherwise later has the same elements.
        let _ = self.region.tensor.set((info, self.offset));
    }

    /// The tensor that was made of this memory, with its bytes before this range.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn tensor(&self) -> Option<(TensorInfo, u64)> {
        let (info, begin) = *self.region.tensor.get()?;
        Some((info, self.offset.checked_sub(begin)?))
    }

    pub(super) fn raw(&self) -> RawView {
        RawView { raw: self.region.raw().clone(), offset: self.offset, size: self.size }
    }

    /// A part of this range, from byte `offset`, with a history of its own; offsets are multiples of 256.
    pub(crate) fn part(&self, offset: u64, size: u64) -> BufferView {
        self.named_part(offset, size, None)
    }

    /// A part of this range with this range's history: what a dispatch binds of it. Offsets are multiples of 256.
    pub(crate) fn window(&self, offset: u64, size: u64) -> BufferView {
        BufferView { region: self.region.clone(), offset: self.offset + offset, size }
    }

    /// The same with the name of the parameter whose place it is.
    pub(crate) fn named_part(&self, offset: u64, size: u64, name: Option<Arc<str>>) -> BufferView {
        let region = Region::new(Memory::Part(self.region.clone()), name);
        BufferView { region, offset: self.offset + offset, size }
    }

    /// What to check later if this memory must still hold what it holds now; `None` where nothing overwrites it.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.region.name.as_ref()?;
        Some(Stamp { region: self.region.clone(), version: self.region.version() })
    }

    /// Makes the stamps of this memory's old contents invalid. A part without a name speaks for the whole that it is of.
    pub(crate) fn overwritten(&self) {
        let region = match &self.region.memory {
            Memory::Part(whole) if self.region.name.is_none() => whole,
            _ => &self.region,
        };
        region.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn mark(&self) -> u64 {
        self.region.mark.load(Ordering::Relaxed)
    }

    pub(super) fn set_mark(&self, mark: u64) {
        self.region.mark.store(mark, Ordering::Relaxed);
    }

    /// Says that what is recorded next overwrites all of it, whatever it depended on before.
    pub(crate) fn forget_faults(&self) {
        self.set_mark(0);
        self.set_carried(0);
    }

    pub(super) fn carried(&self) -> u64 {
        self.region.carried.load(Ordering::Relaxed)
    }

    pub(super) fn set_carried(&self, carried: u64) {
        self.region.carried.store(carried, Ordering::Relaxed);
    }
}
