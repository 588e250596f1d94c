//! Memory: what steps take, and what an estimate says beforehand.

use super::{BATCH, TOKENS, assert_same, batch, bytes, config, ltd, making, random_config, settings, task, weights};
use crate::common::{each_family, gpu};
use wgrad::Error;
use wgrad::data::ImageBatch;
use wgrad::gpu::{Gpu, GpuOptions};
use wgrad::ltd::{PatchDrop, RandomLtd, Schedule, TokenDrop};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::Precision;
use wgrad::optim::Ema;
use wgrad::train::{
    Classify, Task, TrainSettings, Trainer, Workload, check_memory, cut_to_fit, estimate, rehearse, remedies,
};

/// With R constant a step allocates nothing once it has warmed up, and finds the bind groups of the step before.
#[test]
fn steady_steps_allocate_nothing() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings(ltd(9))).unwrap();
        let mut memory = Vec::new();
        for step in 0..40 {
            if step == 20 {
                gpu.reset_peak_memory();
            }
            trainer.step(&batch(step, BATCH)).unwrap();
            memory.push(gpu.memory());
        }
        let [steady @ .., last] = &memory[20..] else { panic!("steps") };
        assert!(steady.iter().all(|m| m == last), "{:?}", &memory[20..]);
        assert_eq!(last.peak_allocated, last.allocated, "no peak between the steps");
        let before = gpu.stats();
        trainer.step(&batch(40, BATCH)).unwrap();
        let after = gpu.stats();
        assert!(after.dispatches > before.dispatches);
        assert_eq!(after.bind_groups, before.bind_groups);
    }
}

