use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, gpu, poison, values};
use wgrad::autograd::Parameters;
use wgrad::ops::matmul::reference::product;
use wgrad::ops::{self, CrossEntropy, column_sum, cross_entropy::reference};
use wgrad::{DType, Error, Gpu, Tensor};

/// N, C and V: vocabularies that are a multiple of four and not, rows that a vec4 fits and that none does, and more logits than
/// exist at a time.
const SIZES: &[[usize; 3]] = &[[1, 4, 1], [7, 8, 12], [33, 12, 197], [65, 5, 7], [130, 16, 1758], [300, 4, 70_001]];

/// x, weight and bias.
fn inputs([rows, channels, classes]: [usize; 3]) -> [Vec<f32>; 3] {
    let scaled = |seed, n| values(seed, n).iter().map(|v| v * 3.0).collect();
    [scaled(1, rows * channels), scaled(2, classes * channels), scaled(3, classes)]
}

fn leaves(gpu: &Gpu, [rows, channels, classes]: [usize; 3], data: &[Vec<f32>; 3]) -> [Tensor; 3] {
    let dims = [&[rows, channels][..], &[classes, channels], &[classes]];
    std::array::from_fn(|i| leaf(gpu, dims[i], &data[i]))
}

fn labels_below(classes: usize, rows: usize) -> Vec<u32> {
    values(9, rows).iter().map(|v| ((v + 1.0) * 0.5 * classes as f32) as u32 % classes as u32).collect()
}

fn upload_labels(gpu: &Gpu, labels: &[u32]) -> Tensor {
    Tensor::from_slice(gpu, &[labels.len()], labels).unwrap()
}

/// x·Wᵀ + bias.
fn logits([x, weight, bias]: &[Vec<f32>; 3], [rows, channels, classes]: [usize; 3], has_bias: bool) -> Vec<f32> {
    let mut logits = product([rows, classes, channels], |i, q| x[i * channels + q], |q, j| weight[j * channels + q]);
    if has_bias {
        logits.iter_mut().zip(bias.iter().cycle()).for_each(|(z, b)| *z += b);
    }
    logits
}

/// The gradients of x, weight and bias, given those of the logits.
fn gradients([x, weight, _]: &[Vec<f32>; 3], [rows, channels, classes]: [usize; 3], dlogits: &[f32]) -> [Vec<f32>; 3] {
    let dx = product([rows, channels, classes], |i, j| dlogits[i * classes + j], |j, q| weight[j * channels + q]);
    let dw = product([classes, channels, rows], |j, i| dlogits[i * classes + j], |i, q| x[i * channels + q]);
    [dx, dw, column_sum::reference::column_sum(dlogits, classes)]
}

fn check(gpu: &Gpu, size: [usize; 3], has_bias: bool, settings: &CrossEntropy) {
    let [rows, _, classes] = size;
    let data = inputs(size);
    let mut labels = labels_below(classes, rows);
    labels[rows / 2] = settings.ignore_index.unwrap_or(0);
    let tensors = leaves(gpu, size, &data);
    let [x, weight, bias] = &tensors;
    let part = rows.min((64 << 20) / (4 * classes.next_multiple_of(4)));
    poison(gpu, &[part * classes.next_multiple_of(4), rows * size[1], classes * size[1]]);
    let bias = has_bias.then_some(bias);
    let scores = ops::linear_cross_entropy(x, weight, bias, &upload_labels(gpu, &labels), settings).unwrap();
    let what = format!("{size:?} {settings:?} ({:?})", gpu.family());

    let logits = logits(&data, size, has_bias);
    let loss = reference::forward(&logits, &labels, settings);
    assert_close(&what, &[scores.loss.item().unwrap()], &[loss], 5e-6);
    let correct = reference::count_correct(&logits, &labels, settings.ignore_index);
    assert_eq!(scores.correct.to_vec::<u32>().unwrap(), [correct], "{what}");
    // A row's own loss, without its part of the divisor.
    let own = |(row, label): (&[f32], &u32)| {
        let weight = settings.row_weight(classes, *label, None) as f32;
        let alone = reference::forward(row, &[*label], settings);
        if weight == 0.0 { 0.0 } else { alone * weight }
    };
    let losses: Vec<f32> = logits.chunks(classes).zip(&labels).map(own).collect();
    assert_close(&what, &scores.losses.to_vec().unwrap(), &losses, 5e-6);

    let dlogits = reference::backward(&logits, &labels, settings, -0.7);
    let expected = gradients(&data, size, &dlogits);
    let pairs: Vec<_> =
        tensors.iter().zip(expected.iter().map(Vec::as_slice)).take(2 + usize::from(has_bias)).collect();
    assert_gradients(&what, &scores.loss, &[-0.7], &pairs, 2e-5);
}

