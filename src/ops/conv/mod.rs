//! Convolution and pooling of pictures `f32[B, C, H, W]`, by way of their windows as rows: right for any size, and as fast as the
//! matrix product on nine times the memory of a 3 × 3 kernel's input.

mod unfold;

use unfold::{Windows, unfold};

use super::{linear, max_axes, mean_axes, permute, reshape};
use crate::error::{Error, Result};
use crate::gpu::Kernel;
use crate::tensor::Tensor;

/// The kernels of this module.
pub(crate) const KERNELS: &[&Kernel] = unfold::KERNELS;

/// How a convolution's kernel moves over a picture; all numbers along y, then x, as PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Pixels from a window to the next.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub padding: [usize; 2],
    /// Pixels from a tap to the next.
    pub dilation: [usize; 2],
}

impl Default for Conv2d {
    /// Every place, nothing around the picture.
    fn default() -> Self {
        Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1] }
    }
}

/// How a pooling window moves over a picture; all numbers along y, then x, as PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2d {
    /// Pixels of a window.
    pub size: [usize; 2],
    /// Pixels from a window to the next.
    pub stride: [usize; 2],
    /// Pixels on each side that count as 0 in a mean and not at all in a maximum; at most half of the size.
    pub padding: [usize; 2],
}

impl Pool2d {
    /// Windows of this size side by side.
    pub fn new(size: [usize; 2]) -> Self {
        Pool2d { size, stride: size, padding: [0, 0] }
    }
}

/// Convolution (cross-correlation, as everywhere in this field): `f32[B, C, H, W]` with `weight` `f32[O, C, KH, KW]`
/// and `bias` `f32[O]` to `f32[B, O, OH, OW]`, OH = ⌊(H + 2·padding − dilation·(KH − 1) − 1) / stride⌋ + 1. The weight
/// may be f16 if nothing asks for its gradient, as that of a [`linear`] layer.
///
/// # Errors
/// If shapes or dtypes do not fit, or the kernel is larger than the padded picture.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv2d) -> Result<Tensor> {
    const OP: &str = "conv2d";
    let [batch, channels, _, _] = picture(OP, x)?;
    let [out, of, kh, kw] = weight.shape().to_array().ok_or(Error::Shape {
        op: OP,
        what: "the weight must be [O, C, KH, KW]",
        got: weight.info(),
    })?;
    super::expect_match(OP, x, weight, channels == of, "channels differ")?;
    let Conv2d { stride, padding, dilation } = conv;
    let windows = Windows::new(OP, x, [kh, kw], stride, padding, dilation)?;
    let rows = unfold(x, windows, 0.0)?;
    let y = linear(&rows, &reshape(weight, &[out, of * kh * kw])?, bias)?;
    let [oh, ow] = windows.places();
    reshape(&permute(&y, &[0, 2, 1])?, &[batch, out, oh, ow])
}

/// The largest of each window: `f32[B, C, H, W]` to `f32[B, C, OH, OW]`. Equals share the gradient; of a window that is −∞ throughout,
/// the padding in it has shares too.
///
/// # Errors
/// If `x` is not `f32[B, C, H, W]`, or the window does not fit.
pub fn max_pool2d(x: &Tensor, pool: Pool2d) -> Result<Tensor> {
    pooled("max_pool2d", x, pool, f32::NEG_INFINITY, max_axes)
}

/// The mean of each window, with its padding: `f32[B, C, H, W]` to `f32[B, C, OH, OW]`.
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(x: &Tensor, pool: Pool2d) -> Result<Tensor> {
    pooled("avg_pool2d", x, pool, 0.0, mean_axes)
}

fn pooled(
    op: &'static str,
    x: &Tensor,
    pool: Pool2d,
    outside: f32,
    reduce: impl Fn(&Tensor, &[usize], bool) -> Result<Tensor>,
) -> Result<Tensor> {
    let [batch, channels, h, w] = picture(op, x)?;
    let Pool2d { size, stride, padding } = pool;
    if padding.iter().zip(size).any(|(&padding, size)| padding > size / 2) {
        return Err(Error::argument(op, "padding", "at most half of the window's size", format!("{padding:?}")));
    }
    // Each channel is a picture of its own.
    let planes = reshape(x, &[batch * channels, 1, h, w])?;
    let windows = Windows::new(op, &planes, size, stride, padding, [1, 1])?;
    let [oh, ow] = windows.places();
    reshape(&reduce(&unfold(&planes, windows, outside)?, &[2], false)?, &[batch, channels, oh, ow])
}

/// The sizes of pictures.
fn picture(op: &'static str, x: &Tensor) -> Result<[usize; 4]> {
    super::expect_f32(op, x)?;
    x.shape().to_array().ok_or(Error::Shape { op, what: "needs f32[B, C, H, W]", got: x.info() })
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use super::{Conv2d, Pool2d};

    /// Sizes of a picture: channels, height, width.
    pub type Picture = [usize; 3];

    /// Places of a window along an axis.
    pub fn places(size: usize, kernel: usize, stride: usize, padding: usize, dilation: usize) -> usize {
        (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1
    }

    /// The pixel of a window's tap, if it is in the picture.
    fn pixel(place: usize, tap: usize, size: usize, stride: usize, padding: usize, dilation: usize) -> Option<usize> {
        (place * stride + tap * dilation).checked_sub(padding).filter(|&at| at < size)
    }

    /// One picture `[C, H, W]` with weights `[O, C, KH, KW]` to `[O, OH, OW]`.
    pub fn conv2d(x: &[f32], [c, h, w]: Picture, weight: &[f32], [kh, kw]: [usize; 2], conv: Conv2d) -> Vec<f32> {
        let Conv2d { stride: [sy, sx], padding: [py, px], dilation: [dy, dx] } = conv;
        let (oh, ow) = (places(h, kh, sy, py, dy), places(w, kw, sx, px, dx));
        let taps = c * kh * kw;
        let at = |o: usize, y: usize, x0: usize| {
            let tap = |t: usize| {
                let (channel, ky, kx) = (t / (kh * kw), t / kw % kh, t % kw);
                let place = pixel(y, ky, h, sy, py, dy).zip(pixel(x0, kx, w, sx, px, dx));
                let value = place.map_or(0.0, |(row, column)| x[(channel * h + row) * w + column]);
                f64::from(value) * f64::from(weight[o * taps + t])
            };
            (0..taps).map(tap).sum::<f64>() as f32
        };
        let outs = weight.len() / taps;
        (0..outs * oh * ow).map(|i| at(i / (oh * ow), i / ow % oh, i % ow)).collect()
    }

    /// One plane `[H, W]`: `reduce` of the pixels of each window that are in it.
    pub fn pool(x: &[f32], [h, w]: [usize; 2], pool: Pool2d, reduce: impl Fn(&[f32]) -> f32) -> Vec<f32> {
        let Pool2d { size: [kh, kw], stride: [sy, sx], padding: [py, px] } = pool;
        let (oh, ow) = (places(h, kh, sy, py, 1), places(w, kw, sx, px, 1));
        let window = |i: usize| {
            let tap = |t: usize| pixel(i / ow, t / kw, h, sy, py, 1).zip(pixel(i % ow, t % kw, w, sx, px, 1));
            (0..kh * kw).filter_map(tap).map(|(row, column)| x[row * w + column]).collect::<Vec<_>>()
        };
        (0..oh * ow).map(|i| reduce(&window(i))).collect()
    }
}
