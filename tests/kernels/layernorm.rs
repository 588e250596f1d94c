use crate::common::{assert_close, each_family, values};
use wgrad::{Tensor, ops};

#[test]
fn layernorm() {
    for gpu in each_family() {
        for (rows, width) in [(1, 1), (1, 7), (3, 64), (65, 65), (197, 48), (1757, 7)] {
            let (x, dy) = (values(1, rows * width), values(2, rows * width));
            let (w, b) = (values(3, width), values(4, width));
            let leaf =
                |shape: &[usize], data: &[f32]| Tensor::from_slice(&gpu, shape, data).unwrap().requires_grad().unwrap();
            let (tx, tw, tb) = (leaf(&[rows, width], &x), leaf(&[width], &w), leaf(&[width], &b));
            let y = ops::layernorm(&tx, &tw, &tb, 1e-6).unwrap();
            let what = format!("layernorm {rows}x{width}");
            assert_close(&what, &y.to_vec().unwrap(), &ops::layernorm::reference::forward(&x, &w, &b, 1e-6), 2e-5);
            let grads = y.backward_from(&Tensor::from_slice(&gpu, &[rows, width], &dy).unwrap()).unwrap();
            let (dx, dw, db) = ops::layernorm::reference::backward(&x, &w, &dy, 1e-6);
            for (name, leaf, reference) in [("dx", &tx, dx), ("dw", &tw, dw), ("db", &tb, db)] {
                let got = grads.get(leaf).unwrap().to_vec().unwrap();
                assert_close(&format!("{what} {name}"), &got, &reference, 2e-5);
            }
        }
    }
}
