//! Sizes at which a kernel's loops would need more rounds than some drivers make (`gpu::MAX_ROUNDS`), in every direction that
//! is summed over, and grids that no dispatch holds. Whole numbers, where sums of them are exact.

use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, values};
use wgrad::gpu::Gpu;
use wgrad::ops::attention::{Dropout, Mask};
use wgrad::ops::{self, CrossEntropy, Gelu, TokenIndices};
use wgrad::{DType, Tensor};

/// Repeatable whole numbers from −2 to 2.
fn whole(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7 + i / 3 + seed) % 5) as f32 - 2.0).collect()
}

/// Repeatable values of at most `most`.
fn small(seed: u64, n: usize, most: f32) -> Vec<f32> {
    values(seed, n).into_iter().map(|v| most * v).collect()
}

/// Aᵀ·B of A `[k, m]` and B `[k, n]`.
fn product_tn(a: &[f32], b: &[f32], m: usize, n: usize) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    for (a, b) in a.chunks(m).zip(b.chunks(n)) {
        for (i, a) in a.iter().enumerate() {
            c[i * n..][..n].iter_mut().zip(b).for_each(|(c, b)| *c += a * b);
        }
    }
    c
}

/// Rows and columns exchanged, of `[rows, width]`.
fn transposed(x: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|column| x.iter().skip(column).step_by(width).copied()).collect()
}

/// The gradients of a weight and a bias are sums over rows.
#[test]
fn rows_of_a_layer() {
    for gpu in each_family() {
        for (rows, width) in [(70_000, 4), (70_001, 3)] {
            let (x, dy) = (whole(0, rows * width), whole(1, rows * width));
            let (w, b) =
                (leaf(&gpu, &[width, width], &whole(2, width * width)), leaf(&gpu, &[width], &whole(3, width)));
            let y = ops::linear(&upload(&gpu, &[rows, width], &x), &w, Some(&b)).unwrap();
            let dw = product_tn(&dy, &x, width, width);
            let db = product_tn(&dy, &vec![1.0; rows], width, 1);
            assert_gradients(&format!("{rows} rows"), &y, &dy, &[(&w, &dw), (&b, &db)], 0.0);
        }
    }
}

#[test]
fn rows_of_a_broadcast() {
    let rows = 2_100_001;
    for gpu in each_family() {
        let (x, dy) = (upload(&gpu, &[rows, 1], &vec![0.0; rows]), whole(1, rows));
        let b = leaf(&gpu, &[1], &[1.0]);
        assert_gradients("a broadcast", &ops::add(&x, &b).unwrap(), &dy, &[(&b, &[dy.iter().sum::<f32>()])], 0.0);
    }
}

/// The inner size of a product, in each layout: for the kernel of rows that no vec4 fits, and for that of each family.
#[test]
fn depth_of_products() {
    for (gpu, aligned) in each_family().into_iter().zip([270_000, 1_050_000]) {
        for (size, k) in [(3, 70_001), (4, aligned)] {
            let (a, b) = (whole(0, k * size), whole(1, k * size));
            let expected = product_tn(&a, &b, size, size);
            let (deep, flat) = ([k, size], [size, k]);
            let (ta, tb) = (upload(&gpu, &deep, &a), upload(&gpu, &deep, &b));
            let (at, bt) = (upload(&gpu, &flat, &transposed(&a, size)), upload(&gpu, &flat, &transposed(&b, size)));
            for (what, c) in
                [("nn", ops::matmul(&at, &tb)), ("nt", ops::matmul_nt(&at, &bt)), ("tn", ops::matmul_tn(&ta, &tb))]
            {
                assert_close(&format!("{what} of depth {k}"), &c.unwrap().to_vec().unwrap(), &expected, 0.0);
            }
        }
    }
}

