use super::support::{assert_gradients, assert_halves_add_up, leaf, upload};
use crate::common::{assert_close, each_family, gpu_with_f16, poison, values};
use wgrad::gpu::Gpu;
use wgrad::ops::attention::{dropout::reference::factors, reference};
use wgrad::ops::{self, Dropout, Mask, RandomKey, TokenIndices};
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

type Attention = fn(&Tensor, usize, &Mask, Option<Dropout>) -> Result<Tensor>;

/// Which keys are seen and which weights dropped, on the host.
#[derive(Clone, Copy, Debug, Default)]
struct Case<'a> {
    causal: bool,
    lengths: Option<&'a [u32]>,
    dropout: Option<Dropout>,
}

const PLAIN: Case<'_> = Case { causal: false, lengths: None, dropout: None };
const CAUSAL: Case<'_> = Case { causal: true, lengths: None, dropout: None };

impl Case<'_> {
    fn mask(&self, gpu: &Gpu) -> Mask {
        let mask = if self.causal { Mask::CAUSAL } else { Mask::NONE };
        let Some(lengths) = self.lengths else { return mask };
        mask.with_lengths(&Tensor::from_slice(gpu, &[lengths.len()], lengths).unwrap()).unwrap()
    }

    /// Output and gradient of the reference.
    fn expected(&self, qkv: &[f32], dy: &[f32], sizes: reference::Sizes) -> (Vec<f32>, Vec<f32>) {
        let [batch, tokens, heads, _] = sizes;
        let factors = self.dropout.map(|dropout| factors(dropout, [batch, heads, tokens]));
        let masked = reference::Masked { causal: self.causal, lengths: self.lengths, factors: factors.as_deref() };
        (reference::forward(qkv, sizes, &masked), reference::backward(qkv, dy, sizes, &masked))
    }
}

/// Attention is taken twice, so that the second backward adds to the gradient of the first.
fn check(gpu: &Gpu, attention: Attention, sizes: reference::Sizes, case: Case<'_>) {
    let [batch, tokens, heads, width] = sizes;
    let channels = heads * width;
    // Scores of a few units, so that the softmax is neither flat nor a single one.
    let qkv: Vec<f32> = values(1, batch * tokens * 3 * channels).iter().map(|v| 2.0 * v).collect();
    let dy = values(2, batch * tokens * channels);
    let (expected, gradient) = case.expected(&qkv, &dy, sizes);
    let d_qkv: Vec<f32> = gradient.iter().map(|v| 2.0 * v).collect();

    let leaf = leaf(gpu, &[batch, tokens, 3 * channels], &qkv);
    let (scores, rows) = (batch * heads * tokens * tokens.next_multiple_of(4), batch * heads * tokens);
    poison(gpu, &[scores, scores, scores, dy.len(), qkv.len(), rows, rows]);
    let mask = case.mask(gpu);
    let once = attention(&leaf, heads, &mask, case.dropout).unwrap();
    let what = format!("attention {sizes:?} {case:?} ({:?})", gpu.family());
    assert_eq!(once.dims(), [batch, tokens, channels], "{what}");
    assert_close(&what, &once.to_vec().unwrap(), &expected, 1e-5);
    let twice = ops::add(&once, &attention(&leaf, heads, &mask, case.dropout).unwrap()).unwrap();
    assert_gradients(&what, &twice, &dy, &[(&leaf, &d_qkv)], 2e-5);
}

#[test]
fn stored() {
    for gpu in each_family() {
        SIZES.iter().for_each(|&sizes| check(&gpu, ops::attention_stored, sizes, PLAIN));
    }
}

#[test]
fn causal_stored() {
    for gpu in each_family() {
        SIZES.iter().for_each(|&sizes| check(&gpu, ops::attention_stored, sizes, CAUSAL));
    }
}

#[test]
fn flash() {
    for gpu in each_family() {
        FLASH_SIZES.iter().for_each(|&sizes| check(&gpu, ops::attention_flash, sizes, PLAIN));
    }
}

#[test]
fn causal_flash() {
    for gpu in each_family() {
        FLASH_SIZES.iter().for_each(|&sizes| check(&gpu, ops::attention_flash, sizes, CAUSAL));
    }
}

const KEY: RandomKey = RandomKey { seed: 42, step: 7, layer: 3, first_sample: 5 };
const DROPPED: Case<'_> = Case { causal: false, lengths: None, dropout: Some(Dropout { p: 0.3, key: KEY }) };

