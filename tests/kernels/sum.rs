use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, values};
use wgrad::Tensor;
use wgrad::ops::{self, sum::reference};

#[test]
fn sum_and_mean() {
    for gpu in each_family() {
        for n in [1, 7, 65, 197, 1757, 4096, 4097, 65_537, 3_000_001] {
            let x: Vec<f32> = values(1, n).iter().map(|v| v + 0.5).collect();
            let tx = leaf(&gpu, &[n], &x);
            let (sum, mean) = (ops::sum(&tx).unwrap(), ops::mean(&tx).unwrap());
            assert_eq!((sum.dims(), mean.dims()), (&[][..], &[][..]));
            assert_close(&format!("sum {n}"), &[sum.item().unwrap()], &[reference::sum(&x)], 1e-6);
            assert_close(&format!("mean {n}"), &[mean.item().unwrap()], &[reference::mean(&x)], 1e-6);
            assert_gradients(&format!("sum {n}"), &sum, &[-1.5], &[(&tx, &vec![-1.5; n])], 0.0);
            assert_gradients(&format!("mean {n}"), &mean, &[-1.5], &[(&tx, &vec![-1.5 / n as f32; n])], 1e-6);
        }
    }
}

/// What a buffer holds past the tensor's end must not be added up.
#[test]
fn sum_ignores_padding() {
    for gpu in each_family() {
        for _ in 0..3 {
            // The pool hands the same memory out again.
            drop(Tensor::from_slice(&gpu, &[8], &[f32::NAN; 8]).unwrap());
            let x = Tensor::from_slice(&gpu, &[5], &[1.0f32; 5]).unwrap();
            assert_eq!(ops::sum(&x).unwrap().item().unwrap(), 5.0);
        }
    }
}

#[test]
fn sum_is_reproducible() {
    for gpu in each_family() {
        let x = Tensor::from_slice(&gpu, &[100_003], &values(9, 100_003)).unwrap();
        let bits = || ops::sum(&x).unwrap().item().unwrap().to_bits();
        let first = bits();
        assert!((0..10).all(|_| bits() == first));
    }
}
