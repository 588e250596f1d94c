use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, gpu_with_f16, values};
use wgrad::ops::conv::reference;
use wgrad::ops::reduce::reference::{max, mean};
use wgrad::ops::{self, Conv2d, Pool2d};
use wgrad::{DType, Error, Tensor};

/// Picture [B, C, H, W], kernel [O, KH, KW], and how it moves.
const CONVS: &[([usize; 4], [usize; 3], Conv2d)] = &[
    ([1, 1, 1, 1], [1, 1, 1], Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1] }),
    ([2, 3, 7, 5], [4, 3, 3], Conv2d { stride: [1, 1], padding: [1, 1], dilation: [1, 1] }),
    ([2, 2, 9, 8], [3, 3, 2], Conv2d { stride: [2, 3], padding: [0, 1], dilation: [1, 1] }),
    ([1, 4, 9, 11], [2, 3, 2], Conv2d { stride: [1, 2], padding: [2, 0], dilation: [2, 3] }),
    ([2, 3, 16, 16], [8, 4, 4], Conv2d { stride: [4, 4], padding: [0, 0], dilation: [1, 1] }),
];

/// dx and dW of pictures [B, C, H, W], a kernel [O, KH, KW] and dy: each product of the sum in forward, with dy in the place of one
/// factor.
fn gradients(
    (x, [_, c, h, w]): (&[f32], [usize; 4]),
    (weight, [out, kh, kw]): (&[f32], [usize; 3]),
    conv: Conv2d,
    dy: &[f32],
) -> [Vec<f32>; 2] {
    let Conv2d { stride, padding: [top, left], dilation } = conv;
    let oh = reference::places(h, kh, stride[0], top, dilation[0]);
    let ow = reference::places(w, kw, stride[1], left, dilation[1]);
    let (mut dx, mut dw) = (vec![0.0f64; x.len()], vec![0.0f64; weight.len()]);
    for (i, &dy) in dy.iter().enumerate() {
        let (picture, o, y, place) = (i / (out * oh * ow), i / (oh * ow) % out, i / ow % oh, i % ow);
        for tap in 0..c * kh * kw {
            let (channel, ky, kx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            // Counted from the corner of the padding.
            let (row, column) = (y * stride[0] + ky * dilation[0], place * stride[1] + kx * dilation[1]);
            if (top..top + h).contains(&row) && (left..left + w).contains(&column) {
                let pixel = ((picture * c + channel) * h + row - top) * w + column - left;
                let of = o * c * kh * kw + tap;
                dx[pixel] += f64::from(dy) * f64::from(weight[of]);
                dw[of] += f64::from(dy) * f64::from(x[pixel]);
            }
        }
    }
    [dx, dw].map(|wide| wide.into_iter().map(|v| v as f32).collect())
}

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
            let dy = values(4, y.numel());
            let [dx, dw] = gradients((&x, [batch, c, h, w]), (&weight, [out, kh, kw]), conv, &dy);
            let db: Vec<f32> = (0..out)
                .map(|o| dy.iter().enumerate().filter(|(i, _)| i / plane % out == o).map(|(_, v)| v).sum())
                .collect();
            assert_gradients(&what, &y, &dy, &[(&tx, &dx), (&tweight, &dw), (&tbias, &db)], 1e-5);
            let y = ops::conv2d(&tx, &tweight, None, conv).unwrap();
            assert_close(&what, &y.to_vec().unwrap(), &plain, 1e-5);
            assert_gradients(&what, &y, &dy, &[(&tx, &dx), (&tweight, &dw)], 1e-5);
        }
    }
}

