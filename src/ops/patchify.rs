//! Cuts images into patches and normalises them: the input of a Vision Transformer (Dosovitskiy et al., 2021).

use super::item::{row_grid, strided};
use super::{expect, shape};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, Grid, Kernel, Params, params, rounds, wgsl};
use crate::normalize::Normalize;
use crate::shape::DType;
use crate::tensor::Tensor;

params!(PatchifyParams {
    count: u32,
    patches: u32,
    across: u32,
    side: u32,
    width: u32,
    accumulate: u32,
    scale_r: f32,
    scale_g: f32,
    scale_b: f32,
    shift_r: f32,
    shift_g: f32,
    shift_b: f32,
});

static FORWARD_F32: Kernel = Kernel {
    name: "patchify.forward_f32",
    sources: &[wgsl!("patchify.wgsl"), wgsl!("lib/grid.wgsl")],
    entry: "forward_f32",
    bindings: &[Access::Read, Access::Write],
    params: PatchifyParams::FIELDS,
    constants: &[],
    rounds: rounds!(PatchifyParams, |p, [_, _, z]| strided(3 * p.side * p.side, z, 0)),
};

static FORWARD_U8: Kernel = Kernel { name: "patchify.forward_u8", entry: "forward_u8", ..FORWARD_F32 };

static BACKWARD: Kernel = Kernel { name: "patchify.backward", entry: "backward", ..FORWARD_F32 };

pub(crate) const KERNELS: &[&Kernel] = &[&FORWARD_F32, &FORWARD_U8, &BACKWARD];

const OP: &str = "patchify";

/// Patches of P = `patch` pixels a side: `u8[B, 3, H, W]` or `f32[B, 3, H, W]` to `f32[B, N, 3·P·P]`, N = H/P · W/P. Patches
/// come row by row, the values of each as channel, row, column, so that they fit a convolution weight `[C, 3, P, P]` seen as
/// `[C, 3·P·P]`.
///
/// Bytes are divided by 255, floats are taken as they are; then, if given, (value − mean) / std by channel. Bytes have no
/// gradient.
///
/// # Errors
/// If `images` are neither of the two, P is 0 or does not divide H and W, or mean or std are out of range.
pub fn patchify(images: &Tensor, patch: usize, normalization: Option<&Normalize>) -> Result<Tensor> {
    let (kernel, full) = match images.dtype() {
        DType::U8 => (&FORWARD_U8, 255.0),
        _ => (&FORWARD_F32, 1.0),
    };
    expect(OP, images, matches!(images.dtype(), DType::U8 | DType::F32), "needs u8 or f32")?;
    let (batch, height, width) = match images.shape().to_array::<4>() {
        Some([batch, 3, height, width]) => (batch, height, width),
        _ => return Err(Error::Shape { op: OP, what: "needs [B, 3, H, W]", got: images.info() }),
    };
    if patch == 0 || !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
        let expected = format!("a common divisor of height {height} and width {width}");
        return Err(Error::argument(OP, "patch", expected, patch));
    }
    let (down, across) = (height / patch, width / patch);
    let (scale, shift) = affine(normalization.unwrap_or(&Normalize::NONE), full)?;
    let params = PatchifyParams {
        count: (batch * down * across) as u32,
        patches: (down * across) as u32,
        across: across as u32,
        side: patch as u32,
        width: width as u32,
        accumulate: 0,
        scale_r: scale[0],
        scale_g: scale[1],
        scale_b: scale[2],
        shift_r: shift[0],
        shift_g: shift[1],
        shift_b: shift[2],
    };
    let y = Tensor::unwritten(images.gpu(), DType::F32, shape(OP, &[batch, down * across, 3 * patch * patch])?)?;
    images.gpu().dispatch(kernel, &params, &[images.buffer(), y.buffer()], grid(&params))?;
    Ok(record(y, &[images], || Rule { params }))
}

/// (scale, shift) of each channel, for values of which `full` is white.
fn affine(normalization: &Normalize, full: f32) -> Result<([f32; 3], [f32; 3])> {
    for (mean, std) in normalization.mean.into_iter().zip(normalization.std) {
        if !mean.is_finite() {
            return Err(Error::argument(OP, "mean", "finite", mean));
        }
        if !(std.is_normal() && std > 0.0) {
            return Err(Error::argument(OP, "std", "positive and finite", std));
        }
    }
    let channel = |c: usize| (1.0 / (full * normalization.std[c]), -normalization.mean[c] / normalization.std[c]);
    let channels = [channel(0), channel(1), channel(2)];
    Ok((channels.map(|c| c.0), channels.map(|c| c.1)))
}

fn grid(params: &PatchifyParams) -> Grid {
    row_grid(params.count as usize, 3 * (params.side * params.side) as usize)
}

struct Rule {
    params: PatchifyParams,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        let params = PatchifyParams { accumulate: dx.flag(), ..self.params };
        dy.gpu().dispatch(&BACKWARD, &params, &[dy.buffer(), dx.tensor.buffer()], grid(&params))
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use crate::normalize::Normalize;

    /// For each value of the patches in order: its channel and its place in the images `[B, 3, H, W]`.
    fn places([batch, height, width]: [usize; 3], patch: usize) -> Vec<(usize, usize)> {
        let mut places = Vec::with_capacity(batch * 3 * height * width);
        for (b, down, across) in triples(batch, height / patch, width / patch) {
            for (c, py, px) in triples(3, patch, patch) {
                let row = (b * 3 + c) * height + down * patch + py;
                places.push((c, row * width + across * patch + px));
            }
        }
        places
    }

    fn triples(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..a * b * c).map(move |i| (i / (b * c), i / c % b, i % c))
    }

    /// Patches of `images` of the sizes B, H, W, with values from 0 to 1.
    pub fn forward(images: &[f32], sizes: [usize; 3], patch: usize, normalization: &Normalize) -> Vec<f32> {
        let Normalize { mean, std } = normalization;
        let value = |(c, at): (usize, usize)| (f64::from(images[at]) - f64::from(mean[c])) / f64::from(std[c]);
        places(sizes, patch).into_iter().map(|place| value(place) as f32).collect()
    }

    /// The images' gradient.
    pub fn backward(dy: &[f32], sizes: [usize; 3], patch: usize, normalization: &Normalize) -> Vec<f32> {
        let mut dx = vec![0.0; dy.len()];
        for ((c, at), dy) in places(sizes, patch).into_iter().zip(dy) {
            dx[at] = (f64::from(*dy) / f64::from(normalization.std[c])) as f32;
        }
        dx
    }
}
