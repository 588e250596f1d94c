//! Between full and half precision.

use super::expect;
use super::item::vec4_grid;
use crate::autograd::{Backward, ParentGradients, record, unchanged};
use crate::error::Result;
use crate::gpu::{Access, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(CastParams { n: u32 });

static NARROW: Kernel = Kernel {
    name: "cast.narrow",
    sources: &[wgsl!("cast.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("tiles/cast_narrow.wgsl", enable "f16")],
    entry: "convert",
    bindings: &[Access::Read, Access::Write],
    params: CastParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static WIDEN: Kernel = Kernel {
    name: "cast.widen",
    sources: &[wgsl!("cast.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("tiles/cast_widen.wgsl", enable "f16")],
    ..NARROW
};

pub(crate) const KERNELS: &[&Kernel] = &[&NARROW, &WIDEN];

/// `x` rounded to `dtype`, f32 or f16: to the nearest value, beyond its range to infinity. The gradient is cast back. Of
/// the same dtype it is `x` itself.
///
/// # Errors
/// If one of the two is no float, or f16 is asked of a device that has none ([`crate::Gpu::has_f16`]).
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    const OP: &str = "cast";
    let is_float = |dtype| matches!(dtype, DType::F32 | DType::F16);
    expect(OP, x, is_float(x.dtype()) && is_float(dtype), "casts between f32 and f16")?;
    if x.dtype() == dtype {
        return Ok(unchanged(x));
    }
    let y = cast_values(x, dtype)?;
    Ok(record(y, &[x], || Rule))
}

fn cast_values(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let y = Tensor::unwritten(x.gpu(), dtype, x.shape())?;
    cast_into(x, &y)?;
    Ok(y)
}

/// y = x, of the other of the two types.
pub(super) fn cast_into(x: &Tensor, y: &Tensor) -> Result<()> {
    let kernel = if y.dtype() == DType::F16 { &NARROW } else { &WIDEN };
    let params = CastParams { n: x.numel() as u32 };
    x.gpu().dispatch(kernel, &params, &[x.buffer(), y.buffer()], vec4_grid(x.numel()))
}

struct Rule;

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        if !parents.wants(0) {
            return Ok(());
        }
        let dtype = if dy.dtype() == DType::F16 { DType::F32 } else { DType::F16 };
        parents.give(0, cast_values(&dy, dtype)?)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// The nearest half-precision value, ties to even, as f32; the gradient passes through the same rounding.
    pub fn narrow(x: &[f32]) -> Vec<f32> {
        x.iter().map(|&v| round(v)).collect()
    }

    /// Half precision has 11 significant bits above 2⁻¹⁴, steps of 2⁻²⁴ below, and ends at 65 504.
    fn round(v: f32) -> f32 {
        let exponent = v.abs().max(2f32.powi(-14)).log2().floor() as i32;
        let step = 2f32.powi(exponent - 10);
        let rounded = (v / step).round_ties_even() * step;
        if rounded.abs() > 65504.0 { rounded.signum() * f32::INFINITY } else { rounded }
    }
}
