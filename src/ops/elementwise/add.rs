//! Sums of two tensors: residual connections, biases, position embeddings.

use super::binary::broadcast_add;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, Grid, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::ops::item::LANES;
use crate::ops::reduce::column_sum::column_sum;
use crate::ops::variants::ByItem;
use crate::ops::{expect_f32, expect_match};
use crate::shape::Shape;
use crate::tensor::Tensor;

params!(AddParams { items: u32, repeat: u32 });

static VEC4: Kernel = Kernel {
    name: "add.vec4",
    sources: &[wgsl!("add.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("tiles/vec4.wgsl")],
    entry: "add",
    bindings: &[Access::Read, Access::Read, Access::Write],
    params: AddParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static SCALAR: Kernel = Kernel {
    name: "add.scalar",
    sources: &[wgsl!("add.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("tiles/scalar.wgsl")],
    ..VEC4
};

const FORMS: ByItem = ByItem::new(&VEC4, &SCALAR);

pub(crate) const KERNELS: &[&Kernel] = &[&VEC4, &SCALAR];

/// x + y, element by element, broadcast: `f32[..]` and `f32[..]` to their common shape. Fastest where y has x's shape or is
/// repeated over its leading axes, as `f32[C]` or `f32[T, C]` on `f32[B, T, C]`.
///
/// # Errors
/// If a tensor is not f32, or the shapes have no common one.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    const OP: &str = "add";
    expect_f32(OP, x)?;
    expect_f32(OP, y)?;
    expect_match(OP, x, y, true, "")?;
    if !x.dims().ends_with(y.dims()) {
        return broadcast_add(x, y);
    }
    let z = x.empty_like()?;
    let (n, repeat) = (x.numel(), y.numel());
    // Of equal shapes the padding may be added too; else each repetition must start on a vec4.
    let (kernel, item) = FORMS.pick(if repeat == n { 4 } else { repeat });
    let items = n.div_ceil(item);
    let params = AddParams { items: items as u32, repeat: repeat.div_ceil(item) as u32 };
    let buffers = [x.buffer(), y.buffer(), z.buffer()];
    x.gpu().dispatch(kernel, &params, &buffers, Grid::linear(items, LANES))?;
    Ok(record(z, &[x, y], || Rule { y: y.shape() }))
}

struct Rule {
    y: Shape,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dz: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let (n, repeat) = (dz.numel(), self.y.numel());
        if repeat == n {
            // Of equal shapes, or x has leading axes of 1.
            parents.give(1, dz.with_shape(self.y))?;
        } else if let Some(dy) = parents.destination(1)? {
            column_sum(&dz, n / repeat, repeat, &dy)?;
        }
        parents.give(0, dz)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    pub use crate::ops::reduce::column_sum::reference::column_sum;

    /// z = x + y, y repeated. The gradients are dz and, of y, its [`column_sum`].
    pub fn forward(x: &[f32], y: &[f32]) -> Vec<f32> {
        x.iter().zip(y.iter().cycle()).map(|(x, y)| x + y).collect()
    }
}