#[test]
fn linear_cross_entropy() {
    for gpu in each_family() {
        for &size in SIZES {
            let ignoring = CrossEntropy { label_smoothing: 0.1, ignore_index: Some(u32::MAX), ..Default::default() };
            check(&gpu, size, true, &ignoring);
            if size[2] < 2000 {
                check(&gpu, size, false, &CrossEntropy::default());
                let class_weights = Some(values(5, size[2]).iter().map(|v| v + 1.0).collect());
                check(&gpu, size, true, &CrossEntropy { class_weights, ..ignoring });
            }
        }
    }
}

/// In half precision x and its gradient alone are rounded.
#[test]
fn linear_cross_entropy_of_half_precision() {
    for gpu in each_family().into_iter().filter(Gpu::has_f16) {
        for size in [[7, 8, 12], [33, 12, 197], [65, 5, 7]] {
            let (data, labels) = (inputs(size), labels_below(size[2], size[0]));
            let tensors = leaves(&gpu, size, &data);
            let [x, weight, bias] = &tensors;
            let half = ops::cast(x, DType::F16).unwrap();
            let labels_tensor = upload_labels(&gpu, &labels);
            let scores =
                ops::linear_cross_entropy(&half, weight, Some(bias), &labels_tensor, &Default::default()).unwrap();
            let logits = logits(&data, size, true);
            let loss = reference::forward(&logits, &labels, &Default::default());
            assert_close("loss", &[scores.loss.item().unwrap()], &[loss], 1e-2);
            let dlogits = reference::backward(&logits, &labels, &Default::default(), 1.0);
            let expected = gradients(&data, size, &dlogits);
            let pairs: Vec<_> = tensors.iter().zip(expected.iter().map(Vec::as_slice)).collect();
            assert_gradients(&format!("{size:?} of f16"), &scores.loss, &[1.0], &pairs, 1e-2);
        }
    }
}

/// The table that x comes from, which gathers three gradients; and a head that is its own input.
#[test]
fn tied_weights() {
    for gpu in each_family() {
        let size = [9, 8, 9];
        let [_, data, _] = inputs(size);
        let table = leaf(&gpu, &[9, 8], &data);
        let labels = labels_below(9, 9);
        let of = |x: &Tensor, weight: &Tensor| {
            let labels = upload_labels(&gpu, &labels);
            ops::linear_cross_entropy(x, weight, None, &labels, &Default::default()).unwrap().loss
        };
        let both = [data.clone(), data.clone(), Vec::new()];
        let logits = logits(&both, size, false);
        let dlogits = reference::backward(&logits, &labels, &Default::default(), 1.0);
        let [dx, dw, _] = gradients(&both, size, &dlogits);
        let sum: Vec<f32> = dx.iter().zip(&dw).map(|(a, b)| a + b).collect();
        assert_gradients("itself", &of(&table, &table), &[1.0], &[(&table, &sum)], 1e-5);
        let ids: Vec<u32> = (0..9).collect();
        let looked_up = ops::embedding(&table, &upload_labels(&gpu, &ids)).unwrap();
        assert_gradients("looked up", &of(&looked_up, &table), &[1.0], &[(&table, &sum)], 1e-5);
    }
}

