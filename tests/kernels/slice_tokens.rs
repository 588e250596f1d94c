use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::{self, slice_tokens::reference};

#[test]
fn slice_tokens() {
    for gpu in each_family() {
        for (batch, tokens, width, range) in [
            (1, 1, 1, 0..1),
            (3, 7, 5, 2..6),
            (2, 65, 64, 0..1),
            (65, 7, 12, 0..1),
            (2, 197, 20, 1..197),
            (1, 1757, 7, 1756..1757),
            (70_000, 2, 1, 1..2),
        ] {
            let x = values(1, batch * tokens * width);
            let dy = values(2, batch * range.len() * width);
            let tx = leaf(&gpu, &[batch, tokens, width], &x);
            let y = ops::slice_tokens(&tx, range.clone()).unwrap();
            assert_eq!(y.dims(), [batch, range.len(), width]);
            let what = format!("slice {range:?} of [{batch}, {tokens}, {width}]");
            let expected = reference::forward(&x, tokens, width, range.clone());
            assert_close(&what, &y.to_vec().unwrap(), &expected, 0.0);
            let dx = reference::backward(&dy, tokens, width, range.clone());
            assert_gradients(&what, &y, &dy, &[(&tx, &dx)], 0.0);
        }
    }
}

/// Two slices that overlap: the first gradient is written, the second added.
#[test]
fn overlapping_slices() {
    for gpu in each_family() {
        let (x, dy) = (values(1, 2 * 7 * 12), values(2, 2 * 4 * 12));
        let tx = leaf(&gpu, &[2, 7, 12], &x);
        let slice = |range| ops::slice_tokens(&tx, range).unwrap();
        let y = ops::add(&slice(0..4), &slice(2..6)).unwrap();
        let (left, right) = (reference::backward(&dy, 7, 12, 0..4), reference::backward(&dy, 7, 12, 2..6));
        let dx: Vec<f32> = left.iter().zip(&right).map(|(l, r)| l + r).collect();
        assert_gradients("overlapping slices", &y, &dy, &[(&tx, &dx)], 0.0);
    }
}
