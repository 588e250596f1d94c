//! Values on the device that were out of range: which operation met one, and which results depend on it.
//!
//! Labels and token indices are data: the host cannot check them. Kernels that index by data check the bound, skip the
//! access, and leave the first offence in a place of the device's tables that is their dispatch's own (see
//! `shaders/lib/fault.wgsl`). Every range of memory carries a *mark*, the set of dispatches that what it holds depends on:
//! a dispatch gives what it writes the marks of all that it binds. Each read-back brings the tables along, and so
//! settles what had been recorded before it, whoever asked. A fault is told once, by the first read of a result that depends
//! on it, and by no other.
//!
//! Marks end at an optimiser's update: weights count as whole, and what is computed with them is not accused. That no fault
//! is lost where only weights are ever read, they *carry* the marks of their gradients, and so do copies of them, as long as nothing is
//! computed in the copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::{FxHashMap, FxHashSet};

use super::kernel::Access;
use super::memory::BufferView;
use super::pool::Fit;
use super::recorder::{Command, RawView};
use super::{Gpu, State};
use crate::error::{Error, Result};

/// Places in a table, as in `shaders/lib/fault.wgsl`. The very first is for dispatches whose data the host has checked.
const PLACES: u32 = 16;
/// Bytes of a place: count, code, value, bound.
const PLACE: u64 = 16;
/// Bytes of a table. There are as many as the dispatches between two read-backs need, …
pub(super) const TABLE: u64 = PLACES as u64 * PLACE;
/// … up to so many places. A program that reads nothing fills them, and dispatches begin to share places.
const MOST_PLACES: u32 = 1024;

/// Faults that are remembered until they are told; the results of older ones have long been read or dropped.
const REMEMBERED: usize = 1024;

/// What was out of range; the number is what the kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Fault {
    Label = 1,
    GatherIndex = 2,
    ScatterIndex = 3,
    Gather = 4,
    ScatterAdd = 5,
    Embedding = 6,
    Mean = 7,
}

impl Fault {
    const ALL: [Fault; 7] = [
        Fault::Label,
        Fault::GatherIndex,
        Fault::ScatterIndex,
        Fault::Gather,
        Fault::ScatterAdd,
        Fault::Embedding,
        Fault::Mean,
    ];

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Fault::Label => ("cross_entropy", "label"),
            Fault::GatherIndex => ("token_gather", "token index"),
            Fault::ScatterIndex => ("token_scatter", "token index"),
            Fault::Gather => ("gather", "index"),
            Fault::ScatterAdd => ("scatter_add", "index"),
            Fault::Embedding => ("embedding", "id"),
            Fault::Mean => ("update_means", "id"),
        }
    }
}

/// Data that the host has not checked. What several dispatches find in it before the host hears of it is one fault.
#[derive(Debug, Default)]
pub(crate) struct FaultSource(AtomicU64);

/// Where dispatches leave a fault. To be held until they are recorded: what is read back meanwhile knows nothing of them.
#[derive(Debug)]
pub(crate) struct FaultPlace {
    /// The table, marked with the dispatch.
    pub(crate) table: BufferView,
    /// The kernel's parameter: what to write, and where.
    pub(crate) code: u32,
    /// Whose it is, and the number of the dispatches; none where the host has checked their data.
    opened: Option<(Gpu, u64)>,
}

impl Drop for FaultPlace {
    fn drop(&mut self) {
        if let Some((gpu, id)) = self.opened.take() {
            gpu.state().ledger.recorded(id);
        }
    }
}

