use crate::common::{assert_close, each_family, gpu, values};
use wgrad::autograd::no_grad;
use wgrad::gpu::Gpu;
use wgrad::ops::cross_entropy::reference;
use wgrad::ops::{self, CrossEntropy, Targets};
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
                let settings = CrossEntropy { label_smoothing: smoothing, ignore_index, ..Default::default() };
                labels[rows / 2] = ignore_index.unwrap_or(0);
                let what = format!("cross_entropy [{rows}, {classes}] {settings:?}");
                let (loss, dlogits) = run(&gpu, &logits, &labels, &settings, -0.7).unwrap();
                let expected = reference::forward(&logits, &labels, &settings);
                assert!((loss - expected).abs() <= 2e-6 * expected.abs().max(1.0), "{what}: {loss} {expected}");
                let expected = reference::backward(&logits, &labels, &settings, -0.7);
                assert_close(&what, &dlogits, &expected, 5e-6);
            }
        }
    }
}

/// By hand, so that the reference is checked too: PyTorch's `F.cross_entropy` gives these.
#[test]
fn known_values() {
    let gpu = gpu();
    let logits = [1.0, 2.0, 3.0, 0.5, -1.0, 0.0];
    let loss = |labels: &[u32], settings: &CrossEntropy| run(&gpu, &logits, labels, settings, 1.0).unwrap().0;
    // −log softmax: [2.40760, 1.40760, 0.40760], [0.60407, 2.10407, 1.10407] (rounded)
    let plain = CrossEntropy::default();
    assert!((loss(&[0, 1], &plain) - (2.407_606 + 2.104_131) / 2.0).abs() < 1e-4);
    let smooth = CrossEntropy { label_smoothing: 0.3, ..plain.clone() };
    assert!(
        (loss(&[2, 0], &smooth) - (0.7 * (0.407_606 + 0.604_131) + 0.3 * (1.407_606 + 1.270_798)) / 2.0).abs() < 1e-4
    );
    let ignoring = CrossEntropy { ignore_index: Some(1), ..plain.clone() };
    assert!((loss(&[0, 1], &ignoring) - 2.407_606).abs() < 1e-4);
}

/// (loss, dlogits) of rows with two labels.
fn run_mixed(gpu: &Gpu, logits: &[f32], labels: reference::Labels<'_>, settings: &CrossEntropy) -> (f32, Vec<f32>) {
    let rows = labels.own.len();
    let leaf = Tensor::from_slice(gpu, &[rows, logits.len() / rows], logits).unwrap().requires_grad().unwrap();
    let (others, shares) = labels.mixed.unwrap();
    let tensor = |labels: &[u32]| Tensor::from_slice(gpu, &[rows], labels).unwrap();
    let (own, others, shares) = (tensor(labels.own), tensor(others), Tensor::from_slice(gpu, &[rows], shares).unwrap());
    let loss = ops::cross_entropy(&leaf, Targets::mixed(&own, &others, &shares), settings).unwrap();
    let dlogits = loss.backward().unwrap().get(&leaf).unwrap().to_vec().unwrap();
    (loss.item().unwrap(), dlogits)
}

const LOGITS: [f32; 12] = [1.0, 2.0, 3.0, -1.5, 0.5, -1.0, 0.0, 2.0, -0.25, 0.75, 1.25, 0.0];

fn weighted(label_smoothing: f32, ignore_index: Option<u32>) -> CrossEntropy {
    CrossEntropy { label_smoothing, ignore_index, class_weights: Some(vec![0.5, 2.0, 0.0, 1.25]) }
}

