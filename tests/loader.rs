//! The loader over a source that holds no pictures: numbers, made in memory.

use wgrad::Result;
use wgrad::data::{Batch, Batches, Loader, LoaderOptions, Position, Source, Wanted};

use crate::data::{assert_mentions, refused};

/// Sample n is `scale`·n, but for those that cannot be had.
#[derive(Debug)]
struct Numbers {
    count: usize,
    scale: f64,
    missing: fn(u32) -> bool,
    fault: Fault,
}

/// What a source may do wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Panics,
    GivesUp,
    TellsNoPlace,
    Waits,
}

#[derive(Debug, PartialEq)]
struct Values {
    values: Vec<f64>,
    position: Position,
}

impl Batch for Values {
    fn samples(&self) -> usize {
        self.values.len()
    }

    fn position(&self) -> Position {
        self.position
    }
}

impl Numbers {
    fn new(count: usize) -> Self {
        Numbers { count, scale: 0.5, missing: |_| false, fault: Fault::None }
    }

    fn loader(self, options: LoaderOptions) -> Loader<Self> {
        Loader::new(self, options).unwrap()
    }
}

impl Source for Numbers {
    type Batch = Values;

    fn len(&self) -> usize {
        self.count
    }

    fn identity(&self) -> String {
        serde_json::json!({ "count": self.count, "scale": self.scale }).to_string()
    }

    fn check(&self, batch_size: usize) -> Result<()> {
        let error = || wgrad::Error::argument("numbers", "batch_size", "at most 100", batch_size);
        (batch_size <= 100).then_some(()).ok_or_else(error)
    }

    fn make(&self, wanted: &Wanted<'_>) -> Result<Option<Values>> {
        while self.fault == Fault::Waits && !wanted.is_stopped() {
            std::thread::yield_now();
        }
        if wanted.is_stopped() || self.fault == Fault::GivesUp {
            return Ok(None);
        }
        assert_ne!(self.fault, Fault::Panics);
        let is_there = |&sample: &u32| !(self.missing)(sample);
        let mut spare = wanted.spare().filter(is_there);
        let pick = |&sample: &u32| match is_there(&sample) {
            true => Some(sample),
            false => spare.next().filter(|_| wanted.is_full),
        };
        let values = wanted.samples.iter().filter_map(pick).map(|sample| self.scale * f64::from(sample)).collect();
        let position = if self.fault == Fault::TellsNoPlace { Position::default() } else { wanted.position };
        Ok(Some(Values { values, position }))
    }
}

fn collect(loader: &Loader<Numbers>, from: Position, count: usize) -> Vec<Values> {
    loader.batches_from(from).unwrap().take(count).map(|batch| batch.unwrap()).collect()
}

/// The one result of a loader whose source fails.
fn failure(source: Numbers) -> String {
    let mut results: Vec<_> = source.loader(LoaderOptions::training(8, 3)).epoch(0).unwrap().collect();
    assert!(results.len() <= 2 && results[..results.len() - 1].iter().all(Result::is_ok), "{results:?}");
    refused(results.pop().unwrap())
}

#[test]
fn numbers_come_in_the_order_of_their_epoch() {
    let all = collect(&Numbers::new(50).loader(LoaderOptions::training(8, 3)), Position::default(), 8);
    // Pinned: a stored run can be continued by a later version. Pictures come in the same order.
    assert_eq!(all[7].values, [37, 24, 29, 48, 39, 8, 47, 11].map(|sample| 0.5 * f64::from(sample)));
    let mut first: Vec<_> = all[..6].iter().flat_map(|batch| batch.values.clone()).collect();
    first.sort_by(f64::total_cmp);
    first.dedup();
    assert_eq!((first.len(), all[6].position), (48, Position { epoch: 1, batch: 0 }));
    let in_order: Vec<_> = Numbers::new(21).loader(LoaderOptions::evaluation(8)).epoch(0).unwrap().collect();
    let in_order: Vec<_> = in_order.into_iter().map(|batch| batch.unwrap().values).collect();
    assert_eq!(in_order.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 5]);
    assert!(in_order.concat().into_iter().eq((0..21).map(|sample| 0.5 * f64::from(sample))));
}

#[test]
fn a_run_over_numbers_continues_in_the_middle_of_an_epoch() {
    let make = |prefetch| Numbers::new(30).loader(LoaderOptions { prefetch, ..LoaderOptions::training(8, 3) });
    let all = collect(&make(2), Position::default(), 10);
    for (step, expected) in all.iter().enumerate() {
        let loader = make(step);
        assert_eq!(loader.position(step as u64), expected.position);
        assert_eq!(collect(&loader, expected.position, all.len() - step), all[step..]);
    }
    for pair in all.windows(2) {
        assert_eq!(make(0).after(pair[0].position), pair[1].position);
    }
}

