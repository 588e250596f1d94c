use crate::common::{assert_close, each_family, gpu, values};
use wgrad::{Tensor, ops};

#[test]
fn softmax() {
    for gpu in each_family() {
        let narrow = [(1, 1), (1, 7), (3, 64), (65, 65), (197, 48), (1757, 7), (17, 20), (9, 197)];
        let wide = [(2, 1757), (5, 260), (3, 1000), (2, 4100)];
        for (rows, width) in [&narrow[..], &wide].concat() {
            let what = format!("softmax {rows}x{width}");
            let x: Vec<_> = values(1, rows * width).iter().map(|v| v * 8.0).collect();
            let dy = values(2, x.len());
            let leaf = Tensor::from_slice(&gpu, &[rows, width], &x).unwrap().requires_grad().unwrap();
            let y = ops::softmax(&leaf).unwrap();
            assert_close(&what, &y.to_vec().unwrap(), &ops::softmax::reference::forward(&x, width), 2e-6);
            let dx = ops::softmax::reference::backward(&x, &dy, width);
            // Once with dy held here too, once with dy as the sole handle of its memory.
            let held = y.backward_from(&Tensor::from_slice(&gpu, &[rows, width], &dy).unwrap()).unwrap();
            let y = ops::scale(&ops::softmax(&leaf).unwrap(), 0.5).unwrap();
            let twice: Vec<_> = dy.iter().map(|v| v * 2.0).collect();
            let sole = y.backward_from(&Tensor::from_slice(&gpu, &[rows, width], &twice).unwrap()).unwrap();
            for grads in [held, sole] {
                assert_close(&format!("{what} dx"), &grads.get(&leaf).unwrap().to_vec().unwrap(), &dx, 1e-5);
            }
            assert_eq!(leaf.to_vec::<f32>().unwrap(), x, "{what}: x was written to");
        }
    }
}

#[test]
fn large_values_and_masked_entries() {
    const MASKED: f32 = f32::NEG_INFINITY;
    for gpu in each_family() {
        for pad in [0, 1] {
            // A row that would overflow, one with masked entries, one of nothing else.
            let mut x = vec![1e30, 1e30, -1e30, 88.0, MASKED, 1.0, 2.0, MASKED, MASKED, MASKED, MASKED, MASKED];
            let width = 4 + pad;
            x = x.chunks(4).flat_map(|row| [row, &[MASKED][..pad]].concat()).collect();
            let y = ops::softmax(&Tensor::from_slice(&gpu, &[3, width], &x).unwrap()).unwrap();
            let reference = ops::softmax::reference::forward(&x, width);
            assert_close("softmax of masked rows", &y.to_vec().unwrap(), &reference, 2e-6);
        }
    }
}

/// A row with NaN is NaN, whatever the driver's exponential makes of one; others are not.
#[test]
fn a_row_with_nan() {
    for gpu in each_family() {
        for width in [3, 4, 197] {
            let mut x = vec![0.5; 2 * width];
            x[width - 1] = f32::NAN;
            let y = ops::softmax(&Tensor::from_slice(&gpu, &[2, width], &x).unwrap()).unwrap();
            let y = y.to_vec::<f32>().unwrap();
            let (bad, good) = y.split_at(width);
            assert!(bad.iter().all(|v| v.is_nan()) && good.iter().all(|v| v.is_finite()), "{width}: {y:?}");
        }
    }
}

#[test]
fn other_ranks_and_types() {
    let gpu = gpu();
    let x = values(1, 30);
    let y = ops::softmax(&Tensor::from_slice(&gpu, &[1, 5, 3, 2], &x).unwrap()).unwrap();
    assert_eq!(y.dims(), [1, 5, 3, 2]);
    assert_close("rank 4", &y.to_vec().unwrap(), &ops::softmax::reference::forward(&x, 2), 2e-6);
    let whole = Tensor::from_slice(&gpu, &[2], &[1u32, 2]).unwrap();
    assert_eq!(ops::softmax(&whole).unwrap_err().to_string(), "softmax: needs f32: got u32[2]");
}
