//! Recorded work in slices of time, for programs whose frames share the device.

use std::time::Duration;

use super::clock::Instant;
use super::commands::MOST_UNDER_WAY;
#[cfg(not(target_arch = "wasm32"))]
use super::health::poll;
use super::pace::End;
#[cfg(not(target_arch = "wasm32"))]
use super::waiter::Awaited;
use super::{Gpu, State};
use crate::error::{Error, Result};

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

/// What the device may be given in a frame.
pub(crate) struct Room {
    budget: Duration,
    /// What is left of it, once it is known what the device still has to do of frames before.
    left: Option<f64>,
}

impl Room {
    pub(crate) fn of(budget: Duration) -> Self {
        Room { budget, left: None }
    }

    /// Whether it has all been given.
    #[cfg(feature = "train")]
    pub(crate) fn is_spent(&self) -> bool {
        self.left.is_some_and(|left| left <= 0.0)
    }

    fn seconds(&mut self, under_way: impl FnOnce() -> f64) -> f64 {
        *self.left.get_or_insert_with(|| self.budget.as_secs_f64() - under_way())
    }

    /// The device may be done with some of it while the host still records. That is no reason to give it more in this frame.
    fn take(&mut self, given: Duration) {
        self.left = self.left.map(|left| left - given.as_secs_f64());
    }
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

    /// Submits as much of what waits as the device does in `budget`, less what it still has to do of earlier slices, and no more
    /// than makes 16 submissions under way. Never waits, but where the host has no memory for it, and cuts between any two commands. What a command takes is learnt from
    /// what slices take: the first ones may be longer or shorter. A command that takes longer than `budget` by itself goes alone,
    /// when nothing is under way.
    ///
    /// To a program that draws at 60 frames a second and calls this in each, a budget of 8 ms leaves half of the device.
    ///
    /// # Errors
    /// As [`Gpu::flush`].
    pub fn submit_slice(&self, budget: Duration) -> Result<Slice> {
        self.submit_within(&mut Room::of(budget))
    }

    /// The same of what is left of a frame's room.
    pub(crate) fn submit_within(&self, room: &mut Room) -> Result<Slice> {
        self.expect_alive()?;
        if self.is_dry_run() {
            return Ok(Slice::default());
        }
        #[cfg(not(target_arch = "wasm32"))]
        self.let_callbacks_run()?;
        let mut state = self.state();
        let (ended, arrived) = state.pace.collect();
        if let Some(ordinal) = arrived {
            state.recorder.arrived(ordinal, None);
        }
        let seconds = room.seconds(|| state.pace.left(Instant::now()));
        let is_idle = state.pace.is_idle();
        let mut fitting = state.pace.fitting(state.recorder.waiting(), seconds, is_idle);
        // One in any case where no slice is under way: its end tells that others' submissions have ended too.
        let most = MOST_UNDER_WAY.saturating_sub(state.recorder.count_under_way()).max(usize::from(is_idle));
        let before = (most > 0 && fitting.len() > 0).then(|| self.time());
        let (commands, last) = self.submit_few(&mut state, fitting.len(), most)?;
        fitting.truncate(commands);
        let expected = if commands > 0 { Duration::from_secs_f64(fitting.expected) } else { Duration::ZERO };
        room.take(expected);
        if let Some((before, ordinal)) = before.zip(last) {
            state.pace.begin(fitting, [before, self.time()], ordinal);
        }
        let waiting = state.recorder.waiting().len();
        Ok(Slice { commands, expected, ended, waiting })
    }

    /// The oldest commands, at most so many in at most so many submissions. Returns how many commands, and the last submission's number.
    fn submit_few(&self, state: &mut State, most: usize, submissions: usize) -> Result<(usize, Option<u64>)> {
        let (mut commands, mut last) = (0, None);
        for _ in 0..submissions {
            if commands == most {
                break;
            }
            let submitted = match self.submit_some(state, most - commands) {
                // What has been submitted is a slice; the next one meets the want of memory again.
                Err(Error::OutOfMemory { .. }) if commands > 0 => break,
                submitted => submitted?,
            };
            commands += submitted.commands;
            last = Some(submitted.ordinal);
        }
        Ok((commands, last))
    }

    /// Where the system gives no thread that would do it, a look at the device here.
    #[cfg(not(target_arch = "wasm32"))]
    fn let_callbacks_run(&self) -> Result<()> {
        if self.0.waiter.is_there() {
            return Ok(());
        }
        poll(&self.0.device, wgpu::PollType::Poll)
            .map_err(|message| self.device_error("looking at the device", message))
    }

    /// A time that is set when the device has done all that it has been given so far, by a host too.
    fn time(&self) -> End {
        let end = End::default();
        let told = end.clone();
        self.0.queue.on_submitted_work_done(move || {
            told.get_or_init(Instant::now);
        });
        #[cfg(not(target_arch = "wasm32"))]
        // Without a thread, the next call looks.
        let _ = self.0.waiter.watch(&self.0.device, Awaited::End(end.clone()));
        end
    }
}
