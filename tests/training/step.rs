//! Steps: the same twice, what they report, bad ones, results read later, snapshots.

use super::{
    BATCH, CLASSES, KEY, TOKENS, assert_same, awaited, batch, bits, config, images, ltd, pass, random_config, settings,
    task, weights,
};
use crate::common::{assert_close, each_family, gpu, gpu_with_f16, values};
use serde_json::{Value, json};
use wgrad::autograd::Parameters;
use wgrad::checkpoint::{self, Checkpoint};
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::{Init, Linear, Mode, Model};
use wgrad::ops::{self, CrossEntropy};
use wgrad::optim::{AdamW, Ema, Rule, Sgd};
use wgrad::train::{Classify, Pending, Snapshot, StepMetrics, TrainSettings, Trainer};
use wgrad::{Error, Tensor};

#[test]
fn one_seed_gives_one_result() {
    for gpu in each_family() {
        let run = |seed: u64| {
            let model = Vit::new(&gpu, random_config(), 5).unwrap();
            let mut trainer = Trainer::new(task(&model), TrainSettings { seed, ..settings(ltd(9)) }).unwrap();
            let mut losses = Vec::new();
            for step in 0..8 {
                losses.extend(trainer.step(&batch(step, BATCH)).unwrap());
            }
            losses.extend(trainer.finish().unwrap());
            assert_eq!(losses.len(), 8);
            (losses, weights(&model), model)
        };
        let ((losses, first, model), (again, second, _)) = (run(1), run(1));
        assert_eq!(losses, again);
        assert_same(&model, &first, &second);
        let (_, other, _) = run(2);
        assert_ne!(bits(&first), bits(&other), "the seed matters");
    }
}

#[test]
fn steps_report_what_they_did() {
    let gpu = gpu();
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let schedule = Schedule::linear(5, TOKENS, 2, 1).unwrap();
    let mut trainer = Trainer::new(task(&model), settings(Some(RandomLtd::new(3, schedule).unwrap()))).unwrap();
    assert!(trainer.step(&batch(0, BATCH)).unwrap().is_none(), "nothing has been read yet");
    let mut kept = Vec::new();
    for step in 1..4u64 {
        let metrics = trainer.step(&batch(step, BATCH)).unwrap().expect("the step before");
        assert_eq!((metrics.step, metrics.samples, metrics.tokens), (step - 1, BATCH, TOKENS));
        assert!(metrics.loss.is_finite() && metrics.grad_norm > 0.0 && metrics.correct <= BATCH as u32);
        kept.push(metrics.kept);
    }
    let last = trainer.finish().unwrap().expect("the last step");
    kept.push(last.kept);
    assert_eq!((last.step, kept), (3, vec![5, 11, 17, 17]));
    assert!(trainer.finish().unwrap().is_none() && trainer.steps() == 4);
    let consumed = (0..4).map(|i| [5u64, 11, 17, 17][i] + 2 * 17).sum::<u64>() * BATCH as u64;
    assert_eq!(trainer.layer_tokens().consumed, consumed);
}

/// Enough steps on one batch learn it, also with tokens dropped.
#[test]
fn learns_a_batch() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings(ltd(9))).unwrap();
        let mut metrics = Vec::new();
        for _ in 0..60 {
            metrics.extend(trainer.step(&batch(1, BATCH)).unwrap());
        }
        let last = trainer.finish().unwrap().expect("a step");
        assert!(last.loss < 0.6 && metrics[0].loss > 1.2 && last.correct == BATCH as u32, "{last:?}");
    }
}

/// A loss that is not finite: the weights stay, the error names the step, and the next good step is what it would have
/// been.
#[test]
fn step_that_is_not_finite() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let bias = model.parameters().get("head.bias").unwrap();
        let mut trainer = Trainer::new(task(&model), settings(TokenDrop::None)).unwrap();
        trainer.step(&batch(1, BATCH)).unwrap();
        trainer.finish().unwrap();
        let before = weights(&model);
        let good_bias = bias.value().to_vec::<f32>().unwrap();

        bias.set(&[f32::NAN; CLASSES]).unwrap();
        trainer.step(&batch(2, BATCH)).unwrap();
        match trainer.finish() {
            Err(Error::NonFinite { step: 1, parameter }) => assert_eq!(parameter, "cls_token", "the first of all"),
            other => panic!("{other:?}"),
        }
        bias.set(&good_bias).unwrap();
        assert_same(&model, &weights(&model), &before);

        trainer.step(&batch(3, BATCH)).unwrap();
        assert!(trainer.finish().unwrap().expect("a step").loss.is_finite());
        let after = weights(&model);
        assert_ne!(bits(&after), bits(&before));
        assert!(after.iter().flatten().all(|v| v.is_finite()));
    }
}

