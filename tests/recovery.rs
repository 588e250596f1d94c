//! Runs that go on on a new device after theirs was lost, to the same bits.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::gpu;
use crate::resume::{Digits, EPOCH, bytes, config, saving, settings as with_everything, task};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::optim::LossScale;
use wgrad::train::{
    Classify, EpochMetrics, FitOptions, Observer, Outcome, Recovery, STATE_FILE, StepMetrics, TrainSettings, Trainer,
    fit_recovering,
};
use wgrad::{Error, Gpu, Result};

const STEPS: u64 = 2 * EPOCH + 3;
/// The files of a run.
const FILES: [&str; 3] = [STATE_FILE, "last.safetensors", "best.safetensors"];

/// All that a run tells of itself.
#[derive(Default)]
struct Account {
    steps: Vec<StepMetrics>,
    epochs: Vec<EpochMetrics>,
    /// The steps after which it went on on another device.
    losses: Vec<u64>,
    break_after: Option<u64>,
}

impl Account {
    /// Every number, also those of excused steps that are none.
    fn told(&self) -> String {
        format!("{:?} {:?}", self.steps, self.epochs)
    }
}

impl Observer for Account {
    fn step(&mut self, metrics: &StepMetrics) -> ControlFlow<()> {
        self.steps.push(*metrics);
        if self.break_after == Some(metrics.step + 1) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        self.epochs.push(*metrics);
        ControlFlow::Continue(())
    }

    fn lost(&mut self, error: &Error, steps: u64) {
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        self.losses.push(steps);
    }
}

/// With a loss scale that few steps are too large for.
fn settings() -> TrainSettings {
    TrainSettings { loss_scale: LossScale::default(), ..with_everything(&gpu()) }
}

fn fresh(gpu: &Gpu) -> Result<Classify<Vit>> {
    Ok(task(Vit::new(gpu, config(), 5)?))
}

/// A run that snapshots every four steps. Each device that it opens is shown to `opened`.
fn run(folder: &Path, account: &mut Account, options: FitOptions, opened: impl Fn(&Gpu)) -> Result<Outcome> {
    let digits = Digits::new();
    let settings = settings();
    let mut make = || {
        let gpu = gpu();
        opened(&gpu);
        fresh(&gpu)
    };
    let recovery = Recovery::new(4).unwrap();
    let (outcome, task) = fit_recovering(&mut make, &digits.data(STEPS, folder), settings, options, recovery, account)?;
    // What comes back is alive, and has the weights of the file (with an average, those are the average's).
    match task.model.parameters().iter().try_for_each(|p| p.value().to_vec::<f32>().map(drop)) {
        // A first device that is lost behind the last thing that the run asked of it.
        Err(Error::DeviceLost { .. }) if outcome.losses == 0 => {}
        read => read?,
    }
    Ok(outcome)
}

/// A run whose device is destroyed so long after its first step.
fn run_and_lose(folder: &Path, account: &mut Account, after: Duration) -> Outcome {
    let current = RefCell::new(None::<Gpu>);
    std::thread::scope(|scope| {
        let opened = |gpu: &Gpu| {
            // The first device alone is lost, and only once the run has begun: what is timed is the training.
            if current.replace(Some(gpu.clone())).is_none() {
                let gpu = gpu.clone();
                scope.spawn(move || {
                    while gpu.stats().submissions < 8 {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                    std::thread::sleep(after);
                    gpu.device().destroy();
                });
            }
        };
        run(folder, account, saving(), opened).unwrap()
    })
}

/// At twenty moments: while it records, waits, evaluates, reads weights back. The same files to the last byte, and the same
/// account of each step and epoch, once.
#[test]
fn a_device_lost_at_any_moment() {
    let whole = tempfile::tempdir().unwrap();
    let mut plain = Account::default();
    run(whole.path(), &mut plain, saving(), |_| {}).unwrap();
    assert!(plain.steps.iter().any(|metrics| !metrics.excused), "weights change");
    let started = Instant::now();
    run(whole.path(), &mut Account::default(), saving(), |_| {}).unwrap();
    let length = started.elapsed();
    for moment in 0..20u32 {
        // A fixed order without a pattern. A run that ended sooner than its device is run again.
        let mut after = length * (moment * 7 % 20) / 24;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let mut account = Account::default();
            let outcome = run_and_lose(folder.path(), &mut account, after);
            assert_eq!(outcome.losses, account.losses.len() as u64);
            assert_eq!(account.told(), plain.told(), "after {after:?}");
            for name in FILES {
                assert!(bytes(whole.path(), name) == bytes(folder.path(), name), "{name} after {after:?}");
            }
            if outcome.losses > 0 {
                break;
            }
            after /= 2;
        }
    }
}

/// A run that its observer ends with a step behind which a snapshot is due ends as any other: evaluated and saved.
#[test]
fn a_run_ends_behind_a_snapshots_step() {
    let folder = tempfile::tempdir().unwrap();
    let mut account = Account { break_after: Some(4), ..Account::default() };
    let outcome = run(folder.path(), &mut account, saving(), |_| {}).unwrap();
    assert_eq!((outcome.steps, outcome.stopped, account.epochs.len()), (4, true, 1));
    for name in FILES {
        assert!(folder.path().join(name).exists(), "{name}");
    }
}

