//! Looks at what each kernel writes: which is the first that makes a NaN or an infinity.
//!
//! Each dispatch is waited for and what it has written read back, so that work under inspection is many times slower. What kernels are
//! given has been looked at when it was written, but for parameters, uploads and what is older: those are looked at where a result is bad. A
//! browser cannot wait, and has none of this.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::{Access, BufferView, Gpu, Kernel};
use crate::error::{Error, Result, TensorInfo};
use crate::shape::DType;

/// What is under inspection, if anything is.
#[derive(Debug, Default)]
pub(super) struct Inspector {
    /// How many closures are under inspection, within each other or on several threads.
    works: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Tensors by their places, as they were last called.
    tensors: FxHashMap<(u64, u64), TensorInfo>,
    dispatches: u64,
}

/// A value that is not finite.
struct Bad {
    element: usize,
    what: &'static str,
    tensor: String,
}

impl Gpu {
    /// Does `work`, and ends it at the first of its dispatches, by whatever thread, that writes a NaN or an infinity. It is many times
    /// slower than without. Calls may lie within each other, or run on several threads: while one lasts, each dispatch is looked at.
    ///
    /// # Errors
    /// [`Error::NonFiniteValue`], which names the kernel and what it was given; those of `work`.
    pub fn check_values<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<R> {
        struct Off<'a>(&'a Inspector);
        impl Drop for Off<'_> {
            fn drop(&mut self) {
                self.0.works.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let inspector = &self.0.inspector;
        let mut seen = inspector.seen();
        if inspector.works.fetch_add(1, Ordering::Relaxed) == 0 {
            *seen = Seen::default();
        }
        drop(seen);
        let _off = Off(inspector);
        work()
    }

    pub(crate) fn is_inspected(&self) -> bool {
        self.0.inspector.works.load(Ordering::Relaxed) > 0
    }

    /// Whether somebody will ask what lies where.
    fn notes_tensors(&self) -> bool {
        self.is_observed() || self.is_inspected()
    }

    /// Notes what lies at a place: as it was made, and where somebody will ask, as it was last called.
    pub(crate) fn note_tensor(&self, view: &BufferView, info: TensorInfo) {
        view.note_tensor(info);
        if self.notes_tensors() {
            self.0.inspector.seen().tensors.insert(view.place(), info);
        }
    }

    /// Notes that a place is used anew, for what need not be a tensor.
    pub(super) fn forget_tensor(&self, view: &BufferView) {
        if self.notes_tensors() {
            self.0.inspector.seen().tensors.remove(&view.place());
        }
    }

    /// The tensor that lies at a range, if it was noted.
    fn tensor_at(&self, view: &BufferView) -> Option<TensorInfo> {
        self.0.inspector.seen().tensors.get(&view.place()).copied()
    }

    /// The same also of a tensor that was made before anybody asked, with its bytes before the range. What is none is the engine's own:
    /// segments of parameters, a table.
    pub(super) fn known(&self, view: &BufferView) -> Option<(TensorInfo, u64)> {
        self.tensor_at(view).map(|info| (info, 0)).or_else(|| view.tensor())
    }

    /// Looks at what a dispatch has written.
    pub(super) fn inspect(&self, kernel: &'static Kernel, buffers: &[&BufferView]) -> Result<()> {
        let dispatch = {
            let mut seen = self.0.inspector.seen();
            seen.dispatches += 1;
            seen.dispatches
        };
        let with = |access| buffers.iter().zip(kernel.bindings).filter(move |(_, own)| **own == access);
        for (view, _) in with(Access::Write) {
            let Some(Bad { element, what, tensor }) = self.first_bad(view)? else { continue };
            let cause = self.cause(with(Access::Read).map(|(view, _)| *view))?;
            let names: Vec<&str> = buffers.iter().filter_map(|view| view.name()).collect();
            let beside = if names.is_empty() { String::new() } else { format!(" with {}", names.join(", ")) };
            return Err(Error::NonFiniteValue {
                step: None,
                kernel: kernel.name,
                beside,
                dispatch,
                what,
                element,
                tensor,
                cause,
            });
        }
        Ok(())
    }

    /// Whether what a dispatch made of these came with one of them. Of what is no tensor nothing is said.
    fn cause<'v>(&self, given: impl Iterator<Item = &'v BufferView>) -> Result<String> {
        let (tensors, others): (Vec<_>, Vec<_>) = given.partition(|view| self.known(view).is_some());
        for view in tensors {
            if let Some(Bad { element, what, tensor }) = self.first_bad(view)? {
                return Ok(format!("it was given {what}, element {element} of {tensor}"));
            }
        }
        let all = if others.is_empty() { "all" } else { "of tensors, all" };
        Ok(format!("{all} that it was given to read was finite"))
    }

    /// The first value of a range that is not finite. What is no tensor is `f32`.
    fn first_bad(&self, view: &BufferView) -> Result<Option<Bad>> {
        if self.is_fault_table(view) {
            return Ok(None);
        }
        let known = self.known(view);
        let dtype = known.map_or(DType::F32, |(info, _)| info.dtype);
        if !matches!(dtype, DType::F32 | DType::F16) {
            return Ok(None);
        }
        // Beyond its elements a tensor's memory holds what was there before.
        let first = known.map_or(0, |(info, before)| (before / info.dtype.size()) as usize);
        let elements = known.map_or(usize::MAX, |(info, _)| info.shape.numel().saturating_sub(first));
        let bytes = self.read(&[view])?.wait()?.pop().unwrap_or_default();
        let bad = match dtype {
            DType::F16 => find(&bytes, elements, |&bytes| half::f16::from_ne_bytes(bytes).to_f32()),
            _ => find(&bytes, elements, |&bytes| f32::from_ne_bytes(bytes)),
        };
        let Some((element, value)) = bad else { return Ok(None) };
        let what = if value.is_nan() { "a NaN" } else { "an infinity" };
        let shape = known.map_or_else(|| format!("{} bytes", view.size()), |(info, _)| info.to_string());
        let tensor = view.name().map_or_else(|| shape.clone(), |name| format!("{name}, {shape}"));
        Ok(Some(Bad { element: first + element, what, tensor }))
    }

    fn is_fault_table(&self, view: &BufferView) -> bool {
        self.state().ledger.has_table(view)
    }
}

impl Inspector {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Whole entries are written to it.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of so many values of `N` bytes that is not finite.
fn find<const N: usize>(bytes: &[u8], elements: usize, value: impl Fn(&[u8; N]) -> f32) -> Option<(usize, f32)> {
    let (values, _) = bytes.as_chunks::<N>();
    values.iter().take(elements).map(value).enumerate().find(|(_, value)| !value.is_finite())
}
