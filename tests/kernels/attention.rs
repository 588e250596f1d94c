use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, poison, values};
use wgrad::gpu::Gpu;
use wgrad::ops::{self, Mask, attention::reference};
use wgrad::{Result, Tensor};

/// B, T, H, D.
const SIZES: &[reference::Sizes] = &[
    [1, 1, 1, 4],
    [2, 1, 3, 6],
    [2, 65, 3, 16],
    [1, 67, 2, 6],
    [2, 10, 3, 20],
    [1, 65, 1, 64],
    [3, 7, 2, 4],
    [1, 67, 3, 20],
    [2, 64, 2, 4],
    [1, 197, 1, 16],
];

/// Attention is taken twice, so that the second backward adds to the gradient of the first.
fn check(gpu: &Gpu, sizes: reference::Sizes, mask: Mask) {
    let [batch, tokens, heads, width] = sizes;
    let channels = heads * width;
    // Scores of a few units, so that the softmax is neither flat nor a single one.
    let qkv: Vec<f32> = values(1, batch * tokens * 3 * channels).iter().map(|v| 2.0 * v).collect();
    let dy = values(2, batch * tokens * channels);
    let causal = mask == Mask::Causal;
    let expected = reference::forward(&qkv, sizes, causal);
    let d_qkv: Vec<f32> = reference::backward(&qkv, &dy, sizes, causal).iter().map(|v| 2.0 * v).collect();

    let leaf = leaf(gpu, &[batch, tokens, 3 * channels], &qkv);
    let scores = batch * heads * tokens * tokens.next_multiple_of(4);
    poison(gpu, &[scores, scores, scores, dy.len(), qkv.len()]);
    let once = ops::attention(&leaf, heads, mask).unwrap();
    let what = format!("attention {sizes:?} {mask:?} ({:?})", gpu.family());
    assert_eq!(once.dims(), [batch, tokens, channels], "{what}");
    assert_close(&what, &once.to_vec().unwrap(), &expected, 1e-5);
    let twice = ops::add(&once, &ops::attention(&leaf, heads, mask).unwrap()).unwrap();
    assert_gradients(&what, &twice, &dy, &[(&leaf, &d_qkv)], 2e-5);
}

#[test]
fn attention() {
    for gpu in each_family() {
        SIZES.iter().for_each(|&sizes| check(&gpu, sizes, Mask::None));
    }
}

#[test]
fn causal_attention() {
    for gpu in each_family() {
        SIZES.iter().for_each(|&sizes| check(&gpu, sizes, Mask::Causal));
    }
}

/// Scores of hundreds overflow exp: the largest must be subtracted first.
#[test]
fn large_scores() {
    for gpu in each_family() {
        let sizes = [1, 10, 1, 4];
        let qkv: Vec<f32> = values(1, 10 * 12).iter().map(|v| 40.0 * v).collect();
        let leaf = leaf(&gpu, &[1, 10, 12], &qkv);
        let out = ops::attention(&leaf, 1, Mask::None).unwrap();
        assert_close("large scores", &out.to_vec().unwrap(), &reference::forward(&qkv, sizes, false), 1e-3);
    }
}

/// What a query must not see cannot change it.
#[test]
fn causal_rows_do_not_depend_on_later_tokens() {
    for gpu in each_family() {
        let mut qkv = values(1, 2 * 9 * 24);
        let run = |qkv: &[f32]| {
            let qkv = Tensor::from_slice(&gpu, &[2, 9, 24], qkv).unwrap();
            ops::attention(&qkv, 2, Mask::Causal).unwrap().to_vec::<f32>().unwrap()
        };
        let before = run(&qkv);
        // The last token of each sample.
        for sample in 0..2 {
            qkv[(sample * 9 + 8) * 24..(sample * 9 + 9) * 24].fill(7.0);
        }
        let after = run(&qkv);
        for sample in 0..2 {
            let rows = sample * 9 * 8..(sample * 9 + 8) * 8;
            assert_eq!(before[rows.clone()], after[rows], "sample {sample}");
        }
    }
}

#[test]
fn misfits_are_named() {
    let [gpu, _] = each_family();
    let message = |dims: &[usize], heads: usize| -> String {
        let qkv = leaf(&gpu, dims, &vec![0.0; dims.iter().product()]);
        let result: Result<Tensor> = ops::attention(&qkv, heads, Mask::None);
        result.unwrap_err().to_string()
    };
    assert_eq!(message(&[2, 5, 24], 3), "attention: the last axis must be 3·heads·D: got f32[2, 5, 24]");
    assert_eq!(message(&[2, 5, 24], 0), "attention: the last axis must be 3·heads·D: got f32[2, 5, 24]");
    assert_eq!(message(&[5, 24], 2), "attention: needs f32[B, T, 3·C]: got f32[5, 24]");
    assert!(message(&[2, 5, 24], usize::MAX).starts_with("attention"));
}