impl Gpu {
    /// A place for the faults of the next dispatch, its own or that of others with the same data.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn fault_place(&self, fault: Fault, source: &FaultSource) -> Result<FaultPlace> {
        if self.is_dry_run() {
            return Ok(self.no_fault(fault));
        }
        // Whether there is room must be known under the lock under which it is taken.
        let mut state = loop {
            let state = self.state();
            if !state.ledger.needs_table() {
                break state;
            }
            drop(state);
            let table = self.alloc(TABLE, Fit::Exact, "a table of faults")?;
            self.clear(&table)?;
            self.state().ledger.tables.push(table);
        };
        let Assigned { place, mark, is_used } = state.ledger.open(source);
        let (table, place) = (place / PLACES, place % PLACES);
        let table = state.ledger.tables[table as usize].part(0, TABLE);
        table.set_mark(mark);
        if is_used {
            let to = RawView { offset: u64::from(place) * PLACE, size: PLACE, ..table.raw() };
            if let Err(error) = self.push(&mut state, Command::Clear { to }) {
                state.ledger.recorded(mark);
                return Err(error);
            }
        }
        drop(state);
        Ok(FaultPlace { table, code: fault as u32 | place << 8, opened: Some((self.clone(), mark)) })
    }

    /// A place for a dispatch whose data the host has checked: there is nothing to tell. Its table has marks of its own: what one
    /// dispatch passes on must not come to the next.
    pub(crate) fn no_fault(&self, fault: Fault) -> FaultPlace {
        FaultPlace { table: self.0.faults.part(0, TABLE), code: fault as u32, opened: None }
    }

    /// Lets each `to` carry the faults of its `from`, as weights do those of their gradients.
    pub(crate) fn carry_faults<'a>(&self, pairs: impl Iterator<Item = (&'a BufferView, &'a BufferView)>) {
        if self.is_dry_run() {
            return;
        }
        let mut state = self.state();
        // Neighbours mostly have the same marks.
        let mut last = (0, 0, 0);
        for (from, to) in pairs.filter(|(from, _)| from.mark() != 0) {
            let (a, b) = (to.carried(), from.mark());
            if (a, b) != (last.0, last.1) {
                last = (a, b, state.ledger.union(a, b));
            }
            to.set_carried(last.2);
        }
    }
}

impl State {
    /// Marks what a dispatch writes with all that it depends on.
    pub(super) fn pass_marks_on(&mut self, bindings: &[Access], buffers: &[&BufferView]) {
        let mark = buffers.iter().fold(0, |mark, view| self.ledger.union(mark, view.mark()));
        for (view, _) in buffers.iter().zip(bindings).filter(|(_, access)| **access == Access::Write) {
            if mark != 0 {
                view.set_mark(mark);
            }
            // Parameters, which go on carrying, are parts of a whole.
            if view.is_whole() {
                view.set_carried(0);
            }
        }
    }
}

/// A place that a dispatch was given.
struct Assigned {
    place: u32,
    mark: u64,
    /// Whether an earlier fault may stand there.
    is_used: bool,
}

/// A dispatch of which it is not known whether it met a fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// Number of the dispatch, and of the set of it alone.
    id: u64,
    place: u32,
    /// How many dispatches have this number, and the place: those with the same data, and others where there are more than
    /// places.
    sharers: u32,
    /// How many of them have the place and are not recorded yet, so that no copy of the tables tells of them.
    waiting: u32,
}

#[derive(Debug)]
struct Raised {
    fault: Fault,
    value: u32,
    bound: u32,
}

/// The places that open dispatches have, a bit each.
#[derive(Debug)]
struct Places([u64; MOST_PLACES as usize / 64]);

impl Default for Places {
    /// All free but the very first.
    fn default() -> Self {
        let mut places = Places([0; MOST_PLACES as usize / 64]);
        places.set(0, true);
        places
    }
}

impl Places {
    fn set(&mut self, place: u32, is_taken: bool) {
        let (word, bit) = (&mut self.0[place as usize / 64], 1 << (place % 64));
        *word = if is_taken { *word | bit } else { *word & !bit };
    }

    fn first_free(&self) -> Option<u32> {
        let (i, word) = self.0.iter().enumerate().find(|(_, word)| **word != u64::MAX)?;
        Some(i as u32 * 64 + word.trailing_ones())
    }
}

