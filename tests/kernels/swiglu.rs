use super::support::{assert_gradients, assert_halves_add_up, leaf, upload};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::elementwise::swiglu::reference;
use wgrad::{DType, Tensor, ops};

#[test]
fn swiglu() {
    for gpu in each_family() {
        for (rows, width) in [(1, 1), (7, 5), (3, 8), (65, 12), (13, 85), (9, 197)] {
            let scaled = |v: f32| 6.0 * v;
            let x: Vec<f32> = values(1, rows * 2 * width).into_iter().map(scaled).collect();
            let dy = values(2, rows * width);
            let on_device = leaf(&gpu, &[rows, 2 * width], &x);
            let y = ops::swiglu(&on_device).unwrap();
            let what = format!("swiglu of {rows} x {width} ({:?})", gpu.family());
            let expected = reference::forward(&x, width);
            assert_close(&what, &y.to_vec().unwrap(), &expected, 1e-6);
            assert_gradients(&what, &y, &dy, &[(&on_device, &reference::backward(&x, &dy, width))], 1e-6);
            if gpu.has_f16() {
                let half = ops::cast(&upload(&gpu, &[rows, 2 * width], &x), DType::F16).unwrap();
                let y = ops::swiglu(&half).unwrap();
                assert_eq!(y.dtype(), DType::F16);
                let y: Vec<f32> = ops::cast(&y, DType::F32).unwrap().to_vec().unwrap();
                assert_close(&what, &y, &expected, 4e-3);
                assert_halves_add_up(&what, &on_device, ops::swiglu);
            }
        }
    }
}

/// Where exponentials overflow, a gate is open or shut.
#[test]
fn swiglu_far_from_zero() {
    for gpu in each_family() {
        let x = [-1e30, -200.0, 200.0, 1e30f32, 2.0, 2.0, 2.0, 0.5];
        let y = ops::swiglu(&upload(&gpu, &[1, 8], &x)).unwrap();
        assert_eq!(y.to_vec::<f32>().unwrap(), [0.0, 0.0, 400.0, 5e29]);
    }
}

#[test]
fn swiglu_errors() {
    let gpu = crate::common::gpu();
    let message = |x: &Tensor| ops::swiglu(x).unwrap_err().to_string();
    assert!(message(&upload(&gpu, &[2, 3], &[0.0; 6])).contains("two halves"));
    assert!(message(&Tensor::zeros(&gpu, DType::U32, &[2]).unwrap()).contains("f32 or f16"));
}