/// Samples of no key, of one, of some, of all and of more; tokens around vec4s and the tiles of 24 and 32 rows.
fn check_lengths(attention: Attention, width: usize) {
    let tokens = [1usize, 5, 24, 31, 33, 70];
    for gpu in each_family() {
        for tokens in tokens {
            for causal in [false, true] {
                let lengths = [0, 1, tokens / 2, tokens.saturating_sub(1), tokens, tokens + 9].map(|n| n as u32);
                for dropout in [None, DROPPED.dropout] {
                    let case = Case { causal, lengths: Some(&lengths), dropout };
                    check(&gpu, attention, [lengths.len(), tokens, 2, width], case);
                }
            }
        }
    }
}

#[test]
fn lengths_stored() {
    check_lengths(ops::attention_stored, 6);
}

#[test]
fn lengths_flash() {
    check_lengths(ops::attention_flash, 16);
}

/// A number far above T, which counts like T.
#[test]
fn lengths_are_clamped() {
    for gpu in each_family() {
        for (attention, width) in [(ops::attention_stored as Attention, 4), (ops::attention_flash, 16)] {
            check(&gpu, attention, [2, 9, 1, width], Case { lengths: Some(&[u32::MAX, 3]), ..PLAIN });
        }
    }
}

#[test]
fn dropout_stored() {
    for gpu in each_family() {
        for &sizes in SIZES {
            check(&gpu, ops::attention_stored, sizes, DROPPED);
            check(&gpu, ops::attention_stored, sizes, Case { causal: true, ..DROPPED });
        }
    }
}

#[test]
fn dropout_flash() {
    for gpu in each_family() {
        for &sizes in FLASH_SIZES {
            check(&gpu, ops::attention_flash, sizes, DROPPED);
            check(&gpu, ops::attention_flash, sizes, Case { causal: true, ..DROPPED });
        }
    }
}

/// Hardly anything is left, and what is, is large.
#[test]
fn much_dropout() {
    for gpu in each_family() {
        for (attention, width) in [(ops::attention_stored as Attention, 4), (ops::attention_flash, 16)] {
            let dropout = Some(Dropout { p: 0.99, key: RandomKey { first_sample: (5 << 32) - 1, ..KEY } });
            check(&gpu, attention, [2, 40, 2, width], Case { dropout, ..CAUSAL });
        }
    }
}

/// No dropout at p = 0 or without one: not even another kernel.
#[test]
fn nothing_is_dropped_at_0() {
    for gpu in each_family() {
        for (attention, width) in [(ops::attention_stored as Attention, 4), (ops::attention_flash, 16)] {
            let qkv = leaf(&gpu, &[2, 9, 3 * width], &values(1, 54 * width));
            let run = |dropout| attention(&qkv, 1, &Mask::NONE, dropout).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(run(Some(Dropout { p: 0.0, key: KEY })), run(None));
        }
    }
}

/// By the choice that users get: old drivers take seconds for each of flash's kernels that they are not meant to run.
#[test]
fn every_width() {
    for gpu in each_family() {
        for width in WIDTHS {
            check(&gpu, ops::attention, [2, 37, 2, width], PLAIN);
            check(&gpu, ops::attention, [1, 37, 1, width], CAUSAL);
            check(&gpu, ops::attention, [1, 37, 1, width], Case { lengths: Some(&[20]), ..DROPPED });
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
        let out = ops::attention_flash(&leaf, heads, &Mask::NONE, None).unwrap();
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
            let out = attention(&leaf, 1, &Mask::NONE, None).unwrap();
            let (expected, d_qkv) = PLAIN.expected(&qkv, &dy, sizes);
            assert_close("large scores", &out.to_vec().unwrap(), &expected, 1e-3);
            assert_gradients("large scores", &out, &dy, &[(&leaf, &d_qkv)], 1e-3);
        }
    }
}

