//! How much is submitted at once: what the device does in a set time, by a guess that what submissions took corrects.
//!
//! Some systems end a submission that runs too long, and the device with it: Windows after two seconds. What a command takes is
//! guessed from its operations and the bytes that it binds; by what factor that is wrong on this device is learnt whenever the host has
//! waited for one submission after another, and so knows when both ended. The factor rises at once and falls slowly: nothing makes a
//! submission shorter than it is, and other programs on the device make it longer.

use std::time::Duration;

use super::AdapterInfo;
use super::clock::Instant;
use super::recorder::Command;

/// Where nothing else is said ([`crate::Gpu::limit_submissions`]): far from two seconds even where the factor is four times too
/// small.
const BUDGET: Duration = Duration::from_millis(500);
/// Shorter times tell of the submission, not of its commands.
const LEAST: Duration = Duration::from_millis(1);
/// How far one observation moves the factor. The first ones may have a driver's compiler in them.
const LARGEST_RATIO: f64 = 8.0;
/// Between these the factor is believed.
const FACTORS: (f64, f64) = (1.0 / 4096.0, 64.0);
/// How much of the way to a smaller factor is gone at once.
const CAUTION: f64 = 0.3;

/// What submissions may take, and what commands are taken to.
#[derive(Debug)]
pub(super) struct Budget {
    seconds: f64,
    /// Of a command, of a floating-point operation, of a byte that is bound.
    guess: [f64; 3],
    /// What the guess is to be multiplied with.
    factor: f64,
    /// When the submission before those under way ended, if that is known.
    last_end: Option<Instant>,
}

impl Budget {
    /// With guesses that few devices fall short of, so that the very first submissions are not too long.
    pub(super) fn new(info: &AdapterInfo) -> Self {
        let guess = if info.is_cpu() { [1e-4, 1.0 / 2e10, 1.0 / 4e9] } else { [2e-5, 1.0 / 2e11, 1.0 / 2e10] };
        Budget { seconds: BUDGET.as_secs_f64(), guess, factor: 1.0, last_end: None }
    }

    pub(super) fn set(&mut self, budget: Duration) {
        self.seconds = budget.as_secs_f64();
    }

    /// What a command takes by the guess, in nanoseconds.
    pub(super) fn work_of(&self, command: &Command) -> u64 {
        let (flops, bytes) = match command {
            Command::Dispatch { flops, buffers, .. } => (*flops, buffers.iter().map(|view| view.size).sum()),
            Command::Copy { from, .. } | Command::Download { from, .. } => (0, from.size),
            Command::Upload { size, .. } => (0, *size),
            Command::Clear { to } => (0, to.size),
            Command::Land { .. } => (0, 0),
        };
        let [command, operation, byte] = self.guess;
        ((command + flops as f64 * operation + bytes as f64 * byte) * 1e9) as u64
    }

    /// Whether so much work takes the time that a submission may.
    pub(super) fn is_spent(&self, work: u64) -> bool {
        work as f64 * 1e-9 * self.factor >= self.seconds
    }

    /// Learns from submissions that the device came to at `begun` or later, one after the other, and was done with at `end`, if that is
    /// known.
    pub(super) fn learn(&mut self, work: u64, begun: Instant, end: Option<Instant>) {
        let before = std::mem::replace(&mut self.last_end, end);
        let Some((before, end)) = before.zip(end) else { return };
        let took = end.saturating_duration_since(before.max(begun));
        if took < LEAST || work == 0 {
            return;
        }
        let ratio = took.as_secs_f64() / (work as f64 * 1e-9 * self.factor);
        let ratio = ratio.clamp(1.0 / LARGEST_RATIO, LARGEST_RATIO);
        let share = if ratio > 1.0 { 1.0 } else { CAUTION };
        self.factor = (self.factor * ratio.powf(share)).clamp(FACTORS.0, FACTORS.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::adapter::tests::some_gpu;

    /// On devices from a hundred times slower than is guessed to a thousand times faster, whose host waits for every second
    /// submission: after a few dozen, what fits the budget takes it.
    #[test]
    fn the_budget_is_kept_on_slow_and_fast_devices() {
        for slowness in [50.0, 1.0, 1e-3] {
            let mut budget = Budget::new(&some_gpu());
            let (start, mut now) = (Instant::now(), 0.0);
            let at = |now: f64| start + Duration::from_secs_f64(now);
            let fitting = |budget: &Budget| {
                let mut work = 1_000_000;
                while !budget.is_spent(work) {
                    work += work / 100;
                }
                work
            };
            for round in 0..100 {
                let work = 2 * fitting(&budget);
                let begun = at(now);
                now += work as f64 * 1e-9 * slowness;
                // Now and then it is not waited for.
                budget.learn(work, begun, (round % 7 != 3).then(|| at(now)));
            }
            let took = fitting(&budget) as f64 * 1e-9 * slowness;
            assert!((0.4..0.6).contains(&took), "{slowness}: {took}");
        }
    }

    /// The time between a submission and a late look at it is not the device's.
    #[test]
    fn pauses_of_the_host_are_not_counted() {
        let mut budget = Budget::new(&some_gpu());
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        budget.learn(1_000_000_000, at(0), Some(at(1)));
        // Begun ten seconds after the one before had ended; and one that nobody has waited for, with the next.
        budget.learn(1_000_000_000, at(11), Some(at(12)));
        budget.learn(1_000_000_000, at(12), None);
        budget.learn(1_000_000_000, at(12), Some(at(60)));
        assert_eq!(budget.factor, 1.0);
    }
}
