//! The choice between two tensors.

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, Grid, Kernel, NO_LOOPS, Params, wgsl};
use crate::ops::item::LANES;
use crate::ops::strided::{NOT_COMMON, Walk, common, common_shape, repeating_strides, sizes, strides, walk_params};
use crate::ops::{expand, expect, expect_f32, expect_match};
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

walk_params!(WhereParams { items: u32, side: u32, accumulate: u32, mask: u32 });

static FORWARD: Kernel = Kernel {
    name: "where.forward",
    sources: &[wgsl!("where.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/strided.wgsl")],
    entry: "forward",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
    params: WhereParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static BACKWARD: Kernel = Kernel {
    name: "where.backward",
    entry: "backward",
    bindings: &[Access::Read, Access::Read, Access::Write],
    ..FORWARD
};

pub(super) const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// x where `condition` is not 0, else y, element by element: `u32[..]` or `f32[..]`, `f32[..]` and `f32[..]`, broadcast, to
/// their common shape. The condition, such as [`lt`](crate::ops::lt) makes, has no gradient; −0 is 0, and NaN is not.
/// (PyTorch's `where`, which is a word of Rust's own.)
///
/// # Errors
/// If the dtypes are others, or the shapes have no common one.
pub fn where_(condition: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    const OP: &str = "where";
    let is_condition = matches!(condition.dtype(), DType::U32 | DType::F32);
    expect(OP, condition, is_condition, "the condition must be u32 or f32")?;
    expect_f32(OP, x)?;
    expect_f32(OP, y)?;
    let shape = common(common_shape(OP, x, y)?, condition.shape());
    expect_match(OP, condition, x, shape.is_some(), NOT_COMMON)?;
    let shape = shape.ok_or(Error::Shape { op: OP, what: NOT_COMMON, got: x.info() })?;
    let (x, y) = (expand(x, shape.dims())?, expand(y, shape.dims())?);
    let z = Tensor::unwritten(x.gpu(), DType::F32, shape)?;
    let condition = condition.detach();
    let choice = Choice { condition: condition.clone(), shape };
    choice.dispatch(&FORWARD, 1, 0, &[&x, &y, &z])?;
    // The condition, outside its graph, is a parent only because backward reads it.
    Ok(record(z, &[&x, &y, &condition], || choice))
}

struct Choice {
    condition: Tensor,
    /// Of the result.
    shape: Shape,
}

impl Choice {
    /// The bits by which an element of the condition is told from 0: of a float all but its sign.
    fn mask(&self) -> u32 {
        if self.condition.dtype() == DType::F32 { u32::MAX >> 1 } else { u32::MAX }
    }

    fn dispatch(&self, kernel: &'static Kernel, side: u32, accumulate: u32, rest: &[&Tensor]) -> Result<()> {
        let all = sizes(self.shape);
        let walk = Walk::new(all, repeating_strides(sizes(self.condition.shape())), strides(all));
        let items = self.shape.numel();
        let params = WhereParams::along(&walk, items as u32, side, accumulate, self.mask());
        let buffers: Vec<_> = [&self.condition].iter().chain(rest).map(|t| t.buffer()).collect();
        self.condition.gpu().dispatch(kernel, &params, &buffers, Grid::linear(items, LANES))
    }
}

impl Backward for Choice {
    fn backward(self: Box<Self>, dz: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        for (parent, side) in [(0, 1), (1, 0)] {
            if let Some(to) = parents.destination(parent)? {
                self.dispatch(&BACKWARD, side, to.flag(), &[&dz, &to.tensor])?;
            }
        }
        Ok(())
    }

    fn reads(&self, i: usize) -> bool {
        i == 2
    }
}
