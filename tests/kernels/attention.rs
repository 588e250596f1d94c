use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, gpu_with_f16, poison, values};
use wgrad::gpu::Gpu;
use wgrad::ops::{self, Mask, attention::reference};
use wgrad::{DType, Result, Tensor};

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

/// Tokens around the tiles of 24 and 32 rows, and with more or fewer than 8 in the last; for the narrowest heads that
/// flash has a form for.
const FLASH_SIZES: &[reference::Sizes] = &[
    [3, 1, 2, 16],
    [1, 2, 1, 16],
    [2, 5, 1, 16],
    [1, 24, 2, 16],
    [2, 25, 3, 16],
    [1, 31, 2, 16],
    [2, 32, 1, 16],
    [1, 33, 3, 16],
    [1, 39, 1, 16],
    [2, 41, 1, 16],
    [1, 64, 1, 16],
    [2, 65, 3, 16],
    [1, 197, 2, 16],
];

/// Those that flash has a form for.
const WIDTHS: [usize; 7] = [16, 32, 48, 64, 80, 96, 128];

type Attention = fn(&Tensor, usize, Mask) -> Result<Tensor>;

/// Attention is taken twice, so that the second backward adds to the gradient of the first.
fn check(gpu: &Gpu, attention: Attention, sizes: reference::Sizes, mask: Mask) {
    let [batch, tokens, heads, width] = sizes;
    let channels = heads * width;
    // Scores of a few units, so that the softmax is neither flat nor a single one.
    let qkv: Vec<f32> = values(1, batch * tokens * 3 * channels).iter().map(|v| 2.0 * v).collect();
    let dy = values(2, batch * tokens * channels);
    let causal = mask == Mask::Causal;
    let expected = reference::forward(&qkv, sizes, causal);
    let d_qkv: Vec<f32> = reference::backward(&qkv, &dy, sizes, causal).iter().map(|v| 2.0 * v).collect();

    let leaf = leaf(gpu, &[batch, tokens, 3 * channels], &qkv);
    let (scores, rows) = (batch * heads * tokens * tokens.next_multiple_of(4), batch * heads * tokens);
    poison(gpu, &[scores, scores, scores, dy.len(), qkv.len(), rows, rows]);
    let once = attention(&leaf, heads, mask).unwrap();
    let what = format!("attention {sizes:?} {mask:?} ({:?})", gpu.family());
    assert_eq!(once.dims(), [batch, tokens, channels], "{what}");
    assert_close(&what, &once.to_vec().unwrap(), &expected, 1e-5);
    let twice = ops::add(&once, &attention(&leaf, heads, mask).unwrap()).unwrap();
    assert_gradients(&what, &twice, &dy, &[(&leaf, &d_qkv)], 2e-5);
}

#[test]
fn stored() {
    for gpu in each_family() {
        SIZES.iter().for_each(|&sizes| check(&gpu, ops::attention_stored, sizes, Mask::None));
    }
}

#[test]
fn causal_stored() {
    for gpu in each_family() {
        SIZES.iter().for_each(|&sizes| check(&gpu, ops::attention_stored, sizes, Mask::Causal));
    }
}

#[test]
fn flash() {
    for gpu in each_family() {
        FLASH_SIZES.iter().for_each(|&sizes| check(&gpu, ops::attention_flash, sizes, Mask::None));
    }
}

#[test]
fn causal_flash() {
    for gpu in each_family() {
        FLASH_SIZES.iter().for_each(|&sizes| check(&gpu, ops::attention_flash, sizes, Mask::Causal));
    }
}

/// By the choice that users get: old drivers take seconds for each of flash's kernels that they are not meant to run.
#[test]
fn every_width() {
    for gpu in each_family() {
        for width in WIDTHS {
            check(&gpu, ops::attention, [2, 37, 2, width], Mask::None);
            check(&gpu, ops::attention, [1, 37, 1, width], Mask::Causal);
        }
    }
}

/// More matrices than a grid may be wide: the grid is folded, and its last row is not full.
#[test]
fn many_heads() {
    for gpu in each_family() {
        let (heads, width) = (65_539, 16);
        let qkv = values(3, 3 * heads * width);
        let leaf = leaf(&gpu, &[1, 1, 3 * heads * width], &qkv);
        let out = ops::attention_flash(&leaf, heads, Mask::None).unwrap();
        // Of one token, attention returns v, whose gradient is dy.
        let v = &qkv[2 * heads * width..];
        assert_close("one token", &out.to_vec().unwrap(), v, 1e-6);
        let mut d_qkv = vec![0.0; 3 * heads * width];
        d_qkv[2 * heads * width..].copy_from_slice(v);
        assert_gradients("one token", &out, v, &[(&leaf, &d_qkv)], 1e-5);
    }
}

