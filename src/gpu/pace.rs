//! What commands take on this device: guessed at first, then learnt from what whole slices of them took.
//!
//! A slice's time tells nothing of its single commands. So each is taken to be wrong by the same factor as all of them together;
//! as slices begin and end at ever new places, the factors of those that are right come out as one.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::AdapterInfo;
use super::clock::Instant;
use super::recorder::Command;
use super::slices::SliceTime;

/// What tells commands of different cost apart: pipeline, grid and the octave of their operations, as far as they say
/// how many, since products of any K share a grid; or the octave of what is copied. (Of the operations too: what grows
/// with every token that is generated would be ever new.)
type Key = (usize, [u32; 3], u32);

/// More than a model has at all the lengths that random-LTD visits; beyond, learning begins anew.
const MOST_KNOWN: usize = 1 << 14;
/// What a slice takes beside its commands, learnt as they are: some browsers need milliseconds for a submission. Pipelines have
/// addresses that are not this.
const SUBMISSION: Key = (usize::MAX, [0; 3], 0);
/// At first.
const SUBMISSION_SECONDS: f64 = 50e-6;
/// How far one slice may move its commands' times, however often it has a command.
const LARGEST_FACTOR: f64 = 8.0;
/// Between these, in seconds, a command's time is believed.
const BELIEVED: (f64, f64) = (1e-9, 1e3);
/// How much of the way to a longer time is gone at once; to a shorter one, all but as much. A slice is longer also because of
/// other work on the device, or because a driver compiles at the first launch; nothing makes it shorter.
const CAUTION: f64 = 0.3;

/// Callbacks run when somebody looks. Of two in one look, no time between them is known, and nothing is learnt.
const RESOLUTION: Duration = Duration::from_micros(50);

/// When a slice ended, once that is known. Whoever waits for it holds a clone.
pub(super) type End = Arc<OnceLock<Instant>>;

#[derive(Debug)]
struct TimedSlice {
    keys: Vec<(Key, f64)>,
    expected: f64,
    begun: Instant,
    /// When all had ended that the device was given before, by whomever.
    before: End,
    ordinal: u64,
    end: End,
}

/// Seconds that commands take.
#[derive(Debug)]
pub(super) struct Pace {
    known: FxHashMap<Key, f64>,
    /// Of a command that is not known.
    seconds: f64,
    flops_per_second: f64,
    under_way: VecDeque<TimedSlice>,
    last_end: Option<Instant>,
}

/// The oldest commands of those that wait that fit a time.
#[derive(Debug)]
pub(super) struct Fitting {
    keys: Vec<(Key, f64)>,
    pub(super) expected: f64,
}

impl Fitting {
    /// How many commands.
    pub(super) fn len(&self) -> usize {
        self.keys.len() - 1
    }

    /// The oldest of them alone.
    pub(super) fn truncate(&mut self, commands: usize) {
        self.keys.truncate(commands + 1);
        self.expected = self.keys.iter().map(|(_, seconds)| seconds).sum();
    }
}

impl Pace {
    pub(super) fn new(info: &AdapterInfo) -> Self {
        let (seconds, flops_per_second) = if info.is_cpu() { (1e-4, 2e10) } else { (2e-5, 5e11) };
        Pace { known: FxHashMap::default(), seconds, flops_per_second, under_way: VecDeque::new(), last_end: None }
    }

    fn seconds_of(&self, key: Key, command: &Command) -> f64 {
        let flops = if let Command::Dispatch { flops, .. } = command { *flops } else { 0 };
        self.known.get(&key).copied().unwrap_or(self.seconds + flops as f64 / self.flops_per_second)
    }

