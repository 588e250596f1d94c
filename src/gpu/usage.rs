//! What a dry run was asked to compute.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::clock::Instant;
use super::compile::{Pipeline, Uncompiled};
use super::{BufferView, Gpu, Grid, Kernel};
use crate::error::Result;

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

    /// Compiles kernels that a dry run has asked for and that are not compiled yet, so that no step has to. Natively on all cores, while
    /// other threads may go on recording: drivers of GPUs take most of a first step for it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if one does not compile; [`crate::Error::DeviceLost`].
    pub fn warm_up<'a>(&self, kernels: impl IntoIterator<Item = &'a KernelUse>) -> Result<()> {
        let Some(mut state) = self.recording()? else { return Ok(()) };
        let mut sources = Vec::new();
        let mut seen = BTreeSet::new();
        for KernelUse { used, .. } in kernels {
            if state.kernels.get(used).is_none() && seen.insert(used.address()) {
                sources.push(state.kernels.source(&self.0.device, used)?);
            }
        }
        drop(state);
        let clock = Instant::now();
        let compiled = self.compiled(sources);
        // A lost device compiles nothing, without a word.
        self.probe()?;
        let (compiled, mut state) = (compiled?, self.state());
        state.kernels.add_time(clock.elapsed());
        for (kernel, pipeline) in compiled {
            state.kernels.keep(kernel, pipeline);
        }
        Ok(())
    }

    #[cfg(target_arch = "wasm32")]
    fn compiled(&self, sources: Vec<Uncompiled>) -> Result<Vec<Compiled>> {
        sources.into_iter().map(|source| self.compile(source)).collect()
    }

    /// On as many threads as there are cores; on one with OpenGL, whose calls wait for each other, and not for long.
    #[cfg(not(target_arch = "wasm32"))]
    fn compiled(&self, sources: Vec<Uncompiled>) -> Result<Vec<Compiled>> {
        let is_gl = self.info().backend == wgpu::Backend::Gl;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if is_gl { 1 } else { cores.min(sources.len()) };
        let left = Mutex::new(sources.into_iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || std::iter::from_fn(next).map(|source| self.compile(source)).collect::<Result<Vec<_>>>();
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = work()?;
            for other in others {
                // One that panicked does so here too.
                all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(all)
        })
    }

    fn compile(&self, source: Uncompiled) -> Result<Compiled> {
        Ok((source.kernel, source.compile(&self.0.device, &self.0.params_layout)?))
    }
}

type Compiled = (&'static Kernel, Pipeline);
