use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, gpu_with_f16, poison, values};
use wgrad::gpu::Gpu;
use wgrad::ops::{self, column_sum::reference::column_sum, matmul::reference::product};
use wgrad::{DType, Result, Tensor};

/// M, N, K of products that divide tiles, that do not, and that are smaller than a vec4.
const SIZES: &[[usize; 3]] = &[
    [1, 1, 1],
    [3, 4, 7],
    [7, 8, 10],
    [4, 4, 3],
    [64, 64, 64],
    [65, 68, 100],
    [197, 65, 64],
    [8, 197, 3],
    [100, 1, 65],
    [4, 100, 197],
    [68, 10, 8],
    [197, 68, 100],
    [1, 64, 65],
    [64, 4, 1],
];

#[derive(Clone, Copy, Debug)]
enum Layout {
    Nn,
    Nt,
    Tn,
}

impl Layout {
    const ALL: [Layout; 3] = [Layout::Nn, Layout::Nt, Layout::Tn];

    fn run(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Layout::Nn => ops::matmul(a, b),
            Layout::Nt => ops::matmul_nt(a, b),
            Layout::Tn => ops::matmul_tn(a, b),
        }
    }

    /// Sizes of the stored A and B.
    fn stored(self, [m, n, k]: [usize; 3]) -> ([usize; 2], [usize; 2]) {
        match self {
            Layout::Nn => ([m, k], [k, n]),
            Layout::Nt => ([m, k], [n, k]),
            Layout::Tn => ([k, m], [k, n]),
        }
    }

    /// (C, dA, dB) of one product.
    fn reference(self, [m, n, k]: [usize; 3], a: &[f32], b: &[f32], dc: &[f32]) -> [Vec<f32>; 3] {
        let a_at = |i: usize, q: usize| if matches!(self, Layout::Tn) { a[q * m + i] } else { a[i * k + q] };
        let b_at = |q: usize, j: usize| if matches!(self, Layout::Nt) { b[j * k + q] } else { b[q * n + j] };
        let dc_at = |i: usize, j: usize| dc[i * n + j];
        // dA[i, q] = Σ_j dC[i, j] B[q, j], dB[q, j] = Σ_i A[i, q] dC[i, j]; stored transposed where A and B are.
        let da = match self {
            Layout::Tn => product([k, m, n], b_at, |j, i| dc_at(i, j)),
            _ => product([m, k, n], dc_at, |j, q| b_at(q, j)),
        };
        let db = match self {
            Layout::Nt => product([n, k, m], |j, i| dc_at(i, j), a_at),
            _ => product([k, n, m], |q, i| a_at(i, q), dc_at),
        };
        [product([m, n, k], a_at, b_at), da, db]
    }
}

fn twice(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| 2.0 * v).collect()
}

/// `leading` products, each with its own B. The product is taken twice, so that the second adds to the gradients of the
/// first.
fn check(gpu: &Gpu, layout: Layout, leading: &[usize], size: [usize; 3]) {
    let [m, n, _] = size;
    let (a_dims, b_dims) = layout.stored(size);
    let count: usize = leading.iter().product();
    let (a_size, b_size) = (a_dims[0] * a_dims[1], b_dims[0] * b_dims[1]);
    let (a, b, dc) = (values(1, count * a_size), values(2, count * b_size), values(3, count * m * n));
    let mut expected = [const { Vec::new() }; 3];
    for i in 0..count {
        let part = |v: &[f32], size: usize| v[i * size..(i + 1) * size].to_vec();
        let one = layout.reference(size, &part(&a, a_size), &part(&b, b_size), &part(&dc, m * n));
        expected.iter_mut().zip(one).for_each(|(all, one)| all.extend(one));
    }
    let (ta, tb) = (leaf(gpu, &[leading, &a_dims].concat(), &a), leaf(gpu, &[leading, &b_dims].concat(), &b));
    poison(gpu, &[count * m * n, count * a_size, count * b_size]);
    let c = layout.run(&ta, &tb).unwrap();
    let what = format!("{layout:?} {leading:?} {size:?} ({:?})", gpu.family());
    assert_eq!(c.dims(), [leading, &[m, n]].concat(), "{what}");
    assert_close(&what, &c.to_vec().unwrap(), &expected[0], 1e-5);
    let sum = ops::add(&c, &layout.run(&ta, &tb).unwrap()).unwrap();
    assert_gradients(&what, &sum, &dc, &[(&ta, &twice(&expected[1])), (&tb, &twice(&expected[2]))], 1e-5);
}