#[test]
fn depth_of_layers() {
    let k = 70_001;
    for gpu in each_family() {
        let (x, w) = (whole(0, 2 * k), whole(1, 3 * k));
        let (bias, residual) = (whole(2, 3), whole(3, 6));
        let mut expected = product_tn(&transposed(&x, k), &transposed(&w, k), 2, 3);
        let (tx, tw) = (upload(&gpu, &[2, k], &x), upload(&gpu, &[3, k], &w));
        let (tb, tr) = (upload(&gpu, &[3], &bias), upload(&gpu, &[2, 3], &residual));
        expected.iter_mut().zip(bias.iter().cycle()).for_each(|(y, b)| *y += b);
        let y = ops::linear(&tx, &tw, Some(&tb)).unwrap();
        assert_close("bias", &y.to_vec().unwrap(), &expected, 0.0);
        expected.iter_mut().zip(&residual).for_each(|(y, r)| *y += r);
        let y = ops::linear_add(&tx, &tw, &tb, &tr).unwrap();
        assert_close("residual", &y.to_vec().unwrap(), &expected, 0.0);
    }
}

/// Each of an MLP's sizes is the depth of a product with another epilogue: GELU, its gradient, rows put into their places.
#[test]
fn depth_of_mlps() {
    use ops::mlp::reference::{backward, forward};
    const DEEP: usize = 70_001;
    let rows = 2;
    for gpu in each_family() {
        for [c, f, n] in [[DEEP, 3, 3], [3, 3, DEEP], [3, DEEP, 3]] {
            let dims: [&[usize]; 6] = [&[1, rows, c], &[f, c], &[f], &[n, f], &[n], &[1, rows, n]];
            let data: [Vec<f32>; 6] =
                std::array::from_fn(|i| small(i as u64, dims[i].iter().product(), if i == 1 { 0.02 } else { 0.5 }));
            let inputs = std::array::from_fn(|i| &data[i][..]);
            let dy = small(9, rows * n, 0.1);
            let expected = forward(inputs, Gelu::Tanh, rows);
            let gradients = backward(inputs, Gelu::Tanh, &dy, rows);
            let leaves = dims.into_iter().zip(&data).map(|(dims, data)| leaf(&gpu, dims, data));
            let [x, w1, b1, w2, b2, residual]: [Tensor; 6] = leaves.collect::<Vec<_>>().try_into().unwrap();
            let what = format!("mlp of {c}, {f}, {n} ({:?})", gpu.family());
            let y = ops::mlp(&x, (&w1, &b1), (&w2, &b2), Gelu::Tanh, &residual, None).unwrap();
            assert_close(&what, &y.to_vec().unwrap(), &expected, 1e-5);
            let pairs: Vec<_> =
                [&x, &w1, &b1, &w2, &b2, &residual].into_iter().zip(gradients.iter().map(|g| &g[..])).collect();
            assert_gradients(&what, &y, &dy, &pairs, 1e-4);
            let full = upload(&gpu, &[1, 4, n], &vec![7.0; 4 * n]);
            let indices = TokenIndices::new(&gpu, [1, rows], 4, &[0, 3]).unwrap();
            let y = ops::mlp(&x, (&w1, &b1), (&w2, &b2), Gelu::Tanh, &residual, Some((full, &indices))).unwrap();
            let places = [&expected[..n], &vec![7.0; 2 * n], &expected[n..]].concat();
            assert_close(&what, &y.to_vec().unwrap(), &places, 1e-5);
        }
    }
}

#[test]
fn classes() {
    let (rows, classes) = (2, 70_001);
    let settings = CrossEntropy { label_smoothing: 0.1, ..Default::default() };
    for gpu in each_family() {
        let (z, labels) = (values(1, rows * classes), [70_000, 3]);
        let (tz, tl) = (leaf(&gpu, &[rows, classes], &z), Tensor::from_slice(&gpu, &[rows], &labels).unwrap());
        let loss = ops::cross_entropy(&tz, &tl, &settings).unwrap();
        let expected = ops::cross_entropy::reference::forward(&z, &labels, &settings);
        assert_close("loss", &[loss.item().unwrap()], &[expected], 1e-5);
        let dz = ops::cross_entropy::reference::backward(&z, &labels, &settings, 1.0);
        assert_gradients("cross-entropy", &loss, &[1.0], &[(&tz, &dz)], 1e-5);
        let mut clear = z.clone();
        (clear[70_000], clear[classes]) = (2.0, 2.0);
        let count = ops::count_correct(&upload(&gpu, &[rows, classes], &clear), &tl, None).unwrap();
        assert_eq!(count.to_vec::<u32>().unwrap(), [1]);
    }
}

