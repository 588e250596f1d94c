//! Sums of many terms of one sign, of which the later ones would lose digits in one long chain. Expected values are exact.

use super::support::{leaf, upload};
use crate::common::each_family;
use wgrad::gpu::KernelFamily;
use wgrad::ops::{self, CrossEntropy, Mask};
use wgrad::{Gpu, Tensor};

/// The largest error of `got`, all of which should be `expected`, in parts of it.
fn assert_all(what: &str, got: &[f32], expected: f64, tolerance: f64) {
    let worst = got.iter().map(|&v| (f64::from(v) / expected - 1.0).abs()).fold(0.0, f64::max);
    assert!(worst < tolerance, "{what}: {worst:.1e} from {expected}");
}

fn gradient(y: &Tensor, of: &Tensor, dy: f32) -> Vec<f32> {
    let dy = upload(y.gpu(), y.dims(), &vec![dy; y.numel()]);
    y.backward_from(&dy).unwrap().get(of).unwrap().to_vec().unwrap()
}

/// A peak above tens of thousands of small terms, which are much together.
#[test]
fn softmax_of_many() {
    for gpu in each_family() {
        for width in [21_001, 32_000, 65_536] {
            let mut x = vec![0.0; width];
            x[0] = 12.0;
            let y: Vec<f32> = ops::softmax(&upload(&gpu, &[1, width], &x)).unwrap().to_vec().unwrap();
            let peak = 12f64.exp();
            assert_all(&format!("softmax of {width}"), &y[..1], peak / (peak + (width - 1) as f64), 2e-5);
        }
    }
}

/// All gradients but one are what 1 differs by from a mean that is near it: as small a part of the terms as there are terms.
#[test]
fn softmax_gradient_of_many() {
    for gpu in each_family() {
        // One item after the other, and four at a time.
        for width in [30_522, 30_524] {
            let x = leaf(&gpu, &[1, width], &vec![0.0; width]);
            let mut dy = vec![1.0; width];
            dy[width / 2] = 2.0;
            let gradients = ops::softmax(&x).unwrap().backward_from(&upload(&gpu, &[1, width], &dy)).unwrap();
            let mut dx = gradients.get(&x).unwrap().to_vec::<f32>().unwrap();
            let (n, of_two) = (width as f64, dx.remove(width / 2));
            assert_all(&format!("softmax of {width}, where dy is 2"), &[of_two], (1.0 - 1.0 / n) / n, 1e-5);
            assert_all(&format!("softmax of {width}"), &dx, -1.0 / (n * n), 0.2);
        }
    }
}

#[test]
fn gradient_of_a_broadcast_scalar() {
    for gpu in each_family() {
        let (x, b) = (upload(&gpu, &[1_000_000, 1], &vec![1.0; 1_000_000]), leaf(&gpu, &[1], &[0.5]));
        let db = gradient(&ops::add(&x, &b).unwrap(), &b, 0.1);
        assert_all("db", &db, 1e6 * f64::from(0.1f32), 1e-5);
    }
}

/// A layer's channels, in sizes of which all are whole vec4s and in odd ones; one matrix and two.
#[test]
fn depth_of_products() {
    for gpu in each_family() {
        for (matrices, rows, columns, depth) in [(1, 20, 8, 65_536), (2, 20, 8, 65_536), (1, 5, 3, 65_537)] {
            let of = |[lines, length]: [usize; 2], value: f32| {
                upload(&gpu, &[matrices, lines, length], &vec![value; matrices * lines * length])
            };
            let a = of([rows, depth], 0.1);
            let products = [
                ("nn", ops::matmul(&a, &of([depth, columns], 1.0))),
                ("nt", ops::matmul_nt(&a, &of([columns, depth], 1.0))),
            ];
            for (layout, c) in products {
                let what = format!("{layout} of {matrices} × {depth} ({:?})", gpu.family());
                let c: Vec<f32> = c.unwrap().to_vec().unwrap();
                assert_all(&what, &c, depth as f64 * f64::from(0.1f32), 2e-4);
            }
        }
    }
}

/// Every query sees all keys alike.
#[test]
fn attention_of_many_keys() {
    const TOKENS: usize = 8192;
    const WIDTH: usize = 16;
    let row = [[0.0; WIDTH], [0.0; WIDTH], [0.3; WIDTH]].concat();
    for gpu in each_family() {
        let qkv = upload(&gpu, &[1, TOKENS, 3 * WIDTH], &row.repeat(TOKENS));
        let y: Vec<f32> = ops::attention_flash(&qkv, 1, &Mask::NONE, None).unwrap().to_vec().unwrap();
        assert_all(&format!("attention ({:?})", gpu.family()), &y, f64::from(0.3f32), 6e-5);
    }
}

#[test]
fn affine_gradients_of_many_rows() {
    const ROWS: usize = 1 << 18;
    for gpu in each_family() {
        let x = upload(&gpu, &[ROWS, 4], &[1.0, -1.0, 1.0, -1.0].repeat(ROWS));
        let (w, b) = (leaf(&gpu, &[4], &[1.0; 4]), leaf(&gpu, &[4], &[0.0; 4]));
        let y = ops::layernorm(&x, &w, &b, 1e-6).unwrap();
        let gradients = y.backward_from(&upload(&gpu, y.dims(), &vec![0.1; y.numel()])).unwrap();
        let of = |leaf: &Tensor| gradients.get(leaf).unwrap().to_vec::<f32>().unwrap();
        let expected = ROWS as f64 * f64::from(0.1f32);
        assert_all("dbias", &of(&b), expected, 1e-5);
        let dweight: Vec<f32> = of(&w).iter().zip([1.0, -1.0, 1.0, -1.0]).map(|(v, sign)| v * sign).collect();
        assert_all("dweight", &dweight, expected / f64::sqrt(1.0 + 1e-6), 1e-5);
    }
}

