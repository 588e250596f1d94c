//! Who wakes those that await a read-back.
//!
//! wgpu runs callbacks only while some thread submits or polls, and an executor whose thread must not block does neither. So the
//! first future that has to wait, and the first slice that is timed, starts a thread for its device, which looks again and again in
//! its stead; the callback then runs there, and wakes the future. In a browser the event loop does this.
//!
//! It does not wait in wgpu: that would keep others from presenting a frame meanwhile; and wgpu 30 asserts something of waits that have
//! a timeout which does not hold where another thread submits just then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::clock::Instant;
use super::health::poll;
use super::mapped::Mapped;
use super::pace::End;

/// What a callback tells.
pub(super) enum Awaited {
    /// Whether a buffer is mapped.
    Mapping(Mapped),
    /// When the device had done what it had been given.
    End(End),
}

impl Awaited {
    fn is_told(&self) -> bool {
        match self {
            Awaited::Mapping(mapped) => mapped.done().is_some(),
            Awaited::End(end) => end.get().is_some(),
        }
    }

    /// The device has failed: nothing will be told.
    fn give_up(&self) {
        match self {
            Awaited::Mapping(mapped) => mapped.set(false),
            Awaited::End(end) => drop(end.set(Instant::now())),
        }
    }
}

/// From one look to the next.
const ROUND: Duration = Duration::from_micros(250);

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
    /// Has the thread look until a callback has told; false if the system gives none.
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
            while !awaited.is_told() {
                if look(&device) {
                    std::thread::sleep(ROUND);
                } else {
                    awaited.give_up();
                }
            }
        }
    };
    let started = std::thread::Builder::new().name("wgrad read-backs".to_owned()).spawn(run);
    let started = started.inspect_err(|error| log::warn!("no thread to wait for read-backs: {error}"));
    Some(Thread { sender, handle: started.ok()? })
}

/// Lets callbacks run; false if the device fails. A callback or a waker that panics must not take those that still wait with it.
fn look(device: &wgpu::Device) -> bool {
    catch_unwind(AssertUnwindSafe(|| poll(device, wgpu::PollType::Poll))).map_or(true, |polled| polled.is_ok())
}
