use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, gpu_with_f16, values};
use wgrad::ops::add_linear::reference::{Setting, backward, forward};
use wgrad::ops::{self, add_linear};
use wgrad::{DType, Gpu};

/// Rows, N, M, K and the first column: all columns and some, by fours and not, of low ranks.
const CASES: &[[usize; 5]] = &[
    [1, 1, 1, 1, 0],
    [1, 6, 2, 4, 0],
    [7, 12, 12, 4, 0],
    [7, 12, 4, 3, 8],
    [65, 192, 64, 8, 64],
    [65, 21, 7, 2, 14],
    [197, 96, 32, 1, 0],
    [1757, 36, 36, 5, 0],
    [1757, 24, 8, 16, 16],
];

fn cases() -> impl Iterator<Item = (Setting, [Vec<f32>; 4])> {
    CASES.iter().map(|&[rows, width, count, inner, first]| {
        let setting = Setting { rows, width, count, inner, first, alpha: 0.75 };
        let sizes = [rows * width, rows * inner, count * inner, rows * width];
        let mut seed = 0;
        (
            setting,
            sizes.map(|n| {
                seed += 1;
                values(seed, n)
            }),
        )
    })
}

fn check(gpu: &Gpu, dtypes: [DType; 2], tolerance: f32) {
    for (s, [y, x, w, dy]) in cases() {
        let what = format!("add_linear {s:?} of {dtypes:?} ({:?})", gpu.family());
        let leaves = [leaf(gpu, &[s.rows, s.width], &y), leaf(gpu, &[s.rows, s.inner], &x)];
        let tw = leaf(gpu, &[s.count, s.inner], &w);
        let [ty, tx] = [0, 1].map(|i| ops::cast(&leaves[i], dtypes[i]).unwrap());
        let sum = add_linear(ty, &tx, &tw, s.alpha, s.first).unwrap();
        assert_eq!(sum.dtype(), dtypes[0], "{what}");
        let sum = ops::cast(&sum, DType::F32).unwrap();
        assert_close(&what, &sum.to_vec().unwrap(), &forward(&y, &x, &w, s), tolerance);
        let [dx, dw] = backward(&x, &w, &dy, s);
        let gradients: [(_, &[f32]); 3] = [(&leaves[0], &dy), (&leaves[1], &dx), (&tw, &dw)];
        assert_gradients(&what, &sum, &dy, &gradients, tolerance);
    }
}

#[test]
fn add_linear_to_all_columns_and_to_some() {
    for gpu in each_family() {
        check(&gpu, [DType::F32; 2], 1e-5);
    }
}

#[test]
fn add_linear_in_half_precision() {
    let Some(gpu) = gpu_with_f16() else { return };
    check(&gpu, [DType::F16; 2], 1e-2);
    check(&gpu, [DType::F32, DType::F16], 1e-2);
}

#[test]
fn add_linear_works_in_place_where_it_may() {
    for gpu in each_family() {
        let [y, x, w] = [(8, 6), (8, 2), (6, 2)].map(|(n, m)| upload(&gpu, &[n, m], &values(1, n * m)));
        let kept = y.clone();
        let before = kept.to_vec::<f32>().unwrap();
        let first = add_linear(y, &x, &w, 1.0, 0).unwrap();
        assert_eq!(kept.to_vec::<f32>().unwrap(), before, "another handle sees the old values");
        let live = gpu.memory().live;
        let second = add_linear(first, &x, &w, 1.0, 0).unwrap();
        assert_eq!(gpu.memory().live, live, "no other memory is taken");
        let twice: Vec<f32> = second.to_vec().unwrap();
        let s = Setting { rows: 8, width: 6, count: 6, inner: 2, first: 0, alpha: 2.0 };
        assert_close("in place", &twice, &forward(&before, &values(1, 16), &values(1, 12), s), 1e-5);
    }
}

#[test]
fn add_linear_names_what_does_not_fit() {
    let [gpu, _] = each_family();
    let tensor = |dims: &[usize]| upload(&gpu, dims, &values(1, dims.iter().product()));
    let message = |y: &[usize], x: &[usize], w: &[usize], first| {
        add_linear(tensor(y), &tensor(x), &tensor(w), 1.0, first).unwrap_err().to_string()
    };
    assert_eq!(message(&[2, 8], &[2, 3], &[8, 4], 0), "add_linear: inner sizes differ: lhs f32[2, 3], rhs f32[8, 4]");
    assert_eq!(message(&[3, 8], &[2, 3], &[8, 3], 0), "add_linear: leading axes differ: lhs f32[3, 8], rhs f32[2, 3]");
    for (w, first) in [([4, 3], 6), ([4, 3], usize::MAX), ([2, 3], 2)] {
        let message = message(&[2, 8], &[2, 3], &w, first);
        assert!(message.contains("all 8 columns, or a part of them"), "{message}");
    }
}
