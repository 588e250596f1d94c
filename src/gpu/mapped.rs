//! Buffers that wgpu maps for the host.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

/// The callback's end and the future's end of one mapping.
#[derive(Debug, Default)]
struct Mapping {
    /// Whether it worked, once it is known.
    done: Option<bool>,
    waker: Option<Waker>,
    /// Whether the waiter sees to it that the callback runs, and wakes who awaits it.
    #[cfg(not(target_arch = "wasm32"))]
    is_watched: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Mapped(Arc<Mutex<Mapping>>);

impl Mapped {
    fn with<T>(&self, f: impl FnOnce(&mut Mapping) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks wgpu.
    pub(super) fn map(&self, staging: &wgpu::Buffer) {
        let callback = self.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| callback.set(result.is_ok()));
    }

    /// The callback. wgpu calls it also while the engine submits and holds its locks, where a waker that polls at once would come to no
    /// end: of what the waiter watches, the waiter wakes who awaits it.
    pub(super) fn set(&self, worked: bool) {
        let waker = self.with(|mapping| {
            mapping.done.get_or_insert(worked);
            #[cfg(not(target_arch = "wasm32"))]
            if mapping.is_watched {
                return None;
            }
            mapping.waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes who awaits it.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn wake(&self) {
        if let Some(waker) = self.with(|mapping| mapping.waker.take()) {
            waker.wake();
        }
    }

    pub(super) fn done(&self) -> Option<bool> {
        self.with(|mapping| mapping.done)
    }

    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<bool> {
        self.with(|mapping| match mapping.done {
            Some(worked) => Poll::Ready(worked),
            None => {
                mapping.waker = Some(context.waker().clone());
                Poll::Pending
            }
        })
    }

    /// [`Mapped::poll`] of what is to be watched from now on; and whether nobody watches yet.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn poll_watched(&self, context: &Context<'_>) -> (Poll<bool>, bool) {
        // Before there is a waker for the callback to take.
        let was_watched = self.with(|mapping| std::mem::replace(&mut mapping.is_watched, true));
        (self.poll(context), !was_watched)
    }

    /// Lets the next to ask be the first.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn give_up_watch(&self) {
        self.with(|mapping| mapping.is_watched = false);
    }
}

/// The way of a read-back: recorded, then submitted, then mapped.
#[derive(Clone, Debug, Default)]
pub(super) struct Landing {
    pub(super) mapped: Mapped,
    /// The submission that completes it, with its number, once it is made.
    submission: Arc<OnceLock<(u64, wgpu::SubmissionIndex)>>,
}

impl Landing {
    /// Notes the submission that was just made, and asks for the mapping. A buffer that is being mapped cannot be submitted, so this
    /// comes after.
    pub(super) fn begin(&self, staging: &wgpu::Buffer, ordinal: u64, index: &wgpu::SubmissionIndex) {
        // It is recorded once, so submitted once.
        let _ = self.submission.set((ordinal, index.clone()));
        self.mapped.map(staging);
    }

    pub(super) fn submission(&self) -> Option<&(u64, wgpu::SubmissionIndex)> {
        self.submission.get()
    }
}