/// Beside a bias's gradient a weight's: x is 1, so that both are the same sum.
#[test]
fn bias_of_many_rows() {
    const ROWS: usize = 50_432;
    for gpu in each_family() {
        let x = upload(&gpu, &[ROWS, 4], &vec![1.0; ROWS * 4]);
        let (w, b) = (leaf(&gpu, &[8, 4], &[0.25; 32]), leaf(&gpu, &[8], &[0.0; 8]));
        // GPUs take more of a batch at a time.
        let tolerance = if gpu.family() == KernelFamily::Lane { 5e-5 } else { 2e-4 };
        for dy in [0.1, 123.456] {
            let expected = ROWS as f64 * f64::from(dy);
            let y = ops::linear(&x, &w, Some(&b)).unwrap();
            let gradients = y.backward_from(&upload(&gpu, y.dims(), &vec![dy; y.numel()])).unwrap();
            let of = |leaf: &Tensor| gradients.get(leaf).unwrap().to_vec::<f32>().unwrap();
            assert_all("db", &of(&b), expected, 1e-5);
            assert_all("dW", &of(&w), expected, tolerance);
            // Without the bias's, and where no vec4 fits.
            assert_all("dW alone", &gradient(&ops::linear(&x, &w, None).unwrap(), &w, dy), expected, tolerance);
            let odd = (upload(&gpu, &[ROWS, 3], &vec![1.0; ROWS * 3]), leaf(&gpu, &[5, 3], &[0.25; 15]));
            let dw = gradient(&ops::linear(&odd.0, &odd.1, None).unwrap(), &odd.1, dy);
            assert_all("dW of odd sizes", &dw, expected, tolerance);
        }
    }
}

/// A share of rows is written, or added to what is there, and the later ones to it: also in sizes of which no plan cuts K by itself.
#[test]
fn weight_of_many_rows_used_twice() {
    const ROWS: usize = 20_000;
    for (gpu, [inputs, outputs]) in each_family().into_iter().flat_map(|gpu| [(gpu.clone(), [4, 8]), (gpu, [3, 5])]) {
        let x = upload(&gpu, &[ROWS, inputs], &vec![1.0; ROWS * inputs]);
        let w = leaf(&gpu, &[outputs, inputs], &vec![0.25; outputs * inputs]);
        let b = leaf(&gpu, &[outputs], &vec![0.0; outputs]);
        let y = || ops::linear(&x, &w, Some(&b)).unwrap();
        let z = ops::add(&y(), &y()).unwrap();
        let gradients = z.backward_from(&upload(&gpu, z.dims(), &vec![1.0; z.numel()])).unwrap();
        for leaf in [&w, &b] {
            let gradient: Vec<f32> = gradients.get(leaf).unwrap().to_vec().unwrap();
            assert!(gradient.iter().all(|&v| v == 2.0 * ROWS as f32), "{gradient:?}");
        }
    }
}

#[test]
fn rows_of_one_id() {
    const PLACES: usize = 8192;
    for gpu in each_family() {
        let ids = Tensor::from_slice(&gpu, &[PLACES], &vec![1u32; PLACES]).unwrap();
        let table = leaf(&gpu, &[3, 4], &[0.0; 12]);
        let dweight = gradient(&ops::embedding(&table, &ids).unwrap(), &table, 0.001);
        assert_all("dweight", &dweight[4..8], PLACES as f64 * f64::from(0.001f32), 1e-5);
        let means = upload(&gpu, &[3], &[0.0; 3]);
        let losses = upload(&gpu, &[PLACES], &[10.8249; PLACES]);
        let means: Vec<f32> = ops::update_means(&means, &ids, &losses, None, 0.0).unwrap().to_vec().unwrap();
        assert_all("mean", &means[1..2], f64::from(10.8249f32), 1e-5);
    }
}

#[test]
fn elements_of_one_index() {
    const COUNT: usize = 50_000;
    for gpu in each_family() {
        let index = Tensor::from_slice(&gpu, &[COUNT, 2], &vec![1u32; COUNT * 2]).unwrap();
        let x = leaf(&gpu, &[3, 2], &[0.0; 6]);
        let expected = COUNT as f64 * f64::from(0.1f32);
        let dx = gradient(&ops::gather(&x, 0, &index).unwrap(), &x, 0.1);
        assert_all("gather", &dx[2..4], expected, 2e-5);
        let source = upload(&gpu, &[COUNT, 2], &vec![0.1; COUNT * 2]);
        let y: Vec<f32> = ops::scatter_add(&x.detach(), 0, &index, &source).unwrap().to_vec().unwrap();
        assert_all("scatter_add", &y[2..4], expected, 2e-5);
    }
}

/// Logits of which every row's loss is ln 10.
#[test]
fn mean_loss_of_many_rows() {
    const ROWS: usize = 1 << 18;
    let loss = |gpu: &Gpu| {
        let logits = upload(gpu, &[ROWS, 10], &vec![0.0; ROWS * 10]);
        let labels = Tensor::from_slice(gpu, &[ROWS], &vec![3u32; ROWS]).unwrap();
        ops::cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap().item().unwrap()
    };
    for gpu in each_family() {
        assert_all("loss", &[loss(&gpu)], 10f64.ln(), 1e-5);
    }
}

#[test]
fn mean_of_many_tokens() {
    for gpu in each_family() {
        for tokens in [4096, 16_384] {
            let x = upload(&gpu, &[1, tokens, 4], &vec![123.456; tokens * 4]);
            let y: Vec<f32> = ops::mean_tokens(&x, 0).unwrap().to_vec().unwrap();
            assert_all("mean", &y, f64::from(123.456f32), 3e-6);
        }
    }
}
