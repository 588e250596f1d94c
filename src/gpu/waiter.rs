//! Who wakes those that await a read-back.
//!
//! wgpu runs a mapping's callback only while some thread submits or polls, and an executor whose thread must not block does
//! neither. So the first future that has to wait starts a thread for its device, which blocks in its stead; the callback then
//! runs there, and wakes the future. In a browser the event loop does this.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::clock::Instant;
use super::health::{Unpolled, poll_for};
use super::mapped::Mapped;
use super::pace::End;

/// What somebody wants to know of a submission.
pub(super) enum Awaited {
    /// That a buffer is mapped: the callback runs in the poll.
    Mapping { submission: Option<wgpu::SubmissionIndex>, mapped: Mapped },
    /// When it ended.
    Slice { submission: wgpu::SubmissionIndex, end: End },
}

/// wgpu keeps others from presenting a frame while a thread waits in a poll. So this one waits in short rounds.
const ROUND: Duration = Duration::from_millis(1);

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
        for awaited in receiver {
            match awaited {
                Awaited::Mapping { submission, mapped } => {
                    if !has_ended(&device, submission) {
                        mapped.set(false);
                    }
                }
                Awaited::Slice { submission, end } => {
                    has_ended(&device, Some(submission));
                    let _ = end.set(Instant::now());
                }
            }
        }
    };
    let started = std::thread::Builder::new().name("wgrad read-backs".to_owned()).spawn(run);
    let started = started.inspect_err(|error| log::warn!("no thread to wait for read-backs: {error}"));
    Some(Thread { sender, handle: started.ok()? })
}

/// Waits for the submission, or for all; false if the device fails. A callback or a waker that panics must not take those that
/// still wait with it.
fn has_ended(device: &wgpu::Device, submission: Option<wgpu::SubmissionIndex>) -> bool {
    loop {
        let wait = wgpu::PollType::Wait { submission_index: submission.clone(), timeout: Some(ROUND) };
        match catch_unwind(AssertUnwindSafe(|| poll_for(device, wait))) {
            Ok(Err(Unpolled::TimedOut)) => {}
            polled => return matches!(polled, Ok(Ok(()))),
        }
    }
}