/// When R grows, the memory of the old sizes is let go within a few steps.
#[test]
fn memory_follows_the_kept_length() {
    let gpu = gpu();
    let config = VitConfig { img_size: (32, 32), ..config() };
    let steps = 30;
    let run = |ltd: Option<RandomLtd>| {
        gpu.trim();
        gpu.reset_peak_memory();
        let model = Vit::new(&gpu, config.clone(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings(ltd)).unwrap();
        let images = bytes(1, BATCH * 3 * 32 * 32);
        for step in 0..steps {
            trainer.step(&ImageBatch { images: images.clone(), ..batch(step, BATCH) }).unwrap();
        }
        gpu.memory()
    };
    let plain = run(None);
    let grown = run(Some(RandomLtd::new(3, Schedule::linear(8, 65, 15, 1).unwrap()).unwrap()));
    for (grown, plain) in [(grown.allocated, plain.allocated), (grown.peak_allocated, plain.peak_allocated)] {
        assert!(grown as f64 <= 1.05 * plain as f64, "{grown} bytes with R growing, {plain} without random-LTD");
    }
}

/// Dropped tokens never take more memory than all of them, at no length on the way.
#[test]
fn random_ltd_does_not_raise_the_peak() {
    for gpu in each_family() {
        let small = VitConfig { img_size: (32, 32), patch_size: 4, ..VitConfig::custom(64, 6, 4) };
        let long = VitConfig { img_size: (64, 64), ..small.clone() };
        // On CPU drivers, scores are stored, R² and T² of them. Beside checkpointed blocks they are most of the peak.
        for (config, recompute_blocks) in [(&small, false), (&small, true), (&long, false), (&long, true)] {
            let tokens = config.tokens();
            let peak = |ltd: Option<RandomLtd>| {
                let settings = TrainSettings { recompute_blocks, ..settings(ltd) };
                estimate(&gpu, &Workload { make: &making(config), settings: &settings, batch: 8, steps: 400 })
                    .unwrap()
                    .peak
            };
            let full = peak(None);
            let schedule = Schedule::linear(3, tokens, 300, 1).unwrap();
            let dropped = peak(Some(RandomLtd::new(config.depth, schedule).unwrap()));
            assert!(dropped as f64 <= 1.05 * full as f64, "{dropped} bytes, {full} at full length");
        }
    }
}

/// What a dry run says before a run is what the run then takes.
#[test]
fn estimate_is_what_is_taken() {
    let rising = || TokenDrop::from(RandomLtd::new(3, Schedule::linear(4, TOKENS, 6, 1).unwrap()).unwrap());
    let patches = |until| TokenDrop::from(PatchDrop::new(9, 1).unwrap().with_until(until));
    let cases: [(&str, TokenDrop, usize, bool, Option<Ema>); 9] = [
        ("plain", TokenDrop::None, 1, false, None),
        ("random-LTD", ltd(9).into(), 1, false, None),
        ("rising R", rising(), 1, false, None),
        ("patches dropped", patches(u64::MAX), 1, false, None),
        ("patches dropped at first", patches(4), 1, false, None),
        ("checkpointed", TokenDrop::None, 1, true, None),
        ("accumulated", TokenDrop::None, 4, false, None),
        ("averaged", TokenDrop::None, 1, false, Some(Ema::default())),
        ("all", rising(), 4, true, Some(Ema::default())),
    ];
    for (name, drop, accumulate, recompute_blocks, ema) in cases {
        for gpu in each_family() {
            let config = random_config();
            let settings = TrainSettings { accumulate, recompute_blocks, ema, ..settings(drop.clone()) };
            let work = Workload { make: &making(&config), settings: &settings, batch: BATCH, steps: 8 };
            let before = gpu.memory();
            let estimate = estimate(&gpu, &work).unwrap();
            assert_eq!(gpu.memory(), before, "nothing is allocated");
            let parts = [estimate.parameters, estimate.gradients, estimate.moments, estimate.activations];
            assert_eq!(parts.iter().sum::<u64>(), estimate.peak);

            let model = Vit::new(&gpu, config.clone(), 5).unwrap();
            assert_eq!(gpu.memory().live - before.live, estimate.parameters);
            let mut trainer = Trainer::new(task(&model), settings.clone()).unwrap();
            for step in 0..8 {
                trainer.step(&batch(step, BATCH)).unwrap();
            }
            let taken = gpu.memory().peak_allocated - before.allocated;
            let ratio = estimate.peak as f64 / taken as f64;
            assert!((0.95..1.05).contains(&ratio), "{name}: {estimate:?}, {taken} were taken");
        }
    }
}

/// In half precision with stochastic depth, where steps find the free buffers in ever new places at first.
#[test]
fn estimates_go_on_until_the_peak_stays() {
    let gpu = gpu();
    let config = VitConfig { img_size: (64, 64), patch_size: 8, drop_path_rate: 0.1, ..VitConfig::custom(192, 12, 3) };
    let settings = TrainSettings { precision: Precision::F16, ..settings(TokenDrop::None) };
    let work = Workload { make: &making(&config), settings: &settings, batch: 8, steps: 8 };
    let (estimate, before) = (estimate(&gpu, &work).unwrap(), gpu.memory());
    let model = Vit::new(&gpu, config.clone(), 5).unwrap();
    let mut trainer = Trainer::new(Classify::new(&model), settings.clone()).unwrap();
    let batch = trainer.task().blank(8).unwrap();
    for _ in 0..8 {
        trainer.step(&batch).unwrap();
    }
    assert_eq!(gpu.memory().peak_allocated - before.allocated, estimate.peak);
}

/// The kernels of a rehearsed step are those that a step then dispatches, as often; and all of them can be compiled beforehand.
#[test]
fn a_rehearsal_counts_what_a_step_dispatches() {
    for gpu in each_family() {
        let settings = settings(ltd(9));
        let config = config();
        let work = Workload { make: &making(&config), settings: &settings, batch: BATCH, steps: 8 };
        let rehearsal = rehearse(&gpu, &work).unwrap();
        let [step] = rehearsal.steps.as_slice() else { panic!("one kept length: {rehearsal:?}") };
        assert_eq!(step.stage.kept, 9);
        // The products of the blocks alone: 24·C² a token in each, forward, and twice that backward.
        let blocks = 3 * 24 * 32 * 32 * BATCH as u64 * (17 + 9 + 17);
        assert!(step.flops() > blocks && step.flops() < blocks * 2, "{} and {blocks}", step.flops());
        assert!(step.kernels.iter().all(|used| used.bytes > 0 && used.count > 0));

        let model = Vit::new(&gpu, config.clone(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings.clone()).unwrap();
        gpu.warm_up(rehearsal.kernels()).unwrap();
        let before = gpu.stats();
        trainer.step(&batch(1, BATCH)).unwrap();
        trainer.finish().unwrap();
        let after = gpu.stats();
        assert_eq!(after.compile_time, before.compile_time, "nothing is left to compile");
        assert_eq!(after.dispatches - before.dispatches, step.kernels.iter().map(|used| used.count).sum::<u64>());
    }
}

#[test]
fn what_does_not_fit_names_what_would() {
    let gpu = gpu();
    let config = VitConfig { img_size: (64, 64), patch_size: 4, ..VitConfig::custom(64, 6, 2) };
    let rising = RandomLtd::new(6, Schedule::linear(100, 256, 50, 1).unwrap()).unwrap();
    let settings = settings(Some(rising));
    let work = Workload { make: &making(&config), settings: &settings, batch: 16, steps: 100 };
    let whole = check_memory(&gpu, &work, None).unwrap();
    assert_eq!(check_memory(&gpu, &work, Some(whole.peak)).unwrap(), whole);
    let budget = whole.peak * 4 / 5;
    let found = remedies(&gpu, &work, Some(budget));
    let kinds: Vec<_> = found.iter().map(|r| (r.accumulate, r.recompute_blocks, r.longest.is_some())).collect();
    assert_eq!(kinds, [(2, false, false), (1, true, false), (1, false, true)]);
    for remedy in &found {
        assert!(remedy.estimate.peak <= budget);
        assert!(remedy.longest.is_none_or(|longest| (100..256).contains(&longest)));
    }
    let message = check_memory(&gpu, &work, Some(budget)).unwrap_err().to_string();
    for part in
        ["the run does not fit: ", "MB are needed", "accumulate 2 (", "or with recompute_blocks (", "kept tokens"]
    {
        assert!(message.contains(part), "{message}");
    }
    // A limit of the device: 128 MiB a binding do not hold the hidden layer of 600 samples.
    let message = check_memory(&gpu, &Workload { batch: 600, ..work }, None).unwrap_err().to_string();
    assert!(message.contains("max_storage_buffer_binding_size") && message.contains("accumulate"), "{message}");
    let error = check_memory(&gpu, &work, Some(1000)).unwrap_err();
    assert!(error.to_string().contains("a smaller model"), "{error}");
    assert!(estimate(&gpu, &Workload { batch: 0, ..work }).is_err());
    assert!(estimate(&gpu, &Workload { batch: usize::MAX, ..work }).is_err());
    assert!(estimate(&gpu, &Workload { steps: 0, ..work }).is_err());
    let huge = VitConfig { embed_dim: 1 << 20, num_heads: 1, ..config.clone() };
    assert!(matches!(
        estimate(&gpu, &Workload { make: &making(&huge), ..work }),
        Err(Error::Argument { .. } | Error::Limit { .. })
    ));
}

/// A model that is there already is not trained on blank pictures to find out what it takes.
#[test]
fn what_is_there_is_not_rehearsed() {
    let gpu = gpu();
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let (there, before) = (task(&model), weights(&model));
    let settings = settings(None);
    let work = Workload { make: &|_: &Gpu| Ok(&there), settings: &settings, batch: BATCH, steps: 8 };
    let refused = |error: Error| assert!(matches!(error, Error::Argument { name: "make", .. }), "{error}");
    refused(rehearse(&gpu, &work).unwrap_err());
    refused(estimate(&gpu, &work).unwrap_err());
    refused(check_memory(&gpu, &work, None).unwrap_err());
    refused(cut_to_fit(&gpu, &work, Some(1000)).unwrap_err());
    assert!(remedies(&gpu, &work, None).is_empty());
    assert_same(&model, &weights(&model), &before);
}

/// As little as need be, and it trains as if somebody had said so.
#[test]
fn a_batch_is_cut_where_it_does_not_fit() {
    let config = VitConfig { img_size: (32, 32), num_classes: 4, ..config() };
    let settings = settings(None);
    let (make, batch) = (making(&config), 16);
    let work = Workload { make: &make, settings: &settings, batch, steps: 3 };
    let whole = gpu();
    let peak = estimate(&whole, &work).unwrap().peak;
    assert_eq!(cut_to_fit(&whole, &work, Some(peak)).unwrap(), None);
    let cut = cut_to_fit(&whole, &work, Some(peak * 4 / 5)).unwrap().unwrap();
    assert_eq!((cut.remedy.accumulate, cut.remedy.recompute_blocks, cut.remedy.longest), (2, false, None));
    assert!(cut.reason.contains("MB are needed") && cut.remedy.estimate.peak <= peak * 4 / 5, "{cut:?}");
    assert!(matches!(cut_to_fit(&whole, &work, Some(1000)), Err(Error::DoesNotFit { .. })));

    // A device that binds 64 KiB: the hidden layer of two samples is as large, that of three is larger.
    let options = GpuOptions { default_limits: true, binding_size: Some(1 << 16), ..Default::default() };
    let small = Gpu::with_options(&options).unwrap();
    let cut = cut_to_fit(&small, &work, None).unwrap().unwrap();
    assert!(cut.reason.contains("max_storage_buffer_binding_size"), "{cut:?}");
    let accumulate = cut.remedy.accumulate;
    assert!(accumulate >= 8, "{cut:?}");
    let losses = |gpu: &Gpu| {
        let settings = TrainSettings { accumulate, ..settings.clone() };
        let mut trainer = Trainer::new(make(gpu).unwrap(), settings).unwrap();
        let samples = ImageBatch { images: bytes(1, batch * 3 * 32 * 32), ..super::batch(1, batch) };
        (0..3).map(|_| trainer.record(&samples).unwrap().wait().unwrap().loss.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(losses(&small), losses(&whole));
}