/// NaN that comes in with the images reaches every gradient and no weight.
#[test]
fn images_that_are_not_finite() {
    use wgrad::optim::{Optimizer, StepReport};
    for gpu in each_family() {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let before = weights(&model);
        let mut optimizer =
            Optimizer::new(model.parameters(), Rule::AdamW(AdamW::default()), Some(1.0), |path, rank| {
                model.decays(path, rank)
            })
            .unwrap();
        let mut step = |pixels: &[f32]| {
            let images = Tensor::from_slice(&gpu, &[2, 3, 16, 16], pixels).unwrap();
            pass(&model, &images, &[]);
            optimizer.step(model.parameters(), 0.1).unwrap();
            StepReport::decode(&optimizer.report().read_later().unwrap().wait().unwrap().concat()).unwrap()
        };
        let mut pixels = values(11, 2 * 3 * 16 * 16);
        pixels[700] = f32::NAN;
        let report = step(&pixels);
        assert!(!report.finite && report.bad_parameter.is_some());
        assert_same(&model, &weights(&model), &before);
        assert!(step(&values(11, 2 * 3 * 16 * 16)).finite);
        assert_ne!(bits(&weights(&model)), bits(&before));
    }
}

/// A label out of range is reported once, by the step that met it; the weights are what they are without that sample.
#[test]
fn label_out_of_range() {
    for gpu in each_family() {
        let run = |ignore_index| {
            let model = Vit::new(&gpu, config(), 5).unwrap();
            let loss = CrossEntropy { label_smoothing: 0.0, ignore_index, ..Default::default() };
            let mut trainer = Trainer::new(Classify::with_loss(&model, loss), settings(TokenDrop::None)).unwrap();
            let mut results = Vec::new();
            for step in 0..5 {
                let mut batch = batch(step, BATCH);
                if step == 1 {
                    batch.labels[2] = 99;
                }
                results.push(trainer.step(&batch).map(|m| m.map(|m| m.step)));
            }
            results.push(trainer.finish().map(|m| m.map(|m| m.step)));
            (results, weights(&model), model)
        };
        let (results, bad, model) = run(None);
        match results.as_slice() {
            [Ok(None), Ok(Some(0)), Err(error), Ok(Some(2)), Ok(Some(3)), Ok(Some(4))] => {
                assert!(matches!(error, Error::OutOfRange { op: "cross_entropy", value: 99, bound: 4, .. }), "{error}");
            }
            other => panic!("{other:?}"),
        }
        let (results, ignored, _) = run(Some(99));
        assert!(results.iter().all(Result::is_ok));
        assert_same(&model, &bad, &ignored);
    }
}

/// Steps whose results are awaited later, in another order, are the same steps.
#[test]
fn recorded_steps_are_read_when_it_suits() {
    for gpu in each_family() {
        let [first, second] = [(); 2].map(|()| Vit::new(&gpu, random_config(), 5).unwrap());
        let mut waiting = Trainer::new(task(&first), settings(ltd(9))).unwrap();
        let mut expected: Vec<StepMetrics> =
            (0..3).filter_map(|step| waiting.step(&batch(step, BATCH)).unwrap()).collect();
        expected.extend(waiting.finish().unwrap());
        // A trainer that owns what it trains.
        let mut trainer = Trainer::new(task(&second), settings(ltd(9))).unwrap();
        let pending: Vec<Pending> = (0..3).map(|step| trainer.record(&batch(step, BATCH)).unwrap()).collect();
        gpu.wait().unwrap();
        assert!(pending.iter().all(Pending::is_ready));
        let mut got: Vec<StepMetrics> =
            pending.into_iter().rev().map(|p| pollster::block_on(p.read()).unwrap()).collect();
        got.reverse();
        assert_eq!(got, expected);
        assert_same(&first, &weights(&second), &weights(&first));
    }
}

/// As in a browser, where `tests/web` trains the same.
#[test]
fn awaited_steps_are_the_same_anywhere() {
    for gpu in each_family() {
        pollster::block_on(awaited::train(&gpu)).unwrap();
    }
}

