//! Device memory: ranges of buffers, allocation through the pool, and copies in order with the kernels.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use super::health::Scopes;
use super::pool::{Buffer, Fit, Pool, Raw, class_of};
use super::recorder::{Command, RawView};
use super::{Gpu, Kernel};
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
}

#[derive(Debug)]
enum Memory {
    Whole(Buffer),
    Part(Arc<Region>),
}

impl Region {
    fn new(memory: Memory, name: Option<Arc<str>>) -> Arc<Self> {
        let [version, mark, carried] = [const { AtomicU64::new(0) }; 3];
        Arc::new(Region { memory, name, version, mark, carried })
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
    /// [`Gpu::flush`] has been called.
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

    fn shares_buffer(&self, other: &BufferView) -> bool {
        Arc::ptr_eq(self.region.raw(), other.region.raw())
    }

    /// Whether no other handle shares this memory.
    pub(crate) fn is_sole(&self) -> bool {
        matches!(self.region.memory, Memory::Whole(_)) && Arc::strong_count(&self.region) == 1
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

impl Gpu {
    /// Device memory of `size` bytes, contents undefined. What lives long, [`Fit::Exact`], may be larger than what the device binds:
    /// those who use it bind [`Gpu::windows`] of it.
    ///
    /// # Errors
    /// [`Error::Limit`] above the device's binding size, or else its buffer size; [`Error::OutOfMemory`], which names `what`;
    /// [`Error::DeviceLost`].
    pub(crate) fn alloc(&self, size: u64, fit: Fit, what: impl fmt::Display) -> Result<BufferView> {
        self.expect_alive()?;
        let limits = &self.0.limits;
        let (name, limit) = match fit {
            Fit::Exact => ("max_buffer_size", limits.max_buffer_size),
            Fit::Close | Fit::Loose => (BINDING_SIZE, limits.max_storage_buffer_binding_size),
        };
        let padded = padded(size, limit).map_err(|needed| Error::Limit {
            device: self.0.info.name.clone(),
            name,
            needed,
            available: limit,
            hint: "; a smaller batch or model makes smaller tensors",
        })?;
        let class = match fit {
            Fit::Exact => padded,
            // A class may exceed the limit that the size itself keeps.
            Fit::Close | Fit::Loose => class_of(padded).min(limit / 16 * 16),
        };
        let buffer = match self.0.pool.take(class, fit) {
            Some(buffer) => buffer,
            None => self.0.pool.adopt(self.new_storage(class, what)?, class),
        };
        let view = BufferView::new(buffer, padded);
        #[cfg(not(target_arch = "wasm32"))]
        self.forget_tensor(&view);
        Ok(view)
    }

    /// A new buffer from the driver. In a dry run, the one placeholder.
    fn new_storage(&self, size: u64, what: impl fmt::Display) -> Result<wgpu::Buffer> {
        if let Some(phantom) = &self.0.phantom {
            return Ok(phantom.clone());
        }
        let make = || {
            self.expect_room(size)?;
            storage_buffer(&self.0.device, size)
        };
        let buffer = self.insist(size, what, make)?;
        self.probe()?;
        Ok(buffer)
    }

    /// Whether the program lets the engine have so many bytes more.
    fn expect_room(&self, size: u64) -> std::result::Result<(), String> {
        let (allocated, most) = (self.0.pool.memory().allocated, self.0.most_memory.load(Ordering::Relaxed));
        if allocated.saturating_add(size) > most {
            return Err(format!("the engine may have {most} bytes (Gpu::limit_memory)"));
        }
        Ok(())
    }

    /// What `make` gives, `size` bytes for `what`; where that fails, what it gives once the pool has let go of what it can.
    pub(super) fn insist(
        &self,
        size: u64,
        what: impl fmt::Display,
        make: impl Fn() -> std::result::Result<wgpu::Buffer, String>,
    ) -> Result<wgpu::Buffer> {
        let again = |_| {
            self.give_back_all();
            // The driver has it back once the device has done what it was recorded for.
            #[cfg(not(target_arch = "wasm32"))]
            self.await_all("waiting for memory").map_err(|error| error.to_string())?;
            make()
        };
        make().or_else(again).map_err(|message| {
            let (device, held) = (self.0.info.name.clone(), self.0.pool.memory().live);
            match self.probe() {
                Err(lost) => lost,
                Ok(()) => Error::OutOfMemory { device, what: what.to_string(), size, held, message },
            }
        })
    }

    /// Whether the device binds so many bytes at once.
    pub(crate) fn binds(&self, size: u64) -> bool {
        size <= self.0.limits.max_storage_buffer_binding_size
    }

    /// All of `view` in parts that the device binds, with their offsets in it: the fewest of whole `unit`s, which are multiples of
    /// 256 bytes. Mostly it is one.
    ///
    /// # Errors
    /// [`Error::Limit`] if the device binds less than a unit.
    pub(crate) fn windows(&self, view: &BufferView, unit: u64) -> Result<Vec<(u64, BufferView)>> {
        if self.binds(view.size) {
            return Ok(vec![(0, view.clone())]);
        }
        let limit = self.0.limits.max_storage_buffer_binding_size;
        let most = limit / unit * unit;
        if most == 0 {
            return Err(self.too_large(self.0.info.name.clone(), unit));
        }
        let offsets = (0..view.size).step_by(most as usize);
        Ok(offsets.map(|offset| (offset, view.window(offset, most.min(view.size - offset)))).collect())
    }

    /// Refuses a dispatch that binds more than the device can.
    pub(super) fn check_bindings(&self, kernel: &Kernel, buffers: &[&BufferView]) -> Result<()> {
        match buffers.iter().find(|view| !self.binds(view.size)) {
            None => Ok(()),
            Some(view) => Err(self.too_large(format!("{}: {}", kernel.name, self.0.info.name), view.size)),
        }
    }

    fn too_large(&self, device: String, needed: u64) -> Error {
        let available = self.0.limits.max_storage_buffer_binding_size;
        let hint = "; only embeddings, matrix products and optimisers take larger parameters";
        Error::Limit { device, name: BINDING_SIZE, needed, available, hint }
    }

    /// Copies `bytes` to the start of `to`, in order with the recorded commands. Where too much is under way already, waits
    /// until the device has taken the oldest.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub(crate) fn upload(&self, bytes: &[u8], to: &BufferView) -> Result<()> {
        let size = (bytes.len() as u64).next_multiple_of(4);
        if size == 0 || size > to.size {
            return Err(Error::argument("upload", "bytes", format!("1 to {}", to.size), bytes.len()));
        }
        self.expect_alive()?;
        if self.is_dry_run() {
            return Ok(());
        }
        let pieces = bytes.chunks(LARGEST_UPLOAD).zip((0..).step_by(LARGEST_UPLOAD));
        pieces.into_iter().try_for_each(|(piece, at)| self.upload_piece(piece, &to.window(at, to.size - at)))
    }

    fn upload_piece(&self, bytes: &[u8], to: &BufferView) -> Result<()> {
        let size = (bytes.len() as u64).next_multiple_of(4);
        self.await_room(size)?;
        // No buffer takes less, and small ones must not pile up either.
        let staged = self.0.uploads.hold(size.max(256));
        let staging = self.insist(size, "an upload on its way", || mapped_buffer(&self.0.device, size))?;
        let mapped = staging.get_mapped_range_mut(..);
        let mut mapped = mapped.map_err(|e| self.device_error("upload", e.to_string()))?;
        mapped.slice(..bytes.len()).copy_from_slice(bytes);
        drop(mapped);
        let mut state = self.state();
        to.forget_faults();
        self.push(&mut state, Command::Upload { staging, staged, to: to.raw(), size })
    }

    /// Lends `work` memory of at least so many bytes for what it records, then the next that asks: one piece for all, as large as the largest
    /// so far. `what` lies there by an error's words. Not to be called by `work` itself.
    pub(crate) fn with_scratch<R>(
        &self,
        bytes: u64,
        what: impl fmt::Display,
        work: impl FnOnce(BufferView) -> Result<R>,
    ) -> Result<R> {
        // Held until the work is recorded, so that no other thread's comes between.
        let mut place = self.0.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let own = place.take().filter(|own| own.size() >= bytes);
        let own = own.map_or_else(|| self.alloc(bytes, Fit::Exact, what), Ok)?;
        let lent = own.part(0, own.size());
        *place = Some(own);
        work(lent)
    }

    /// Copies the whole of `from` to `to`.
    ///
    /// # Errors
    /// As [`Gpu::flush`].
    pub(crate) fn copy(&self, from: &BufferView, to: &BufferView) -> Result<()> {
        if from.shares_buffer(to) {
            // wgpu copies nothing within a buffer; the gradients of parameters lie in one.
            let between = self.alloc(from.size(), Fit::Close, "a copy within a buffer")?;
            self.copy(from, &between)?;
            return self.copy(&between, to);
        }
        let Some(mut state) = self.recording()? else { return Ok(()) };
        to.set_mark(from.mark());
        self.push(&mut state, Command::Copy { from: from.raw(), to: to.raw() })
    }

    /// Sets every byte of `to` to zero.
    ///
    /// # Errors
    /// As [`Gpu::flush`].
    pub(crate) fn clear(&self, to: &BufferView) -> Result<()> {
        let Some(mut state) = self.recording()? else { return Ok(()) };
        to.forget_faults();
        self.push(&mut state, Command::Clear { to: to.raw() })
    }
}

const BINDING_SIZE: &str = "max_storage_buffer_binding_size";

/// Bytes of an upload's staging buffer: a large table arrives in pieces, which the bound on what is under way can tell apart.
const LARGEST_UPLOAD: usize = 32 << 20;

/// What a tensor of `size` bytes is bound with, or what is needed where that exceeds the limit.
fn padded(size: u64, limit: u64) -> std::result::Result<u64, u64> {
    let padded = size.next_multiple_of(16);
    [size, padded].into_iter().find(|needed| *needed > limit).map_or(Ok(padded), Err)
}

pub(super) fn storage_buffer(device: &wgpu::Device, size: u64) -> std::result::Result<wgpu::Buffer, String> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    create_buffer(device, "tensor", size, usage, false)
}

/// For an upload, or what a submission reads: the host writes straight into it, where a buffer without `MAP_WRITE` would take a second one.
pub(super) fn mapped_buffer(device: &wgpu::Device, size: u64) -> std::result::Result<wgpu::Buffer, String> {
    let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
    create_buffer(device, "upload", size, usage, true)
}

/// For a read-back.
pub(super) fn readable_buffer(device: &wgpu::Device, size: u64) -> std::result::Result<wgpu::Buffer, String> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    create_buffer(device, "read-back", size, usage, false)
}

fn create_buffer(
    device: &wgpu::Device,
    label: &'static str,
    size: u64,
    usage: wgpu::BufferUsages,
    mapped_at_creation: bool,
) -> std::result::Result<wgpu::Buffer, String> {
    let scopes = Scopes::open(device);
    let buffer = device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation });
    match scopes.close() {
        None => Ok(buffer),
        Some(message) => Err(message),
    }
}

#[cfg(test)]
mod tests {
    use super::padded;

    /// Some drivers have a limit of 2^31 - 1, which is no multiple of the padding.
    #[test]
    fn padding_counts_against_the_limit() {
        let limit = (1 << 31) - 1;
        assert_eq!([0, 1, limit - 15].map(|size| padded(size, limit)), [Ok(0), Ok(16), Ok(limit - 15)]);
        assert_eq!(padded(4 * 536_870_911, limit), Err(1 << 31));
        assert_eq!(padded(limit + 1, limit), Err(limit + 1));
    }
}