#[test]
fn width_of_softmax() {
    use ops::softmax::reference::{backward, forward};
    for gpu in each_family() {
        for width in [70_001, 90_000] {
            let (x, dy) = (values(1, 2 * width), values(2, 2 * width));
            let tx = leaf(&gpu, &[2, width], &x);
            let y = ops::softmax(&tx).unwrap();
            assert_close("softmax", &y.to_vec().unwrap(), &forward(&x, width), 1e-4);
            assert_gradients("softmax", &y, &dy, &[(&tx, &backward(&x, &dy, width))], 1e-4);
        }
    }
}

#[test]
fn width_of_layernorm() {
    use ops::layernorm::reference::{backward, forward};
    for gpu in each_family() {
        for width in [70_001, 280_000] {
            let [x, w, b, dy] = [3 * width, width, width, 3 * width].map(|n| values(n as u64, n));
            let (tx, tw, tb) = (leaf(&gpu, &[1, 3, width], &x), leaf(&gpu, &[width], &w), leaf(&gpu, &[width], &b));
            let y = ops::layernorm(&tx, &tw, &tb, 1e-6).unwrap();
            let expected = forward(&x, &w, &b, 1e-6);
            assert_close("layernorm", &y.to_vec().unwrap(), &expected, 1e-4);
            let (dx, dw, db) = backward(&x, &w, &dy, 1e-6);
            assert_gradients("layernorm", &y, &dy, &[(&tx, &dx), (&tw, &dw), (&tb, &db)], 1e-4);
            let indices = TokenIndices::new(&gpu, [1, 1], 3, &[2]).unwrap();
            let (_, y) = ops::gather_layernorm(&tx, &indices, &tw, &tb, 1e-6, DType::F32).unwrap();
            assert_close("of kept tokens", &y.to_vec().unwrap(), &expected[2 * width..], 1e-4);
        }
    }
}

#[test]
fn tokens_of_a_mean() {
    use ops::mean_tokens::reference::{backward, forward};
    let (tokens, skip) = (300_000, 2);
    for gpu in each_family() {
        for width in [1, 4] {
            let (x, dy) = (whole(1, tokens * width), whole(2, width));
            let tx = leaf(&gpu, &[1, tokens, width], &x);
            let y = ops::mean_tokens(&tx, skip).unwrap();
            assert_close("mean", &y.to_vec().unwrap(), &forward(&x, tokens, width, skip), 1e-5);
            assert_gradients("mean", &y, &dy, &[(&tx, &backward(&dy, tokens, width, skip))], 1e-6);
        }
    }
}

/// The queries that a key's gradient of flash attention comes from, against stored scores. (Keys, and GPUs' kernels, would
/// need more tokens than a test has time for; `attention/flash.rs` has a test of their parts.)
#[test]
fn tokens_of_attention() {
    let (tokens, width) = (3_480, 32);
    let [gpu, _] = each_family();
    let (qkv, dy) = (values(1, tokens * 3 * width), values(2, tokens * width));
    let run = |attention: fn(&Tensor, usize, &Mask, Option<Dropout>) -> wgrad::Result<Tensor>| {
        let t = leaf(&gpu, &[1, tokens, 3 * width], &qkv);
        let y = attention(&t, 1, &Mask::CAUSAL, None).unwrap();
        let gradients = y.backward_from(&upload(&gpu, y.dims(), &dy)).unwrap();
        (y.to_vec::<f32>().unwrap(), gradients.get(&t).unwrap().to_vec::<f32>().unwrap())
    };
    let ((y, dqkv), (expected, gradient)) = (run(ops::attention_flash), run(ops::attention_stored));
    assert_close("attention", &y, &expected, 1e-4);
    assert_close("attention", &dqkv, &gradient, 1e-4);
}

