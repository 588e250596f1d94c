//! Steps that are cut wherever the time is over, for programs that draw frames on the same device.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Pending, StepMetrics, Task, Trainer};
use crate::error::{Error, Result};
use crate::gpu::{Room, SliceTime};

/// Steps that are recorded before the oldest of them has ended.
const MOST_AHEAD: usize = 4;

/// The steps of [`Trainer::step_slice`] that are on their way.
#[derive(Default)]
pub(super) struct Sliced {
    steps: VecDeque<Pending>,
    /// [`Trainer::slices`].
    times: Vec<SliceTime>,
    /// The error of a step that has ended, as long as it has not been returned.
    failed: Option<Error>,
}

impl Sliced {
    /// Gives up the results that were not read.
    pub(super) fn give_up(&mut self) {
        self.steps.clear();
        self.failed = None;
    }

    /// The results of steps that have ended. What comes before an error is returned first, and the error with the next
    /// call.
    fn ended(&mut self) -> Result<Vec<StepMetrics>> {
        let mut ended = Vec::new();
        while self.failed.is_none() && self.steps.front().is_some_and(Pending::is_ready) {
            match self.steps.pop_front().map(Pending::ready).transpose() {
                Ok(metrics) => ended.extend(metrics),
                Err(error) => self.failed = Some(error),
            }
        }
        if ended.is_empty() { self.failed.take().map_or(Ok(ended), Err) } else { Ok(ended) }
    }
}

impl<T: Task> Trainer<T> {
    /// Trains for about `budget` of the device's time ([`crate::Gpu::submit_slice`]), for programs that draw frames on
    /// the same device and call this in each: never waits, and cuts steps anywhere. Takes a batch of `next` whenever
    /// the device would else run out of work; where that has none, now or at the end of the data, what is recorded goes
    /// on. Returns what the steps did that have ended since the call before, in order.
    ///
    /// Recording a step takes the host a millisecond or two, but the first of each length also compiles its kernels
    /// ([`crate::Gpu::warm_up`]). A weight that is read, a prediction, a snapshot have the rest of the recorded steps
    /// done first.
    ///
    /// # Errors
    /// Those of `next` and of [`Trainer::record`]; those of [`Pending::read`] for the oldest step that has ended.
    pub fn step_slice(
        &mut self,
        budget: Duration,
        mut next: impl FnMut() -> Option<Result<T::Batch>>,
    ) -> Result<Vec<StepMetrics>> {
        let gpu = self.gpu().clone();
        self.sliced.times.clear();
        let mut room = Room::of(budget);
        loop {
            let slice = gpu.submit_within(&mut room)?;
            self.sliced.times.extend(slice.ended);
            let is_spent = slice.commands > 0 && room.is_spent();
            if slice.waiting > 0 || is_spent || self.sliced.steps.len() >= MOST_AHEAD {
                break;
            }
            let Some(batch) = next().transpose()? else { break };
            let recorded = gpu.hold(|| self.record(&batch))?;
            self.sliced.steps.push_back(recorded);
        }
        self.sliced.ended()
    }

    /// How long slices took, of this engine's device, that had ended at the last [`Trainer::step_slice`] and not at the
    /// one before.
    pub fn slices(&self) -> &[SliceTime] {
        &self.sliced.times
    }
}
