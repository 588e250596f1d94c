//! Moves rows of kept tokens between full tensors `f32[B, T, C]` and packed ones `f32[B, R, C]`: the kernels that
//! [`super::token_gather()`] and [`super::token_scatter()`] share.

use super::indices::TokenIndices;
use crate::error::{Error, Result};
use crate::gpu::{Access, BufferView, Fault, Kernel, Params, params, rounds, wgsl};
use crate::ops::item::{row_grid, strided};
use crate::ops::variants::ByItem;
use crate::ops::{expect_f32, expect_match};
use crate::tensor::Tensor;

params!(TokenRowsParams { rows: u32, kept: u32, tokens: u32, width: u32, accumulate: u32, fault: u32 });

static GATHER: Kernel = Kernel {
    name: "token_rows.gather",
    sources: &[wgsl!("token_rows.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/fault.wgsl"), wgsl!("tiles/vec4.wgsl")],
    entry: "gather",
    bindings: &[Access::Read, Access::Write, Access::Read, Access::Write],
    params: TokenRowsParams::FIELDS,
    constants: &[],
    rounds: rounds!(TokenRowsParams, |p, [_, _, z]| strided(p.width, z, 0)),
};

static SCATTER: Kernel = Kernel { name: "token_rows.scatter", entry: "scatter", ..GATHER };

static TAKE: Kernel = Kernel {
    name: "token_rows.take",
    entry: "take",
    bindings: &[Access::Read, Access::Write, Access::Write, Access::Write],
    ..GATHER
};

static ZERO: Kernel = Kernel {
    name: "token_rows.zero",
    entry: "zero",
    bindings: &[Access::Read, Access::Write, Access::Write],
    ..GATHER
};

static GATHER_SCALAR: Kernel = Kernel {
    name: "token_rows.gather_scalar",
    sources: &[wgsl!("token_rows.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/fault.wgsl"), wgsl!("tiles/scalar.wgsl")],
    ..GATHER
};

static SCATTER_SCALAR: Kernel = Kernel { name: "token_rows.scatter_scalar", entry: "scatter", ..GATHER_SCALAR };

static TAKE_SCALAR: Kernel = Kernel { name: "token_rows.take_scalar", sources: GATHER_SCALAR.sources, ..TAKE };

static ZERO_SCALAR: Kernel = Kernel { name: "token_rows.zero_scalar", sources: GATHER_SCALAR.sources, ..ZERO };

pub(crate) const KERNELS: &[&Kernel] =
    &[&GATHER, &SCATTER, &TAKE, &ZERO, &GATHER_SCALAR, &SCATTER_SCALAR, &TAKE_SCALAR, &ZERO_SCALAR];

static GATHERS: ByItem = ByItem::new(&GATHER, &GATHER_SCALAR);
static SCATTERS: ByItem = ByItem::new(&SCATTER, &SCATTER_SCALAR);
static TAKES: ByItem = ByItem::new(&TAKE, &TAKE_SCALAR);
static ZEROS: ByItem = ByItem::new(&ZERO, &ZERO_SCALAR);

/// The rows of C channels that `indices` name, as seen by one operation.
pub(in crate::ops) struct TokenRows<'a> {
    indices: &'a TokenIndices,
    channels: usize,
    /// What a bad index is reported as.
    fault: Fault,
}

impl<'a> TokenRows<'a> {
    pub(in crate::ops) fn new(indices: &'a TokenIndices, channels: usize, fault: Fault) -> Self {
        TokenRows { indices, channels, fault }
    }

    /// `packed` = the kept rows of `full`, or += them.
    pub(in crate::ops) fn gather(&self, full: &Tensor, packed: &Tensor, accumulate: bool) -> Result<()> {
        self.dispatch(&GATHERS, &[full.buffer(), packed.buffer()], accumulate)
    }

    /// The kept rows of `full` = `packed`, or += it.
    pub(in crate::ops) fn scatter(&self, packed: &Tensor, full: &Tensor, accumulate: bool) -> Result<()> {
        self.dispatch(&SCATTERS, &[packed.buffer(), full.buffer()], accumulate)
    }

    /// `packed` = the kept rows of `full`, or += them, and the kept rows of `full` = 0.
    pub(in crate::ops) fn take(&self, full: &Tensor, packed: &Tensor, accumulate: bool) -> Result<()> {
        self.dispatch(&TAKES, &[full.buffer(), packed.buffer()], accumulate)
    }

    /// The kept rows of `full` = 0.
    pub(in crate::ops) fn zero(&self, full: &Tensor) -> Result<()> {
        self.dispatch(&ZEROS, &[full.buffer()], false)
    }

    fn dispatch(&self, forms: &ByItem, data: &[&BufferView], accumulate: bool) -> Result<()> {
        let gpu = self.indices.positions().gpu();
        let (kernel, item) = forms.pick(self.channels);
        let rows = self.indices.batch() * self.indices.kept();
        let faults = self.indices.fault_place(self.fault)?;
        let params = TokenRowsParams {
            rows: rows as u32,
            kept: self.indices.kept() as u32,
            tokens: self.indices.tokens() as u32,
            width: (self.channels / item) as u32,
            accumulate: u32::from(accumulate),
            fault: faults.code,
        };
        let buffers = [&[self.indices.positions().buffer(), &faults.table], data].concat();
        gpu.dispatch(kernel, &params, &buffers, row_grid(rows, self.channels / item))
    }
}

/// B, T and C, if `x` is `f32[B, T, C]`.
pub(super) fn token_sizes(op: &'static str, x: &Tensor) -> Result<[usize; 3]> {
    expect_f32(op, x)?;
    x.shape().to_array().ok_or(Error::Shape { op, what: "needs f32[B, T, C]", got: x.info() })
}

/// C, if `full` is `f32[B, T, C]` with the B and T that `indices` are for.
pub(in crate::ops) fn channels_of(op: &'static str, full: &Tensor, indices: &TokenIndices) -> Result<usize> {
    let [batch, tokens, channels] = token_sizes(op, full)?;
    expect_match(
        op,
        full,
        indices.positions(),
        batch == indices.batch(),
        "x f32[B, T, C] and indices u32[B, R] differ in B",
    )?;
    if tokens != indices.tokens() {
        let got = format!("indices for {} tokens", indices.tokens());
        return Err(Error::argument(op, "indices", format!("for the {tokens} tokens of x {}", full.info()), got));
    }
    Ok(channels)
}
