//! Multiplication by a number.

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::ops::expect_f32;
use crate::ops::item::vec4_grid;
use crate::tensor::Tensor;

params!(ScaleParams { n: u32, factor: f32, accumulate: u32 });

static SCALE: Kernel = Kernel {
    name: "scale",
    sources: &[wgsl!("scale.wgsl"), wgsl!("lib/grid.wgsl")],
    entry: "scale",
    bindings: &[Access::Read, Access::Write],
    params: ScaleParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

pub(crate) const KERNELS: &[&Kernel] = &[&SCALE];

/// factor · x, of any shape.
///
/// # Errors
/// If `x` is not f32.
pub fn scale(x: &Tensor, factor: f32) -> Result<Tensor> {
    expect_f32("scale", x)?;
    let y = x.empty_like()?;
    dispatch(x, factor, &y, 0)?;
    Ok(record(y, &[x], || Rule { factor }))
}

fn dispatch(x: &Tensor, factor: f32, y: &Tensor, accumulate: u32) -> Result<()> {
    let params = ScaleParams { n: x.numel() as u32, factor, accumulate };
    x.gpu().dispatch(&SCALE, &params, &[x.buffer(), y.buffer()], vec4_grid(x.numel()))
}

struct Rule {
    factor: f32,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        dispatch(&dy, self.factor, &dx.tensor, dx.flag())
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// factor · x; of dy, the gradient of x.
    pub fn scale(x: &[f32], factor: f32) -> Vec<f32> {
        x.iter().map(|x| factor * x).collect()
    }
}