#[test]
fn matmul_in_every_layout() {
    for gpu in each_family() {
        for &size in SIZES {
            Layout::ALL.iter().for_each(|&layout| check(&gpu, layout, &[], size));
        }
    }
}

#[test]
fn matmul_batched() {
    for gpu in each_family() {
        for size in [[1, 1, 1], [7, 8, 10], [65, 4, 68], [10, 65, 3], [64, 68, 4]] {
            for leading in [&[3][..], &[2, 3], &[1, 1]] {
                Layout::ALL.iter().for_each(|&layout| check(&gpu, layout, leading, size));
            }
        }
    }
}

/// B has rank 2 and is shared by all of A's matrices: one tall product.
#[test]
fn matmul_with_shared_b() {
    for gpu in each_family() {
        for size in [[1, 3, 7], [7, 8, 10], [65, 64, 4]] {
            for (layout, leading) in [(Layout::Nn, &[3][..]), (Layout::Nt, &[2, 3])] {
                let [m, n, k] = size;
                let rows = leading.iter().product::<usize>() * m;
                let (a, b, dc) = (values(1, rows * k), values(2, n * k), values(3, rows * n));
                let [c, da, db] = layout.reference([rows, n, k], &a, &b, &dc);
                let (_, b_dims) = layout.stored(size);
                let (ta, tb) = (leaf(&gpu, &[leading, &[m, k]].concat(), &a), leaf(&gpu, &b_dims, &b));
                let product = layout.run(&ta, &tb).unwrap();
                let what = format!("{layout:?} {leading:?} {size:?}, shared B");
                assert_eq!(product.dims(), [leading, &[m, n]].concat(), "{what}");
                assert_close(&what, &product.to_vec().unwrap(), &c, 1e-5);
                assert_gradients(&what, &product, &dc, &[(&ta, &da), (&tb, &db)], 1e-5);
            }
        }
    }
}

#[test]
fn linear() {
    for gpu in each_family() {
        for &[m, n, k] in SIZES {
            for with_bias in [false, true] {
                let (x, w, b, dy) = (values(1, m * k), values(2, n * k), values(3, n), values(4, m * n));
                let [mut y, dx, dw] = Layout::Nt.reference([m, n, k], &x, &w, &dy);
                if with_bias {
                    y.iter_mut().zip(b.iter().cycle()).for_each(|(y, b)| *y += b);
                }
                let (tx, tw, tb) = (leaf(&gpu, &[1, m, k], &x), leaf(&gpu, &[n, k], &w), leaf(&gpu, &[n], &b));
                poison(&gpu, &[m * n, m * k, n * k, n]);
                let run = || ops::linear(&tx, &tw, with_bias.then_some(&tb)).unwrap();
                let out = run();
                let what = format!("linear {:?}, bias {with_bias} ({:?})", [m, n, k], gpu.family());
                assert_eq!(out.dims(), [1, m, n], "{what}");
                assert_close(&what, &out.to_vec().unwrap(), &y, 1e-5);
                let (dx, dw, db) = (twice(&dx), twice(&dw), twice(&column_sum(&dy, n)));
                let mut expected = vec![(&tx, &dx[..]), (&tw, &dw[..])];
                if with_bias {
                    expected.push((&tb, &db[..]));
                }
                let sum = ops::add(&out, &run()).unwrap();
                // A bias gradient sums values that may cancel: its rounding is that of the terms.
                assert_gradients(&what, &sum, &dy, &expected, 4e-5);
                if with_bias {
                    let residual = values(5, m * n);
                    let tr = leaf(&gpu, &[1, m, n], &residual);
                    y.iter_mut().zip(&residual).for_each(|(y, r)| *y += r);
                    let out = ops::linear_add(&tx, &tw, &tb, &tr).unwrap();
                    assert_close(&what, &out.to_vec().unwrap(), &y, 1e-5);
                    assert_gradients(&what, &out, &dy, &[(&tr, &dy)], 0.0);
                }
            }
        }
    }
}

