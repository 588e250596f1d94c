//! The buffer pool: memory that a step frees is what the next step uses.
//!
//! Sizes are rounded up to classes that waste at most an eighth. A buffer goes back to its class when its last handle
//! drops, and may be handed out again at once, even while recorded commands still name it: commands run in the order
//! in which they were recorded, so the earlier ones are done with it before the later ones begin.
//!
//! A request takes the oldest free buffer of the smallest class that fits. The oldest, so that equal steps get equal
//! buffers, and find the bind groups of the step before. And not of its own class alone, because a step has tensors of
//! several lengths where random-LTD drops tokens or a batch is cut in unequal parts, and memory that lies beside the other
//! length's would be added to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A wgpu buffer with an identity that caches can use as a key.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) id: u64,
    pub(crate) size: u64,
}

/// A browser gives a buffer's memory back when it collects garbage, and knows nothing of how much that is. What has been submitted with it is
/// still done.
#[cfg(target_arch = "wasm32")]
impl Drop for Raw {
    fn drop(&mut self) {
        self.buffer.destroy();
    }
}

/// A handle to pooled device memory. Cloning an `Arc` of it shares the memory; the last drop gives it back.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) raw: Arc<Raw>,
    home: Arc<Pool>,
}

impl Buffer {
    pub(super) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.home, pool)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give_back(self.raw.clone());
    }
}

/// How much device memory is held, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// Held by live tensors now.
    pub live: u64,
    /// Held by the pool in total, live and free.
    pub allocated: u64,
    /// The largest `live` so far.
    pub peak_live: u64,
    /// The largest `allocated` so far.
    pub peak_allocated: u64,
    /// Beside those, what uploads and read-backs take on their way, until the host knows that they have arrived. Uploads
    /// wait for each other beyond 64 MiB, but where work is held ([`Gpu::hold`](super::Gpu::hold)).
    pub staging: u64,
}

/// Free buffers of one class by their ids, each with the tick of its last use.
type Free = BTreeMap<u64, (Arc<Raw>, u64)>;

#[derive(Debug, Default)]
struct Contents {
    classes: BTreeMap<u64, Free>,
    memory: MemoryUse,
    next_id: u64,
    tick: u64,
}

/// The free lists of one [`crate::Gpu`].
#[derive(Debug, Default)]
pub(crate) struct Pool {
    state: Mutex<Contents>,
}

/// How much larger than a request a free buffer may be that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Of its size, which is not rounded up to a class. For what lives long.
    Exact,
    /// Up to 11/4 of its class. Of factors from 1 to 1000, tried by dry runs, those just below 3 need the least memory: from
    /// there on, what blocks keep for backward, C channels wide, sits in buffers of 3·C and 4·C that the blocks' inner tensors
    /// then lack.
    Close,
    /// Up to four times. For tensors that are no multiple of C, and under random-LTD of two sizes far apart, R² and T².
    Loose,
}

impl Fit {
    fn most(self, class: u64) -> u64 {
        match self {
            Fit::Exact => class,
            Fit::Close => class / 4 * 11,
            Fit::Loose => class / 4 * 16,
        }
    }
}

/// After this many ticks without use a free buffer is released to the driver.
const IDLE_TICKS: u64 = 8;

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        // A poisoned lock means that another thread panicked between two plain counters; the lists stay sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free buffer of at least `class` bytes, and not many more, if there is one.
    pub(crate) fn take(self: &Arc<Self>, class: u64, fit: Fit) -> Option<Buffer> {
        let mut state = self.lock();
        let mut fitting = state.classes.range_mut(class..=fit.most(class));
        let (_, (raw, _)) = fitting.find_map(|(_, free)| free.pop_first())?;
        state.now_live(raw.size);
        Some(Buffer { raw, home: self.clone() })
    }

    /// Takes charge of a new wgpu buffer of `class` bytes; in a dry run the buffer stands for that many.
    pub(crate) fn adopt(self: &Arc<Self>, buffer: wgpu::Buffer, class: u64) -> Buffer {
        let mut state = self.lock();
        state.next_id += 1;
        let raw = Arc::new(Raw { id: state.next_id, size: class, buffer });
        state.memory.allocated += raw.size;
        state.memory.peak_allocated = state.memory.peak_allocated.max(state.memory.allocated);
        state.now_live(raw.size);
        Buffer { raw, home: self.clone() }
    }

    fn give_back(&self, raw: Arc<Raw>) {
        let mut state = self.lock();
        state.memory.live -= raw.size;
        let tick = state.tick;
        state.classes.entry(raw.size).or_default().insert(raw.id, (raw, tick));
    }

    pub(crate) fn memory(&self) -> MemoryUse {
        self.lock().memory
    }

    pub(crate) fn reset_peak(&self) {
        let mut state = self.lock();
        state.memory.peak_live = state.memory.live;
        state.memory.peak_allocated = state.memory.allocated;
    }

    /// Marks the end of a step and releases what no recent step has used; returns the ids of the released buffers.
    pub(crate) fn end_step(&self) -> Vec<u64> {
        let mut state = self.lock();
        state.tick += 1;
        let oldest = state.tick.saturating_sub(IDLE_TICKS);
        state.release(|used| used < oldest)
    }

    /// Releases every free buffer; returns their ids.
    pub(crate) fn trim(&self) -> Vec<u64> {
        self.lock().release(|_| true)
    }
}

impl Contents {
    fn now_live(&mut self, size: u64) {
        self.memory.live += size;
        self.memory.peak_live = self.memory.peak_live.max(self.memory.live);
    }

    fn release(&mut self, idle: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut gone = Vec::new();
        for free in self.classes.values_mut() {
            free.retain(|_, (raw, used)| {
                let drop = idle(*used);
                if drop {
                    self.memory.allocated -= raw.size;
                    gone.push(raw.id);
                }
                !drop
            });
        }
        self.classes.retain(|_, free| !free.is_empty());
        gone
    }
}

/// The smallest class that holds `size` bytes: eight classes an octave, at least 256 bytes.
pub(crate) fn class_of(size: u64) -> u64 {
    let size = size.max(256);
    let step = (1u64 << size.ilog2()) / 8;
    size.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::class_of;

    #[test]
    fn classes_hold_their_size_and_waste_at_most_an_eighth() {
        for size in (1..5000).chain([65_537, 1 << 20, (1 << 27) - 3]) {
            let class = class_of(size);
            assert!(class >= size && class.is_multiple_of(4) && class_of(class) == class, "{size} -> {class}");
            assert!(size < 256 || class - size <= size / 8, "{size} -> {class}");
        }
    }
}