    /// Of `waiting`, what fits `seconds`; one command at least where `at_least_one` says so.
    pub(super) fn fitting<'c>(
        &self,
        waiting: impl Iterator<Item = &'c Command>,
        seconds: f64,
        at_least_one: bool,
    ) -> Fitting {
        let own = self.known.get(&SUBMISSION).copied().unwrap_or(SUBMISSION_SECONDS);
        let mut fitting = Fitting { keys: vec![(SUBMISSION, own)], expected: own };
        for command in waiting {
            let key = key(command);
            let own = self.seconds_of(key, command);
            let must = at_least_one && fitting.len() == 0;
            if !must && fitting.expected + own > seconds {
                break;
            }
            fitting.keys.push((key, own));
            fitting.expected += own;
        }
        fitting
    }

    /// What is under way still takes, by what is known; without end where it takes longer than it should.
    pub(super) fn left(&self, now: Instant) -> f64 {
        let Some(first) = self.under_way.front() else { return 0.0 };
        let passed = match first.before.get() {
            Some(_) => now.saturating_duration_since(self.start_of(first)).as_secs_f64(),
            // The device has not come to it.
            None => 0.0,
        };
        if passed > first.expected {
            return f64::INFINITY;
        }
        self.under_way.iter().map(|slice| slice.expected).sum::<f64>() - passed
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Begins to time a slice, whose last submission has that number. The times are set when the device is done with what came before
    /// it, and with it.
    pub(super) fn begin(&mut self, fitting: Fitting, [before, end]: [End; 2], ordinal: u64) {
        let Fitting { keys, expected } = fitting;
        self.under_way.push_back(TimedSlice { keys, expected, begun: Instant::now(), before, ordinal, end });
    }

    /// Learns from the slices that have ended. Returns their times, and the number of the last submission among them.
    pub(super) fn collect(&mut self) -> (Vec<SliceTime>, Option<u64>) {
        let (mut times, mut ordinal) = (Vec::new(), None);
        while let Some((mut slice, end)) = self.pop_ended() {
            let took = end.saturating_duration_since(self.start_of(&slice));
            if took >= RESOLUTION {
                self.learn(&mut slice, took.as_secs_f64());
            }
            self.last_end = Some(end);
            ordinal = Some(slice.ordinal);
            times.push(SliceTime { expected: Duration::from_secs_f64(slice.expected), took });
        }
        (times, ordinal)
    }

    fn pop_ended(&mut self) -> Option<(TimedSlice, Instant)> {
        let end = *self.under_way.front()?.end.get()?;
        Some((self.under_way.pop_front()?, end))
    }

    /// When the device came to it: it computes one thing after the other.
    fn start_of(&self, slice: &TimedSlice) -> Instant {
        [self.last_end, slice.before.get().copied()].into_iter().flatten().fold(slice.begun, Instant::max)
    }

    fn learn(&mut self, slice: &mut TimedSlice, took: f64) {
        if self.known.len() > MOST_KNOWN {
            self.known.clear();
        }
        let ratio = (took / slice.expected).clamp(1.0 / LARGEST_FACTOR, LARGEST_FACTOR);
        slice.keys.sort_unstable_by_key(|(key, _)| *key);
        slice.keys.dedup_by_key(|(key, _)| *key);
        for &(key, guess) in &slice.keys {
            let share = match self.known.contains_key(&key) {
                true if ratio > 1.0 => CAUTION,
                true => 1.0 - CAUTION,
                false => 1.0,
            };
            let known = self.known.entry(key).or_insert(guess);
            *known = (*known * ratio.powf(share)).clamp(BELIEVED.0, BELIEVED.1);
        }
        // One that is not known is like the others.
        let commands = self.known.iter().filter(|(key, _)| **key != SUBMISSION).map(|(_, seconds)| seconds);
        let (count, sum) = commands.fold((0, 0.0), |(count, sum), seconds| (count + 1, sum + seconds));
        if count > 0 {
            self.seconds = sum / f64::from(count);
        }
    }
}

fn key(command: &Command) -> Key {
    let copied = |bytes: u64| (0, [octave(bytes), 0, 0], 0);
    match command {
        Command::Dispatch { pipeline, groups, flops, .. } => dispatched(Arc::as_ptr(pipeline).addr(), *groups, *flops),
        Command::Copy { from, .. } | Command::Download { from, .. } => copied(from.size),
        Command::Upload { size, .. } => copied(*size),
        Command::Clear { to } => copied(to.size),
        Command::Land { .. } => copied(1),
    }
}

fn dispatched(pipeline: usize, groups: [u32; 3], flops: u64) -> Key {
    (pipeline, groups, octave(flops))
}

fn octave(size: u64) -> u32 {
    size.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::adapter::tests::some_gpu;

    /// Two have a pipeline and a grid in common, as products of different K, of which the second says that it computes
    /// more.
    fn key_of(i: usize) -> Key {
        dispatched(i / 2, [1; 3], if i.is_multiple_of(2) { 0 } else { 1 << 20 })
    }

    fn new() -> Pace {
        Pace::new(&some_gpu())
    }

    /// One that has ended.
    fn slice(keys: Vec<(Key, f64)>) -> TimedSlice {
        let expected = keys.iter().map(|(_, own)| own).sum();
        let [before, end] = [End::default(), End::default()];
        TimedSlice { keys, expected, begun: Instant::now(), before, ordinal: 0, end }
    }

    /// Commands of 1 to 8 ms, and a submission of 3, in slices that begin and end anywhere: after some rounds each is known within a
    /// fifth.
    #[test]
    fn commands_are_told_apart() {
        let mut pace = new();
        let truth = |i: usize| (1 + i % 8) as f64 * 1e-3;
        let mut at = 0;
        for round in 0..4000 {
            let length = 1 + round * 7 % 11;
            let ids: Vec<usize> = (at..at + length).map(|i| i % 8).collect();
            at += length;
            let seconds = |i: usize| pace.known.get(&key_of(i)).copied().unwrap_or(pace.seconds);
            let mut keys: Vec<_> = ids.iter().map(|&i| (key_of(i), seconds(i))).collect();
            keys.push((SUBMISSION, pace.known.get(&SUBMISSION).copied().unwrap_or(SUBMISSION_SECONDS)));
            let took = 3e-3 + ids.iter().map(|&i| truth(i)).sum::<f64>();
            pace.learn(&mut slice(keys), took);
        }
        let all = (0..8).map(|i| (key_of(i), truth(i))).chain([(SUBMISSION, 3e-3)]);
        for (key, truth) in all {
            let known = pace.known[&key];
            assert!((known / truth - 1.0).abs() < 0.2, "{key:?}: {known}, not {truth}");
        }
    }

    /// A thousand times the same command, on devices that are much slower and much faster than is guessed.
    #[test]
    fn one_command_many_times() {
        const TIMES: usize = 1000;
        for truth in [1e-2, 1e-8] {
            let mut pace = new();
            for _ in 0..60 {
                let own = pace.known.get(&key_of(0)).copied().unwrap_or(pace.seconds);
                pace.learn(&mut slice(vec![(key_of(0), own); TIMES]), TIMES as f64 * truth);
            }
            let known = pace.known[&key_of(0)];
            assert!((known / truth - 1.0).abs() < 0.1, "{known}, not {truth}");
        }
    }
}