/// From PyTorch 2.13 in double precision: `F.cross_entropy(z, [1, 0, 3], weight=w, label_smoothing=…, ignore_index=…)`.
#[test]
fn weights_equal_pytorch() {
    let expected: [(CrossEntropy, f32, [f32; 12]); 3] = [
        (
            weighted(0.0, None),
            1.666_832,
            [
                0.0476641, -0.403769, 0.3521924, 0.0039125, -0.1122074, 0.0047138, 0.0128135, 0.09468, 0.0351469,
                0.0955393, 0.1575176, -0.2882038,
            ],
        ),
        (
            weighted(0.2, None),
            1.657_978_5,
            [
                0.0359331, -0.3375352, 0.314772, -0.0131699, -0.0885103, -0.0211279, 0.0150559, 0.0945823, 0.0267229,
                0.0640956, 0.1496417, -0.2404603,
            ],
        ),
        (
            weighted(0.2, Some(1)),
            1.968_235_6,
            [
                0.0, 0.0, 0.0, 0.0, -0.189665, -0.0452741, 0.0322627, 0.2026764, 0.0572634, 0.1373478, 0.3206608,
                -0.515272,
            ],
        ),
    ];
    for gpu in each_family() {
        for (settings, loss, dlogits) in &expected {
            let (got, gradient) = run(&gpu, &LOGITS, &[1, 0, 3], settings, 1.0).unwrap();
            assert!((got - loss).abs() < 1e-5, "{settings:?}: {got}");
            assert_close(&format!("{settings:?}"), &gradient, dlogits, 1e-5);
        }
    }
}

/// From PyTorch 2.13 in double precision: without weights `F.cross_entropy` with the soft targets h·onehot(own) +
/// (1 − h)·onehot(other); with weights the definition, made of `F.cross_entropy(…, reduction="sum")` of single rows.
#[test]
fn two_labels_equal_pytorch() {
    let labels = reference::Labels { own: &[1, 0, 3], mixed: Some((&[3, 0, 1], &[0.75, 0.4, 0.1])) };
    let plain = CrossEntropy { label_smoothing: 0.1, ..Default::default() };
    let expected: [(CrossEntropy, f32, [f32; 12]); 3] = [
        (
            plain,
            1.831_058_1,
            [
                0.0214567, -0.1523556, 0.2117869, -0.080888, -0.2555184, 0.0034513, 0.0237005, 0.2283666, 0.0268136,
                -0.1827941, 0.1491843, 0.0067962,
            ],
        ),
        (
            weighted(0.2, None),
            1.623_589_6,
            [
                0.0286356, -0.2129078, 0.2551837, -0.0709115, -0.0783277, -0.0186973, 0.0133238, 0.0837012, 0.0370853,
                -0.2465765, 0.1926454, 0.0168458,
            ],
        ),
        (
            weighted(0.2, Some(1)),
            2.906_896,
            [
                0.0216339, 0.0502622, 0.2091142, -0.2810103, -0.3540413, -0.0845116, 0.0602237, 0.3783293, 0.0106892,
                0.0256383, 0.0598567, -0.0961841,
            ],
        ),
    ];
    for gpu in each_family() {
        for (settings, loss, dlogits) in &expected {
            let (got, gradient) = run_mixed(&gpu, &LOGITS, labels, settings);
            assert!((got - loss).abs() < 1e-5, "{settings:?}: {got}");
            assert_close(&format!("{settings:?}"), &gradient, dlogits, 1e-5);
        }
    }
}

#[test]
fn two_labels_and_weights_at_awkward_sizes() {
    for gpu in each_family() {
        for (rows, classes) in [(1, 1), (1, 7), (7, 2), (65, 65), (33, 197), (3, 1757), (1757, 3)] {
            let logits: Vec<_> = values(1, rows * classes).iter().map(|v| v * 9.0).collect();
            let own = labels_below(classes, rows);
            let others: Vec<u32> = own.iter().rev().copied().collect();
            let shares: Vec<f32> = values(5, rows).iter().map(|v| (v + 1.0) * 0.5).collect();
            let weights: Vec<f32> = values(6, classes).iter().map(|v| (v * 2.0).max(0.0) + 0.1).collect();
            let labels = reference::Labels { own: &own, mixed: Some((&others, &shares)) };
            for (label_smoothing, ignore_index) in [(0.0, None), (0.1, Some(1)), (1.0, Some(99_999))] {
                let settings = CrossEntropy { label_smoothing, ignore_index, class_weights: Some(weights.clone()) };
                let what = format!("cross_entropy, two labels, [{rows}, {classes}] {label_smoothing} {ignore_index:?}");
                let (loss, dlogits) = run_mixed(&gpu, &logits, labels, &settings);
                let expected = reference::forward(&logits, labels, &settings);
                assert!((loss - expected).abs() <= 2e-6 * expected.abs().max(1.0), "{what}: {loss} {expected}");
                if classes == 1 {
                    // Of one class the gradient is 0, the difference of two terms of 1: to their rounding.
                    assert!(dlogits.iter().all(|dz| dz.abs() <= 2.0 * f32::EPSILON), "{what}: {dlogits:?}");
                } else {
                    assert_close(&what, &dlogits, &reference::backward(&logits, labels, &settings, 1.0), 1e-5);
                }
            }
        }
    }
}