/// A trainer that is brought back to where it stood goes on as it did from there, in its own place or in that of another.
#[test]
fn snapshots_are_gone_back_to() {
    for gpu in each_family() {
        let all = || TrainSettings { ema: Some(Ema { decay: 0.9, warmup: true }), ..settings(ltd(9)) };
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), all()).unwrap();
        let go_on = |trainer: &mut Trainer<Classify<&Vit>>| {
            let mut seen = Vec::new();
            for step in 3..6 {
                seen.extend(trainer.step(&batch(step, BATCH)).unwrap());
            }
            seen.extend(trainer.finish().unwrap());
            seen
        };
        for step in 0..3 {
            trainer.step(&batch(step, BATCH)).unwrap();
        }
        let snapshot = trainer.snapshot().unwrap();
        assert_eq!(snapshot.steps(), 3);
        trainer.finish().unwrap();
        let expected = go_on(&mut trainer);
        let after = weights(&model);
        trainer.restore(&snapshot).unwrap();
        assert_eq!(
            (go_on(&mut trainer), trainer.layer_tokens().full),
            (expected.clone(), 6 * (3 * TOKENS * BATCH) as u64)
        );
        assert_same(&model, &weights(&model), &after);

        let other = Vit::new(&gpu, random_config(), 6).unwrap();
        let mut another = Trainer::new(task(&other), all()).unwrap();
        another.restore(&snapshot).unwrap();
        assert_eq!(go_on(&mut another), expected);
        assert_same(&model, &weights(&other), &after);

        // Moments and an average that this optimiser does not have.
        let sgd = Rule::Sgd(Sgd { momentum: 0.9, ..Sgd::default() });
        for others in [TrainSettings { rule: sgd, ..all() }, settings(ltd(9))] {
            let mut wrong = Trainer::new(task(&other), others).unwrap();
            let before = weights(&other);
            assert!(matches!(wrong.restore(&snapshot), Err(Error::Argument { name: "tensors", .. })));
            assert_same(&other, &weights(&other), &before);
        }

        // What does not fit changes nothing.
        let small = Vit::new(&gpu, VitConfig { depth: 2, ..random_config() }, 5).unwrap();
        let before = weights(&small);
        let mut wrong = Trainer::new(task(&small), settings(TokenDrop::None)).unwrap();
        assert!(matches!(wrong.restore(&snapshot), Err(Error::Argument { name: "tensors", .. })));
        let deep = Vit::new(&gpu, VitConfig { depth: 4, ..random_config() }, 5).unwrap();
        let mut missing = Trainer::new(task(&deep), settings(TokenDrop::None)).unwrap();
        assert!(matches!(missing.restore(&snapshot), Err(Error::Parameter { .. })));
        assert_same(&small, &weights(&small), &before);
    }
}

/// With everything that a snapshot has to keep.
fn trainer(seed: u64, settings: TrainSettings) -> Trainer<Classify<Vit>> {
    Trainer::new(task(Vit::new(&gpu(), random_config(), seed).unwrap()), settings).unwrap()
}

fn averaging() -> TrainSettings {
    TrainSettings { ema: Some(Ema { decay: 0.9, warmup: true }), ..settings(ltd(9)) }
}

/// Where the trainer stands after these steps.
fn train(trainer: &mut Trainer<Classify<Vit>>, steps: std::ops::Range<u64>) -> Snapshot {
    for step in steps {
        trainer.step(&batch(step, BATCH)).unwrap();
    }
    trainer.finish().unwrap();
    trainer.snapshot().unwrap()
}

/// Another program's trainer, on a device of its own, goes on from a snapshot's bytes to the same bits.
#[test]
fn snapshots_outlive_their_program() {
    let mut first = trainer(5, averaging());
    let middle = train(&mut first, 0..3);
    let bytes = middle.to_bytes().unwrap();
    let read = Snapshot::from_bytes(&bytes, "kept").unwrap();
    assert!(read == middle && read.steps() == 3 && read.to_bytes().unwrap() == bytes);
    let end = train(&mut first, 3..6);
    let mut second = trainer(6, averaging());
    second.restore(&read).unwrap();
    assert!(train(&mut second, 3..6) == end);

    // The checks of what is restored stay: moments and an average that this optimiser does not have.
    let sgd = Rule::Sgd(Sgd { momentum: 0.9, ..Sgd::default() });
    for others in [TrainSettings { rule: sgd, ..averaging() }, settings(ltd(9))] {
        let error = trainer(6, others).restore(&read).unwrap_err();
        assert!(matches!(error, Error::Argument { name: "tensors", .. }), "{error}");
    }
    // What could not be read again is not written.
    first.task().model.parameters().get("head.bias").unwrap().set(&[f32::NAN; CLASSES]).unwrap();
    let error = first.snapshot().unwrap().to_bytes().unwrap_err();
    assert!(error.to_string().contains("weights.head.bias that are not finite"), "{error}");
}