/// Dispatches that may have met a fault, those that have, and the sets of them that marks stand for.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    tables: Vec<BufferView>,
    last_id: u64,
    open: BTreeMap<u64, Open>,
    /// Of which it is known, but whose place one that shares it has still to write to.
    leaving: BTreeMap<u64, Open>,
    taken: Places,
    /// Of the open dispatches, the one whose place was shared last because there was no other.
    last_shared: u64,
    /// Places in which an old fault stands.
    used: BTreeSet<u32>,
    raised: BTreeMap<u64, Raised>,
    /// By mark. A mark whose set is missing depends on nothing that went wrong.
    sets: BTreeMap<u64, Vec<u64>>,
    unions: FxHashMap<(u64, u64), u64>,
}

impl Ledger {
    pub(super) fn new(table: BufferView) -> Self {
        Ledger { tables: vec![table], ..Ledger::default() }
    }

    fn needs_table(&self) -> bool {
        self.taken.first_free().is_some_and(|place| place / PLACES >= self.tables.len() as u32)
    }

    fn open(&mut self, source: &FaultSource) -> Assigned {
        let known = source.0.load(Ordering::Relaxed);
        if let Some(open) = self.open.get_mut(&known) {
            open.sharers += 1;
            open.waiting += 1;
            return Assigned { place: open.place, mark: open.id, is_used: false };
        }
        let Some(place) = self.taken.first_free() else { return self.share() };
        let id = self.new_set(|id| vec![id]);
        source.0.store(id, Ordering::Relaxed);
        self.taken.set(place, true);
        self.open.insert(id, Open { id, place, sharers: 1, waiting: 1 });
        Assigned { place, mark: id, is_used: self.used.remove(&place) }
    }

    /// The place of one of those that are open, each time another one's.
    fn share(&mut self) -> Assigned {
        let next = self.open.range(self.last_shared + 1..).next().map(|(id, _)| *id);
        let id = next.or_else(|| self.open.keys().next().copied()).unwrap_or_default();
        self.last_shared = id;
        let shared = self.open.entry(id).or_insert(Open { id, place: 0, sharers: 0, waiting: 0 });
        shared.sharers += 1;
        shared.waiting += 1;
        Assigned { place: shared.place, mark: id, is_used: false }
    }

    /// One of the dispatches with this number is recorded, or will not be.
    fn recorded(&mut self, id: u64) {
        if let Some(open) = self.open.get_mut(&id).or_else(|| self.leaving.get_mut(&id)) {
            open.waiting = open.waiting.saturating_sub(1);
        }
        if let Some(left) = self.leaving.remove(&id) {
            self.leave(left);
        }
    }

    /// It is known what became of it.
    fn close(&mut self, id: u64) {
        if let Some(open) = self.open.remove(&id) {
            self.leave(open);
        }
    }

    /// Frees its place for others, once nothing that was given it is still to be recorded.
    fn leave(&mut self, open: Open) {
        if open.waiting > 0 {
            self.leaving.insert(open.id, open);
        } else {
            self.taken.set(open.place, false);
        }
    }

    fn new_set(&mut self, members: impl FnOnce(u64) -> Vec<u64>) -> u64 {
        self.last_id += 1;
        self.sets.insert(self.last_id, members(self.last_id));
        self.last_id
    }

    /// The mark of what depends on both; 0 depends on nothing.
    pub(super) fn union(&mut self, a: u64, b: u64) -> u64 {
        if a == b || b == 0 {
            return a;
        }
        if a == 0 {
            return b;
        }
        if let Some(&known) = self.unions.get(&(a, b)) {
            return known;
        }
        let both = match (self.sets.get(&a), self.sets.get(&b)) {
            (Some(x), Some(y)) => {
                let mut members = [&x[..], y].concat();
                members.sort_unstable();
                members.dedup();
                // What is open or raised has a set of its own.
                members.retain(|id| self.sets.contains_key(id));
                match (members == *x, members == *y) {
                    (true, _) => a,
                    (_, true) => b,
                    _ => self.new_set(|_| members),
                }
            }
            (Some(_), None) => a,
            (None, Some(_)) => b,
            (None, None) => 0,
        };
        self.unions.insert((a, b), both);
        both
    }

