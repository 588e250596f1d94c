//! Functions of two tensors, element by element, which are broadcast to a common shape.

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, Grid, Kernel, NO_LOOPS, Params, wgsl};
use crate::ops::item::LANES;
use crate::ops::reduce::sum_to;
use crate::ops::strided::{Walk, common_shape, repeating_strides, sizes, walk_params};
use crate::ops::{expect_f32, scale};
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

walk_params!(BinaryParams { items: u32, accumulate: u32 });

/// One kernel in its two forms.
struct Forms {
    /// For tensors of one shape, in fours.
    same: Kernel,
    /// For broadcast ones.
    broadcast: Kernel,
}

impl Forms {
    /// Runs on `x` and `y` broadcast to `shape`; `rest` are the other buffers.
    fn dispatch(&'static self, x: &Tensor, y: &Tensor, shape: Shape, rest: &[&Tensor], accumulate: u32) -> Result<()> {
        let is_same = x.shape() == shape && y.shape() == shape;
        let (kernel, item) = if is_same { (&self.same, 4) } else { (&self.broadcast, 1) };
        dispatch((kernel, item), x, y, shape, rest, accumulate)
    }
}

/// The same by a kernel that makes so many elements at a time.
fn dispatch(
    (kernel, item): (&'static Kernel, usize),
    x: &Tensor,
    y: &Tensor,
    shape: Shape,
    rest: &[&Tensor],
    accumulate: u32,
) -> Result<()> {
    let [of_x, of_y] = [x, y].map(|t| repeating_strides(sizes(t.shape())));
    let walk = Walk::new(sizes(shape), of_x, of_y);
    let items = shape.numel().div_ceil(item);
    let params = BinaryParams::along(&walk, items as u32, accumulate);
    let buffers: Vec<_> = [x, y].iter().chain(rest).map(|t| t.buffer()).collect();
    x.gpu().dispatch(kernel, &params, &buffers, Grid::linear(items, LANES))
}

/// The kernels of a function whose slopes depend on its operands.
struct Binary {
    op: &'static str,
    forward: Forms,
    /// Towards x and towards y.
    backward: [Forms; 2],
}

/// Bindings of a forward pass.
const FORWARD: &[Access] = &[Access::Read, Access::Read, Access::Write];

macro_rules! kernel {
    ($name:expr, $entry:literal, $main:literal, $file:literal, $bindings:expr, $($tile:literal)+) => {
        Kernel {
            name: concat!("binary.", $name),
            sources: &[
                wgsl!($main),
                wgsl!("lib/grid.wgsl"),
                wgsl!("lib/nan.wgsl"),
                wgsl!($file),
                $(wgsl!($tile),)+
            ],
            entry: $entry,
            bindings: $bindings,
            params: BinaryParams::FIELDS,
            constants: &[],
            rounds: NO_LOOPS,
        }
    };
}

/// Of broadcast tensors.
macro_rules! broadcast {
    ($name:expr, $entry:literal, $main:literal, $file:literal, $bindings:expr) => {
        kernel!(
            concat!($name, ".broadcast"),
            $entry,
            $main,
            $file,
            $bindings,
            "tiles/scalar.wgsl" "lib/strided.wgsl"
        )
    };
}

macro_rules! forms {
    ($name:expr, $entry:literal, $main:literal, $file:literal, $bindings:expr) => {
        Forms {
            same: kernel!($name, $entry, $main, $file, $bindings, "tiles/vec4.wgsl" "tiles/places_same.wgsl"),
            broadcast: broadcast!($name, $entry, $main, $file, $bindings),
        }
    };
    (forward $op:literal, $file:literal) => {
        forms!($op, "forward", "binary.wgsl", $file, FORWARD)
    };
    (backward $op:literal, $entry:literal, $file:literal) => {
        forms!(
            concat!($op, ".", $entry),
            $entry,
            "binary_backward.wgsl",
            $file,
            &[Access::Read, Access::Read, Access::Read, Access::Write]
        )
    };
}

macro_rules! binaries {
    ($($function:ident $op:literal $file:literal;)+) => {
        $(static $function: Binary = Binary {
            op: $op,
            forward: forms!(forward $op, $file),
            backward: [forms!(backward $op, "backward_x", $file), forms!(backward $op, "backward_y", $file)],
        };)+
        const ALL: &[&Binary] = &[$(&$function),+];
    };
}

binaries! {
    DIV "div" "binary/div.wgsl";
    MAXIMUM "maximum" "binary/maximum.wgsl";
    MINIMUM "minimum" "binary/minimum.wgsl";
    MUL "mul" "binary/mul.wgsl";
}

/// Broadcast ones alone: `crate::ops::add()` does the others.
static ADD: Kernel = broadcast!("add", "forward", "binary.wgsl", "binary/add.wgsl", FORWARD);
static SUB: Forms = forms!(forward "sub", "binary/sub.wgsl");
static EQ: Forms = forms!(forward "eq", "binary/eq.wgsl");
static NE: Forms = forms!(forward "ne", "binary/ne.wgsl");
static LT: Forms = forms!(forward "lt", "binary/lt.wgsl");
static LE: Forms = forms!(forward "le", "binary/le.wgsl");

pub(super) fn kernels() -> Vec<&'static Kernel> {
    let plain = [&SUB, &EQ, &NE, &LT, &LE].into_iter();
    let all = plain.chain(ALL.iter().flat_map(|f| [&f.forward, &f.backward[0], &f.backward[1]]));
    [&ADD].into_iter().chain(all.flat_map(|forms| [&forms.same, &forms.broadcast])).collect()
}