/// One of a row's labels may be bad by itself: it is reported, and the other still counts.
#[test]
fn a_second_label_out_of_range_is_reported() {
    for gpu in each_family() {
        let logits = Tensor::from_slice(&gpu, &[2, 4], &LOGITS[..8]).unwrap().requires_grad().unwrap();
        let tensor = |labels: &[u32]| Tensor::from_slice(&gpu, &[2], labels).unwrap();
        let (own, others) = (tensor(&[1, 0]), tensor(&[3, 77]));
        let shares = Tensor::from_slice(&gpu, &[2], &[0.75f32, 0.5]).unwrap();
        let settings = weighted(0.1, None);
        let loss = ops::cross_entropy(&logits, Targets::mixed(&own, &others, &shares), &settings).unwrap();
        assert!(matches!(loss.item(), Err(Error::OutOfRange { what: "label", value: 77, bound: 4, .. })));
        let labels = reference::Labels { own: &[1, 0], mixed: Some((&[3, 77], &[0.75, 0.5])) };
        assert!((loss.item().unwrap() - reference::forward(&LOGITS[..8], labels, &settings)).abs() < 1e-6);
        let dlogits = loss.backward().unwrap().get(&logits).unwrap().to_vec().unwrap();
        let expected = reference::backward(&LOGITS[..8], labels, &settings, 1.0);
        assert_close("beside a bad second label", &dlogits, &expected, 5e-6);
    }
}

#[test]
fn shares_of_a_graph_are_refused() {
    let [gpu, _] = each_family();
    let logits = Tensor::from_slice(&gpu, &[2, 4], &LOGITS[..8]).unwrap();
    let [own, others] = [[1u32, 0], [3, 1]].map(|labels| Tensor::from_slice(&gpu, &[2], &labels).unwrap());
    let shares = Tensor::from_slice(&gpu, &[2], &[0.75f32, 0.5]).unwrap().requires_grad().unwrap();
    let loss = || ops::cross_entropy(&logits, Targets::mixed(&own, &others, &shares), &CrossEntropy::default());
    assert_eq!(loss().unwrap_err().to_string(), "cross_entropy: shares have no gradient: got f32[2]");
    // Where nothing is recorded nothing is lost.
    no_grad(loss).unwrap();
}

#[test]
fn rows_without_weight_are_zero() {
    for gpu in each_family() {
        let (loss, dlogits) = run(&gpu, &LOGITS, &[2, 2, 2], &weighted(0.1, None), 1.0).unwrap();
        assert_eq!((loss, dlogits), (0.0, vec![0.0; 12]));
    }
}

#[test]
fn row_weights_divide_the_mean() {
    let settings = weighted(0.1, Some(3));
    let weight = |label, mixed| settings.row_weight(4, label, mixed);
    assert_eq!([weight(1, None), weight(2, None), weight(3, None), weight(4, None)], [2.0, 0.0, 0.0, 0.0]);
    assert_eq!(weight(1, Some((0, 0.75))), 0.75 * 2.0 + 0.25 * 0.5);
    assert_eq!(weight(1, Some((3, 0.75))), 1.5);
    assert_eq!(CrossEntropy::default().row_weight(4, 1, Some((0, 0.25))), 1.0);
}