#[test]
fn numbers_that_cannot_be_had_are_replaced_or_left_out() {
    let missing = |sample: u32| sample % 4 == 1;
    let full = Numbers { missing, ..Numbers::new(40) }.loader(LoaderOptions::training(8, 3));
    for batch in collect(&full, Position::default(), 10) {
        let mut values = batch.values;
        values.sort_by(f64::total_cmp);
        values.dedup();
        assert!(values.len() == 8 && !values.iter().any(|value| missing((value / 0.5) as u32)), "{values:?}");
    }
    // The first two batches are empty, and left out.
    let missing = |sample: u32| sample < 16;
    let rest = Numbers { missing, ..Numbers::new(20) }.loader(LoaderOptions::evaluation(8));
    let rest: Vec<_> = rest.epoch(0).unwrap().map(|batch| batch.unwrap()).collect();
    assert_eq!(rest, [Values { values: vec![8.0, 8.5, 9.0, 9.5], position: Position { epoch: 0, batch: 2 } }]);
    let none = Numbers { missing: |_| true, ..Numbers::new(20) }.loader(LoaderOptions::evaluation(8));
    assert_mentions(&refused(none.epoch(0).unwrap().next().unwrap()), &["samples", "readable", "none"]);
}

#[test]
fn loaders_say_what_they_differ_in() {
    let options = LoaderOptions::training(8, 3);
    let saved = Numbers::new(30).loader(options).identity();
    let difference = |source: Numbers, options| source.loader(options).difference(&saved);
    assert_eq!(difference(Numbers::new(30), LoaderOptions { prefetch: 7, ..options }), None);
    let said = |source, options| difference(source, options).unwrap();
    assert_eq!(said(Numbers::new(30), LoaderOptions { seed: 4, ..options }), r#""seed: 3" there, "seed: 4" here"#);
    // What the source says comes first.
    let scaled = Numbers { scale: 0.25, ..Numbers::new(30) };
    assert_eq!(said(scaled, LoaderOptions { seed: 4, ..options }), r#""scale: 0.5" there, "scale: 0.25" here"#);
    for other in ["", "{}", "[1, 2]", "\u{1b}[31m", &"[".repeat(100_000), r#"{"options": "", "source": "null"}"#] {
        let said = Numbers::new(30).loader(options).difference(other).unwrap();
        assert!(said.len() < 2_000 && !said.contains('\u{1b}'), "{said}");
    }
}

#[test]
fn sources_that_do_wrong_are_found_out() {
    let fault = |fault| failure(Numbers { fault, ..Numbers::new(30) });
    assert_mentions(&fault(Fault::Panics), &["panicked"]);
    assert_mentions(&fault(Fault::GivesUp), &["batch", "nobody stopped it"]);
    assert_mentions(&fault(Fault::TellsNoPlace), &["batch.position", "batch: 1", "batch: 0"]);
    let options = LoaderOptions::training(101, 0);
    assert_mentions(&refused(Loader::new(Numbers::new(300), options)), &["numbers", "at most 100", "101"]);
}

#[test]
fn a_source_is_told_when_nobody_waits() {
    let loader = Numbers { fault: Fault::Waits, ..Numbers::new(30) }.loader(LoaderOptions::training(8, 3));
    // Else this would not end.
    drop(loader.batches_from(Position::default()).unwrap());
}

/// A program that must not wait takes what is made: the same batches, and the same errors.
#[test]
fn batches_without_waiting() {
    let soon = |batches: &mut Batches<Values>| loop {
        match batches.try_next() {
            Some(made) => return made,
            None => std::thread::yield_now(),
        }
    };
    let make = || Numbers::new(21).loader(LoaderOptions::evaluation(8));
    let mut batches = make().epoch(0).unwrap();
    let made: Vec<_> = (0..3).map(|_| soon(&mut batches).unwrap()).collect();
    assert_eq!(made, collect(&make(), Position::default(), 3));
    assert!((0..100).all(|_| batches.try_next().is_none()), "the end");
    let fault = |fault| Numbers { fault, ..Numbers::new(30) }.loader(LoaderOptions::training(8, 3)).epoch(0).unwrap();
    assert!(fault(Fault::Waits).try_next().is_none());
    assert_mentions(&refused(soon(&mut fault(Fault::Panics))), &["panicked"]);
    let mut gives_up = fault(Fault::GivesUp);
    assert_mentions(&refused(soon(&mut gives_up)), &["nobody stopped it"]);
    assert!(gives_up.try_next().is_none() && gives_up.next().is_none(), "after an error there are no more");
}
