use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::{self, add::reference};

/// Values whose sum does not cancel, so that it can be compared closely.
fn positive(seed: u64, n: usize) -> Vec<f32> {
    values(seed, n).iter().map(|v| v + 1.0).collect()
}

/// (sizes of x, axes of x that y lacks)
const CASES: &[(&[usize], usize)] = &[
    (&[1], 0),
    (&[7], 0),
    (&[7], 1),
    (&[1757], 1),
    (&[3, 65, 7], 0),
    (&[3, 65, 7], 1),
    (&[3, 65, 7], 2),
    (&[3, 65, 7], 3),
    (&[2, 197, 64], 1),
    (&[2, 197, 64], 2),
    (&[1757, 12], 1),
    (&[2, 3, 5, 8], 2),
    (&[1, 1, 65], 2),
];

#[test]
fn add() {
    for gpu in each_family() {
        for &(dims, lacking) in CASES {
            let y_dims = &dims[lacking..];
            let (n, m) = (dims.iter().product(), y_dims.iter().product());
            let (x, y, dz) = (values(1, n), values(2, m), positive(3, n));
            let (tx, ty) = (leaf(&gpu, dims, &x), leaf(&gpu, y_dims, &y));
            let z = ops::add(&tx, &ty).unwrap();
            let what = format!("add {dims:?} + {y_dims:?}");
            assert_close(&what, &z.to_vec().unwrap(), &reference::forward(&x, &y), 0.0);
            let dy = reference::column_sum(&dz, m);
            assert_gradients(&what, &z, &dz, &[(&tx, &dz), (&ty, &dy)], 2e-6);
        }
    }
}

/// Column sums of the shapes of a ViT's bias gradients, written and then added to: y is used twice.
#[test]
fn column_sum_of_wide_and_narrow_rows() {
    for gpu in each_family() {
        let usual = [(520, 192), (2080, 64), (12608, 3), (63, 1757), (65, 197), (4000, 1), (1, 768)];
        // Where a GPU begins to share columns and to need a second pass; and columns enough without sharing.
        let bounds = [(7, 12), (8, 4), (15, 8), (33, 20), (1025, 1000), (1088, 68), (17, 131_076)];
        for (rows, width) in [&usual[..], &bounds].concat() {
            let (x, y, dz) = (values(1, rows * width), values(2, width), positive(3, rows * width));
            let (tx, ty) = (leaf(&gpu, &[rows, width], &x), leaf(&gpu, &[width], &y));
            let z = ops::add(&ops::add(&tx, &ty).unwrap(), &ty).unwrap();
            let dy: Vec<f32> = reference::column_sum(&dz, width).iter().map(|v| 2.0 * v).collect();
            assert_gradients(&format!("column sum {rows}x{width}"), &z, &dz, &[(&tx, &dz), (&ty, &dy)], 3e-6);
        }
    }
}

#[test]
fn add_to_itself() {
    for gpu in each_family() {
        let x = values(1, 65);
        let tx = leaf(&gpu, &[65], &x);
        let z = ops::add(&tx, &tx).unwrap();
        let twice: Vec<f32> = x.iter().map(|v| 2.0 * v).collect();
        assert_close("x + x", &z.to_vec().unwrap(), &twice, 0.0);
        assert_gradients("x + x", &z, &x, &[(&tx, &twice)], 0.0);
    }
}
