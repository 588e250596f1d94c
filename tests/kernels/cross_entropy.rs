use crate::common::{assert_close, each_family, gpu, values};
use wgrad::gpu::Gpu;
use wgrad::ops::{self, CrossEntropy};
use wgrad::{Error, Tensor};

fn labels_below(classes: usize, rows: usize) -> Vec<u32> {
    values(9, rows).iter().map(|v| ((v + 1.0) * 0.5 * classes as f32) as u32 % classes as u32).collect()
}

/// (loss, dlogits) for a gradient `dy` of the loss.
fn run(gpu: &Gpu, logits: &[f32], labels: &[u32], settings: &CrossEntropy, dy: f32) -> wgrad::Result<(f32, Vec<f32>)> {
    let shape = [labels.len(), logits.len() / labels.len()];
    let leaf = Tensor::from_slice(gpu, &shape, logits)?.requires_grad()?;
    let loss = ops::cross_entropy(&leaf, &Tensor::from_slice(gpu, &[labels.len()], labels)?, settings)?;
    let grads = loss.backward_from(&Tensor::from_slice(gpu, &[], &[dy])?)?;
    let dlogits = grads.get(&leaf).expect("a gradient").to_vec()?;
    Ok((loss.item()?, dlogits))
}

#[test]
fn cross_entropy() {
    for gpu in each_family() {
        for (rows, classes) in [(1, 1), (1, 7), (7, 2), (64, 10), (65, 65), (33, 197), (3, 1757), (1757, 3)] {
            let logits: Vec<_> = values(1, rows * classes).iter().map(|v| v * 9.0).collect();
            let mut labels = labels_below(classes, rows);
            for (smoothing, ignore_index) in [(0.0, None), (0.1, Some(0)), (1.0, Some(4_294_967_196))] {
                let settings = CrossEntropy { label_smoothing: smoothing, ignore_index };
                labels[rows / 2] = ignore_index.unwrap_or(0);
                let what = format!("cross_entropy [{rows}, {classes}] {settings:?}");
                let (loss, dlogits) = run(&gpu, &logits, &labels, &settings, -0.7).unwrap();
                let reference = ops::cross_entropy::reference::forward(&logits, &labels, &settings);
                assert!((loss - reference).abs() <= 2e-6 * reference.abs().max(1.0), "{what}: {loss} {reference}");
                let reference = ops::cross_entropy::reference::backward(&logits, &labels, &settings, -0.7);
                assert_close(&what, &dlogits, &reference, 5e-6);
            }
        }
    }
}

/// By hand, so that the reference is checked too: PyTorch's `F.cross_entropy` gives these.
#[test]
fn known_values() {
    let gpu = gpu();
    let logits = [1.0, 2.0, 3.0, 0.5, -1.0, 0.0];
    let loss = |labels: &[u32], settings: CrossEntropy| run(&gpu, &logits, labels, &settings, 1.0).unwrap().0;
    // −log softmax: [2.40760, 1.40760, 0.40760], [0.60407, 2.10407, 1.10407] (rounded)
    let plain = CrossEntropy::default();
    assert!((loss(&[0, 1], plain) - (2.407_606 + 2.104_131) / 2.0).abs() < 1e-4);
    let smooth = CrossEntropy { label_smoothing: 0.3, ..plain };
    assert!(
        (loss(&[2, 0], smooth) - (0.7 * (0.407_606 + 0.604_131) + 0.3 * (1.407_606 + 1.270_798)) / 2.0).abs() < 1e-4
    );
    let ignoring = CrossEntropy { ignore_index: Some(1), ..plain };
    assert!((loss(&[0, 1], ignoring) - 2.407_606).abs() < 1e-4);
}

#[test]
fn extreme_logits() {
    for gpu in each_family() {
        let settings = CrossEntropy::default();
        let far = [1e4, -1e4, 1e4 + 1.0, f32::NEG_INFINITY, 1.0, 1.0];
        let (loss, dlogits) = run(&gpu, &far, &[0, 1], &settings, 1.0).unwrap();
        let reference = ops::cross_entropy::reference::forward(&far, &[0, 1], &settings);
        assert!((loss - reference).abs() < 1e-5, "{loss} {reference}");
        let reference = ops::cross_entropy::reference::backward(&far, &[0, 1], &settings, 1.0);
        assert_close("extreme logits", &dlogits, &reference, 5e-6);
    }
}

#[test]
fn all_rows_ignored_is_zero() {
    for gpu in each_family() {
        let settings = CrossEntropy { ignore_index: Some(7), label_smoothing: 0.1 };
        let (loss, dlogits) = run(&gpu, &values(1, 6), &[7, 7], &settings, 1.0).unwrap();
        assert_eq!((loss, dlogits), (0.0, vec![0.0; 6]));
    }
}