/// Rows that are only moved.
#[test]
fn width_of_rows() {
    let width = 2_200_001;
    for gpu in each_family() {
        let (x, dy) = (whole(1, 2 * width), whole(2, width));
        let tx = leaf(&gpu, &[1, 2, width], &x);
        let indices = TokenIndices::new(&gpu, [1, 1], 2, &[1]).unwrap();
        let y = ops::token_gather(&tx, &indices).unwrap();
        assert_close("gather", &y.to_vec().unwrap(), &x[width..], 0.0);
        let dx = [vec![0.0; width], dy.clone()].concat();
        assert_gradients("gather", &y, &dy, &[(&tx, &dx)], 0.0);
        let side = 1200;
        let image = whole(3, 3 * side * side);
        let ti = leaf(&gpu, &[1, 3, side, side], &image);
        let y = ops::patchify(&ti, side, None).unwrap();
        assert_close("patchify", &y.to_vec().unwrap(), &image, 0.0);
        assert_gradients("patchify", &y, &image, &[(&ti, &image)], 0.0);
    }
}

/// What no cut makes possible is right where the driver's loops are long enough, and an error where they are not.
#[test]
fn what_cannot_be_cut_is_refused() {
    let width = 1_400_003;
    for gpu in each_family() {
        let ends_loops = gpu.info().is_cpu() && gpu.info().mesa_version().is_some();
        let softmax = ops::softmax(&upload(&gpu, &[1, width], &vec![0.0; width]));
        if ends_loops {
            let message = softmax.unwrap_err().to_string();
            assert!(message.starts_with("softmax.forward_group_scalar"), "{message}");
            assert!(message.contains("limit loop rounds of an invocation is 64000"), "{message}");
        } else {
            assert_close("softmax", &softmax.unwrap().to_vec().unwrap(), &vec![1.0 / width as f32; width], 1e-4);
        }
    }
}

fn many_matrices(gpu: &Gpu) {
    let (a, b) = (whole(1, 300 * 250 * 6), whole(2, 300 * 250 * 6));
    let c = ops::matmul(&upload(gpu, &[300, 250, 2, 3], &a), &upload(gpu, &[300, 250, 3, 2], &b)).unwrap();
    let expected: Vec<f32> =
        a.chunks(6).zip(b.chunks(6)).flat_map(|(a, b)| product_tn(&transposed(a, 3), b, 2, 2)).collect();
    assert_close("matrices", &c.to_vec().unwrap(), &expected, 0.0);
}

fn many_columns(gpu: &Gpu) {
    for (columns, k) in [(4_300_001, 1), (1_050_004, 4)] {
        let (x, w, b) = (whole(1, k), whole(2, columns * k), whole(3, columns));
        let y =
            ops::linear(&upload(gpu, &[1, k], &x), &upload(gpu, &[columns, k], &w), Some(&upload(gpu, &[columns], &b)));
        let dot = |w: &[f32]| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>();
        let expected: Vec<_> = w.chunks(k).zip(&b).map(|(w, b)| dot(w) + b).collect();
        assert_close("columns", &y.unwrap().to_vec().unwrap(), &expected, 0.0);
    }
}

/// Of one token each, whose attention is its value, and its gradient the value's.
fn many_heads(gpu: &Gpu) {
    for (batch, heads) in [(66_000, 1), (1, 66_000)] {
        let (qkv, dy) = (whole(1, batch * heads * 3), whole(2, batch * heads));
        let tensor = leaf(gpu, &[batch, 1, 3 * heads], &qkv);
        let y = ops::attention_stored(&tensor, heads, &Mask::NONE, None).unwrap();
        let expected: Vec<f32> = qkv.chunks(3 * heads).flat_map(|sample| &sample[2 * heads..]).copied().collect();
        assert_close("heads", &y.to_vec().unwrap(), &expected, 0.0);
        let zeros = vec![0.0; 2 * heads];
        let d: Vec<f32> = dy.chunks(heads).flat_map(|dy| [&zeros[..], dy].concat()).collect();
        assert_gradients("heads", &y, &dy, &[(&tensor, &d)], 0.0);
    }
}

/// Grids of more workgroups along an axis than a dispatch may have.
#[test]
fn large_grids_are_folded() {
    for gpu in each_family() {
        many_matrices(&gpu);
        many_columns(&gpu);
        many_heads(&gpu);
    }
}
