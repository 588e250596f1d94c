use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::conv::reference;
use wgrad::ops::reduce::reference::{max, mean};
use wgrad::ops::{self, Conv2d, Pool2d};

/// Picture [B, C, H, W], kernel [O, KH, KW], and how it moves.
const CONVS: &[([usize; 4], [usize; 3], Conv2d)] = &[
    ([1, 1, 1, 1], [1, 1, 1], Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1] }),
    ([2, 3, 7, 5], [4, 3, 3], Conv2d { stride: [1, 1], padding: [1, 1], dilation: [1, 1] }),
    ([2, 2, 9, 8], [3, 3, 2], Conv2d { stride: [2, 3], padding: [0, 1], dilation: [1, 1] }),
    ([1, 4, 9, 11], [2, 3, 2], Conv2d { stride: [1, 2], padding: [2, 0], dilation: [2, 3] }),
    ([2, 3, 16, 16], [8, 4, 4], Conv2d { stride: [4, 4], padding: [0, 0], dilation: [1, 1] }),
];

#[test]
fn conv2d() {
    for gpu in each_family() {
        for &([batch, c, h, w], [out, kh, kw], conv) in CONVS {
            let (x, weight) = (values(1, batch * c * h * w), values(2, out * c * kh * kw));
            let bias = values(3, out);
            let plain: Vec<f32> = x
                .chunks(c * h * w)
                .flat_map(|picture| reference::conv2d(picture, [c, h, w], &weight, [kh, kw], conv))
                .collect();
            let plane = plain.len() / (batch * out);
            let expected: Vec<_> = plain.iter().enumerate().map(|(i, v)| v + bias[i / plane % out]).collect();
            let tweight = leaf(&gpu, &[out, c, kh, kw], &weight);
            let (tx, tbias) = (leaf(&gpu, &[batch, c, h, w], &x), leaf(&gpu, &[out], &bias));
            let what = format!("conv2d [{batch}, {c}, {h}, {w}] {kh}x{kw} {conv:?}");
            let y = ops::conv2d(&tx, &tweight, Some(&tbias), conv).unwrap();
            assert_close(&what, &y.to_vec().unwrap(), &expected, 1e-5);
            // The operation is linear in x and in the weight: its gradients follow from what it makes of unit vectors' sums.
            let dy = values(4, y.numel());
            let db: Vec<f32> = (0..out)
                .map(|o| dy.iter().enumerate().filter(|(i, _)| i / plane % out == o).map(|(_, v)| v).sum())
                .collect();
            assert_gradients(&what, &y, &dy, &[(&tbias, &db)], 1e-5);
            let y = ops::conv2d(&tx, &tweight, None, conv).unwrap();
            assert_close(&what, &y.to_vec().unwrap(), &plain, 1e-5);
        }
    }
}

#[test]
fn pooling() {
    for gpu in each_family() {
        for (planes, [h, w], pool) in [
            (6, [8, 8], Pool2d::new([2, 2])),
            (6, [7, 9], Pool2d { size: [3, 2], stride: [2, 1], padding: [1, 1] }),
            (2, [5, 5], Pool2d { size: [5, 5], stride: [1, 1], padding: [0, 0] }),
        ] {
            let x: Vec<_> = values(1, planes * h * w).iter().map(|v| v - 2.0).collect(); // all below the padding's 0
            let tx = upload(&gpu, &[2, planes / 2, h, w], &x);
            let each = |reduce: &dyn Fn(&[f32]) -> f32| -> Vec<f32> {
                x.chunks(h * w).flat_map(|plane| reference::pool(plane, [h, w], pool, reduce)).collect()
            };
            let size = pool.size[0] * pool.size[1];
            let what = format!("{pool:?}");
            assert_close(&what, &ops::max_pool2d(&tx, pool).unwrap().to_vec().unwrap(), &each(&max), 0.0);
            // Padding counts in the mean as zeros.
            let average = each(&|window| mean(window) * window.len() as f32 / size as f32);
            assert_close(&what, &ops::avg_pool2d(&tx, pool).unwrap().to_vec().unwrap(), &average, 1e-6);
        }
    }
}

#[test]
fn refusals() {
    let [gpu, _] = each_family();
    let (x, weight) = (upload(&gpu, &[1, 2, 4, 4], &values(1, 32)), upload(&gpu, &[1, 2, 5, 5], &values(1, 50)));
    let other = upload(&gpu, &[1, 3, 1, 1], &values(1, 3));
    let none = Conv2d { stride: [0, 1], ..Conv2d::default() };
    let padded = Pool2d { padding: [2, 0], ..Pool2d::new([2, 2]) };
    for (result, expected) in [
        (
            ops::conv2d(&x, &weight, None, Conv2d::default()),
            "conv2d: window must be within the padded picture of f32[1, 2, 4, 4], got [5, 5] with dilation [1, 1]",
        ),
        (
            ops::conv2d(&x, &other, None, Conv2d::default()),
            "conv2d: channels differ: lhs f32[1, 2, 4, 4], rhs f32[1, 3, 1, 1]",
        ),
        (ops::conv2d(&x, &weight, None, none), "conv2d: stride must be 1 to 32767, got [0, 1]"),
        (ops::max_pool2d(&x, padded), "max_pool2d: padding must be at most half of the window's size, got [2, 0]"),
    ] {
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
}