/// A query whose visible scores have all overflowed to -∞ sees nothing: not what is masked from it.
#[test]
fn only_infinite_scores() {
    const T: usize = 32;
    for gpu in each_family() {
        for attention in [ops::attention_stored as Attention, ops::attention_flash] {
            let mut qkv = vec![0.0; T * 3 * 16];
            (qkv[0], qkv[16]) = (1e20, -1e20);
            for (token, row) in qkv.chunks_mut(48).enumerate() {
                row[32..].fill(token as f32);
            }
            let leaf = leaf(&gpu, &[1, T, 48], &qkv);
            let out = attention(&leaf, 1, &Mask::CAUSAL, None).unwrap();
            let got: Vec<f32> = out.to_vec().unwrap();
            assert_eq!(got[..16], [0.0; 16]);
            // Keys are alike to the others: the mean of what each sees.
            let expected: Vec<f32> = (1..T).flat_map(|token| [token as f32 / 2.0; 16]).collect();
            assert_close("the others", &got[16..], &expected, 1e-5);
            let dy = upload(&gpu, &[1, T, 16], &[[1.0; 16], [0.0; 16]].concat().repeat(T / 2));
            let grads = out.backward_from(&dy).unwrap();
            // Of the last value the gradient is that of the last query alone, whose dy is 0.
            let dv: Vec<f32> = grads.get(&leaf).unwrap().to_vec().unwrap();
            assert_eq!(dv[(T - 1) * 48 + 32..], [0.0; 16]);
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
            check_half(&gpu, attention, [2, 67, 2, width], CAUSAL);
            check_half(&gpu, attention, [2, 67, 2, width], Case { lengths: Some(&[0, 35]), ..DROPPED });
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
        WIDTHS.iter().for_each(|&width| check_half(&gpu, ops::attention, [1, 37, 2, width], CAUSAL));
        let qkv = upload(&gpu, &[1, 37, 96], &values(1, 37 * 96));
        assert_halves_add_up("attention", &qkv, |qkv| ops::attention(qkv, 2, &Mask::NONE, None));
    }
}

fn check_half(gpu: &Gpu, attention: Attention, sizes: reference::Sizes, case: Case<'_>) {
    let [batch, tokens, heads, width] = sizes;
    let channels = heads * width;
    let qkv = ops::cast::reference::narrow(&values(1, batch * tokens * 3 * channels));
    let dy = ops::cast::reference::narrow(&values(2, batch * tokens * channels));
    let leaf = leaf(gpu, &[batch, tokens, 3 * channels], &qkv);
    let half = ops::cast(&leaf, DType::F16).unwrap();
    let y = attention(&half, heads, &case.mask(gpu), case.dropout).unwrap();
    assert_eq!(y.dtype(), DType::F16);
    let wide = ops::cast(&y, DType::F32).unwrap();
    let what = format!("attention in half precision {sizes:?} {case:?} ({:?})", gpu.family());
    let (expected, d_qkv) = case.expected(&qkv, &dy, sizes);
    assert_close(&what, &wide.to_vec().unwrap(), &expected, 1e-2);
    assert_gradients(&what, &wide, &dy, &[(&leaf, &d_qkv)], 1e-2);
}

/// The two forms agree, and with each other's gradient.
#[test]
fn flash_and_stored_agree() {
    for gpu in each_family() {
        let (dims, heads) = ([2, 50, 3 * 32], 2);
        for case in [PLAIN, DROPPED, Case { causal: true, lengths: Some(&[17, 50]), ..DROPPED }] {
            let run = |attention: Attention| {
                let leaf = leaf(&gpu, &dims, &values(5, dims.iter().product()));
                let y = attention(&leaf, heads, &case.mask(&gpu), case.dropout).unwrap();
                let gradients = y.backward_from(&y.detach()).unwrap();
                (y.to_vec::<f32>().unwrap(), gradients.get(&leaf).unwrap().to_vec::<f32>().unwrap())
            };
            let (flash, stored) = (run(ops::attention_flash), run(ops::attention_stored));
            assert_close("flash against stored", &flash.0, &stored.0, 1e-5);
            assert_close("flash against stored: gradient", &flash.1, &stored.1, 1e-5);
        }
    }
}

/// Flash keeps a number a row, not one a score.
#[test]
fn flash_stores_no_scores() {
    let [gpu, _] = each_family();
    let used = |attention: Attention| {
        let leaf = leaf(&gpu, &[1, 600, 48], &values(6, 600 * 48));
        let before = gpu.memory().live;
        let y = attention(&leaf, 1, &Mask::NONE, None).unwrap();
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
                attention(&qkv, 2, &Mask::CAUSAL, None).unwrap().to_vec::<f32>().unwrap()
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

/// Padding cannot change what is seen, whatever it holds.
#[test]
fn rows_do_not_depend_on_padding() {
    for gpu in each_family() {
        for (attention, width) in [(ops::attention_stored as Attention, 4), (ops::attention_flash, 16)] {
            let (row, lengths) = (3 * width, [4usize, 7]);
            let mask = Case { lengths: Some(&[4, 7]), ..PLAIN }.mask(&gpu);
            let mut qkv = values(1, 2 * 9 * row);
            let run = |qkv: &[f32]| {
                let qkv = Tensor::from_slice(&gpu, &[2, 9, row], qkv).unwrap();
                attention(&qkv, 1, &mask, None).unwrap().to_vec::<f32>().unwrap()
            };
            let before = run(&qkv);
            for (sample, length) in lengths.into_iter().enumerate() {
                qkv[(sample * 9 + length) * row..(sample + 1) * 9 * row].fill(7.0);
            }
            let after = run(&qkv);
            for (sample, length) in lengths.into_iter().enumerate() {
                let rows = sample * 9 * width..(sample * 9 + length) * width;
                assert_eq!(before[rows.clone()], after[rows], "sample {sample}, width {width}");
            }
        }
    }
}

#[test]
fn lengths_of_kept_tokens() {
    use wgrad::ops::attention::mask::reference::gathered;
    for gpu in each_family() {
        for (kept, tokens) in [(1, 1), (1, 9), (2, 9), (3, 9), (7, 9), (9, 9), (37, 100)] {
            let batch = 130;
            // Every sample keeps other positions, evenly spread from one of its own on.
            let position =
                |sample: usize, i: usize| ((i * tokens + sample % tokens) / kept).min(tokens - kept + i) as u32;
            let positions: Vec<u32> = (0..batch).flat_map(|b| (0..kept).map(move |i| position(b, i))).collect();
            let lengths: Vec<u32> = (0..batch as u32).map(|b| b % (tokens as u32 + 2)).collect();
            let indices = TokenIndices::new(&gpu, [batch, kept], tokens, &positions).unwrap();
            let mask = Case { lengths: Some(&lengths), ..CAUSAL }.mask(&gpu).gathered(&indices).unwrap();
            assert!(mask.is_causal());
            let below = mask.lengths().unwrap().to_vec::<u32>().unwrap();
            assert_eq!(below, gathered(&positions, kept, &lengths), "{kept} of {tokens}");
            assert!(Mask::CAUSAL.gathered(&indices).unwrap().lengths().is_none());
        }
    }
}

#[test]
fn masks_that_do_not_fit_are_named() {
    let [gpu, _] = each_family();
    let u32s = |dims: &[usize]| Tensor::zeros(&gpu, DType::U32, dims).unwrap();
    let message = |result: Result<Mask>| result.unwrap_err().to_string();
    assert_eq!(message(Mask::NONE.with_lengths(&u32s(&[2, 3]))), "Mask: lengths must be u32[B]: got u32[2, 3]");
    let floats = Tensor::zeros(&gpu, DType::F32, &[2]).unwrap();
    assert_eq!(message(Mask::NONE.with_lengths(&floats)), "Mask: lengths must be u32[B]: got f32[2]");
    let mask = Mask::NONE.with_lengths(&u32s(&[3])).unwrap();
    let kept = TokenIndices::new(&gpu, [2, 1], 5, &[0, 1]).unwrap();
    assert!(message(mask.gathered(&kept)).contains("differ in B"));
    for (attention, width) in [(ops::attention_stored as Attention, 4), (ops::attention_flash, 16)] {
        let qkv = leaf(&gpu, &[2, 5, 3 * width], &vec![0.0; 30 * width]);
        let error = attention(&qkv, 1, &mask, None).unwrap_err().to_string();
        assert!(error.starts_with("attention: the mask's lengths must be u32[B]"), "{error}");
        for p in [-0.1, 1.0, f32::NAN] {
            let error = attention(&qkv, 1, &Mask::NONE, Some(Dropout { p, key: KEY })).unwrap_err().to_string();
            assert!(error.starts_with("attention: p must be at least 0 and below 1"), "{error}");
        }
    }
}

#[test]
fn misfits_are_named() {
    let [gpu, _] = each_family();
    let message = |dims: &[usize], heads: usize| -> String {
        let qkv = leaf(&gpu, dims, &vec![0.0; dims.iter().product()]);
        let result: Result<Tensor> = ops::attention(&qkv, heads, &Mask::NONE, None);
        result.unwrap_err().to_string()
    };
    assert_eq!(message(&[2, 5, 24], 3), "attention: the last axis must be 3·heads·D: got f32[2, 5, 24]");
    assert_eq!(message(&[2, 5, 24], 0), "attention: the last axis must be 3·heads·D: got f32[2, 5, 24]");
    assert_eq!(message(&[5, 24], 2), "attention: needs [B, T, 3·C]: got f32[5, 24]");
    assert!(message(&[2, 5, 24], usize::MAX).starts_with("attention"));
    let odd =
        ops::attention_flash(&leaf(&gpu, &[2, 5, 24], &[0.0; 240]), 2, &Mask::NONE, None).unwrap_err().to_string();
    assert_eq!(odd, "attention: flash has no form for this width of a head: got f32[2, 5, 24]");
}
