use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::{self, concat_tokens::reference};

#[test]
fn concat_tokens() {
    for gpu in each_family() {
        for (batch, lengths, width) in [
            (1, &[1][..], 1),
            (3, &[1, 7], 5),
            (2, &[1, 64, 3], 64),
            (65, &[7, 1], 12),
            (2, &[197, 1, 197], 20),
            (1, &[1757, 1], 7),
        ] {
            let data: Vec<_> = lengths.iter().zip(1..).map(|(t, seed)| values(seed, batch * t * width)).collect();
            let leaves: Vec<_> = data.iter().zip(lengths).map(|(x, &t)| leaf(&gpu, &[batch, t, width], x)).collect();
            let y = ops::concat_tokens(&leaves.iter().collect::<Vec<_>>()).unwrap();
            let total: usize = lengths.iter().sum();
            assert_eq!(y.dims(), [batch, total, width]);
            let what = format!("concat of {lengths:?}, B {batch}, C {width}");
            let parts: Vec<_> = data.iter().map(Vec::as_slice).collect();
            assert_close(&what, &y.to_vec().unwrap(), &reference::forward(&parts, batch), 0.0);
            let dy = values(9, batch * total * width);
            let starts = lengths.iter().scan(0, |next, &t| Some(std::mem::replace(next, *next + t)));
            let slice = |(start, &t)| ops::slice_tokens::reference::forward(&dy, total, width, start..start + t);
            let gradients: Vec<_> = starts.zip(lengths).map(slice).collect();
            let expected: Vec<_> = leaves.iter().zip(gradients.iter().map(Vec::as_slice)).collect();
            assert_gradients(&what, &y, &dy, &expected, 0.0);
        }
    }
}

/// One tensor as two parts: its gradient is the sum.
#[test]
fn concat_with_itself() {
    for gpu in each_family() {
        let (x, half) = (values(1, 3 * 5), values(2, 3 * 5));
        let tx = leaf(&gpu, &[1, 3, 5], &x);
        let y = ops::concat_tokens(&[&tx, &tx]).unwrap();
        let dx: Vec<f32> = half.iter().map(|v| 2.0 * v).collect();
        assert_gradients("concat with itself", &y, &[half.clone(), half].concat(), &[(&tx, &dx)], 0.0);
    }
}
