//! Operations that are made of others.

use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::{
    self, log_softmax::reference as of_log_softmax, losses::reference as of_losses, rms_norm::reference as of_rms,
};

#[test]
fn log_softmax() {
    for gpu in each_family() {
        for dims in [&[1][..], &[7], &[5, 13], &[2, 3, 12], &[3, 1757]] {
            let x: Vec<_> = values(1, dims.iter().product()).iter().map(|v| v * 20.0).collect();
            let (dy, width) = (values(2, x.len()), dims[dims.len() - 1]);
            let tx = leaf(&gpu, dims, &x);
            let y = ops::log_softmax(&tx).unwrap();
            let what = format!("log_softmax {dims:?}");
            assert_close(&what, &y.to_vec().unwrap(), &of_log_softmax::forward(&x, width), 1e-5);
            assert_gradients(&what, &y, &dy, &[(&tx, &of_log_softmax::backward(&x, &dy, width))], 2e-5);
        }
    }
}

#[test]
fn losses() {
    for gpu in each_family() {
        for n in [1, 7, 1757] {
            let (x, t): (Vec<f32>, Vec<f32>) = (
                values(1, n).iter().map(|v| v * 8.0).collect(),
                values(2, n).iter().map(|v| (v + 1.0) / 2.0).collect(),
            );
            let (tx, tt) = (upload(&gpu, &[n], &x), upload(&gpu, &[n], &t));
            let mse = ops::mse_loss(&tx, &tt).unwrap().item().unwrap();
            assert_close("mse_loss", &[mse], &[of_losses::mse_loss(&x, &t)], 1e-5);
            let bce = ops::binary_cross_entropy_with_logits(&tx, &tt).unwrap().item().unwrap();
            assert_close("bce", &[bce], &[of_losses::binary_cross_entropy_with_logits(&x, &t)], 1e-5);
        }
        // Where e⁹⁰ would overflow. PyTorch: 90 and 0.
        for (target, expected) in [(0.0, 90.0), (1.0, 0.0)] {
            let (x, t) = (upload(&gpu, &[1], &[90.0]), upload(&gpu, &[1], &[target]));
            assert_eq!(ops::binary_cross_entropy_with_logits(&x, &t).unwrap().item().unwrap(), expected);
        }
        let message =
            ops::mse_loss(&upload(&gpu, &[2], &[0.0; 2]), &upload(&gpu, &[1], &[0.0])).unwrap_err().to_string();
        assert_eq!(message, "mse_loss: shapes differ: lhs f32[2], rhs f32[1]");
    }
}

#[test]
fn rms_norm() {
    for gpu in each_family() {
        for dims in [&[1][..], &[5, 13], &[2, 3, 12], &[7, 1757]] {
            let width = dims[dims.len() - 1];
            let (x, weight) = (values(1, dims.iter().product()), values(2, width));
            let y = ops::rms_norm(&upload(&gpu, dims, &x), &upload(&gpu, &[width], &weight), 1e-3).unwrap();
            assert_close(
                &format!("rms_norm {dims:?}"),
                &y.to_vec().unwrap(),
                &of_rms::forward(&x, &weight, 1e-3),
                1e-5,
            );
        }
        // An eps of 0, as layernorm takes it.
        let (x, weight) = (upload(&gpu, &[1, 4], &[3.0, -3.0, 3.0, 3.0]), upload(&gpu, &[4], &[1.0, 1.0, 2.0, 0.0]));
        let y: Vec<f32> = ops::rms_norm(&x, &weight, 0.0).unwrap().to_vec().unwrap();
        assert_close("rms_norm without eps", &y, &[1.0, -1.0, 2.0, 0.0], 1e-5);
        for eps in [-1e-6, f32::NAN, f32::INFINITY] {
            let message = ops::rms_norm(&x, &weight, eps).unwrap_err().to_string();
            assert!(message.starts_with("rms_norm: eps must be finite and not negative"), "{message}");
        }
    }
}
