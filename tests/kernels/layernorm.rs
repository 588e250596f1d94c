use super::kept_tokens::{SIZES, positions};
use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, gpu, gpu_with_f16, values};
use wgrad::ops::layernorm::reference;
use wgrad::ops::{self, TokenIndices};
use wgrad::{DType, Error, Tensor};

#[test]
fn layernorm() {
    for gpu in each_family() {
        // Widths that four, three and fewer items for each of 8, 16, 32 and 64 invocations hold, and that none do; rows that
        // leave the last of several side by side without its own.
        let narrow = [(1, 1), (1, 7), (3, 64), (65, 65), (197, 48), (1757, 7), (5, 4), (15, 20), (17, 3)];
        let wide = [(520, 192), (16, 384), (5, 768), (33, 1028), (9, 300), (3, 4100), (2, 1001)];
        for (rows, width) in [&narrow[..], &wide].concat() {
            let (x, dy) = (values(1, rows * width), values(2, rows * width));
            let (w, b) = (values(3, width), values(4, width));
            let (tx, tw, tb) = (leaf(&gpu, &[rows, width], &x), leaf(&gpu, &[width], &w), leaf(&gpu, &[width], &b));
            let y = ops::layernorm(&tx, &tw, &tb, 1e-6).unwrap();
            let what = format!("layernorm {rows}x{width}");
            assert_close(&what, &y.to_vec().unwrap(), &reference::forward(&x, &w, &b, 1e-6), 2e-5);
            let (dx, dw, db) = reference::backward(&x, &w, &dy, 1e-6);
            assert_gradients(&what, &y, &dy, &[(&tx, &dx), (&tw, &dw), (&tb, &db)], 2e-5);
        }
    }
}

/// A mean that is large beside the deviation, and an outlier in front: neither may cost the variance its digits.
#[test]
fn far_from_zero() {
    for gpu in each_family() {
        for width in [7, 64, 192] {
            let mut x: Vec<_> = values(1, 3 * width).iter().map(|v| v + 1000.0).collect();
            x[0] = -1000.0;
            let (w, b) = (vec![1.0; width], vec![0.0; width]);
            let [tx, tw, tb] = [(3 * width, &x), (width, &w), (width, &b)].map(|(n, v)| upload(&gpu, &[n], v));
            let y = ops::layernorm(&ops::reshape(&tx, &[3, width]).unwrap(), &tw, &tb, 1e-6).unwrap();
            // Of 1000, a float resolves 6e-5 of the deviation.
            assert_close("far from zero", &y.to_vec().unwrap(), &reference::forward(&x, &w, &b, 1e-6), 2e-4);
        }
    }
}

/// Of a row that is constant nothing is left, however small eps is.
#[test]
fn constant_rows() {
    for gpu in each_family() {
        for (width, value) in [(768, 1.1), (192, 175.126), (768, 1889.13), (7, -3.3), (1000, 0.1)] {
            let x = upload(&gpu, &[1, width], &vec![value; width]);
            let (w, b) = (upload(&gpu, &[width], &vec![1.0; width]), upload(&gpu, &[width], &vec![0.5; width]));
            for eps in [1e-12, 1e-6] {
                let y = ops::layernorm(&x, &w, &b, eps).unwrap().to_vec::<f32>().unwrap();
                assert_eq!(y, vec![0.5; width], "{value} {eps}");
            }
        }
    }
}

/// Only some parents want a gradient, and weight and bias may be one tensor.
#[test]
fn some_gradients() {
    for gpu in each_family() {
        for (rows, width) in [(5, 7), (67, 12), (3, 1028)] {
            let (x, w, dy) = (values(1, rows * width), values(3, width), values(2, rows * width));
            let (dx, dw, db) = reference::backward(&x, &w, &dy, 1e-6);
            let (tx, plain) = (leaf(&gpu, &[rows, width], &x), upload(&gpu, &[width], &w));
            let y = ops::layernorm(&tx, &plain, &plain, 1e-6).unwrap();
            assert_gradients("x alone", &y, &dy, &[(&tx, &dx)], 2e-5);
            let (tw, fixed) = (leaf(&gpu, &[width], &w), upload(&gpu, &[rows, width], &x));
            let y = ops::layernorm(&fixed, &tw, &plain, 1e-6).unwrap();
            assert_gradients("weight alone", &y, &dy, &[(&tw, &dw)], 2e-5);
            let tb = leaf(&gpu, &[width], &w);
            let y = ops::layernorm(&fixed, &plain, &tb, 1e-6).unwrap();
            assert_gradients("bias alone", &y, &dy, &[(&tb, &db)], 2e-5);
            let both = leaf(&gpu, &[width], &w);
            let y = ops::layernorm(&tx, &both, &both, 1e-6).unwrap();
            let sum: Vec<_> = dw.iter().zip(&db).map(|(a, b)| a + b).collect();
            assert_gradients("weight is bias", &y, &dy, &[(&both, &sum)], 2e-5);
        }
    }
}

