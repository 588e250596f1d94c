use crate::common::{assert_close, gpu, values};
use wgrad::Tensor;
use wgrad::ops::{self, Normalize, patchify::reference};

/// B, H, W, P: also patches whose rows are not whole words, images whose bytes are not, and patches of one pixel.
const SIZES: [[usize; 4]; 8] = [
    [1, 1, 1, 1],
    [1, 3, 3, 3],
    [2, 6, 9, 3],
    [3, 8, 8, 4],
    [1, 5, 7, 1],
    [2, 14, 7, 7],
    [1, 48, 32, 16],
    [5, 10, 2, 2],
];

#[test]
fn floats_and_their_gradient() {
    let gpu = gpu();
    for [batch, height, width, patch] in SIZES {
        let sizes = [batch, height, width];
        let n = batch * 3 * height * width;
        let (x, dy) = (values(1, n), values(2, n));
        let patches = [batch, height / patch * (width / patch), 3 * patch * patch];
        for normalization in [None, Some(&Normalize::IMAGENET)] {
            let what = format!("patchify {sizes:?} by {patch}");
            let used = normalization.unwrap_or(&Normalize::NONE);
            let leaf = Tensor::from_slice(&gpu, &[batch, 3, height, width], &x).unwrap().requires_grad().unwrap();
            let y = ops::patchify(&leaf, patch, normalization).unwrap();
            assert_eq!(y.dims(), patches);
            assert_close(&what, &y.to_vec().unwrap(), &reference::forward(&x, sizes, patch, used), 1e-6);
            let grads = y.backward_from(&Tensor::from_slice(&gpu, &patches, &dy).unwrap()).unwrap();
            let dx = grads.get(&leaf).unwrap().to_vec().unwrap();
            assert_close(&what, &dx, &reference::backward(&dy, sizes, patch, used), 1e-6);
        }
    }
}

#[test]
fn bytes() {
    let gpu = gpu();
    for [batch, height, width, patch] in SIZES {
        let sizes = [batch, height, width];
        let bytes: Vec<_> = (0..batch * 3 * height * width).map(|i| (i * 97 % 256) as u8).collect();
        let x: Vec<_> = bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
        let images = Tensor::from_slice(&gpu, &[batch, 3, height, width], &bytes).unwrap();
        for normalization in [None, Some(&Normalize::IMAGENET)] {
            let y = ops::patchify(&images, patch, normalization).unwrap().to_vec().unwrap();
            let expected = reference::forward(&x, sizes, patch, normalization.unwrap_or(&Normalize::NONE));
            assert_close(&format!("patchify bytes {sizes:?} by {patch}"), &y, &expected, 1e-6);
        }
    }
}

/// The layout written out: two patches of 2 by 2, channel first.
#[test]
fn layout() {
    let gpu = gpu();
    let bytes: Vec<u8> = (0..24).map(|i| i * 5).collect(); // 5 (8 c + 4 row + column)
    let images = Tensor::from_slice(&gpu, &[1, 3, 2, 4], &bytes).unwrap();
    let y = ops::patchify(&images, 2, None).unwrap();
    assert_eq!(y.dims(), [1, 2, 12]);
    let places: Vec<_> = y.to_vec::<f32>().unwrap().iter().map(|v| (v * 51.0).round() as u32).collect();
    assert_eq!(places[..12], [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21]);
    assert_eq!(places[12..], [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23]);
}

#[test]
fn gradients_of_two_uses_add_up() {
    let gpu = gpu();
    let images = Tensor::from_slice(&gpu, &[1, 3, 2, 2], &values(1, 12)).unwrap().requires_grad().unwrap();
    let twice = ops::patchify(&images, 2, Some(&Normalize::IMAGENET)).unwrap();
    let y = ops::add(&twice, &ops::patchify(&images, 2, None).unwrap()).unwrap();
    let dy = values(2, 12);
    let grads = y.backward_from(&Tensor::from_slice(&gpu, &[1, 1, 12], &dy).unwrap()).unwrap();
    let expected: Vec<_> =
        dy.iter().enumerate().map(|(i, d)| d * (1.0 + 1.0 / Normalize::IMAGENET.std[i / 4])).collect();
    assert_close("two uses", &grads.get(&images).unwrap().to_vec().unwrap(), &expected, 1e-6);
}

#[test]
fn misfits_are_named() {
    let gpu = gpu();
    let message = |shape: &[usize], patch, normalization: Option<&Normalize>| {
        let images = Tensor::from_slice(&gpu, shape, &vec![0u8; shape.iter().product()]).unwrap();
        ops::patchify(&images, patch, normalization).unwrap_err().to_string()
    };
    let sides = "patchify: patch must be a common divisor of height 4 and width 6, got";
    for patch in [0, 3, 4, 12, usize::MAX] {
        assert_eq!(message(&[1, 3, 4, 6], patch, None), format!("{sides} {patch}"));
    }
    assert_eq!(message(&[1, 4, 4, 6], 2, None), "patchify: needs [B, 3, H, W]: got u8[1, 4, 4, 6]");
    assert_eq!(message(&[3, 4, 6], 2, None), "patchify: needs [B, 3, H, W]: got u8[3, 4, 6]");
    for std in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let normalization = Normalize { std: [1.0, std, 1.0], ..Normalize::NONE };
        let expected = format!("patchify: std must be positive and finite, got {std}");
        assert_eq!(message(&[1, 3, 2, 2], 2, Some(&normalization)), expected);
    }
    let normalization = Normalize { mean: [0.0, 0.0, f32::NAN], ..Normalize::NONE };
    assert!(message(&[1, 3, 2, 2], 2, Some(&normalization)).contains("mean must be finite"));
    let labels = Tensor::from_slice(&gpu, &[1, 3, 2, 2], &[0u32; 12]).unwrap();
    assert_eq!(
        ops::patchify(&labels, 2, None).unwrap_err().to_string(),
        "patchify: needs u8 or f32: got u32[1, 3, 2, 2]"
    );
}