#[test]
fn extreme_logits() {
    for gpu in each_family() {
        let settings = CrossEntropy::default();
        let far = [1e4, -1e4, 1e4 + 1.0, f32::NEG_INFINITY, 1.0, 1.0];
        let (loss, dlogits) = run(&gpu, &far, &[0, 1], &settings, 1.0).unwrap();
        let expected = reference::forward(&far, &[0, 1], &settings);
        assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
        let expected = reference::backward(&far, &[0, 1], &settings, 1.0);
        assert_close("extreme logits", &dlogits, &expected, 5e-6);
    }
}

/// A peak above tens of thousands of small terms, which are much together.
#[test]
fn a_peak_among_many_classes() {
    for gpu in each_family() {
        let mut logits: Vec<f32> = values(1, 30_522).iter().map(|v| 1e-3 * v).collect();
        logits[0] = 12.0;
        let settings = CrossEntropy::default();
        let (loss, _) = run(&gpu, &logits, &[0], &settings, 1.0).unwrap();
        let expected = reference::forward(&logits, &[0], &settings);
        assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
    }
}

/// Of another class than the label's, too.
#[test]
fn nan_among_logits() {
    for gpu in each_family() {
        let logits = [0.0, 1.0, 2.0, f32::NAN, 1.0, 0.0];
        let (loss, dlogits) = run(&gpu, &logits, &[0, 1], &CrossEntropy::default(), 1.0).unwrap();
        assert!(loss.is_nan(), "{loss}");
        assert!(dlogits[..3].iter().all(|d| d.is_finite()) && dlogits[3..].iter().all(|d| d.is_nan()), "{dlogits:?}");
    }
}

#[test]
fn all_rows_ignored_is_zero() {
    for gpu in each_family() {
        let settings = CrossEntropy { ignore_index: Some(7), label_smoothing: 0.1, ..Default::default() };
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
            let rest = reference::forward(&values(1, 12), &[1, bad, 3], &settings);
            assert!((loss.item().unwrap() - rest).abs() < 1e-6);
            let grads = loss.backward().unwrap();
            let dlogits = grads.get(&logits).unwrap().to_vec::<f32>().unwrap();
            let expected = reference::backward(&values(1, 12), &[1, bad, 3], &settings, 1.0);
            assert_close("dlogits beside a bad label", &dlogits, &expected, 5e-6);
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
    let mut expected = reference::backward(&x, &[0, 1, 2], &settings, 1.0);
    let second = reference::backward(&x, &[4, 1, 0], &settings, 3.0);
    expected.iter_mut().zip(second).for_each(|(a, b)| *a += b);
    assert_close("two losses", &grads.get(&logits).unwrap().to_vec().unwrap(), &expected, 5e-6);
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
                let expected = reference::count_correct(&logits, &labels, ignore);
                assert_eq!(count(&gpu, &logits, &labels, ignore), expected, "[{rows}, {classes}] {ignore:?}");
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
        let settings = CrossEntropy { label_smoothing, ..Default::default() };
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
    for (weights, part) in
        [(vec![1.0; 3], "must be 4"), (vec![1.0, -1.0, 1.0, 1.0], "got -1"), (vec![f32::NAN; 4], "finite")]
    {
        let settings = CrossEntropy { class_weights: Some(weights), ..Default::default() };
        let error = ops::cross_entropy(&logits, &labels(3), &settings).unwrap_err().to_string();
        assert!(error.contains("class_weights") && error.contains(part), "{error}");
    }
    let own = labels(3);
    for (others, shares, part) in [(labels(4), 3, "labels must be u32[N]"), (labels(3), 2, "shares must be f32[N]")] {
        let shares = Tensor::from_slice(&gpu, &[shares], &vec![0.5f32; shares]).unwrap();
        let targets = Targets::mixed(&own, &others, &shares);
        let error = ops::cross_entropy(&logits, targets, &CrossEntropy::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let flat = Tensor::from_slice(&gpu, &[12], &values(1, 12)).unwrap();
    let count = ops::count_correct(&flat, &labels(12), None).unwrap_err().to_string();
    assert_eq!(count, "count_correct: needs logits f32[N, V]: got f32[12]");
}