/// Bytes that were cut, or are wrong in one thing.
#[test]
fn bad_snapshots_are_refused() {
    let bytes = train(&mut trainer(5, averaging()), 0..1).to_bytes().unwrap();
    let refused = |bytes: &[u8]| match Snapshot::from_bytes(bytes, "kept") {
        Err(error @ Error::File { .. }) => error.to_string(),
        other => panic!("expected refused bytes, got {:?}", other.map(|snapshot| snapshot.steps())),
    };
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(refused(&bytes[..length]).starts_with("kept"), "{length}");
    }
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Checkpoint, &mut Value));
    let changes: &[Change<'_>] = &[
        ("of version 2, as another release", &|_, h| {
            // No field of another version is looked at.
            *h = json!({ "version": 2, "counts": 7 });
        }),
        ("bad snapshot", &|_, h| *h = json!([])),
        ("bad snapshot", &|_, h| h["counts"]["step"] = json!(-1)),
        ("bad snapshot", &|_, h| h["counts"]["optimizer"]["words"] = json!("x")),
        ("counts that no run reaches", &|_, h| h["counts"]["step"] = json!(u64::MAX)),
        ("counts that no run reaches", &|_, h| h["counts"]["optimizer"]["steps"] = json!(u64::MAX)),
        ("average.head.bias that are not finite", &|f, _| {
            f.tensors.get_mut("average.head.bias").unwrap().data[1] = f32::INFINITY;
        }),
    ];
    let sound = checkpoint::read_bytes(&bytes, "kept").unwrap();
    for (said, change) in changes {
        let mut file = sound.clone();
        let mut header = serde_json::from_str(&file.metadata["snapshot"]).unwrap();
        change(&mut file, &mut header);
        file.metadata.insert("snapshot".to_owned(), header.to_string());
        let error = refused(&checkpoint::to_bytes(&file.tensors, &file.metadata).unwrap());
        assert!(error.contains(said), "expected {said:?}: {error:?}");
    }
    let nothing = checkpoint::to_bytes(&sound.tensors, &Default::default()).unwrap();
    assert!(refused(&nothing).contains("is not a snapshot"));
    // What its trainer alone can know.
    let mut short = sound.clone();
    short.tensors.remove("weights.head.bias");
    let short = checkpoint::to_bytes(&short.tensors, &short.metadata).unwrap();
    let error = trainer(5, averaging()).restore(&Snapshot::from_bytes(&short, "kept").unwrap()).unwrap_err();
    assert!(error.to_string().contains("weights.head.bias: is missing"), "{error}");
}

/// Dropout of attention's weights in a ViT's blocks, which the identity of one without it does not mention.
#[test]
fn attention_drops_weights_in_training() {
    let gpu = gpu();
    let with = |attn_drop_rate| VitConfig { attn_drop_rate, ..config() };
    let run = |rate, mode: &Mode| {
        let model = Vit::new(&gpu, with(rate), 5).unwrap();
        model.forward(&images(&gpu, 2), &[], mode).unwrap().to_vec::<f32>().unwrap()
    };
    assert_eq!(run(0.3, &Mode::evaluation()), run(0.0, &Mode::evaluation()));
    assert_ne!(run(0.3, &Mode::training(KEY)), run(0.0, &Mode::training(KEY)));
    assert!(!config().identity().contains("attn_drop_rate"));
    assert_eq!(VitConfig::from_identity(&with(0.25).identity()).unwrap(), with(0.25));
    assert!(matches!(with(1.0).check(), Err(Error::Argument { name: "attn_drop_rate", .. })));
}

/// In half precision, a layer without a bias adds to the residual as one with a bias of zeros does.
#[test]
fn a_layer_without_bias_adds_in_half_precision() {
    let Some(gpu) = gpu_with_f16() else { return };
    let mut parameters = Parameters::new(&gpu);
    let mut init = Init::new(&mut parameters, 1);
    let [bare, full] =
        [("bare", false), ("full", true)].map(|(name, bias)| Linear::new(init.at(name), 8, 5, bias).unwrap());
    full.weight.set(&bare.weight.value().to_vec::<f32>().unwrap()).unwrap();
    let x = Tensor::from_slice(&gpu, &[3, 8], &values(1, 24)).unwrap();
    let x = ops::cast(&x, wgrad::DType::F16).unwrap();
    let residual = Tensor::from_slice(&gpu, &[3, 5], &values(2, 15)).unwrap();
    let [without, with] = [&bare, &full].map(|layer| {
        let y = layer.forward_add(&x, &residual).unwrap();
        ops::sum(&y).unwrap().backward().unwrap();
        [y.to_vec::<f32>().unwrap(), layer.weight.grad().unwrap().to_vec().unwrap()]
    });
    assert_close("sum", &without[0], &with[0], 1e-3);
    assert_close("gradient", &without[1], &with[1], 1e-3);
}