/// A run that its observer ends while steps are done again ends where it would have.
#[test]
fn a_loss_behind_the_last_step() {
    let [whole, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let stopping = || Account { break_after: Some(EPOCH + 2), ..Account::default() };
    let mut plain = stopping();
    let expected = run(whole.path(), &mut plain, saving(), |_| {}).unwrap();
    /// Destroys the device with the epoch's account, when no step is to come.
    struct Last<'a>(Account, &'a RefCell<Option<Gpu>>);
    impl Observer for Last<'_> {
        fn step(&mut self, metrics: &StepMetrics) -> ControlFlow<()> {
            self.0.step(metrics)
        }
        fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
            if metrics.steps > EPOCH {
                self.1.borrow().as_ref().unwrap().device().destroy();
            }
            self.0.epoch(metrics)
        }
        fn lost(&mut self, error: &Error, steps: u64) {
            self.0.lost(error, steps);
        }
    }
    let (digits, current) = (Digits::new(), RefCell::new(None));
    let mut last = Last(stopping(), &current);
    let mut make = || {
        let gpu = gpu();
        current.replace(Some(gpu.clone()));
        fresh(&gpu)
    };
    let (data, recovery) = (digits.data(STEPS, folder.path()), Recovery::new(4).unwrap());
    let (outcome, _) = fit_recovering(&mut make, &data, settings(), saving(), recovery, &mut last).unwrap();
    assert_eq!((outcome.steps, outcome.stopped, outcome.losses), (expected.steps, true, 1));
    assert_eq!(last.0.told(), plain.told());
    for name in FILES {
        assert!(bytes(whole.path(), name) == bytes(folder.path(), name), "{name}");
    }
}

/// A device that is always lost at once, one that cannot be opened again, another model on it, and an error that is none of
/// the device's.
#[test]
fn what_cannot_go_on() {
    let digits = Digits::new();
    let folder = tempfile::tempdir().unwrap();
    let settings = settings();
    /// Destroys the device with the account of the third step.
    struct Losing<'a>(Account, &'a RefCell<Option<Gpu>>);
    impl Observer for Losing<'_> {
        fn step(&mut self, metrics: &StepMetrics) -> ControlFlow<()> {
            if let Some(gpu) = self.1.borrow_mut().take_if(|_| metrics.step == 2) {
                gpu.device().destroy();
            }
            self.0.step(metrics)
        }
        fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
            self.0.epoch(metrics)
        }
        fn lost(&mut self, error: &Error, steps: u64) {
            self.0.lost(error, steps);
        }
    }
    let first = RefCell::new(None);
    let attempt = |make: &mut dyn FnMut(u32) -> Result<Classify<Vit>>| {
        let mut calls = 0;
        let mut again = || {
            calls += 1;
            make(calls)
        };
        let (data, recovery) = (digits.data(STEPS, folder.path()), Recovery::new(4).unwrap());
        let mut losing = Losing(Account::default(), &first);
        let result = fit_recovering(&mut again, &data, settings.clone(), FitOptions::default(), recovery, &mut losing);
        (result.map(drop).unwrap_err(), calls, losing.0.losses.len())
    };
    let lost = |gpu: &Gpu| {
        let task = fresh(gpu);
        gpu.device().destroy();
        task
    };
    let (error, calls, told) = attempt(&mut |call| {
        let gpu = gpu();
        if call == 1 {
            // Lost while it runs, from then on at once.
            *first.borrow_mut() = Some(gpu.clone());
            return fresh(&gpu);
        }
        lost(&gpu)
    });
    assert!(matches!(error, Error::DeviceLost { .. }) && error.to_string().contains("none came further"), "{error}");
    assert!(calls >= Recovery::ATTEMPTS && told == 1, "{calls} {told}");

    let (error, calls, _) = attempt(&mut |call| match call {
        1 => {
            let gpu = gpu();
            *first.borrow_mut() = Some(gpu.clone());
            fresh(&gpu)
        }
        _ => Err(Error::NoAdapter { wanted: "found".to_owned(), available: Vec::new() }),
    });
    assert!(matches!(error, Error::NoAdapter { .. }), "{error}");
    assert_eq!(calls, 1 + Recovery::ATTEMPTS);
}

/// What a program with a loop of its own does: the host tells of the loss and brings the new device.
#[test]
fn a_loop_of_ones_own() {
    let digits = Digits::new();
    let settings = settings();
    let train = |lose_at: Option<u64>| {
        let mut recovery = Recovery::new(3).unwrap();
        let mut trainer = Trainer::new(fresh(&gpu()).unwrap(), settings.clone()).unwrap();
        let mut lose_at = lose_at;
        while trainer.steps() < STEPS {
            let position = digits.train.position(trainer.steps());
            let batch = digits.train.batches_from(position).unwrap().next().unwrap().unwrap();
            if lose_at.take_if(|step| *step == trainer.steps()).is_some() {
                trainer.task().model.gpu().device().destroy();
            }
            match trainer.step(&batch) {
                Ok(_) if recovery.is_due(&trainer) => recovery.keep(&trainer).unwrap(),
                Ok(_) => {}
                Err(error) => {
                    recovery.lost(trainer, error).unwrap();
                    let other = Vit::new(&gpu(), VitConfig { depth: 2, ..config() }, 5).unwrap();
                    let refused = recovery.go_on(task(other)).map(drop).unwrap_err();
                    assert!(refused.to_string().contains("depth"), "{refused}");
                    trainer = recovery.go_on(fresh(&gpu()).unwrap()).unwrap();
                    assert!(recovery.go_on(fresh(&gpu()).unwrap()).is_err(), "nothing was lost");
                }
            }
        }
        trainer.finish().unwrap();
        trainer.snapshot().unwrap()
    };
    let whole = train(None);
    for lose_at in [0, 2, 7] {
        assert!(train(Some(lose_at)) == whole, "{lose_at}");
    }
    // What is no loss is given back as it is.
    let trainer = Trainer::new(fresh(&gpu()).unwrap(), settings.clone()).unwrap();
    let error = Recovery::new(3).unwrap().lost(trainer, Error::argument("a", "b", "c", "d")).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }));
    assert!(Recovery::new(0).is_err());
}
