//! Tables of measured products: kept, read, not believed; a tuned run repeats.

use std::time::Duration;

use super::{BATCH, TOKENS, batch, config, ltd, making, settings, task};
use crate::common::gpu;
use wgrad::Gpu;
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::models::vit::Vit;
use wgrad::train::{TUNING_BUDGET, Trainer, TuningStore, Workload, tune};

/// Tables on disk: written once, read ever after, and not believed.
#[test]
fn tuning_is_kept_on_disk() {
    let first = gpu();
    let config = config();
    let rising = RandomLtd::new(3, Schedule::linear(4, TOKENS, 6, 1).unwrap()).unwrap();
    let settings = settings(Some(rising));
    let work = Workload { make: &making(&config), settings: &settings, batch: BATCH, steps: 8 };
    let folder = tempfile::tempdir().unwrap();
    let store = TuningStore::Folder(folder.path().join("new"));
    // As often as it takes to settle all within the budget of each.
    let mut report = tune(&first, &work, &store, TUNING_BUDGET).unwrap();
    while report.known + report.measured < report.asked {
        report = tune(&first, &work, &store, TUNING_BUDGET).unwrap();
    }
    let table = first.tuning();
    assert!(report.asked > 10 && table.products.len() == report.asked, "{report:?}");
    let files: Vec<_> = std::fs::read_dir(folder.path().join("new")).unwrap().map(|e| e.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };

    // Another program.
    let second = gpu();
    let again = tune(&second, &work, &store, Duration::ZERO).unwrap();
    assert_eq!((again.known, again.measured, second.tuning()), (again.asked, 0, table.clone()));
    // What does not go to disk comes from nowhere.
    let report = tune(&second, &work, &TuningStore::Off, Duration::ZERO).unwrap();
    assert_eq!((report.known, report.measured), (report.asked, 0));
    let fresh = gpu();
    assert_eq!(tune(&fresh, &work, &TuningStore::Off, Duration::ZERO).unwrap().measured, 0);

    let text = std::fs::read_to_string(file).unwrap();
    let hostile = [
        String::new(),
        text[..text.len() / 2].to_owned(),
        "[".repeat(100_000),
        " ".repeat(2 << 20),
        text.replace("\"adapter\": \"", "\"adapter\": \"not "),
        text.replace("\"split\": 1", "\"split\": -1"),
        text.replace("\"batch\": 1", "\"batch\": 1e99"),
    ];
    for text in hostile {
        std::fs::write(file, &text).unwrap();
        let fresh = gpu();
        let report = tune(&fresh, &work, &store, Duration::ZERO).unwrap();
        assert_eq!(report.known, 0, "{}", &text[..text.len().min(80)]);
    }
    // What was measured goes in its place.
    assert!(tune(&gpu(), &work, &store, TUNING_BUDGET).unwrap().measured > 0);
    assert!(tune(&gpu(), &work, &store, Duration::ZERO).unwrap().known > 0);
    std::fs::write(file, text.replace("\"split\": 1", "\"split\": 7").replace("rows", "columns")).unwrap();
    assert_eq!(tune(&gpu(), &work, &store, Duration::ZERO).unwrap().known, 0, "no entry fits");
}

/// The table of one run is that of the next: the same losses to the last bit.
#[test]
fn a_tuned_run_repeats() {
    let config = config();
    let settings = settings(ltd(9));
    let work = Workload { make: &making(&config), settings: &settings, batch: BATCH, steps: 8 };
    let first = gpu();
    tune(&first, &work, &TuningStore::Off, TUNING_BUDGET).unwrap();
    let second = gpu();
    assert_eq!(second.set_tuning(&first.tuning()).ignored, 0);
    let losses = |gpu: &Gpu| {
        let model = Vit::new(gpu, config.clone(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings.clone()).unwrap();
        for step in 0..4 {
            trainer.step(&batch(step, BATCH)).unwrap();
        }
        trainer.finish().unwrap().unwrap()
    };
    assert_eq!(losses(&first), losses(&second));
}
