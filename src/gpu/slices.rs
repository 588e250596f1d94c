//! Recorded work in slices of time, for programs whose frames share the device.

use std::time::Duration;

use super::Gpu;
use super::clock::Instant;
use super::pace::End;
#[cfg(not(target_arch = "wasm32"))]
use super::waiter::Awaited;
use crate::error::Result;

/// What [`Gpu::submit_slice`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slice {
    /// Commands that it submitted.
    pub commands: usize,
    /// What they should take on the device, by what is known of them.
    pub expected: Duration,
    /// Commands that still wait.
    pub waiting: usize,
    /// Slices that have ended since the call before.
    pub ended: Vec<SliceTime>,
}

/// How long a slice took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SliceTime {
    /// What it should have taken.
    pub expected: Duration,
    /// What it took. Of the device's other work, what came before it is not in it, but what the device does at the same time delays
    /// it.
    pub took: Duration,
}

impl Gpu {
    /// Keeps back what `record` records, by whatever thread meanwhile, so that it goes to the device in slices
    /// ([`Gpu::submit_slice`]), or whenever its results are waited for or awaited ([`Gpu::flush`], [`super::Readback::bytes`]).
    /// [`super::Readback::is_ready`] does not ask for them. The order of all commands stays as they were recorded, also of those that
    /// come later.
    pub fn hold<R>(&self, record: impl FnOnce() -> R) -> R {
        struct Release<'a>(&'a Gpu);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.state().holds -= 1;
            }
        }
        self.state().holds += 1;
        let _release = Release(self);
        record()
    }

    /// Submits as much of what waits as the device does in `budget`, less what it still has to do of earlier slices. Never waits, and
    /// cuts between any two commands. What a command takes is learnt from what slices take: the first ones may be longer or
    /// shorter. A command that takes longer than `budget` by itself goes alone, when nothing is under way.
    ///
    /// To a program that draws at 60 frames a second and calls this in each, a budget of 8 ms leaves half of the device.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`], or [`crate::Error::Device`] if the device does not take the commands.
    pub fn submit_slice(&self, budget: Duration) -> Result<Slice> {
        self.expect_alive()?;
        if self.is_dry_run() {
            return Ok(Slice::default());
        }
        let mut state = self.state();
        let (ended, arrived) = state.pace.collect();
        if let Some(ordinal) = arrived {
            state.recorder.arrived(ordinal);
        }
        let room = budget.as_secs_f64() - state.pace.left(Instant::now());
        let fitting = state.pace.fitting(state.recorder.waiting(), room, state.pace.is_idle());
        let commands = fitting.len();
        let expected = if commands > 0 { Duration::from_secs_f64(fitting.expected) } else { Duration::ZERO };
        let mut slice = Slice { commands, expected, ended, waiting: 0 };
        let before = (commands > 0).then(|| self.time());
        let (mut left, mut last) = (commands, None);
        while left > 0 {
            let submitted = self.submit_some(&mut state, left)?;
            left -= submitted.commands;
            last = Some(submitted.ordinal);
        }
        if let Some((before, ordinal)) = before.zip(last) {
            state.pace.begin(fitting, [before, self.time()], ordinal);
        }
        slice.waiting = state.recorder.waiting().len();
        Ok(slice)
    }

    /// A time that is set when the device has done all that it has been given so far, by a host too.
    fn time(&self) -> End {
        let end = End::default();
        let told = end.clone();
        self.0.queue.on_submitted_work_done(move || {
            told.get_or_init(Instant::now);
        });
        #[cfg(not(target_arch = "wasm32"))]
        if !self.0.waiter.watch(&self.0.device, Awaited::End(end.clone())) {
            // Without a thread nobody knows. It counts as nothing, and the next is cut shorter or longer.
            end.get_or_init(Instant::now);
        }
        end
    }
}
