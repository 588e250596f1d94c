use super::kept_tokens::{SIZES, positions};
use crate::common::{assert_close, each_family, gpu, values};
use wgrad::ops::{self, TokenIndices};
use wgrad::{Error, Tensor};

#[test]
fn token_gather() {
    for gpu in each_family() {
        for [batch, tokens, kept, channels] in SIZES {
            let what = format!("token_gather {kept} of [{batch}, {tokens}, {channels}]");
            let at = positions(batch, tokens, kept);
            let (x, dy) = (values(1, batch * tokens * channels), values(2, batch * kept * channels));
            let leaf = Tensor::from_slice(&gpu, &[batch, tokens, channels], &x).unwrap().requires_grad().unwrap();
            let indices = TokenIndices::new(&gpu, [batch, kept], tokens, &at).unwrap();
            let y = ops::token_gather(&leaf, &indices).unwrap();
            let reference = ops::token_gather::reference::forward(&x, &at, batch, tokens);
            assert_close(&what, &y.to_vec().unwrap(), &reference, 0.0);
            let dy_tensor = Tensor::from_slice(&gpu, &[batch, kept, channels], &dy).unwrap();
            let grads = y.backward_from(&dy_tensor).unwrap();
            let reference = ops::token_gather::reference::backward(&dy, &at, batch, tokens);
            assert_close(&format!("{what} dx"), &grads.get(&leaf).unwrap().to_vec().unwrap(), &reference, 0.0);
        }
    }
}

/// Two uses of one tensor: the second adds to the gradient of the first, on its own rows only.
#[test]
fn gradient_of_two_gathers_adds_up() {
    let gpu = gpu();
    for channels in [3, 8] {
        let x = Tensor::from_slice(&gpu, &[1, 4, channels], &values(1, 4 * channels)).unwrap().requires_grad().unwrap();
        let gathered = |at: &[u32]| {
            let indices = TokenIndices::new(&gpu, [1, 2], 4, at).unwrap();
            ops::token_gather(&x, &indices).unwrap()
        };
        let y = ops::add(&gathered(&[0, 2]), &gathered(&[2, 3])).unwrap();
        let ones = Tensor::from_slice(&gpu, &[1, 2, channels], &vec![1.0f32; 2 * channels]).unwrap();
        let dx = y.backward_from(&ones).unwrap().get(&x).unwrap().to_vec::<f32>().unwrap();
        let rows: Vec<_> = dx.chunks(channels).map(|row| row[0]).collect();
        assert_eq!(rows, [1.0, 0.0, 2.0, 1.0]);
        assert!(dx.chunks(channels).all(|row| row.iter().all(|v| *v == row[0])));
    }
}

#[test]
fn index_out_of_range_is_reported_and_reads_nothing() {
    let gpu = gpu();
    let x = Tensor::from_slice(&gpu, &[2, 3, 4], &values(1, 24)).unwrap().requires_grad().unwrap();
    // 3 of the first sample would be the second sample's first row; the other is far beyond the buffer.
    let at = Tensor::from_slice(&gpu, &[2, 2], &[1u32, 3, 0, u32::MAX]).unwrap();
    let y = ops::token_gather(&x, &TokenIndices::from_tensor(&at, 3).unwrap()).unwrap();
    match y.to_vec::<f32>() {
        Err(Error::OutOfRange { op: "token_gather", what: "token index", value: 3 | u32::MAX, bound: 3 }) => {}
        other => panic!("{other:?}"),
    }
    let (x, got) = (values(1, 24), y.to_vec::<f32>().unwrap());
    assert_eq!(got, [&x[4..8], &[0.0; 4], &x[12..16], &[0.0; 4]].concat());
    let dy = Tensor::from_slice(&gpu, &[2, 2, 4], &values(2, 16)).unwrap();
    let leaf = Tensor::from_slice(&gpu, &[2, 3, 4], &x).unwrap().requires_grad().unwrap();
    let y = ops::token_gather(&leaf, &TokenIndices::from_tensor(&at, 3).unwrap()).unwrap();
    let grads = y.backward_from(&dy).unwrap();
    assert!(matches!(y.to_vec::<f32>(), Err(Error::OutOfRange { op: "token_gather", .. })));
    let (dy, dx) = (values(2, 16), grads.get(&leaf).unwrap().to_vec::<f32>().unwrap());
    assert_eq!(dx, [&[0.0; 4], &dy[0..4], &[0.0; 4], &dy[8..12], &[0.0; 8][..]].concat());
}

#[test]
fn misfits_are_named() {
    let gpu = gpu();
    let message = |r: wgrad::Result<Tensor>| r.unwrap_err().to_string();
    let x = Tensor::from_slice(&gpu, &[2, 3, 4], &values(1, 24)).unwrap();
    let indices = |batch, tokens| TokenIndices::new(&gpu, [batch, 1], tokens, &vec![0; batch]).unwrap();
    assert_eq!(
        message(ops::token_gather(&x, &indices(3, 3))),
        "token_gather: x f32[B, T, C] and indices u32[B, R] differ in B: lhs f32[2, 3, 4], rhs u32[3, 1]"
    );
    assert_eq!(
        message(ops::token_gather(&x, &indices(2, 5))),
        "token_gather: indices must be for the 3 tokens of x f32[2, 3, 4], got indices for 5 tokens"
    );
    let flat = Tensor::from_slice(&gpu, &[6, 4], &values(1, 24)).unwrap();
    assert_eq!(message(ops::token_gather(&flat, &indices(2, 3))), "token_gather: needs f32[B, T, C]: got f32[6, 4]");
    let whole = Tensor::from_slice(&gpu, &[2, 3, 4], &[0u32; 24]).unwrap();
    assert_eq!(message(ops::token_gather(&whole, &indices(2, 3))), "token_gather: needs f32: got u32[2, 3, 4]");
    let other = TokenIndices::new(&crate::common::gpu(), [2, 1], 3, &[0, 0]).unwrap();
    assert!(message(ops::token_gather(&x, &other)).contains("different devices"));
}

#[test]
fn indices_are_checked() {
    let gpu = gpu();
    let message =
        |batch, kept, tokens, at: &[u32]| TokenIndices::new(&gpu, [batch, kept], tokens, at).unwrap_err().to_string();
    assert_eq!(
        message(2, 2, 5, &[0, 1, 3, 3]),
        "TokenIndices: token index must be above the one before it, 3, got 3 in sample 1 at position 1"
    );
    assert_eq!(
        message(2, 2, 5, &[0, 5, 1, 3]),
        "TokenIndices: token index must be below 5, the number of tokens, got 5 in sample 0 at position 1"
    );
    assert!(message(1, 2, 5, &[2, 1]).contains("above the one before it, 2, got 1 in sample 0"));
    assert_eq!(message(2, 2, 5, &[0, 1, 2]), "TokenIndices: number of positions must be 4 for shape [2, 2], got 3");
    assert_eq!(message(1, 6, 5, &[0; 6]), "TokenIndices: kept must be at most 5, the number of tokens, got 6");
    for (batch, kept) in [(0, 1), (1, 0), (usize::MAX, 2), (1 << 20, 1 << 20)] {
        assert!(message(batch, kept, usize::MAX, &[]).starts_with("TokenIndices: shape must be"));
    }
    let tensor = Tensor::from_slice(&gpu, &[2, 2], &[0.0f32; 4]).unwrap();
    assert!(TokenIndices::from_tensor(&tensor, 5).unwrap_err().to_string().contains("needs u32[B, R]: got f32[2, 2]"));
}
