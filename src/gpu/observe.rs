//! Shows each dispatch to somebody who computes it again elsewhere: what it was given, and what came of it.

use std::fmt;
use std::sync::OnceLock;

use super::{Access, BufferView, Gpu, Kernel};
use crate::error::{Result, TensorInfo};

/// A dispatch that has been made. Ranges are whole: beyond a tensor's elements they hold what was there before.
#[derive(Clone, Debug)]
pub struct Dispatched {
    /// What was dispatched.
    pub kernel: &'static Kernel,
    /// Its `Params`.
    pub params: Vec<u8>,
    /// Workgroups.
    pub groups: [u32; 3],
    /// Its bindings, in order.
    pub bound: Vec<Bound>,
}

/// A range that a dispatch was given.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What the kernel does with it.
    pub access: Access,
    /// The tensor that lies there, if one does.
    pub tensor: Option<TensorInfo>,
    /// What it held.
    pub before: Vec<u8>,
    /// What it holds.
    pub after: Vec<u8>,
}

/// Who looks on.
pub trait DispatchObserver: Send + Sync + 'static {
    /// Whether a dispatch with so many bytes in its bindings is worth reading back.
    fn wants(&self, kernel: &'static Kernel, params: &[u8], bytes: u64) -> bool;

    /// Is shown one that was.
    fn see(&self, dispatched: Dispatched);
}

/// Nobody, or somebody.
#[derive(Default)]
pub(super) struct Onlooker(OnceLock<Box<dyn DispatchObserver>>);

impl fmt::Debug for Onlooker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Onlooker({})", self.0.get().is_some())
    }
}

impl Gpu {
    /// Shows `observer`, the first that is given, every dispatch from now on that it wants. Those are waited for, and many times
    /// slower.
    pub fn observe(&self, observer: Box<dyn DispatchObserver>) {
        // There is no second.
        let _ = self.0.onlooker.0.set(observer);
    }

    pub(super) fn is_observed(&self) -> bool {
        self.0.onlooker.0.get().is_some()
    }

    /// Does `work`, which is a dispatch, before the eyes of who wants to see it.
    pub(super) fn observed(
        &self,
        kernel: &'static Kernel,
        params: &[u8],
        groups: [u32; 3],
        buffers: &[&BufferView],
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let bytes = buffers.iter().map(|view| view.size()).sum();
        let onlooker = self.0.onlooker.0.get().filter(|_| !self.is_dry_run());
        let Some(observer) = onlooker.filter(|observer| observer.wants(kernel, params, bytes)) else {
            return work();
        };
        let before = self.read(buffers)?.wait()?;
        work()?;
        let after = self.read(buffers)?.wait()?;
        let bound = buffers.iter().zip(kernel.bindings).zip(before.into_iter().zip(after));
        let bound = bound.map(|((view, &access), (before, after))| Bound {
            access,
            tensor: self.known(view).filter(|(_, before)| *before == 0).map(|(info, _)| info),
            before,
            after,
        });
        observer.see(Dispatched { kernel, params: params.to_vec(), groups, bound: bound.collect() });
        Ok(())
    }
}
