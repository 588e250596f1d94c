use crate::common::{assert_close, each_family, values};
use wgrad::{Tensor, ops};

#[test]
fn gelu() {
    for gpu in each_family() {
        for n in [1, 7, 64, 65, 1757] {
            let mut x: Vec<_> = values(1, n).iter().map(|v| v * 6.0).collect();
            x[0] = 3.0; // the tolerance is relative to the largest value, also where there is only one
            let dy = values(2, n);
            let leaf = Tensor::from_slice(&gpu, &[n], &x).unwrap().requires_grad().unwrap();
            let y = ops::gelu(&leaf).unwrap();
            assert_close(&format!("gelu {n}"), &y.to_vec().unwrap(), &ops::gelu::reference::forward(&x), 1e-6);
            let grads = y.backward_from(&Tensor::from_slice(&gpu, &[n], &dy).unwrap()).unwrap();
            let dx = grads.get(&leaf).unwrap().to_vec().unwrap();
            assert_close(&format!("gelu backward {n}"), &dx, &ops::gelu::reference::backward(&x, &dy), 1e-6);
        }
    }
}
