//! How long frames take, and the slices in them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;
use wgrad::gpu::SliceTime;

/// Values that are remembered of each kind.
const REMEMBERED: usize = 1 << 14;
/// Frames that the window tells of.
pub const SHOWN: usize = 300;

/// The device's time in a frame of training.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// What training was to get.
    pub budget: Duration,
    /// What the slices took that ended since the frame before.
    pub taken: Duration,
}

/// The times of late of frames in which the model learnt.
#[derive(Debug, Default)]
pub struct Times {
    last_frame: Option<Instant>,
    /// From one frame to the next.
    pub frames: VecDeque<Duration>,
    /// The host's time in calls of the engine, of each frame.
    pub own: VecDeque<Duration>,
    pub shares: VecDeque<Share>,
    pub slices: VecDeque<SliceTime>,
    /// When how many steps had ended.
    done: VecDeque<(Instant, u64)>,
}

/// Over how long steps are counted.
const COUNTED: Duration = Duration::from_secs(3);

impl Times {
    /// A frame begins, in which the model learns or not.
    pub fn frame(&mut self, now: Instant, is_learning: bool) {
        let last = self.last_frame.take();
        if is_learning {
            self.last_frame = Some(now);
            if let Some(last) = last {
                remember(&mut self.frames, [now - last]);
            }
        }
    }

    /// What the engine took of the host in this frame, the slices that have ended, and how many steps had when.
    pub fn add(&mut self, own: Duration, budget: Duration, slices: &[SliceTime], done: (Instant, u64)) {
        remember(&mut self.own, [own]);
        remember(&mut self.shares, [Share { budget, taken: slices.iter().map(|slice| slice.took).sum() }]);
        remember(&mut self.slices, slices.iter().copied());
        self.done.push_back(done);
        while self.done.front().is_some_and(|(when, _)| done.0 - *when > COUNTED) {
            self.done.pop_front();
        }
    }

    /// Of the last seconds.
    pub fn steps_per_second(&self) -> f64 {
        match (self.done.front(), self.done.back()) {
            (Some(first), Some(last)) if last.0 > first.0 => {
                (last.1 - first.1) as f64 / (last.0 - first.0).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

fn remember<T>(values: &mut VecDeque<T>, new: impl IntoIterator<Item = T>) {
    values.extend(new);
    let surplus = values.len().saturating_sub(REMEMBERED);
    values.drain(..surplus);
}

/// The values of late.
pub fn recent<T: Copy>(values: &VecDeque<T>) -> impl Iterator<Item = T> + '_ {
    values.iter().skip(values.len().saturating_sub(SHOWN)).copied()
}

pub fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// What the window tells of the last frames, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Summary {
    /// From frame to frame: the median, and the 99th percentile.
    pub frame: [f64; 2],
    /// The host's time in calls of the engine, likewise.
    pub own: [f64; 2],
    /// What slices took, over what they should have taken: the 10th percentile, the median and the 90th.
    pub taken_over_expected: [f64; 3],
    /// What the slices of a frame took, over the budget, likewise.
    pub taken_over_budget: [f64; 3],
    /// What they took, likewise.
    pub taken: [f64; 3],
}

impl Summary {
    /// Of these frames and slices.
    pub fn of(
        frames: impl Iterator<Item = Duration>,
        own: impl Iterator<Item = Duration>,
        slices: impl Iterator<Item = SliceTime>,
        shares: impl Iterator<Item = Share>,
    ) -> Self {
        const SPREAD: [f64; 3] = [0.1, 0.5, 0.9];
        let ratio = |taken: Duration, of: Duration| taken.as_secs_f64() / of.as_secs_f64().max(1e-9);
        // A frame in which none has ended tells nothing: its slice is counted with the next.
        let shares: Vec<Share> = shares.filter(|share| share.taken > Duration::ZERO).collect();
        Summary {
            frame: quantiles(frames.map(milliseconds), [0.5, 0.99]),
            own: quantiles(own.map(milliseconds), [0.5, 0.99]),
            taken_over_expected: quantiles(slices.map(|slice| ratio(slice.took, slice.expected)), SPREAD),
            taken_over_budget: quantiles(shares.iter().map(|share| ratio(share.taken, share.budget)), SPREAD),
            taken: quantiles(shares.iter().map(|share| milliseconds(share.taken)), SPREAD),
        }
    }

    /// Of the last frames.
    pub fn recent(times: &Times) -> Self {
        let Times { frames, own, slices, shares, .. } = times;
        Self::of(recent(frames), recent(own), recent(slices), recent(shares))
    }

    /// Of all that are remembered.
    pub fn all(times: &Times) -> Self {
        let Times { frames, own, slices, shares, .. } = times;
        Self::of(frames.iter().copied(), own.iter().copied(), slices.iter().copied(), shares.iter().copied())
    }
}

/// The values at these shares of the way from the smallest to the largest; zeros where there is no value.
pub fn quantiles<const N: usize>(values: impl IntoIterator<Item = f64>, at: [f64; N]) -> [f64; N] {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    at.map(|share| {
        let last = values.len().saturating_sub(1) as f64;
        values.get((share * last).round() as usize).copied().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_hundred() {
        let values = (0..=100).rev().map(f64::from);
        assert_eq!(quantiles(values, [0.0, 0.1, 0.5, 0.99, 1.0]), [0.0, 10.0, 50.0, 99.0, 100.0]);
        assert_eq!(quantiles([], [0.5]), [0.0]);
        assert_eq!(quantiles([7.0], [0.1, 0.9]), [7.0, 7.0]);
    }

    #[test]
    fn frames_without_learning_do_not_count() {
        let (mut times, begin) = (Times::default(), Instant::now());
        let at = |ms| begin + Duration::from_millis(ms);
        for (ms, is_learning) in [(0, true), (10, true), (30, false), (500, true), (516, true)] {
            times.frame(at(ms), is_learning);
        }
        assert_eq!(times.frames, [10, 16].map(Duration::from_millis));
    }
}
