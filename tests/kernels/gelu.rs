use super::support::{assert_gradients, assert_halves_add_up};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::gelu::reference;
use wgrad::ops::{self, Gelu};
use wgrad::{DType, Tensor};

const FORMS: [Gelu; 3] = [Gelu::Erf, Gelu::Tanh, Gelu::Quick];

#[test]
fn gelu() {
    for gpu in each_family() {
        for (n, approximate) in [1, 7, 64, 65, 1757].into_iter().flat_map(|n| FORMS.map(|gelu| (n, gelu))) {
            let mut x: Vec<_> = values(1, n).iter().map(|v| v * 6.0).collect();
            x[0] = 3.0; // the tolerance is relative to the largest value, also where there is only one
            let dy = values(2, n);
            let leaf = Tensor::from_slice(&gpu, &[n], &x).unwrap().requires_grad().unwrap();
            let y = ops::gelu(&leaf, approximate).unwrap();
            let what = format!("gelu {n} by {approximate:?}");
            assert_close(&what, &y.to_vec().unwrap(), &reference::forward(&x, approximate), 1e-6);
            assert_gradients(&what, &y, &dy, &[(&leaf, &reference::backward(&x, &dy, approximate))], 1e-6);
            if gpu.has_f16() {
                let half = ops::gelu(&ops::cast(&leaf, DType::F16).unwrap(), approximate).unwrap();
                let full = ops::cast(&half, DType::F32).unwrap();
                assert_close(&what, &full.to_vec().unwrap(), &reference::forward(&x, approximate), 2e-3);
                assert_halves_add_up(&what, &leaf, |x| ops::gelu(x, approximate));
            }
        }
    }
}

/// Where exponentials and squares overflow, the value is x or nothing, and the slope 1 or 0.
#[test]
fn gelu_far_from_zero() {
    for gpu in each_family() {
        let x = [-1e30, -1e5, -150.0, 150.0, 1e5, 1e30f32];
        for approximate in FORMS {
            let leaf = Tensor::from_slice(&gpu, &[6], &x).unwrap().requires_grad().unwrap();
            let y = ops::gelu(&leaf, approximate).unwrap();
            assert_eq!(y.to_vec::<f32>().unwrap(), x.map(|x| x.max(0.0)), "{approximate:?}");
            let slope = x.map(|x| f32::from(x > 0.0));
            assert_gradients("slope", &y, &[1.0; 6], &[(&leaf, &slope)], 0.0);
        }
    }
}
