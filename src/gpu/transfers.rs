//! Uploads, copies and zeros, in order with the kernels.

use super::Gpu;
#[cfg(not(target_arch = "wasm32"))]
use super::allocate::mapped_buffer;
#[cfg(target_arch = "wasm32")]
use super::allocate::writable_buffer;
use super::memory::BufferView;
use super::pool::Fit;
use super::recorder::Command;
use crate::error::{Error, Result};

impl Gpu {
    /// Copies `bytes` to the start of `to`, in order with the recorded commands. Where too much is under way already, waits
    /// until the device has taken the oldest.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub(crate) fn upload(&self, bytes: &[u8], to: &BufferView) -> Result<()> {
        let size = (bytes.len() as u64).next_multiple_of(4);
        if size == 0 || size > to.size() {
            return Err(Error::argument("upload", "bytes", format!("1 to {}", to.size()), bytes.len()));
        }
        self.expect_alive()?;
        if self.is_dry_run() {
            return Ok(());
        }
        let pieces = bytes.chunks(LARGEST_UPLOAD).zip((0..).step_by(LARGEST_UPLOAD));
        pieces.into_iter().try_for_each(|(piece, at)| self.upload_piece(piece, &to.window(at, to.size() - at)))
    }

    fn upload_piece(&self, bytes: &[u8], to: &BufferView) -> Result<()> {
        let size = (bytes.len() as u64).next_multiple_of(4);
        self.await_room(size)?;
        // No buffer takes less, and small ones must not pile up either.
        let staged = self.0.uploads.hold(size.max(256));
        let staging = self.filled(bytes, size)?;
        // Small ones fill submissions too, of which not too many may be under way.
        let Some(mut state) = self.recording()? else { return Ok(()) };
        to.forget_faults();
        self.push(&mut state, Command::Upload { staging, staged, to: to.raw(), size })
    }

    /// A buffer of `size` bytes with `bytes` at its start.
    #[cfg(not(target_arch = "wasm32"))]
    fn filled(&self, bytes: &[u8], size: u64) -> Result<wgpu::Buffer> {
        let staging = self.insist(size, UPLOAD, || mapped_buffer(&self.0.device, size))?;
        let mapped = staging.get_mapped_range_mut(..);
        let mut mapped = mapped.map_err(|e| self.device_error("upload", e.to_string()))?;
        mapped.slice(..bytes.len()).copy_from_slice(bytes);
        drop(mapped);
        Ok(staging)
    }

    /// The same without a mapping: a browser that has no memory for one throws, which ends the program.
    #[cfg(target_arch = "wasm32")]
    fn filled(&self, bytes: &[u8], size: u64) -> Result<wgpu::Buffer> {
        let staging = self.insist(size, UPLOAD, || writable_buffer(&self.0.device, size))?;
        // Writes are in words of four bytes.
        let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
        self.0.queue.write_buffer(&staging, 0, words);
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            self.0.queue.write_buffer(&staging, words.len() as u64, &last);
        }
        Ok(staging)
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
        to.set_carried(from.carried());
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

/// An error's words.
const UPLOAD: &str = "an upload on its way";

/// Bytes of an upload's staging buffer: a large table arrives in pieces, which the bound on what is under way can tell apart.
const LARGEST_UPLOAD: usize = 32 << 20;
