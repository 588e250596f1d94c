use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::{self, mean_tokens::reference};

#[test]
fn mean_tokens() {
    for gpu in each_family() {
        for (batch, tokens, width, skip) in [
            (1, 1, 1, 0),
            (3, 7, 5, 1),
            (2, 65, 64, 0),
            (65, 7, 12, 6),
            (2, 197, 20, 1),
            (1, 1757, 7, 5),
            (2, 5, 300, 1),
        ] {
            let x: Vec<f32> = values(1, batch * tokens * width).iter().map(|v| v + 0.5).collect();
            let dy = values(2, batch * width);
            let tx = leaf(&gpu, &[batch, tokens, width], &x);
            let y = ops::mean_tokens(&tx, skip).unwrap();
            assert_eq!(y.dims(), [batch, width]);
            let what = format!("mean of [{batch}, {tokens}, {width}] without {skip}");
            assert_close(&what, &y.to_vec().unwrap(), &reference::forward(&x, tokens, width, skip), 1e-5);
            let dx = reference::backward(&dy, tokens, width, skip);
            assert_gradients(&what, &y, &dy, &[(&tx, &dx)], 1e-6);
        }
    }
}