/// Scores of hundreds overflow exp: the largest must be subtracted first.
#[test]
fn large_scores() {
    for gpu in each_family() {
        for (attention, width) in [(ops::attention_stored as Attention, 4), (ops::attention_flash, 16)] {
            let sizes = [1, 30, 1, width];
            let qkv: Vec<f32> = values(1, 30 * 3 * width).iter().map(|v| 40.0 * v).collect();
            let dy = values(2, 30 * width);
            let leaf = leaf(&gpu, &[1, 30, 3 * width], &qkv);
            let out = attention(&leaf, 1, Mask::None).unwrap();
            assert_close("large scores", &out.to_vec().unwrap(), &reference::forward(&qkv, sizes, false), 1e-3);
            let d_qkv = reference::backward(&qkv, &dy, sizes, false);
            assert_gradients("large scores", &out, &dy, &[(&leaf, &d_qkv)], 1e-3);
        }
    }
}

/// In half precision, both forms; inputs are rounded before either precision sees them.
#[test]
fn half_precision() {
    if gpu_with_f16().is_none() {
        return;
    }
    for gpu in each_family() {
        for (attention, width) in [(ops::attention_stored as Attention, 20), (ops::attention_flash, 16)] {
            check_half(&gpu, attention, [2, 67, 2, width]);
        }
    }
}

/// As `every_width`, in half precision.
#[test]
fn every_width_in_half_precision() {
    if gpu_with_f16().is_none() {
        return;
    }
    for gpu in each_family() {
        WIDTHS.iter().for_each(|&width| check_half(&gpu, ops::attention, [1, 37, 2, width]));
    }
}

fn check_half(gpu: &Gpu, attention: Attention, sizes: reference::Sizes) {
    let [batch, tokens, heads, width] = sizes;
    let channels = heads * width;
    let qkv = ops::cast::reference::narrow(&values(1, batch * tokens * 3 * channels));
    let dy = ops::cast::reference::narrow(&values(2, batch * tokens * channels));
    let leaf = leaf(gpu, &[batch, tokens, 3 * channels], &qkv);
    let half = ops::cast(&leaf, DType::F16).unwrap();
    let y = attention(&half, heads, Mask::Causal).unwrap();
    assert_eq!(y.dtype(), DType::F16);
    let wide = ops::cast(&y, DType::F32).unwrap();
    let what = format!("attention in half precision {sizes:?} ({:?})", gpu.family());
    assert_close(&what, &wide.to_vec().unwrap(), &reference::forward(&qkv, sizes, true), 1e-2);
    assert_gradients(&what, &wide, &dy, &[(&leaf, &reference::backward(&qkv, &dy, sizes, true))], 1e-2);
}

/// The two forms agree, and with each other's gradient.
#[test]
fn flash_and_stored_agree() {
    for gpu in each_family() {
        let (dims, heads) = ([2, 50, 3 * 32], 2);
        let run = |attention: Attention| {
            let leaf = leaf(&gpu, &dims, &values(5, dims.iter().product()));
            let y = attention(&leaf, heads, Mask::None).unwrap();
            let gradients = y.backward_from(&y.detach()).unwrap();
            (y.to_vec::<f32>().unwrap(), gradients.get(&leaf).unwrap().to_vec::<f32>().unwrap())
        };
        let (flash, stored) = (run(ops::attention_flash), run(ops::attention_stored));
        assert_close("flash against stored", &flash.0, &stored.0, 1e-5);
        assert_close("flash against stored: gradient", &flash.1, &stored.1, 1e-5);
    }
}

/// Flash keeps a number a row, not one a score.
#[test]
fn flash_stores_no_scores() {
    let [gpu, _] = each_family();
    let used = |attention: Attention| {
        let leaf = leaf(&gpu, &[1, 600, 48], &values(6, 600 * 48));
        let before = gpu.memory().live;
        let y = attention(&leaf, 1, Mask::None).unwrap();
        let after = gpu.memory().live;
        drop(y);
        after - before
    };
    let scores = 600 * 600 * 4;
    assert!(used(ops::attention_stored) >= scores);
    assert!(used(ops::attention_flash) < scores / 16);
}

/// What a query must not see cannot change it.
#[test]
fn causal_rows_do_not_depend_on_later_tokens() {
    for gpu in each_family() {
        for (attention, width) in [(ops::attention_stored as Attention, 4), (ops::attention_flash, 16)] {
            let (row, out_row) = (6 * width, 2 * width);
            let mut qkv = values(1, 2 * 9 * row);
            let run = |qkv: &[f32]| {
                let qkv = Tensor::from_slice(&gpu, &[2, 9, row], qkv).unwrap();
                attention(&qkv, 2, Mask::Causal).unwrap().to_vec::<f32>().unwrap()
            };
            let before = run(&qkv);
            // The last token of each sample.
            for sample in 0..2 {
                qkv[(sample * 9 + 8) * row..(sample * 9 + 9) * row].fill(7.0);
            }
            let after = run(&qkv);
            for sample in 0..2 {
                let rows = sample * 9 * out_row..(sample * 9 + 8) * out_row;
                assert_eq!(before[rows.clone()], after[rows], "sample {sample}, width {width}");
            }
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
    assert_eq!(message(&[5, 24], 2), "attention: needs [B, T, 3·C]: got f32[5, 24]");
    assert!(message(&[2, 5, 24], usize::MAX).starts_with("attention"));
    let odd = ops::attention_flash(&leaf(&gpu, &[2, 5, 24], &[0.0; 240]), 2, Mask::None).unwrap_err().to_string();
    assert_eq!(odd, "attention: flash has no form for this width of a head: got f32[2, 5, 24]");
}
