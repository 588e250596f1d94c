//! Attention token by token against causal attention of all tokens at once.

use super::support::upload;
use crate::common::{assert_close, each_family, gpu_with_f16, poison, values};
use wgrad::autograd::no_grad;
use wgrad::ops::{self, KeyValues, Mask};
use wgrad::{DType, Gpu, Tensor};

/// Tokens `range` of `qkv` `[batch, tokens, row]`.
fn tokens(qkv: &[f32], [all, row]: [usize; 2], range: std::ops::Range<usize>) -> Vec<f32> {
    qkv.chunks(all * row).flat_map(|sample| sample[range.start * row..range.end * row].to_vec()).collect()
}

/// Runs `steps` of so many new tokens each, in a cache with room for three more, and compares each with causal attention of all.
fn check(gpu: &Gpu, [batch, heads, width]: [usize; 3], steps: &[usize]) {
    let (all, channels) = (steps.iter().sum::<usize>(), heads * width);
    let qkv: Vec<f32> = values(1, batch * all * 3 * channels).iter().map(|v| 2.0 * v).collect();
    let whole = upload(gpu, &[batch, all, 3 * channels], &qkv);
    let expected = ops::attention_stored(&whole, heads, &Mask::CAUSAL, None).unwrap().to_vec::<f32>().unwrap();
    // What nobody has written is not read.
    let scores = batch * heads * all * all.next_multiple_of(4);
    poison(gpu, &[batch * (all + 3) * 2 * channels, scores, scores, scores / all, batch * all * channels]);
    let mut cache = KeyValues::new(gpu, batch, all + 3, channels).unwrap();
    let mut done = 0;
    for &new in steps {
        let part = tokens(&qkv, [all, 3 * channels], done..done + new);
        let y = ops::attention_cached(&upload(gpu, &[batch, new, 3 * channels], &part), heads, &mut cache).unwrap();
        assert_eq!(y.dims(), [batch, new, channels]);
        let expected = tokens(&expected, [all, channels], done..done + new);
        let what = format!("{new} behind {done} of {batch}x{heads}x{width} ({:?})", gpu.family());
        assert_close(&what, &y.to_vec().unwrap(), &expected, 1e-5);
        done += new;
        assert_eq!(cache.len(), done);
    }
}

#[test]
fn token_by_token_is_all_at_once() {
    for gpu in each_family() {
        check(&gpu, [1, 1, 4], &[1, 1, 1]);
        check(&gpu, [2, 3, 16], &[1; 18]);
        check(&gpu, [1, 2, 6], &[5, 1, 1, 3, 1]);
        check(&gpu, [3, 2, 20], &[37, 1, 30, 1, 1]);
        check(&gpu, [1, 4, 64], &[70, 1, 1]);
        check(&gpu, [2, 1, 5], &[3, 2, 1]);
    }
}

#[test]
fn half_precision() {
    let Some(gpu) = gpu_with_f16() else { return };
    let qkv = ops::cast(&upload(&gpu, &[2, 5, 48], &values(1, 480)), DType::F16).unwrap();
    let mut cache = KeyValues::new(&gpu, 2, 5, 16).unwrap();
    let y = ops::attention_cached(&qkv, 1, &mut cache).unwrap();
    assert_eq!(y.dtype(), DType::F16);
    let of = |y: &Tensor| ops::cast(y, DType::F32).unwrap().to_vec::<f32>().unwrap();
    let expected = ops::attention_stored(&qkv, 1, &Mask::CAUSAL, None).unwrap();
    assert_close("f16", &of(&y), &of(&expected), 1e-3);
}

/// What is forgotten has left no trace.
#[test]
fn a_cache_that_is_cut_goes_on_from_there() {
    for gpu in each_family() {
        let qkv = values(1, 9 * 48);
        let part = |range| upload(&gpu, &[1, 3, 48], &tokens(&qkv, [9, 48], range));
        let mut cache = KeyValues::new(&gpu, 1, 9, 16).unwrap();
        assert!(cache.is_empty() && cache.capacity() == 9);
        ops::attention_cached(&part(0..3), 2, &mut cache).unwrap();
        let before = ops::attention_cached(&part(3..6), 2, &mut cache).unwrap().to_vec::<f32>().unwrap();
        cache.truncate(3);
        ops::attention_cached(&part(6..9), 2, &mut cache).unwrap();
        cache.truncate(3);
        cache.truncate(8);
        assert_eq!(cache.len(), 3);
        let again = ops::attention_cached(&part(3..6), 2, &mut cache).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(before, again);
    }
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    let [gpu, _] = each_family();
    let zeros = |dims: &[usize]| Tensor::zeros(&gpu, DType::F32, dims).unwrap();
    let mut cache = KeyValues::new(&gpu, 2, 4, 16).unwrap();
    ops::attention_cached(&zeros(&[2, 3, 48]), 2, &mut cache).unwrap();
    let mut message = |qkv: &Tensor| ops::attention_cached(qkv, 2, &mut cache).unwrap_err().to_string();
    let full = message(&zeros(&[2, 2, 48]));
    assert_eq!(full, "attention_cached: cache must be room for 2 more, got 3 of 4 taken");
    assert!(message(&zeros(&[1, 1, 48])).contains("differ in B or C"));
    assert!(message(&zeros(&[2, 1, 24])).contains("differ in B or C"));
    assert!(message(&zeros(&[2, 48])).contains("needs [B, T, 3·C]"));
    let leaf = zeros(&[2, 1, 48]).requires_grad().unwrap();
    assert!(message(&leaf).contains("within no_grad"));
    assert_eq!(cache.len(), 3);
    // As in a model: parameters are leaves, and nothing is recorded.
    let qkv = no_grad(|| ops::scale(&leaf, 1.0)).unwrap();
    ops::attention_cached(&qkv, 2, &mut cache).unwrap();
    assert_eq!(cache.len(), 4);
}