#[test]
fn label_out_of_range_is_reported_and_counts_nothing() {
    for gpu in each_family() {
        let logits = Tensor::from_slice(&gpu, &[3, 4], &values(1, 12)).unwrap().requires_grad().unwrap();
        for bad in [4, 99, u32::MAX] {
            let labels = Tensor::from_slice(&gpu, &[3], &[1, bad, 3]).unwrap();
            let settings = CrossEntropy::default();
            let loss = ops::cross_entropy(&logits, &labels, &settings).unwrap();
            match loss.item() {
                Err(Error::OutOfRange { op: "cross_entropy", what: "label", value, bound: 4 }) if value == bad => {}
                other => panic!("{other:?}"),
            }
            // The device works on, and the other rows are what they would be without the bad one.
            let rest = ops::cross_entropy::reference::forward(&values(1, 12), &[1, bad, 3], &settings);
            assert!((loss.item().unwrap() - rest).abs() < 1e-6);
            let grads = loss.backward().unwrap();
            let dlogits = grads.get(&logits).unwrap().to_vec::<f32>().unwrap();
            let reference = ops::cross_entropy::reference::backward(&values(1, 12), &[1, bad, 3], &settings, 1.0);
            assert_close("dlogits beside a bad label", &dlogits, &reference, 5e-6);
            assert_eq!(dlogits[4..8], [0.0; 4]);
            let count = ops::count_correct(&logits, &labels, None).unwrap();
            assert!(matches!(count.to_vec::<u32>(), Err(Error::OutOfRange { what: "label", .. })));
            assert!(count.to_vec::<u32>().unwrap()[0] <= 2);
        }
    }
}

#[test]
fn gradients_of_two_losses_add_up() {
    let gpu = gpu();
    let x = values(1, 15);
    let logits = Tensor::from_slice(&gpu, &[3, 5], &x).unwrap().requires_grad().unwrap();
    let settings = CrossEntropy::default();
    let loss = |labels: &[u32]| {
        let labels = Tensor::from_slice(&gpu, &[3], labels).unwrap();
        ops::cross_entropy(&logits, &labels, &settings).unwrap()
    };
    let both = ops::add(&loss(&[0, 1, 2]), &ops::scale(&loss(&[4, 1, 0]), 3.0).unwrap()).unwrap();
    let grads = both.backward().unwrap();
    let mut reference = ops::cross_entropy::reference::backward(&x, &[0, 1, 2], &settings, 1.0);
    let second = ops::cross_entropy::reference::backward(&x, &[4, 1, 0], &settings, 3.0);
    reference.iter_mut().zip(second).for_each(|(a, b)| *a += b);
    assert_close("two losses", &grads.get(&logits).unwrap().to_vec().unwrap(), &reference, 5e-6);
}

#[test]
fn count_correct() {
    let count = |gpu: &Gpu, logits: &[f32], labels: &[u32], ignore| {
        let tensor = Tensor::from_slice(gpu, &[labels.len(), logits.len() / labels.len()], logits).unwrap();
        let labels = Tensor::from_slice(gpu, &[labels.len()], labels).unwrap();
        ops::count_correct(&tensor, &labels, ignore).unwrap().to_vec::<u32>().unwrap()[0]
    };
    for gpu in each_family() {
        for (rows, classes) in [(1, 1), (7, 2), (65, 3), (197, 10), (5, 1757)] {
            // Few different values, so that there are ties.
            let logits: Vec<_> = values(1, rows * classes).iter().map(|v| (v * 3.0).round()).collect();
            let labels = labels_below(classes.min(8), rows);
            for ignore in [None, Some(1)] {
                let reference = ops::cross_entropy::reference::count_correct(&logits, &labels, ignore);
                assert_eq!(count(&gpu, &logits, &labels, ignore), reference, "[{rows}, {classes}] {ignore:?}");
            }
        }
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!(count(&gpu, &[1.0, 1.0, 1.0, 1.0, 0.0, inf, inf, 0.0], &[0, 1, 1, 0], None), 3);
        assert_eq!(count(&gpu, &[nan, 1.0, 1.0, nan, 2.0, 1.0], &[0, 0, 0], None), 1);
    }
}

#[test]
fn misfits_are_named() {
    let gpu = gpu();
    let logits = Tensor::from_slice(&gpu, &[3, 4], &values(1, 12)).unwrap();
    let labels = |n: usize| Tensor::from_slice(&gpu, &[n], &vec![0u32; n]).unwrap();
    let message = |logits: &Tensor, labels: &Tensor, label_smoothing: f32| {
        let settings = CrossEntropy { label_smoothing, ignore_index: None };
        ops::cross_entropy(logits, labels, &settings).unwrap_err().to_string()
    };
    assert_eq!(
        message(&logits, &labels(4), 0.0),
        "cross_entropy: labels must be u32[N] of logits f32[N, V]: lhs f32[3, 4], rhs u32[4]"
    );
    assert_eq!(message(&logits, &logits, 0.0), "cross_entropy: needs labels u32[N]: got f32[3, 4]");
    assert_eq!(message(&labels(3), &labels(3), 0.0), "cross_entropy: needs f32: got u32[3]");
    for smoothing in [-0.1, 1.5, f32::NAN] {
        assert!(
            message(&logits, &labels(3), smoothing).starts_with("cross_entropy: label_smoothing must be from 0 to 1")
        );
    }
    let flat = Tensor::from_slice(&gpu, &[12], &values(1, 12)).unwrap();
    let count = ops::count_correct(&flat, &labels(12), None).unwrap_err().to_string();
    assert_eq!(count, "count_correct: needs logits f32[N, V]: got f32[12]");
}