/// The gradient of planes [H, W], of each of whose windows `share` gives what its pixels have of dy.
fn pool_gradient(
    x: &[f32],
    [h, w]: [usize; 2],
    pool: Pool2d,
    dy: &[f32],
    share: &dyn Fn(&[f32]) -> Vec<f32>,
) -> Vec<f32> {
    let Pool2d { size: [kh, kw], stride, padding: [top, left] } = pool;
    let oh = reference::places(h, kh, stride[0], top, 1);
    let ow = reference::places(w, kw, stride[1], left, 1);
    let mut dx = vec![0.0; x.len()];
    for (i, dy) in dy.iter().enumerate() {
        // Counted from the corner of the padding.
        let (first_row, first_column) = (i / ow % oh * stride[0], i % ow * stride[1]);
        let tap = |t: usize| {
            let (row, column) = (first_row + t / kw, first_column + t % kw);
            let is_inside = (top..top + h).contains(&row) && (left..left + w).contains(&column);
            is_inside.then(|| (i / (oh * ow) * h + row - top) * w + column - left)
        };
        let pixels: Vec<usize> = (0..kh * kw).filter_map(tap).collect();
        let shares = share(&pixels.iter().map(|&pixel| x[pixel]).collect::<Vec<_>>());
        pixels.iter().zip(shares).for_each(|(&pixel, share)| dx[pixel] += share * dy);
    }
    dx
}

/// A kernel of halves is computed with as the f32 that they are, and is not trained.
#[test]
fn convolution_by_a_kernel_of_halves() {
    if gpu_with_f16().is_none() {
        return;
    }
    for gpu in each_family() {
        for &([b, c, h, w], [out, kh, kw], conv) in CONVS {
            let x = leaf(&gpu, &[b, c, h, w], &values(1, b * c * h * w));
            let halves = |weight: &Tensor| ops::cast(weight, DType::F16).unwrap();
            let dims = [out, c, kh, kw];
            let weight = halves(&upload(&gpu, &dims, &values(2, out * c * kh * kw)));
            let wide = ops::cast(&weight, DType::F32).unwrap();
            let [y, expected] = [&weight, &wide].map(|weight| ops::conv2d(&x, weight, None, conv).unwrap());
            assert_close("halves", &y.to_vec().unwrap(), &expected.to_vec().unwrap(), 1e-6);
            let dy = values(3, y.numel());
            let gradients = expected.backward_from(&upload(&gpu, y.dims(), &dy)).unwrap();
            let dx: Vec<f32> = gradients.get(&x).unwrap().to_vec().unwrap();
            assert_gradients("halves", &y, &dy, &[(&x, &dx)], 1e-6);
            let trained = halves(&leaf(&gpu, &dims, &values(2, weight.numel())));
            let error = ops::conv2d(&x, &trained, None, conv).unwrap_err();
            assert!(matches!(error, Error::Shape { what: "a weight of f16 has no gradient", .. }), "{error}");
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
            // All below the padding's 0, and few values, so that there are equals.
            let x: Vec<_> = values(1, planes * h * w).iter().map(|v| (2.0 * v).round() - 3.0).collect();
            let tx = leaf(&gpu, &[2, planes / 2, h, w], &x);
            let each = |reduce: &dyn Fn(&[f32]) -> f32| -> Vec<f32> {
                x.chunks(h * w).flat_map(|plane| reference::pool(plane, [h, w], pool, reduce)).collect()
            };
            let size = pool.size[0] * pool.size[1];
            let what = format!("{pool:?}");
            let y = ops::max_pool2d(&tx, pool).unwrap();
            let dy = values(2, y.numel());
            assert_close(&what, &y.to_vec().unwrap(), &each(&max), 0.0);
            // Equals share the gradient.
            let shares = |window: &[f32]| {
                let largest = max(window);
                let equals = window.iter().filter(|v| **v == largest).count() as f32;
                window.iter().map(|v| if *v == largest { 1.0 / equals } else { 0.0 }).collect()
            };
            let dx = pool_gradient(&x, [h, w], pool, &dy, &shares);
            assert_gradients(&what, &y, &dy, &[(&tx, &dx)], 2e-6);
            // Padding counts in the mean as zeros.
            let average = each(&|window| mean(window) * window.len() as f32 / size as f32);
            let y = ops::avg_pool2d(&tx, pool).unwrap();
            assert_close(&what, &y.to_vec().unwrap(), &average, 1e-6);
            let dx = pool_gradient(&x, [h, w], pool, &dy, &|window| vec![1.0 / size as f32; window.len()]);
            assert_gradients(&what, &y, &dy, &[(&tx, &dx)], 2e-6);
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
