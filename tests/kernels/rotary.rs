use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::attention::rotary::reference;
use wgrad::ops::{self, Rotary, TokenIndices};
use wgrad::{DType, Gpu, Tensor};

/// B, T, H, D: heads of whole vectors and of odd ones, more rows than a workgroup has invocations.
const SIZES: [[usize; 4]; 6] =
    [[1, 1, 1, 2], [2, 7, 3, 6], [2, 5, 1, 8], [3, 13, 2, 16], [1, 197, 3, 64], [2, 65, 2, 20]];

fn angles(tokens: usize, width: usize) -> Vec<f64> {
    values(7, tokens * width / 2).into_iter().map(|value| 7.0 * f64::from(value)).collect()
}

fn rotary_of(gpu: &Gpu, tokens: usize, angles: &[f64], interleaved: bool) -> Rotary {
    let rotary = Rotary::new(gpu, tokens, angles).unwrap();
    if interleaved { rotary.interleaved() } else { rotary }
}

#[test]
fn rotary() {
    for (gpu, interleaved) in each_family().into_iter().flat_map(|gpu| [(gpu.clone(), false), (gpu, true)]) {
        for [batch, tokens, heads, width] in SIZES {
            let row = 3 * heads * width;
            let dims = [batch, tokens, row];
            let (x, dy) = (values(1, batch * tokens * row), values(2, batch * tokens * row));
            let angles = angles(tokens, width);
            let turns = rotary_of(&gpu, tokens, &angles, interleaved);
            let places: Vec<usize> = (0..batch).flat_map(|_| 0..tokens).collect();
            let turned =
                |x: &[f32], sense| reference::turned(x, heads, (&angles, width / 2, interleaved), &places, sense);
            let what = format!("rotary {dims:?} of {width}, interleaved {interleaved} ({:?})", gpu.family());
            let qkv = leaf(&gpu, &dims, &x);
            let y = ops::rotary(qkv.clone(), heads, &turns, None).unwrap();
            assert_close(&what, &y.to_vec().unwrap(), &turned(&x, 1.0), 1e-6);
            assert_eq!(qkv.to_vec::<f32>().unwrap(), x, "{what}: what others hold stays as it is");
            assert_gradients(&what, &y, &dy, &[(&qkv, &turned(&dy, -1.0))], 1e-6);
            if gpu.has_f16() {
                let half = ops::cast(&upload(&gpu, &dims, &x), DType::F16).unwrap();
                let y = ops::rotary(half, heads, &turns, None).unwrap();
                assert_eq!(y.dtype(), DType::F16);
                let y: Vec<f32> = ops::cast(&y, DType::F32).unwrap().to_vec().unwrap();
                assert_close(&what, &y, &turned(&x, 1.0), 2e-3);
            }
        }
    }
}

#[test]
fn rotary_of_kept_tokens() {
    let (batch, tokens, kept, heads, width) = (2, 9, 4, 3, 16);
    let positions = [0, 2, 3, 8, 1, 4, 6, 7];
    let places: Vec<usize> = positions.iter().map(|&p| p as usize).collect();
    let (dims, angles) = ([batch, kept, 3 * heads * width], angles(tokens, width));
    let x = values(1, dims.iter().product());
    for (gpu, interleaved) in each_family().into_iter().flat_map(|gpu| [(gpu.clone(), false), (gpu, true)]) {
        let turns = rotary_of(&gpu, tokens, &angles, interleaved);
        let indices = TokenIndices::new(&gpu, [batch, kept], tokens, &positions).unwrap();
        let qkv = leaf(&gpu, &dims, &x);
        let y = ops::rotary(qkv.clone(), heads, &turns, Some(&indices)).unwrap();
        let turned = |x: &[f32], sense| reference::turned(x, heads, (&angles, width / 2, interleaved), &places, sense);
        assert_close("kept", &y.to_vec().unwrap(), &turned(&x, 1.0), 1e-6);
        let dy = values(2, x.len());
        assert_gradients("kept", &y, &dy, &[(&qkv, &turned(&dy, -1.0))], 1e-6);
    }
}

#[test]
fn rotary_errors() {
    let gpu = crate::common::gpu();
    let turns = Rotary::new(&gpu, 5, &angles(5, 8)).unwrap();
    let message = |dims: &[usize], heads, kept: Option<&TokenIndices>| {
        let qkv = Tensor::zeros(&gpu, DType::F32, dims).unwrap();
        ops::rotary(qkv, heads, &turns, kept).unwrap_err().to_string()
    };
    assert!(message(&[2, 4, 48], 2, None).contains("rotary: angles must be f32[T, D]"));
    assert!(message(&[2, 5, 48], 4, None).contains("f32[T, D]"));
    assert!(message(&[2, 5, 9], 1, None).contains("even"));
    assert!(message(&[2, 5], 1, None).contains("[B, T, 3"));
    let kept = TokenIndices::new(&gpu, [1, 3], 5, &[0, 1, 2]).unwrap();
    assert!(message(&[2, 3, 48], 2, Some(&kept)).contains("u32[B, R]"));
    assert!(Rotary::new(&gpu, 4, &[0.0; 6]).unwrap_err().to_string().contains("number of angles"));
    for bad in [f64::NAN, f64::INFINITY] {
        let message = Rotary::new(&gpu, 2, &[0.0, bad]).unwrap_err().to_string();
        assert_eq!(message, format!("rotary: angles must be finite, got {bad}"));
    }
}
