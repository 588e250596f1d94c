use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::{self, mul::reference::mul as product, scale::reference::scale as scaled};

#[test]
fn mul() {
    for gpu in each_family() {
        for n in [1, 7, 65, 197, 1757] {
            let (x, y, dz) = (values(1, n), values(2, n), values(3, n));
            let (tx, ty) = (leaf(&gpu, &[n], &x), leaf(&gpu, &[n], &y));
            let z = ops::mul(&tx, &ty).unwrap();
            let what = format!("mul {n}");
            assert_close(&what, &z.to_vec().unwrap(), &product(&x, &y), 0.0);
            assert_gradients(&what, &z, &dz, &[(&tx, &product(&dz, &y)), (&ty, &product(&dz, &x))], 0.0);
        }
    }
}

#[test]
fn square() {
    for gpu in each_family() {
        let (x, dz) = (values(1, 65), values(2, 65));
        let tx = leaf(&gpu, &[65], &x);
        let dx = scaled(&product(&x, &dz), 2.0);
        assert_gradients("x * x", &ops::mul(&tx, &tx).unwrap(), &dz, &[(&tx, &dx)], 1e-6);
    }
}

#[test]
fn scale() {
    for gpu in each_family() {
        for n in [1, 7, 65, 197, 1757] {
            let (x, dy) = (values(1, n), values(2, n));
            let tx = leaf(&gpu, &[n], &x);
            let y = ops::scale(&tx, -1.75).unwrap();
            assert_close(&format!("scale {n}"), &y.to_vec().unwrap(), &scaled(&x, -1.75), 0.0);
            assert_gradients(&format!("scale {n}"), &y, &dy, &[(&tx, &scaled(&dy, -1.75))], 0.0);
        }
    }
}
