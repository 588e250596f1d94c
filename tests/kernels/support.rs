//! What the tests of operations share.

use crate::common::{assert_close, values};
use wgrad::{DType, Gpu, Result, Tensor, ops};

/// `data` on the device.
pub fn upload(gpu: &Gpu, dims: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_slice(gpu, dims, data).unwrap()
}

/// `data` on the device, as a leaf of a graph.
pub fn leaf(gpu: &Gpu, dims: &[usize], data: &[f32]) -> Tensor {
    upload(gpu, dims, data).requires_grad().unwrap()
}

/// Differentiates `y` from the gradient `dy` and compares the gradients of the leaves.
#[track_caller]
pub fn assert_gradients(what: &str, y: &Tensor, dy: &[f32], expected: &[(&Tensor, &[f32])], tolerance: f32) {
    let gradients = y.backward_from(&upload(y.gpu(), y.dims(), dy)).unwrap();
    for (i, (leaf, reference)) in expected.iter().enumerate() {
        let gradient = gradients.get(leaf).unwrap();
        assert_eq!(gradient.dims(), leaf.dims(), "{what}: shape of gradient {i}");
        assert_close(&format!("{what}: gradient {i}"), &gradient.to_vec().unwrap(), reference, tolerance);
    }
}

/// In half precision: a tensor that `f` is called with twice has twice the gradient that it has of one call, the second added to the
/// first.
#[track_caller]
pub fn assert_halves_add_up(what: &str, x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) {
    let gradient = |calls: usize| -> Vec<f32> {
        let x = x.requires_grad().unwrap();
        let half = ops::cast(&x, DType::F16).unwrap();
        let call = || ops::cast(&f(&half).unwrap(), DType::F32).unwrap();
        let y = (1..calls).fold(call(), |sum, _| ops::add(&sum, &call()).unwrap());
        let dy = upload(y.gpu(), y.dims(), &values(2, y.numel()));
        y.backward_from(&dy).unwrap().get(&x).unwrap().to_vec().unwrap()
    };
    let expected: Vec<f32> = gradient(1).iter().map(|v| 2.0 * v).collect();
    assert_close(&format!("{what}, used twice"), &gradient(2), &expected, 2e-3);
}

/// Fails unless `hits` of `n` draws of probability `p` are within five standard deviations.
#[track_caller]
pub fn assert_frequency(what: &str, hits: usize, n: usize, p: f64) {
    let deviations = (hits as f64 - n as f64 * p) / (n as f64 * p * (1.0 - p)).sqrt();
    assert!(deviations.abs() < 5.0, "{what}: {hits} of {n}, {deviations:.1} deviations from {p}");
}