#[test]
fn rows_that_do_not_count_give_nothing() {
    for gpu in each_family() {
        let size = [3, 4, 6];
        let data = inputs(size);
        let tensors = leaves(&gpu, size, &data);
        let [x, weight, bias] = &tensors;
        let settings = CrossEntropy { ignore_index: Some(77), ..Default::default() };
        let of = |labels: [u32; 3]| {
            ops::linear_cross_entropy(x, weight, Some(bias), &upload_labels(&gpu, &labels), &settings).unwrap()
        };
        let scores = of([77; 3]);
        assert_eq!(scores.loss.item().unwrap(), 0.0);
        assert_eq!(scores.losses.to_vec::<f32>().unwrap(), [0.0; 3]);
        assert_eq!(scores.correct.to_vec::<u32>().unwrap(), [0]);
        let zeros: Vec<_> = tensors.iter().zip(data.iter().map(|data| vec![0.0; data.len()])).collect();
        let pairs: Vec<_> = zeros.iter().map(|(tensor, zeros)| (*tensor, &zeros[..])).collect();
        assert_gradients("none", &scores.loss, &[1.0], &pairs, 0.0);
        let gradient = of([1, 77, 2]).loss.backward().unwrap().get(x).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(&gradient[4..8], &[0.0; 4]);

        let error = of([1, 6, 2]).loss.item().unwrap_err();
        assert!(matches!(error, Error::OutOfRange { what: "label", value: 6, bound: 6, .. }), "{error}");
    }
}

/// Of GPT-2's head: neither pass holds all logits.
#[test]
fn logits_are_never_whole() {
    let dry = gpu().dry_run().unwrap();
    let (rows, channels, classes) = (1024, 768, 50_257);
    let mut parameters = Parameters::new(&dry);
    let table = parameters.add("wte.weight", &[classes, channels], &vec![0.0; classes * channels]).unwrap();
    let labels = Tensor::zeros(&dry, DType::U32, &[rows]).unwrap();
    let x = Tensor::zeros(&dry, DType::F32, &[rows, channels]).unwrap().requires_grad().unwrap();
    let table_bytes = parameters.bytes();
    let before = dry.memory().live;
    dry.reset_peak_memory();
    let loss = ops::linear_cross_entropy(&x, &table.tensor(), None, &labels, &Default::default()).unwrap().loss;
    let forward = dry.memory().peak_live - before;
    loss.backward().unwrap();
    let backward = dry.memory().peak_live - before - table_bytes;
    let whole = (rows * classes * 4) as u64;
    assert!(forward < 64 << 20 && backward < 72 << 20 && whole > 190 << 20, "{forward} {backward} {whole}");
}

#[test]
fn misfits_are_named() {
    let [gpu, _] = each_family();
    let of = |dims: &[usize]| upload(&gpu, dims, &vec![0.0; dims.iter().product()]);
    let (x, weight, labels) = (of(&[3, 4]), of(&[6, 4]), upload_labels(&gpu, &[0; 3]));
    let message = |x: &Tensor, bias: Option<&Tensor>, labels: &Tensor, settings: &CrossEntropy| {
        ops::linear_cross_entropy(x, &weight, bias, labels, settings).unwrap_err().to_string()
    };
    let plain = CrossEntropy::default();
    assert!(message(&of(&[3, 5]), None, &labels, &plain).contains("inner sizes differ"));
    assert!(message(&x, Some(&of(&[4])), &labels, &plain).contains("the bias must be f32[out]"));
    assert!(message(&x, None, &of(&[3]), &plain).contains("linear_cross_entropy: needs labels u32[N]"));
    assert!(message(&x, None, &upload_labels(&gpu, &[0; 4]), &plain).contains("labels must be u32[N]"));
    let smoothed = CrossEntropy { label_smoothing: 1.5, ..Default::default() };
    assert!(message(&x, None, &labels, &smoothed).contains("from 0 to 1"));
    let weighted = CrossEntropy { class_weights: Some(vec![1.0; 5]), ..Default::default() };
    assert!(message(&x, None, &labels, &weighted).contains("class_weights"));
}
