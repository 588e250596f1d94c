//! Rows of a table that ids name: looking them up, and adding to them in a fixed order. Not differentiable by itself.

use std::ops::Range;

use crate::error::Result;
use crate::gpu::{Access, Fault, FaultSource, Grid, Kernel, NO_LOOPS, Params, looped, params, rounds, wgsl};
use crate::ops::item::{LANES, pieces};
use crate::ops::parts::{Part, row_parts};
use crate::ops::shape;
use crate::ops::variants::ByItem;
use crate::shape::DType;
use crate::tensor::Tensor;

params!(EmbeddingParams {
    places: u32,
    width: u32,
    total: u32,
    first_row: u32,
    rows: u32,
    first_place: u32,
    end: u32,
    fault: u32,
});

static FORWARD: Kernel = Kernel {
    name: "embedding.forward",
    sources: &[wgsl!("embedding.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/fault.wgsl"), wgsl!("tiles/vec4.wgsl")],
    entry: "forward",
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write],
    params: EmbeddingParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static LINK: Kernel = Kernel {
    name: "embedding.link",
    entry: "link",
    bindings: &[Access::Read, Access::Write],
    rounds: rounds!(EmbeddingParams, |p, _| looped(p.end.saturating_sub(p.first_place), 0)),
    ..FORWARD
};

static ADD: Kernel = Kernel {
    name: "embedding.add",
    entry: "add",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
    ..LINK
};

static FORWARD_SCALAR: Kernel = Kernel {
    name: "embedding.forward_scalar",
    sources: &[wgsl!("embedding.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/fault.wgsl"), wgsl!("tiles/scalar.wgsl")],
    ..FORWARD
};

static ADD_SCALAR: Kernel = Kernel { name: "embedding.add_scalar", sources: FORWARD_SCALAR.sources, ..ADD };

pub(crate) const KERNELS: &[&Kernel] = &[&FORWARD, &LINK, &ADD, &FORWARD_SCALAR, &ADD_SCALAR];

const FORWARDS: ByItem = ByItem::new(&FORWARD, &FORWARD_SCALAR);
const ADDS: ByItem = ByItem::new(&ADD, &ADD_SCALAR);

/// Places that are chained at a time: each is compared with all behind it, and one invocation goes along a chain.
const AT_ONCE: usize = 8192;

/// A table `f32[V, C]` and the rows of it that ids `u32[..]` name.
pub(super) struct TableRows {
    pub(super) ids: Tensor,
    /// V.
    pub(super) rows: usize,
    /// C.
    pub(super) channels: usize,
}

impl TableRows {
    /// y `f32[.., C]` = the rows of `table`; zeros for an id that is not below V, which is reported.
    pub(super) fn look_up(&self, table: &Tensor, y: &Tensor) -> Result<()> {
        let gpu = self.ids.gpu();
        let (kernel, item) = FORWARDS.pick(self.channels);
        let faults = gpu.fault_place(Fault::Embedding, &FaultSource::default())?;
        let grid = Grid::linear(y.numel() / item, LANES);
        for part in self.parts(table)? {
            let params = EmbeddingParams { fault: faults.code, ..self.params(&part, item, 0..0) };
            gpu.dispatch(kernel, &params, &[self.ids.buffer(), &part.view, y.buffer(), &faults.table], grid)?;
        }
        Ok(())
    }

    /// Adds `dy`, `f32[.., C]`, to the rows of `table`; what has no row is left out.
    pub(super) fn add(&self, dy: &Tensor, table: &Tensor) -> Result<()> {
        let gpu = self.ids.gpu();
        let (kernel, item) = ADDS.pick(self.channels);
        let places = self.ids.numel();
        let links = shape("embedding", &[2, places.min(AT_ONCE)])?;
        let links = Tensor::unwritten(gpu, DType::U32, links)?;
        let parts = self.parts(table)?;
        for slice in pieces(0..places, AT_ONCE) {
            gpu.clear(links.buffer())?;
            let params = |part: &Part| self.params(part, item, slice.clone());
            let grid = Grid::linear(slice.len(), LANES);
            gpu.dispatch(&LINK, &params(&parts[0]), &[self.ids.buffer(), links.buffer()], grid)?;
            let grid = Grid::linear(slice.len() * (self.channels / item), LANES);
            for part in &parts {
                let buffers = [self.ids.buffer(), links.buffer(), dy.buffer(), &part.view];
                gpu.dispatch(kernel, &params(part), &buffers, grid)?;
            }
        }
        Ok(())
    }

    fn parts(&self, table: &Tensor) -> Result<Vec<Part>> {
        row_parts(table.gpu(), table.buffer(), self.rows, self.channels)
    }

    fn params(&self, part: &Part, item: usize, places: Range<usize>) -> EmbeddingParams {
        EmbeddingParams {
            places: self.ids.numel() as u32,
            width: (self.channels / item) as u32,
            total: self.rows as u32,
            first_row: part.rows.start as u32,
            rows: part.rows.len() as u32,
            first_place: places.start as u32,
            end: places.end as u32,
            fault: 0,
        }
    }
}