/// Large enough for the largest tiles of a GPU, and not a multiple of them.
#[test]
fn matmul_of_many_tiles() {
    for gpu in each_family() {
        Layout::ALL.iter().for_each(|&layout| check(&gpu, layout, &[], [1409, 1412, 8]));
        check(&gpu, Layout::Nn, &[3], [700, 1000, 4]);
    }
}

/// A K so large that it is split, where that is worth it: evenly, or, if it is a prime, not at all.
#[test]
fn matmul_of_great_depth() {
    for gpu in each_family() {
        for k in [2048, 3 * 1009, 4099] {
            check(&gpu, Layout::Tn, &[], [20, 36, k]);
        }
    }
}

/// More rows than one dispatch can make.
#[test]
fn matmul_of_very_many_rows() {
    for gpu in each_family() {
        let rows = 65_535 * 8 + 11;
        let a = values(1, rows);
        let (ta, tb) = (upload(&gpu, &[rows, 1], &a), upload(&gpu, &[1, 1], &[0.5]));
        let expected: Vec<_> = a.iter().map(|v| 0.5 * v).collect();
        let c = ops::matmul(&ta, &tb).unwrap();
        assert_close("many rows", &c.to_vec().unwrap(), &expected, 0.0);
    }
}

/// Half-precision activations: of their dtype is the result, but not what is added to a residual.
#[test]
fn linear_of_half_precision() {
    if gpu_with_f16().is_none() {
        return;
    }
    for gpu in each_family() {
        for &[m, n, k] in SIZES.iter().chain(&[[20, 36, 2048], [2048, 20, 36]]) {
            let (x, w, b, dy) = (values(1, m * k), values(2, n * k), values(3, n), values(4, m * n));
            let residual = values(5, m * n);
            let [plain, dx, dw] = Layout::Nt.reference([m, n, k], &x, &w, &dy);
            let with_bias: Vec<_> = plain.iter().zip(b.iter().cycle()).map(|(y, b)| y + b).collect();
            let added: Vec<_> = with_bias.iter().zip(&residual).map(|(y, r)| y + r).collect();
            let db = column_sum(&dy, n);
            let leaves = || (leaf(&gpu, &[m, k], &x), leaf(&gpu, &[n, k], &w), leaf(&gpu, &[n], &b));
            let what = format!("linear of f16 {:?} ({:?})", [m, n, k], gpu.family());

            let (tx, tw, _) = leaves();
            let narrow = ops::cast(&tx, DType::F16).unwrap();
            let y = ops::linear(&narrow, &tw, None).unwrap();
            assert_eq!(y.dtype(), DType::F16, "{what}");
            let y = ops::cast(&y, DType::F32).unwrap();
            assert_close(&what, &y.to_vec().unwrap(), &plain, 1e-2);
            assert_gradients(&what, &y, &dy, &[(&tx, &dx), (&tw, &dw)], 1e-2);

            let (tx, tw, tb) = leaves();
            let narrow = ops::cast(&tx, DType::F16).unwrap();
            let biased = ops::cast(&ops::linear(&narrow, &tw, Some(&tb)).unwrap(), DType::F32).unwrap();
            assert_close(&what, &biased.to_vec().unwrap(), &with_bias, 1e-2);
            // A bias gradient sums values that may cancel.
            assert_gradients(&what, &biased, &dy, &[(&tb, &db)], 4e-2);

            let (tx, tw, tb) = leaves();
            let tr = leaf(&gpu, &[m, n], &residual);
            let y = ops::linear_add(&ops::cast(&tx, DType::F16).unwrap(), &tw, &tb, &tr).unwrap();
            assert_eq!(y.dtype(), DType::F32, "{what}");
            assert_close(&what, &y.to_vec().unwrap(), &added, 1e-2);
            assert_gradients(&what, &y, &dy, &[(&tx, &dx), (&tw, &dw), (&tb, &db), (&tr, &dy)], 1e-2);
        }
    }
}