/// Memory for f(x, y).
fn result(op: &'static str, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    expect_f32(op, x)?;
    expect_f32(op, y)?;
    Tensor::unwritten(x.gpu(), DType::F32, common_shape(op, x, y)?)
}

/// f(x, y) outside any graph.
fn value(op: &'static str, forms: &'static Forms, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let z = result(op, x, y)?;
    forms.dispatch(x, y, z.shape(), &[&z], 0)?;
    Ok(z)
}

/// f(y, x) outside any graph.
fn exchanged(op: &'static str, forms: &'static Forms, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let z = result(op, x, y)?;
    forms.dispatch(y, x, z.shape(), &[&z], 0)?;
    Ok(z)
}

impl Binary {
    fn apply(&'static self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let z = value(self.op, &self.forward, x, y)?;
        Ok(record(z, &[x, y], || Rule { function: self, x: x.detach(), y: y.detach() }))
    }
}

struct Rule {
    function: &'static Binary,
    x: Tensor,
    y: Tensor,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dz: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Rule { function, x, y } = &*self;
        for (i, forms) in function.backward.iter().enumerate() {
            let Some(to) = parents.destination(i)? else { continue };
            if to.tensor.shape() == dz.shape() {
                forms.dispatch(x, y, dz.shape(), &[&dz, &to.tensor], to.flag())?;
            } else {
                let full = dz.empty_like()?;
                forms.dispatch(x, y, dz.shape(), &[&dz, &full], 0)?;
                sum_to(&full, 1.0, &to)?;
            }
        }
        Ok(())
    }
}

/// x · y, element by element, broadcast: `f32[..]` and `f32[..]` to their common shape.
///
/// # Errors
/// If a tensor is not f32, or the shapes have no common one.
pub fn mul(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    MUL.apply(x, y)
}

/// x / y, element by element, broadcast: `f32[..]` and `f32[..]` to their common shape.
///
/// # Errors
/// As [`mul`].
pub fn div(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    DIV.apply(x, y)
}

/// The larger of x and y, element by element, broadcast: `f32[..]` and `f32[..]` to their common shape; NaN where one of them is
/// NaN. Of equals each gets half of the gradient, as in PyTorch.
///
/// # Errors
/// As [`mul`].
pub fn maximum(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    MAXIMUM.apply(x, y)
}

/// The smaller of x and y, element by element, broadcast: `f32[..]` and `f32[..]` to their common shape; else as [`maximum`].
///
/// # Errors
/// As [`mul`].
pub fn minimum(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    MINIMUM.apply(x, y)
}

/// x − y, element by element, broadcast: `f32[..]` and `f32[..]` to their common shape.
///
/// # Errors
/// As [`mul`].
pub fn sub(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let z = value("sub", &SUB, x, y)?;
    Ok(record(z, &[x, y], || LinearRule { terms: [(x.shape(), 1.0), (y.shape(), -1.0)] }))
}

