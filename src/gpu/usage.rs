//! What a dry run was asked to compute.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{BufferView, Gpu, Grid, Kernel};

/// A kernel's dispatches in a dry run.
#[derive(Clone, Copy, Debug)]
pub struct KernelUse {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Dispatches.
    pub count: u64,
    /// Floating-point operations of all of them, a multiply-add being two, as far as they are counted: those of matrix products and
    /// attention, beside which the others' are few.
    pub flops: u64,
    /// Bytes of the ranges that they bind: what has to be read or written once at least, if kernels use all that they bind.
    pub bytes: u64,
    /// The most workgroups along an axis of one of them.
    pub groups: u32,
    /// Not for others to dispatch: see [`Kernel::trust`].
    used: &'static Kernel,
}

/// By name, and by address where two crates have given one name.
type Uses = BTreeMap<(&'static str, usize), KernelUse>;

#[derive(Debug, Default)]
pub(super) struct Noted(Mutex<Uses>);

impl Noted {
    fn with<T>(&self, f: impl FnOnce(&mut Uses) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gpu {
    /// Counts a dispatch that is not made.
    pub(super) fn note(&self, kernel: &'static Kernel, buffers: &[&BufferView], grid: Grid) {
        let bytes: u64 = buffers.iter().map(|view| view.size()).sum();
        self.0.noted.with(|noted| {
            let unused = KernelUse { kernel: kernel.name, count: 0, flops: 0, bytes: 0, groups: 0, used: kernel };
            let used = noted.entry((kernel.name, kernel.address())).or_insert(unused);
            used.count += 1;
            used.flops += grid.flops;
            used.bytes += bytes;
            used.groups = grid.groups.into_iter().fold(used.groups, u32::max);
        });
    }

    /// What a dry run ([`Gpu::dry_run`]) was asked to compute since the last call, by kernel, in the order of their names. Nothing on
    /// a device that computes.
    pub fn take_usage(&self) -> Vec<KernelUse> {
        self.0.noted.with(std::mem::take).into_values().collect()
    }

    /// Compiles kernels that a dry run has asked for and that are not compiled yet, so that no step has to.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if one does not compile; [`crate::Error::DeviceLost`].
    pub fn warm_up<'a>(&self, kernels: impl IntoIterator<Item = &'a KernelUse>) -> crate::Result<()> {
        for kernel in kernels {
            if let Some(mut state) = self.recording()? {
                self.pipeline(&mut state, kernel.used)?;
            }
        }
        Ok(())
    }
}
