//! Products of two tensors, element by element.

use super::{expect_f32, expect_match, vec4_grid};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::tensor::Tensor;

params!(MulParams { n: u32, accumulate: u32 });

static MUL: Kernel = Kernel {
    name: "mul",
    sources: &[wgsl!("mul.wgsl"), wgsl!("lib/grid.wgsl")],
    entry: "mul",
    bindings: &[Access::Read, Access::Read, Access::Write],
    params: MulParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

pub(crate) const KERNELS: &[&Kernel] = &[&MUL];

/// x · y, element by element, of equal shapes.
///
/// # Errors
/// If a tensor is not f32 or the shapes differ.
pub fn mul(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    const OP: &str = "mul";
    expect_f32(OP, x)?;
    expect_f32(OP, y)?;
    expect_match(OP, x, y, x.shape() == y.shape(), "shapes differ")?;
    let z = x.empty_like()?;
    dispatch(x, y, &z, 0)?;
    Ok(record(z, &[x, y], || Rule { x: x.detach(), y: y.detach() }))
}

fn dispatch(x: &Tensor, y: &Tensor, z: &Tensor, accumulate: u32) -> Result<()> {
    let params = MulParams { n: x.numel() as u32, accumulate };
    x.gpu().dispatch(&MUL, &params, &[x.buffer(), y.buffer(), z.buffer()], vec4_grid(x.numel()))
}

struct Rule {
    x: Tensor,
    y: Tensor,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dz: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        for (parent, other) in [(0, &self.y), (1, &self.x)] {
            if let Some(to) = parents.destination(parent)? {
                dispatch(&dz, other, &to.tensor, to.flag())?;
            }
        }
        Ok(())
    }
}

/// The same on the CPU, slowly.
pub mod reference {
    /// x · y; with dz and the other factor, the gradient of a factor.
    pub fn mul(x: &[f32], y: &[f32]) -> Vec<f32> {
        x.iter().zip(y).map(|(x, y)| x * y).collect()
    }
}