/// x + y where neither is the other's repetition over leading axes, which [`crate::ops::add()`] does by itself.
pub(super) fn broadcast_add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let z = result("add", x, y)?;
    dispatch((&ADD, 1), x, y, z.shape(), &[&z], 0)?;
    Ok(record(z, &[x, y], || LinearRule { terms: [(x.shape(), 1.0), (y.shape(), 1.0)] }))
}

/// 1 where x = y, else 0, element by element, broadcast: `f32[..]` and `f32[..]` to their common shape, in no graph. A
/// condition for [`where_`](crate::ops::where_). As IEEE 754 has it, −0 equals 0 and NaN equals nothing; on devices without
/// subnormal numbers those count as 0.
///
/// # Errors
/// As [`mul`].
pub fn eq(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    value("eq", &EQ, x, y)
}

/// 1 where x ≠ y, else 0: what [`eq`] is not, so 1 where one of them is NaN.
///
/// # Errors
/// As [`mul`].
pub fn ne(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    value("ne", &NE, x, y)
}

/// 1 where x < y, else 0, as where one of them is NaN; else as [`eq`].
///
/// # Errors
/// As [`mul`].
pub fn lt(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    value("lt", &LT, x, y)
}

/// 1 where x ≤ y, else 0, as where one of them is NaN; else as [`eq`].
///
/// # Errors
/// As [`mul`].
pub fn le(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    value("le", &LE, x, y)
}

/// 1 where x > y, else 0, as where one of them is NaN; else as [`eq`].
///
/// # Errors
/// As [`mul`].
pub fn gt(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    exchanged("gt", &LT, x, y)
}

/// 1 where x ≥ y, else 0, as where one of them is NaN; else as [`eq`].
///
/// # Errors
/// As [`mul`].
pub fn ge(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    exchanged("ge", &LE, x, y)
}

/// Of a sum of terms factor · x, which keeps nothing but their shapes.
struct LinearRule {
    terms: [(Shape, f32); 2],
}

impl Backward for LinearRule {
    fn backward(self: Box<Self>, dz: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let [x, y] = self.terms;
        towards(1, y, dz.clone(), parents)?;
        // The last handle: x may have its memory.
        towards(0, x, dz, parents)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// Hands factor · dz to a parent, summed over what was broadcast.
fn towards(parent: usize, (shape, factor): (Shape, f32), dz: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
    if !parents.wants(parent) {
        return Ok(());
    }
    if shape == dz.shape() {
        let dx = if factor == 1.0 { dz } else { scale(&dz, factor)? };
        return parents.give(parent, dx);
    }
    parents.destination(parent)?.map_or(Ok(()), |to| sum_to(&dz, factor, &to))
}

/// The same on the CPU, in f64: the value, and the slopes in x and y.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// x · y
    pub fn mul(x: f64, y: f64) -> [f64; 3] {
        [x * y, y, x]
    }

    /// x / y
    pub fn div(x: f64, y: f64) -> [f64; 3] {
        [x / y, 1.0 / y, -x / (y * y)]
    }

    /// x + y
    pub fn add(x: f64, y: f64) -> [f64; 3] {
        [x + y, 1.0, 1.0]
    }

    /// x − y
    pub fn sub(x: f64, y: f64) -> [f64; 3] {
        [x - y, 1.0, -1.0]
    }

    /// The larger.
    pub fn maximum(x: f64, y: f64) -> [f64; 3] {
        chosen(x, y, x > y)
    }

    /// The smaller.
    pub fn minimum(x: f64, y: f64) -> [f64; 3] {
        chosen(x, y, x < y)
    }

    /// One of two, whichever `is_x` says, and NaN where one is.
    fn chosen(x: f64, y: f64, is_x: bool) -> [f64; 3] {
        match () {
            () if x.is_nan() || y.is_nan() => [f64::NAN, 1.0, 1.0],
            () if x == y => [x, 0.5, 0.5],
            () if is_x => [x, 1.0, 0.0],
            () => [y, 0.0, 1.0],
        }
    }
}
