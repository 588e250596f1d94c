//! Elements that indices on the device name, along an axis.

use crate::autograd::{Backward, Destination, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, Fault, FaultSource, Grid, Kernel, NO_LOOPS, Params, looped, params, rounds, wgsl};
use crate::ops::item::LANES;
use crate::ops::{axis, expect, expect_f32, expect_match};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(GatherParams {
    outer: u32,
    len: u32,
    count: u32,
    inner: u32,
    first: u32,
    end: u32,
    accumulate: u32,
    fault: u32,
});

static GATHER: Kernel = Kernel {
    name: "gather",
    sources: &[wgsl!("gather.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/fault.wgsl")],
    entry: "gather",
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write],
    params: GatherParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static SCATTER_ADD: Kernel = Kernel {
    name: "gather.scatter_add",
    entry: "scatter_add",
    rounds: rounds!(GatherParams, |p, _| looped(p.end.saturating_sub(p.first), 0)),
    ..GATHER
};

pub(super) const KERNELS: &[&Kernel] = &[&GATHER, &SCATTER_ADD];

/// The elements of `x` that `index` names along the axis `along`: y\[.., k, ..\] = x\[.., index\[.., k, ..\], ..\].
/// `f32[.., N, ..]` and `u32[.., K, ..]` to `f32[.., K, ..]`, as PyTorch's `gather`; the other sizes are equal.
///
/// # Errors
/// If the dtypes are others, there is no such axis, or other sizes differ. An index that is not below N gives 0, and makes the
/// first read of what depends on it an [`OutOfRange`](crate::Error::OutOfRange).
pub fn gather(x: &Tensor, along: usize, index: &Tensor) -> Result<Tensor> {
    let columns = Columns::new("gather", x, along, index, Fault::Gather)?;
    let y = Tensor::unwritten(x.gpu(), DType::F32, index.shape())?;
    columns.gather(x, &Destination { tensor: y.clone(), accumulate: false })?;
    Ok(record(y, &[x], || GatherRule { columns }))
}

/// `x` with the elements of `source` added to where `index` names along the axis `along`:
/// y\[.., index\[.., k, ..\], ..\] += source\[.., k, ..\]. `f32[.., N, ..]`, `u32[.., K, ..]` and `f32[.., K, ..]` to
/// `f32[.., N, ..]`, as PyTorch's `scatter_add`, but always in the same order: k by k, those that follow each other to one place by
/// themselves first. Each column along the axis is one invocation's, so it is fast where there are many columns.
///
/// # Errors
/// If the dtypes are others, there is no such axis, or other sizes differ. An index that is not below N is left out, and makes
/// the first read of what depends on it an [`OutOfRange`](crate::Error::OutOfRange).
pub fn scatter_add(x: &Tensor, along: usize, index: &Tensor, source: &Tensor) -> Result<Tensor> {
    const OP: &str = "scatter_add";
    let columns = Columns::new(OP, x, along, index, Fault::ScatterAdd)?;
    expect_f32(OP, source)?;
    expect_match(OP, index, source, index.shape() == source.shape(), "there must be an index for each element")?;
    let y = x.copied()?;
    columns.scatter_add(source, &y)?;
    Ok(record(y, &[x, source], || ScatterRule { columns }))
}

/// `x` seen as `[outer, len, inner]`, and an index as `[outer, count, inner]`.
struct Columns {
    index: Tensor,
    outer: usize,
    len: usize,
    count: usize,
    inner: usize,
    /// What a bad index is reported as, once for all dispatches.
    fault: Fault,
    source: FaultSource,
}

/// Elements of a column that one dispatch of scatter_add takes: an invocation goes through all of them.
const AT_ONCE: usize = 16_384;
/// What an element costs besides its bytes, in operations: each waits for the one before it to be read and written.
const WAITING: u64 = 20_000;

impl Columns {
    fn new(op: &'static str, x: &Tensor, along: usize, index: &Tensor, fault: Fault) -> Result<Self> {
        expect_f32(op, x)?;
        expect(op, index, index.dtype() == DType::U32, "the index must be u32")?;
        let along = axis(op, x, along)?;
        let rank = x.shape().rank();
        let others = |i: usize| i == along || x.dims()[i] == index.dims()[i];
        let fits = index.shape().rank() == rank && (0..rank).all(others);
        expect_match(op, x, index, fits, "sizes must be equal but along the axis")?;
        Ok(Columns {
            index: index.detach(),
            outer: x.dims()[..along].iter().product(),
            len: x.dims()[along],
            count: index.dims()[along],
            inner: x.dims()[along + 1..].iter().product(),
            fault,
            source: FaultSource::default(),
        })
    }

    fn gather(&self, x: &Tensor, to: &Destination) -> Result<()> {
        let grid = Grid::linear(self.index.numel(), LANES);
        self.dispatch(&GATHER, x, &to.tensor, self.params(0, self.count, to.flag()), grid)
    }

    fn scatter_add(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        for first in (0..self.count).step_by(AT_ONCE) {
            let end = self.count.min(first + AT_ONCE);
            let grid = Grid::linear(self.outer * self.inner, LANES).with_flops(WAITING * (end - first) as u64);
            self.dispatch(&SCATTER_ADD, x, y, self.params(first, end, 1), grid)?;
        }
        Ok(())
    }

    fn params(&self, first: usize, end: usize, accumulate: u32) -> GatherParams {
        GatherParams {
            outer: self.outer as u32,
            len: self.len as u32,
            count: self.count as u32,
            inner: self.inner as u32,
            first: first as u32,
            end: end as u32,
            accumulate,
            fault: 0,
        }
    }

    fn dispatch(
        &self,
        kernel: &'static Kernel,
        x: &Tensor,
        y: &Tensor,
        params: GatherParams,
        grid: Grid,
    ) -> Result<()> {
        let place = x.gpu().fault_place(self.fault, &self.source)?;
        let params = GatherParams { fault: place.code, ..params };
        x.gpu().dispatch(kernel, &params, &[self.index.buffer(), x.buffer(), y.buffer(), &place.table], grid)
    }
}

struct GatherRule {
    columns: Columns,
}

impl Backward for GatherRule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        dx.zeroed()?;
        self.columns.scatter_add(&dy, &dx.tensor)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

struct ScatterRule {
    columns: Columns,
}

impl Backward for ScatterRule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        if let Some(source) = parents.destination(1)? {
            self.columns.gather(&dy, &source)?;
        }
        parents.give(0, dy)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly, on x seen as `[outer, len, inner]` and an index as `[outer, count, inner]`.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// The place in x of each element of the index.
    pub fn places(index: &[u32], [outer, len, count, inner]: [usize; 4]) -> Vec<usize> {
        let place = |i: usize| (i / (count * inner) * len + index[i] as usize) * inner + i % inner;
        (0..outer * count * inner).map(place).collect()
    }
}
