//! Who wakes those that await a read-back.
//!
//! wgpu runs a mapping's callback only while some thread submits or polls, and an executor whose thread must not block does
//! neither. So the first future that has to wait starts a thread for its device, which blocks in its stead; the callback then
//! runs there, and wakes the future. In a browser the event loop does this.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::health::poll;
use super::mapped::Mapped;

/// A mapping that somebody awaits, and the submission that makes it ready.
pub(super) struct Awaited {
    pub(super) submission: Option<wgpu::SubmissionIndex>,
    pub(super) mapped: Mapped,
}

/// The thread, once there is one. It ends when this drops, which waits for it: it holds the device, which must not go while the
/// program ends and the driver's own memory with it.
#[derive(Debug, Default)]
pub(super) struct Waiter(Mutex<Option<Thread>>);

#[derive(Debug)]
struct Thread {
    sender: Sender<Awaited>,
    handle: JoinHandle<()>,
}

impl Waiter {
    /// Hands a mapping to the thread; false if the system gives none.
    pub(super) fn watch(&self, device: &wgpu::Device, awaited: Awaited) -> bool {
        let mut thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = start(device.clone());
        }
        thread.as_ref().is_some_and(|thread| thread.sender.send(awaited).is_ok())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Some(Thread { sender, handle }) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        drop(sender);
        // A waker may hold the last handle of the device, and then drops it on this very thread.
        if handle.thread().id() != std::thread::current().id() {
            // It catches its panics.
            let _ = handle.join();
        }
    }
}

fn start(device: wgpu::Device) -> Option<Thread> {
    let (sender, receiver) = channel::<Awaited>();
    let run = move || {
        for Awaited { submission, mapped } in receiver {
            let wait = wgpu::PollType::Wait { submission_index: submission, timeout: None };
            // A callback or a waker that panics must not take those that still wait with it.
            let polled = catch_unwind(AssertUnwindSafe(|| poll(&device, wait)));
            if !matches!(polled, Ok(Ok(()))) {
                mapped.set(false);
            }
        }
    };
    let started = std::thread::Builder::new().name("wgrad read-backs".to_owned()).spawn(run);
    let started = started.inspect_err(|error| log::warn!("no thread to wait for read-backs: {error}"));
    Some(Thread { sender, handle: started.ok()? })
}
