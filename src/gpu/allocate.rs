//! Device memory through the pool, within the device's limits.

use std::fmt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::health::Scopes;
use super::memory::BufferView;
use super::pool::{Fit, class_of};
use super::{Gpu, Kernel};
use crate::error::{Error, Result};

impl Gpu {
    /// Device memory of `size` bytes, contents undefined. What lives long, [`Fit::Exact`], may be larger than what the device binds:
    /// those who use it bind [`Gpu::windows`] of it.
    ///
    /// # Errors
    /// [`Error::Limit`] above the device's binding size or its buffer size; [`Error::OutOfMemory`], which names `what`;
    /// [`Error::DeviceLost`].
    pub(crate) fn alloc(&self, size: u64, fit: Fit, what: impl fmt::Display) -> Result<BufferView> {
        self.expect_alive()?;
        let limits = &self.0.limits;
        let (bound, whole) = (limits.max_storage_buffer_binding_size, limits.max_buffer_size);
        let (name, limit) = match fit {
            Fit::Close | Fit::Loose if bound <= whole => (BINDING_SIZE, bound),
            // A device may bind more than its buffers hold.
            Fit::Exact | Fit::Close | Fit::Loose => ("max_buffer_size", whole),
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
        make().or_else(again).map_err(|message| self.no_memory(what, size, message))
    }

    /// The error of a want of memory for `what`, or that of a lost device, which gives none either.
    pub(super) fn no_memory(&self, what: impl fmt::Display, size: u64, message: String) -> Error {
        let (device, held) = (self.0.info.name.clone(), self.0.pool.memory().live);
        match self.probe() {
            Err(lost) => lost,
            Ok(()) => Error::OutOfMemory { device, what: what.to_string(), size, held, message },
        }
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
        if self.binds(view.size()) {
            return Ok(vec![(0, view.clone())]);
        }
        let limit = self.0.limits.max_storage_buffer_binding_size;
        let most = limit / unit * unit;
        if most == 0 {
            return Err(self.too_large(self.0.info.name.clone(), unit));
        }
        let offsets = (0..view.size()).step_by(most as usize);
        Ok(offsets.map(|offset| (offset, view.window(offset, most.min(view.size() - offset)))).collect())
    }

    /// Refuses a dispatch that binds more than the device can.
    pub(super) fn check_bindings(&self, kernel: &Kernel, buffers: &[&BufferView]) -> Result<()> {
        match buffers.iter().find(|view| !self.binds(view.size())) {
            None => Ok(()),
            Some(view) => Err(self.too_large(format!("{}: {}", kernel.name, self.0.info.name), view.size())),
        }
    }

    fn too_large(&self, device: String, needed: u64) -> Error {
        let available = self.0.limits.max_storage_buffer_binding_size;
        let hint = "; only embeddings, matrix products and optimisers take larger parameters";
        Error::Limit { device, name: BINDING_SIZE, needed, available, hint }
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
        // No more than was asked for: the whole may be beyond what the device binds.
        let lent = own.part(0, bytes.next_multiple_of(16).min(own.size()));
        *place = Some(own);
        work(lent)
    }
}

const BINDING_SIZE: &str = "max_storage_buffer_binding_size";

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
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn mapped_buffer(device: &wgpu::Device, size: u64) -> std::result::Result<wgpu::Buffer, String> {
    let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
    create_buffer(device, "upload", size, usage, true)
}

/// For an upload that the queue writes.
#[cfg(target_arch = "wasm32")]
pub(super) fn writable_buffer(device: &wgpu::Device, size: u64) -> std::result::Result<wgpu::Buffer, String> {
    let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    create_buffer(device, "upload", size, usage, false)
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
