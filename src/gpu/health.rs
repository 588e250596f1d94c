//! Whether the device is still there, and what it has complained of.
//!
//! wgpu tells of a lost device by a callback, and of other errors by a handler, which panics unless it is replaced. Both are
//! the host program's own on a device that it has handed in. So nothing here relies on them: what the engine asks of wgpu, it
//! asks within [`Scopes`], and whether the device lives is seen by what it still gives ([`is_alive`], the write of the
//! parameters before each submission). On a device of ours the callbacks tell sooner, and are used too.

#[cfg(not(target_arch = "wasm32"))]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
#[cfg(not(target_arch = "wasm32"))]
use std::time::{Duration, Instant};

use super::Gpu;
use crate::error::{Error, Result};

/// What is known of a device. Callbacks hold it too.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Why it was lost.
    lost: OnceLock<String>,
    /// First error outside a scope; only on devices that we opened.
    error: Mutex<Option<String>>,
}

impl Health {
    pub(super) fn lose(&self, message: String) {
        // Every call returns it as an error from here on.
        let _ = self.lost.set(message);
    }

    pub(super) fn note(&self, message: String) {
        log::error!("{message}");
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
    }
}

/// Learns of a loss and of errors outside scopes on a device that is ours.
pub(super) fn watch(device: &wgpu::Device, health: &Arc<Health>) {
    let own = health.clone();
    device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| own.note(e.to_string())));
    let own = health.clone();
    device.set_device_lost_callback(move |reason, message| own.lose(format!("{reason:?}: {message}")));
}

/// Catches the errors of wgpu's calls on this thread, of every kind, until it is closed. In a browser it catches nothing: the
/// answer would come too late to act on, and an error would be gone with its scope. There, errors go to the handler of those outside
/// scopes ([`watch`]), and the next read-back returns them; on a host's device they are the host's.
#[cfg(not(target_arch = "wasm32"))]
pub(super) struct Scopes([wgpu::ErrorScopeGuard; 3]);
#[cfg(target_arch = "wasm32")]
pub(super) struct Scopes;

#[cfg(not(target_arch = "wasm32"))]
impl Scopes {
    pub(super) fn open(device: &wgpu::Device) -> Self {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        Scopes([Internal, OutOfMemory, Validation].map(|filter| device.push_error_scope(filter)))
    }

    /// The first error that was caught.
    pub(super) fn close(self) -> Option<String> {
        let Scopes([internal, memory, validation]) = self;
        // Scopes are a stack: the inner one is popped first.
        let errors = [validation, memory, internal].map(|scope| pollster::block_on(scope.pop()));
        errors.into_iter().flatten().next().map(|error| error.to_string())
    }
}

#[cfg(target_arch = "wasm32")]
impl Scopes {
    pub(super) fn open(_device: &wgpu::Device) -> Self {
        Scopes
    }

    pub(super) fn close(self) -> Option<String> {
        None
    }
}

/// Whether the device still gives memory: a lost one gives a buffer that cannot be looked into, without an error.
#[cfg(not(target_arch = "wasm32"))]
fn is_alive(device: &wgpu::Device) -> bool {
    let scopes = Scopes::open(device);
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("sign of life"),
        size: 16,
        usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: true,
    });
    let is_mapped = buffer.get_mapped_range_mut(..).is_ok();
    // Refused for want of memory is not lost.
    scopes.close().is_some() || is_mapped
}

/// A browser does not tell at once.
#[cfg(target_arch = "wasm32")]
fn is_alive(_device: &wgpu::Device) -> bool {
    true
}

/// Lets callbacks run, and waits where `kind` says so.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn poll(device: &wgpu::Device, kind: wgpu::PollType) -> std::result::Result<(), String> {
    // wgpu 30 panics where the driver answers with a loss, once it has let go of its locks.
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.poll(kind)));
    match polled {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        // A callback's own panic is not ours to keep.
        Err(panic) if is_alive(device) => std::panic::resume_unwind(panic),
        Err(_) => Err("the driver failed while it was waited for".to_owned()),
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(super) fn is_opengl(device: &wgpu::Device) -> bool {
    device.adapter_info().backend == wgpu::Backend::Gl
}

/// Waits until the device has done what it was given up to a submission, or all of it; on OpenGL all of it in any case.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn wait(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    submission_index: Option<wgpu::SubmissionIndex>,
) -> std::result::Result<(), String> {
    if is_opengl(device) {
        return look_until_done(device, queue);
    }
    poll(device, wgpu::PollType::Wait { submission_index, timeout: None })
}

/// On OpenGL wgpu holds its one context while it waits, and a thread that wants it for longer than a second meanwhile panics (wgpu-hal
/// 30.0.1, `wgl.rs`). So it is only looked at, again and again: without a pause at first, since what is timed by waiting is short. A
/// driver that has failed never says that it is done, and is asked for a sign of life.
#[cfg(not(target_arch = "wasm32"))]
fn look_until_done(device: &wgpu::Device, queue: &wgpu::Queue) -> std::result::Result<(), String> {
    const BUSY: Duration = Duration::from_millis(2);
    const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
    let (done, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let told = done.clone();
    queue.on_submitted_work_done(move || told.store(true, Ordering::Release));
    let mut asked = begun;
    loop {
        poll(device, wgpu::PollType::Poll)?;
        if done.load(Ordering::Acquire) {
            return Ok(());
        }
        match begun.elapsed() {
            waited if waited < BUSY => std::thread::yield_now(),
            waited => std::thread::sleep((waited / 128).min(BUSY)),
        }
        if asked.elapsed() > SIGN_OF_LIFE {
            asked = Instant::now();
            if !is_alive(device) {
                return Err("the driver failed while it was waited for".to_owned());
            }
        }
    }
}

impl Gpu {
    /// An error if the device is known to be lost. Costs a load.
    pub(super) fn expect_alive(&self) -> Result<()> {
        match self.0.health.lost.get() {
            None => Ok(()),
            Some(message) => Err(Error::DeviceLost { device: self.0.info.name.clone(), message: message.clone() }),
        }
    }

    /// The same after a look at the device.
    pub(super) fn probe(&self) -> Result<()> {
        if !self.is_dry_run() && !is_alive(&self.0.device) {
            self.0.health.lose("it takes no more commands".to_owned());
        }
        self.expect_alive()
    }

    /// What an error of wgpu's means: the loss of the device, or what it says.
    pub(super) fn device_error(&self, during: &'static str, message: String) -> Error {
        match self.probe() {
            Err(lost) => lost,
            Ok(()) => Error::Device { during, message },
        }
    }

    /// The first error outside a scope since the last call.
    pub(super) fn take_error(&self) -> Result<()> {
        self.expect_alive()?;
        let taken = self.0.health.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.map_or(Ok(()), |message| Err(Error::Device { during: "computing", message }))
    }
}

/// [`Gpu::probe`] of a device that has no handle yet.
pub(super) fn expect_alive(device: &wgpu::Device, name: &str) -> Result<()> {
    if is_alive(device) {
        return Ok(());
    }
    Err(Error::DeviceLost { device: name.to_owned(), message: "it takes no more commands".to_owned() })
}