    /// Whether this is one of the tables, which hold no numbers.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn has_table(&self, view: &BufferView) -> bool {
        self.tables.iter().any(|table| table.place() == view.place())
    }

    /// The tables in which open dispatches have their places.
    pub(super) fn tables_in_use(&self) -> &[BufferView] {
        let count = self.open.values().map(|open| open.place / PLACES + 1).max().unwrap_or(0) as usize;
        &self.tables[..count.min(self.tables.len())]
    }

    /// The dispatches that a copy of the first `tables` tables, recorded now, will tell of.
    pub(super) fn outlook(&self, tables: usize) -> Vec<Open> {
        let is_told = |open: &&Open| open.waiting == 0 && ((open.place / PLACES) as usize) < tables;
        self.open.values().filter(is_told).copied().collect()
    }

    /// Learns from a copy of the tables what became of the dispatches that it tells of.
    pub(super) fn settle(&mut self, outlook: &[Open], tables: &[u8]) {
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(tables);
        for seen in outlook {
            let Some(open) = self.open.get(&seen.id).copied() else { continue };
            match words.chunks_exact(4).nth(seen.place as usize) {
                Some(&[count, code, value, bound]) if count > 0 => {
                    let fault = Fault::ALL.into_iter().find(|fault| *fault as u32 == code).unwrap_or(Fault::Label);
                    self.raised.insert(seen.id, Raised { fault, value, bound });
                    self.used.insert(seen.place);
                    self.close(seen.id);
                }
                // Unless another dispatch has come to share the place since.
                _ if open.sharers == seen.sharers => self.close(seen.id),
                _ => {}
            }
        }
        while self.raised.len() > REMEMBERED {
            self.raised.pop_first();
        }
        let live: FxHashSet<u64> = self.open.keys().chain(self.raised.keys()).copied().collect();
        self.sets.retain(|_, members| members.iter().any(|id| live.contains(id)));
        self.unions.clear();
    }

    /// The first fault that results of these marks depend on, if nobody has been told yet.
    pub(super) fn verdict(&mut self, marks: [u64; 2]) -> Option<Error> {
        let mut first = None;
        for id in marks.iter().filter_map(|mark| self.sets.get(mark)).flatten() {
            if let Some(raised) = self.raised.remove(id) {
                let (op, what) = raised.fault.words();
                first.get_or_insert(Error::OutOfRange { op, what, value: raised.value, bound: raised.bound });
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of all tables with a fault in one place.
    fn tables(place: u32) -> Vec<u8> {
        let mut words = vec![0u32; MOST_PLACES as usize * 4];
        words[place as usize * 4..][..4].copy_from_slice(&[3, Fault::Label as u32, 9, 4]);
        bytemuck::cast_slice(&words).to_vec()
    }

    fn outlook(ledger: &Ledger) -> Vec<Open> {
        ledger.outlook((MOST_PLACES / PLACES) as usize)
    }

    /// A dispatch that is recorded at once.
    fn dispatched(ledger: &mut Ledger, source: &FaultSource) -> Assigned {
        let opened = ledger.open(source);
        ledger.recorded(opened.mark);
        opened
    }

    fn open(ledger: &mut Ledger) -> Assigned {
        dispatched(ledger, &FaultSource::default())
    }

    fn tells(ledger: &mut Ledger, mark: u64) -> bool {
        ledger.verdict([0, mark]).is_some()
    }

    #[test]
    fn a_fault_is_told_to_what_depends_on_it_alone() {
        for from_both in [false, true] {
            let mut ledger = Ledger::default();
            let (bad, good) = (open(&mut ledger), open(&mut ledger));
            let both = ledger.union(bad.mark, good.mark);
            assert_eq!((ledger.union(both, 0), ledger.union(bad.mark, good.mark)), (both, both));
            let recorded = outlook(&ledger);
            assert!(!tells(&mut ledger, both), "not known yet");
            let later = open(&mut ledger);
            ledger.settle(&recorded, &tables(bad.place));
            assert!(!tells(&mut ledger, good.mark) && !tells(&mut ledger, later.mark) && !tells(&mut ledger, 0));
            assert!(tells(&mut ledger, if from_both { both } else { bad.mark }));
            assert!(!tells(&mut ledger, bad.mark) && !tells(&mut ledger, both), "once");
            // Its place is used again, once it has been cleared.
            let next = open(&mut ledger);
            assert!(next.place == bad.place && next.is_used && next.mark != bad.mark);
        }
    }

    #[test]
    fn what_is_found_in_the_same_data_is_one_fault_until_it_is_known() {
        let (mut ledger, source) = (Ledger::default(), FaultSource::default());
        let (first, second) = (dispatched(&mut ledger, &source), dispatched(&mut ledger, &source));
        assert_eq!((first.mark, first.place), (second.mark, second.place));
        let recorded = outlook(&ledger);
        ledger.settle(&recorded, &tables(first.place));
        let third = dispatched(&mut ledger, &source);
        assert!(third.mark != first.mark);
        assert!(tells(&mut ledger, first.mark) && !tells(&mut ledger, second.mark));
        let recorded = outlook(&ledger);
        ledger.settle(&recorded, &tables(third.place));
        assert!(tells(&mut ledger, third.mark));
    }

    /// Another thread's read between the two finds nothing, and settles nothing.
    #[test]
    fn a_copy_tells_nothing_of_a_dispatch_that_is_not_recorded() {
        let mut ledger = Ledger::default();
        let late = ledger.open(&FaultSource::default());
        let recorded = outlook(&ledger);
        ledger.settle(&recorded, &tables(0));
        ledger.recorded(late.mark);
        let recorded = outlook(&ledger);
        ledger.settle(&recorded, &tables(late.place));
        assert!(tells(&mut ledger, late.mark));
    }

    /// Two threads with the same bad data, of which one is told before the other has recorded its dispatch.
    #[test]
    fn a_place_is_nobody_elses_while_a_dispatch_may_still_write_to_it() {
        let (mut ledger, source) = (Ledger::default(), FaultSource::default());
        let told = dispatched(&mut ledger, &source);
        let recorded = outlook(&ledger);
        let late = ledger.open(&source);
        ledger.settle(&recorded, &tables(told.place));
        assert!(tells(&mut ledger, told.mark));
        assert_ne!(open(&mut ledger).place, late.place);
        ledger.recorded(late.mark);
        let next = open(&mut ledger);
        assert!(next.place == late.place && next.is_used);
    }

    #[test]
    fn nothing_is_lost_where_there_are_more_dispatches_than_places() {
        let mut ledger = Ledger::default();
        let first: Vec<_> = (1..MOST_PLACES).map(|_| open(&mut ledger)).collect();
        assert!(first.iter().zip(1..).all(|(opened, place)| opened.place == place && !opened.is_used));
        let recorded = outlook(&ledger);
        let sharer = open(&mut ledger);
        assert!(first.iter().any(|opened| (opened.place, opened.mark) == (sharer.place, sharer.mark)));
        // The copy was recorded before the sharer, and found nothing.
        ledger.settle(&recorded, &tables(0));
        let recorded = outlook(&ledger);
        assert_eq!(recorded.len(), 1);
        ledger.settle(&recorded, &tables(sharer.place));
        assert!(tells(&mut ledger, sharer.mark));
        assert!((ledger.open.len(), ledger.sets.len()) == (0, 1));
    }
}
