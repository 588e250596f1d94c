//! Buffers that wgpu maps for the host.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// The callback's end and the future's end of one mapping.
#[derive(Debug, Default)]
struct Mapping {
    /// Whether it worked, once it is known.
    done: Option<bool>,
    waker: Option<Waker>,
    /// Whether somebody sees to it that the callback runs.
    #[cfg(not(target_arch = "wasm32"))]
    is_watched: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Mapped(Arc<Mutex<Mapping>>);

impl Mapped {
    fn with<T>(&self, f: impl FnOnce(&mut Mapping) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, worked: bool) {
        let waker = self.with(|mapping| {
            mapping.done.get_or_insert(worked);
            mapping.waker.take()
        });
        // Without the lock: it may poll at once.
        if let Some(waker) = waker {
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

    /// Whether the caller is the first to ask.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn claim_watch(&self) -> bool {
        self.with(|mapping| !std::mem::replace(&mut mapping.is_watched, true))
    }

    /// Lets the next to ask be the first.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn give_up_watch(&self) {
        self.with(|mapping| mapping.is_watched = false);
    }
}
