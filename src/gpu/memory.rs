//! Device memory: ranges of buffers, allocation through the pool, and copies in order with the kernels.

use std::sync::Arc;

use super::pool::{Buffer, Fit, class_of};
use super::recorder::{Command, RawView};
use super::{Gpu, scope_error};
use crate::error::{Error, Result};

/// A range of device memory. It keeps the memory alive.
#[derive(Clone, Debug)]
pub struct BufferView {
    buffer: Arc<Buffer>,
    offset: u64,
    size: u64,
}

impl BufferView {
    /// The start of a buffer.
    pub(super) fn new(buffer: Buffer, size: u64) -> Self {
        BufferView { buffer: Arc::new(buffer), offset: 0, size }
    }

    /// Bytes.
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
        &self.buffer.raw.buffer
    }

    /// Whether no other handle shares this memory.
    pub(crate) fn is_sole(&self) -> bool {
        Arc::strong_count(&self.buffer) == 1
    }

    pub(super) fn raw(&self) -> RawView {
        RawView { raw: self.buffer.raw.clone(), offset: self.offset, size: self.size }
    }

    /// A part of this range, from byte `offset`; offsets are multiples of 256.
    pub(crate) fn part(&self, offset: u64, size: u64) -> BufferView {
        BufferView { buffer: self.buffer.clone(), offset: self.offset + offset, size }
    }
}

impl Gpu {
    /// Device memory of `size` bytes, contents undefined.
    ///
    /// # Errors
    /// [`Error::Limit`] above the device's binding size, [`Error::Device`] when memory is exhausted.
    pub(crate) fn alloc(&self, size: u64, fit: Fit) -> Result<BufferView> {
        let limit = self.0.limits.max_storage_buffer_binding_size;
        if size > limit {
            return Err(Error::Limit {
                device: self.0.info.name.clone(),
                name: "max_storage_buffer_binding_size",
                needed: size,
                available: limit,
                hint: "; a smaller batch or model makes smaller tensors",
            });
        }
        // A class may exceed the limit that the size itself keeps.
        let class = class_of(size).min(limit.max(size.next_multiple_of(16)));
        let buffer = match self.0.pool.take(class, fit) {
            Some(buffer) => buffer,
            None => self.0.pool.adopt(self.new_storage(class)?, class),
        };
        Ok(BufferView::new(buffer, size.next_multiple_of(16)))
    }

    /// A new buffer from the driver; when that fails, once more after the pool has let go of what it can.
    /// In a dry run, the one placeholder.
    fn new_storage(&self, size: u64) -> Result<wgpu::Buffer> {
        if let Some(phantom) = &self.0.phantom {
            return Ok(phantom.clone());
        }
        storage_buffer(&self.0.device, size).or_else(|_| {
            self.flush();
            self.forget(&self.0.pool.trim());
            storage_buffer(&self.0.device, size)
        })
    }

    pub(super) fn create_buffer(
        &self,
        label: &'static str,
        size: u64,
        usage: wgpu::BufferUsages,
        mapped: bool,
    ) -> Result<wgpu::Buffer> {
        create_buffer(&self.0.device, label, size, usage, mapped)
    }

    /// Copies `bytes` to the start of `to`, in order with the recorded commands.
    pub(crate) fn upload(&self, bytes: &[u8], to: &BufferView) -> Result<()> {
        let size = (bytes.len() as u64).next_multiple_of(4);
        if size == 0 || size > to.size {
            return Err(Error::argument("upload", "bytes", format!("1 to {}", to.size), bytes.len()));
        }
        let Some(mut state) = self.recording() else { return Ok(()) };
        let staging = self.create_buffer("upload", size, wgpu::BufferUsages::COPY_SRC, true)?;
        let mapped = staging.get_mapped_range_mut(..);
        let mut mapped = mapped.map_err(|e| Error::Device { during: "upload", message: e.to_string() })?;
        mapped.slice(..bytes.len()).copy_from_slice(bytes);
        drop(mapped);
        staging.unmap();
        self.push(&mut state, Command::Upload { staging, to: to.raw(), size }, 0);
        Ok(())
    }

    /// Copies the whole of `from` to `to`.
    pub(crate) fn copy(&self, from: &BufferView, to: &BufferView) {
        self.record(Command::Copy { from: from.raw(), to: to.raw() });
    }

    /// Sets every byte of `to` to zero.
    pub(crate) fn clear(&self, to: &BufferView) {
        self.record(Command::Clear { to: to.raw() });
    }
}

pub(super) fn storage_buffer(device: &wgpu::Device, size: u64) -> Result<wgpu::Buffer> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    create_buffer(device, "tensor", size, usage, false)
}

fn create_buffer(
    device: &wgpu::Device,
    label: &'static str,
    size: u64,
    usage: wgpu::BufferUsages,
    mapped_at_creation: bool,
) -> Result<wgpu::Buffer> {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let valid = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let buffer = device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation });
    // Scopes are a stack: the inner one is popped first.
    match scope_error(valid).or_else(|| scope_error(memory)) {
        None => Ok(buffer),
        Some(message) => {
            Err(Error::Device { during: "allocating device memory", message: format!("{size} bytes: {message}") })
        }
    }
}
