//! Which form of the kernel makes which rows of a product.

use super::gemm::{Form, Layout, ROWS_16, ROWS_32, ROWS_64, SIMPLE, TILE_32, TILE_64};
use crate::gpu::KernelFamily;

/// The facts of a device by which [`choose`] ranks the forms.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    pub(super) family: KernelFamily,
    /// Mesa's major version, if the driver is Mesa's.
    pub(super) mesa: Option<u32>,
}

/// What [`choose`] looks at in a product.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) layout: Layout,
    /// M, N, K.
    pub(super) size: [usize; 3],
    /// Matrices.
    pub(super) batch: usize,
    /// Every row of every matrix can be read as vec4.
    pub(super) aligned: bool,
}

/// How a product is cut.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Makes all rows, or with a `rest` only as many as fill its tiles.
    pub(super) body: &'static Form,
    /// Makes the rows that are left, in a dispatch of its own.
    pub(super) rest: Option<&'static Form>,
}

/// Picks the forms for a device and a shape. The limits were read off lavapipe 22.3 and 26.2 (docs/benchmarks.md); for
/// GPUs they stand on published figures.
pub(super) fn choose(facts: Facts, shape: Shape) -> Plan {
    let whole = |body| Plan { body, rest: None };
    if !shape.aligned {
        return whole(&SIMPLE);
    }
    let [m, n, _] = shape.size;
    match facts.family {
        KernelFamily::Lane => choose_rows(facts, shape),
        KernelFamily::Workgroup => {
            let up = usize::next_multiple_of;
            let few = m.div_ceil(64) * n.div_ceil(64) * shape.batch < 128;
            let wasteful = 2 * up(m, 64) * up(n, 64) > 3 * up(m, 32) * up(n, 32);
            whole(if few || wasteful { &TILE_32 } else { &TILE_64 })
        }
    }
}

/// The cheapest way to cover the rows, by what a tile of each form costs relative to one of 64 rows and what a dispatch
/// costs by itself.
fn choose_rows(facts: Facts, shape: Shape) -> Plan {
    let [m, n, k] = shape.size.map(|size| size as u64);
    // In thousandths of a tile of 64 rows, and in operations. The older driver gains more from tall tiles.
    let (tile_32, tile_16, dispatch) =
        if facts.mesa.is_some_and(|v| v >= 25) { (570, 400, 3_500_000) } else { (760, 600, 2_000_000) };
    let dispatch = dispatch * 1000 / (2 * 64 * n * k * shape.batch as u64);
    let thin = if shape.layout == Layout::Tn { None } else { Some((&ROWS_16, tile_16)) };
    let forms = [Some((&ROWS_64, 1000)), Some((&ROWS_32, tile_32)), thin];
    let mut best = (u64::MAX, Plan { body: &ROWS_64, rest: None });
    for (body, tile) in forms.into_iter().flatten() {
        let mut offer = |cost, rest| {
            if cost < best.0 {
                best = (cost, Plan { body, rest });
            }
        };
        offer(tile * m.div_ceil(body.rows as u64), None);
        let (whole, left) = (m / body.rows as u64, m % body.rows as u64);
        for (rest, rest_tile) in forms.into_iter().flatten().filter(|(form, _)| form.rows < body.rows) {
            if whole > 0 && left > 0 {
                offer(dispatch + tile * whole + rest_tile * left.div_ceil(rest.rows as u64), Some(rest));
            }
        }
    }
    best.1
}