#[test]
fn half_precision() {
    let Some(gpu) = gpu_with_f16() else { return };
    for (rows, width) in [(1, 4), (67, 12), (197, 192), (3, 1028)] {
        let (x, dy) = (values(1, rows * width), values(2, rows * width));
        let (w, b) = (values(3, width), values(4, width));
        let (tx, tw, tb) = (leaf(&gpu, &[rows, width], &x), leaf(&gpu, &[width], &w), leaf(&gpu, &[width], &b));
        let y = ops::layernorm_as(&tx, &tw, &tb, 1e-6, DType::F16).unwrap();
        assert_eq!(y.dtype(), DType::F16);
        let y = ops::cast(&y, DType::F32).unwrap();
        assert_close("f16", &y.to_vec().unwrap(), &reference::forward(&x, &w, &b, 1e-6), 2e-3);
        let (dx, dw, db) = reference::backward(&x, &w, &dy, 1e-6);
        assert_gradients("f16", &y, &dy, &[(&tx, &dx), (&tw, &dw), (&tb, &db)], 2e-3);
    }
}

#[test]
fn gather_layernorm() {
    for gpu in each_family() {
        for [batch, tokens, kept, channels] in SIZES {
            let what = format!("gather_layernorm {kept} of [{batch}, {tokens}, {channels}]");
            let at = positions(batch, tokens, kept);
            let (x, w, b) = (values(1, batch * tokens * channels), values(3, channels), values(4, channels));
            let (dpacked, dy) = (values(5, batch * kept * channels), values(2, batch * kept * channels));
            let tx = leaf(&gpu, &[batch, tokens, channels], &x);
            let (tw, tb) = (leaf(&gpu, &[channels], &w), leaf(&gpu, &[channels], &b));
            let indices = TokenIndices::new(&gpu, [batch, kept], tokens, &at).unwrap();
            let (packed, y) = ops::gather_layernorm(&tx, &indices, &tw, &tb, 1e-3, DType::F32).unwrap();
            let rows = ops::token_gather::reference::forward(&x, &at, batch, tokens);
            assert_close(&what, &packed.to_vec().unwrap(), &rows, 0.0);
            assert_close(&what, &y.to_vec().unwrap(), &reference::forward(&rows, &w, &b, 1e-3), 2e-5);
            // Both outputs are used, as in a block.
            let share = upload(&gpu, packed.dims(), &dpacked);
            let loss = ops::sum(&ops::mul(&packed, &share).unwrap()).unwrap();
            let share = upload(&gpu, y.dims(), &dy);
            let loss = ops::add(&loss, &ops::sum(&ops::mul(&y, &share).unwrap()).unwrap()).unwrap();
            let (mut drows, dw, db) = reference::backward(&rows, &w, &dy, 1e-3);
            drows.iter_mut().zip(&dpacked).for_each(|(a, b)| *a += b);
            let dx = ops::token_gather::reference::backward(&drows, &at, batch, tokens);
            assert_gradients(&what, &loss, &[1.0], &[(&tx, &dx), (&tw, &dw), (&tb, &db)], 2e-5);
        }
    }
}

#[test]
fn gathered_index_out_of_range_reads_nothing() {
    for gpu in each_family() {
        let x = upload(&gpu, &[1, 3, 4], &values(1, 12));
        let (w, b) = (upload(&gpu, &[4], &values(2, 4)), upload(&gpu, &[4], &values(3, 4)));
        let at = Tensor::from_slice(&gpu, &[1, 2], &[1u32, 3]).unwrap();
        let indices = TokenIndices::from_tensor(&at, 3).unwrap();
        let (packed, y) = ops::gather_layernorm(&x, &indices, &w, &b, 1e-6, DType::F32).unwrap();
        assert!(matches!(y.to_vec::<f32>(), Err(Error::OutOfRange { value: 3, bound: 3, .. })));
        assert_eq!(packed.to_vec::<f32>().unwrap(), [&values(1, 12)[4..8], &[0.0; 4]].concat());
        assert_eq!(y.to_vec::<f32>().unwrap()[4..], values(3, 4));
    }
}

#[test]
fn misfits_are_named() {
    let gpu = gpu();
    let (x, w) = (upload(&gpu, &[2, 3], &values(1, 6)), upload(&gpu, &[3], &values(1, 3)));
    let message = |r: wgrad::Result<Tensor>| r.unwrap_err().to_string();
    assert_eq!(
        message(ops::layernorm_as(&x, &w, &w, 1e-6, DType::F16)),
        "layernorm: gives f16 where the last axis is a multiple of 4: got f32[2, 3]"
    );
    assert_eq!(message(ops::layernorm_as(&x, &w, &w, 1e-6, DType::U32)), "layernorm: gives f32 or f16: got f32[2, 3]");
    assert!(message(ops::layernorm(&x, &w, &w, -1.0)).contains("eps must be finite"));
}
