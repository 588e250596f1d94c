//! Who wakes those that await a result.
//!
//! wgpu runs callbacks only while some thread submits or polls, and an executor whose thread must not block does neither. So the
//! first future that has to wait starts a thread for its device, which polls in its stead, and wakes the future once the callback has run,
//! there or wherever another thread submits or polls. In a browser the event loop does this.
//!
//! The thread looks again and again instead of waiting in a poll: there wgpu would hold a lock that presenting a frame needs, and with a
//! time-out its assertions fail where another thread polls too (wgpu-core 30.0.1).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::clock::Instant;
use super::health::poll;
use super::mapped::Mapped;
use super::pace::End;

/// What a callback brings about.
pub(super) enum Awaited {
    /// Whether a buffer is mapped.
    Mapping(Mapped),
    /// When the device had done what it had been given.
    End(End),
}

impl Awaited {
    fn is_done(&self) -> bool {
        match self {
            Awaited::Mapping(mapped) => mapped.done().is_some(),
            Awaited::End(end) => end.get().is_some(),
        }
    }

    fn wake(&self) {
        if let Awaited::Mapping(mapped) = self {
            mapped.wake();
        }
    }

    /// The device has failed: nobody will call back.
    fn give_up(&self) {
        match self {
            Awaited::Mapping(mapped) => mapped.set(false),
            Awaited::End(end) => {
                end.get_or_init(Instant::now);
            }
        }
    }
}

/// Between two looks passes a share of the time since something was first awaited, within these bounds: what takes 8 ms is seen within
/// half a millisecond, and what takes a second costs few looks.
const SHARE: u32 = 16;
const SHORTEST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_millis(2);

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
    /// Whether there is a thread.
    pub(super) fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Has the thread poll until it is there; false if the system gives no thread.
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
    let (sender, receiver) = channel();
    let started =
        std::thread::Builder::new().name("wgrad read-backs".to_owned()).spawn(move || run(&device, &receiver));
    let started = started.inspect_err(|error| log::warn!("no thread to wait for read-backs: {error}"));
    Some(Thread { sender, handle: started.ok()? })
}

/// Until nobody can send any more and all has come.
fn run(device: &wgpu::Device, receiver: &Receiver<Awaited>) {
    while let Ok(first) = receiver.recv() {
        let (mut awaited, mut since) = (vec![first], Instant::now());
        while !awaited.is_empty() {
            // A callback that panics must not take those that still wait with it.
            let polled = catch_unwind(AssertUnwindSafe(|| poll(device, wgpu::PollType::Poll)));
            if matches!(polled, Ok(Err(_))) {
                awaited.iter().for_each(Awaited::give_up);
            }
            for done in awaited.extract_if(.., |awaited| awaited.is_done()) {
                // Nor a waker. Here none of the engine's locks is held, by whatever thread the callback ran on.
                let _ = catch_unwind(AssertUnwindSafe(|| done.wake()));
            }
            match receiver.try_recv() {
                Ok(next) => {
                    awaited.push(next);
                    since = Instant::now();
                }
                // The last handle has gone, and with it whoever could ask.
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if awaited.is_empty() => {}
                Err(TryRecvError::Empty) => std::thread::sleep((since.elapsed() / SHARE).clamp(SHORTEST, LONGEST)),
            }
        }
    }
}