#[test]
fn linear_of_a_vector() {
    for gpu in each_family() {
        let (x, w) = (values(1, 8), values(2, 24));
        let [y, dx, dw] = Layout::Nt.reference([1, 3, 8], &x, &w, &[1.0, -2.0, 0.5]);
        let (tx, tw) = (leaf(&gpu, &[8], &x), leaf(&gpu, &[3, 8], &w));
        let out = ops::linear(&tx, &tw, None).unwrap();
        assert_eq!(out.dims(), [3]);
        assert_close("linear of a vector", &out.to_vec().unwrap(), &y, 1e-6);
        assert_gradients("linear of a vector", &out, &[1.0, -2.0, 0.5], &[(&tx, &dx), (&tw, &dw)], 1e-6);
    }
}

/// Only what is in the graph is differentiated: a frozen weight, data without gradient.
#[test]
fn linear_with_one_side_outside_the_graph() {
    for gpu in each_family() {
        let (x, w, dy) = (values(1, 5 * 8), values(2, 4 * 8), values(3, 5 * 4));
        let [_, dx, dw] = Layout::Nt.reference([5, 4, 8], &x, &w, &dy);
        let (tx, tw) = (leaf(&gpu, &[5, 8], &x), leaf(&gpu, &[4, 8], &w));
        let only_x = ops::linear(&tx, &tw.detach(), None).unwrap();
        assert_gradients("dx alone", &only_x, &dy, &[(&tx, &dx)], 1e-5);
        let only_w = ops::linear(&tx.detach(), &tw, None).unwrap();
        assert_gradients("dw alone", &only_w, &dy, &[(&tw, &dw)], 1e-5);
    }
}

#[test]
fn misfits_are_named() {
    let [gpu, _] = each_family();
    let of = |dims: &[usize]| leaf(&gpu, dims, &vec![0.0; dims.iter().product()]);
    let message = |result: Result<Tensor>| result.unwrap_err().to_string();
    let (a, b) = (of(&[2, 5, 8]), of(&[7, 8]));
    assert_eq!(message(ops::matmul(&a, &b)), "matmul: inner sizes differ: lhs f32[2, 5, 8], rhs f32[7, 8]");
    assert_eq!(message(ops::matmul_tn(&a, &b)), "matmul_tn: leading axes differ: lhs f32[2, 5, 8], rhs f32[7, 8]");
    assert_eq!(message(ops::matmul_nt(&of(&[8]), &b)), "matmul_nt: needs rank 2 or more: got f32[8]");
    assert_eq!(
        message(ops::linear(&a, &of(&[7, 9]), None)),
        "linear: inner sizes differ: lhs f32[2, 5, 8], rhs f32[7, 9]"
    );
    assert_eq!(
        message(ops::linear(&a, &b, Some(&of(&[8])))),
        "linear: the bias must be f32[out]: lhs f32[7, 8], rhs f32[8]"
    );
    let labels = Tensor::from_slice(&gpu, &[5, 8], &[0u32; 40]).unwrap();
    assert_eq!(message(ops::linear(&labels, &b, None)), "linear: needs f32 or f16: got u32[5, 8]");
    assert_eq!(message(ops::linear(&of(&[]), &of(&[7, 1]), None)), "linear: needs at least one axis: got f32[]");
}
