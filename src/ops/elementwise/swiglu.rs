//! SwiGLU (Shazeer, "GLU Variants Improve Transformer", 2020), gate and value packed.

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, BufferView, Grid, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::ops::item::LANES;
use crate::ops::variants::ByItem;
use crate::ops::{cast, expect, expect_float, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(SwigluParams { rows: u32, width: u32, accumulate: u32 });

/// The two kernels of a kind of item.
macro_rules! kernels {
    ($forward:ident $backward:ident $mark:literal, $($tile:expr),+) => {
        static $forward: Kernel = Kernel {
            name: concat!("swiglu.forward", $mark),
            sources: &[wgsl!("swiglu.wgsl"), wgsl!("lib/grid.wgsl"), $($tile),+],
            entry: "forward",
            bindings: &[Access::Read, Access::Write],
            params: SwigluParams::FIELDS,
            constants: &[],
            rounds: NO_LOOPS,
        };

        static $backward: Kernel = Kernel {
            name: concat!("swiglu.backward", $mark),
            entry: "backward",
            bindings: &[Access::Read, Access::Read, Access::Write],
            ..$forward
        };
    };
}

kernels!(VEC4 VEC4_BACKWARD "", wgsl!("tiles/vec4.wgsl"), wgsl!("tiles/act_f32.wgsl"));
kernels!(SCALAR SCALAR_BACKWARD ".scalar", wgsl!("tiles/scalar.wgsl"), wgsl!("tiles/act_scalar.wgsl"));
kernels!(HALF HALF_BACKWARD ".f16", wgsl!("tiles/vec4.wgsl"), wgsl!("tiles/act_f16.wgsl", enable "f16"));

pub(crate) const KERNELS: &[&Kernel] = &[&VEC4, &VEC4_BACKWARD, &SCALAR, &SCALAR_BACKWARD, &HALF, &HALF_BACKWARD];

static FORWARD: ByItem = ByItem::new(&VEC4, &SCALAR).with_half(&HALF);
static BACKWARD: ByItem = ByItem::new(&VEC4_BACKWARD, &SCALAR_BACKWARD).with_half(&HALF_BACKWARD);

/// silu(gate) ⊙ value with silu(x) = x·σ(x): `f32` or `f16[.., 2·F]`, which holds gate and behind it value, to the same dtype
/// `[.., F]`.
///
/// # Errors
/// If `x` is neither f32 nor f16, or its last axis is odd.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "swiglu";
    expect_float(OP, x)?;
    let (width, dtype) = (x.shape().last(), x.dtype());
    expect(OP, x, x.shape().rank() > 0 && width.is_multiple_of(2), "the last axis must hold two halves")?;
    // There are kernels for whole vectors of halves.
    if dtype == DType::F16 && !width.is_multiple_of(8) {
        return cast(&swiglu(&cast(x, DType::F32)?)?, dtype);
    }
    let leading = &x.dims()[..x.dims().len() - 1];
    let y = Tensor::unwritten(x.gpu(), dtype, shape(OP, &[leading, &[width / 2]].concat())?)?;
    dispatch(x, &FORWARD, &[x.buffer(), y.buffer()], 0)?;
    Ok(record(y, &[x], || Rule { x: x.detach() }))
}

fn dispatch(x: &Tensor, kernels: &ByItem, buffers: &[&BufferView], accumulate: u32) -> Result<()> {
    let half = x.shape().last() / 2;
    let (kernel, item) = kernels.pick_as(x.dtype(), half);
    let (rows, width) = (x.numel() / (2 * half).max(1), half / item);
    let params = SwigluParams { rows: rows as u32, width: width as u32, accumulate };
    x.gpu().dispatch(kernel, &params, buffers, Grid::linear(rows * width, LANES))
}

struct Rule {
    x: Tensor,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        let buffers = [self.x.buffer(), dy.buffer(), dx.tensor.buffer()];
        dispatch(&self.x, &BACKWARD, &buffers, dx.flag())
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// y of x, rows of `width` gates and as many values.
    pub fn forward(x: &[f32], width: usize) -> Vec<f32> {
        let row = |row: &[f32]| -> Vec<f32> {
            let y = |i: usize| f64::from(row[i]) * sigmoid(row[i].into()) * f64::from(row[width + i]);
            (0..width).map(|i| y(i) as f32).collect()
        };
        x.chunks(2 * width).flat_map(row).collect()
    }

    /// dx of x and dy.
    pub fn backward(x: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
        let mut dx = vec![0.0; x.len()];
        for (i, &dy) in dy.iter().enumerate() {
            let gate = i / width * 2 * width + i % width;
            let (g, v, dy) = (f64::from(x[gate]), f64::from(x[gate + width]), f64::from(dy));
            let s = sigmoid(g);
            dx[gate] = (dy * v * (s + g * s * (1.0 - s))) as f32;
            dx[gate + width] = (dy * g * s) as f32;
        }
        dx
    }
}
