//! Kernels that move or add whole rows. They say `Item` and count in items: four floats where every row is a multiple of
//! four (nearly always), else one. Files of their own, `shaders/tiles/vec4.wgsl` and `scalar.wgsl`, say which.

use crate::gpu::{Grid, Kernel, MAX_GROUPS};

/// The two forms of a kernel.
pub(super) struct ByItem {
    pub(super) vec4: &'static Kernel,
    pub(super) scalar: &'static Kernel,
}

impl ByItem {
    /// The form for rows of `width` floats, and the number of floats in its item. Offsets and strides must be multiples
    /// of `width` too.
    pub(super) fn pick(&self, width: usize) -> (&'static Kernel, usize) {
        if width.is_multiple_of(4) { (self.vec4, 4) } else { (self.scalar, 1) }
    }
}

/// Invocations a workgroup of such kernels.
pub(super) const LANES: usize = 64;

/// The grid of a kernel that treats `items` of each of `samples` alike: items along x, samples along y. Above the
/// device's limit the kernels' loops stride on.
pub(super) fn sample_grid(items: usize, samples: usize) -> Grid {
    let most = MAX_GROUPS as usize;
    Grid::new(items.div_ceil(LANES).clamp(1, most), samples.min(most), 1)
}

/// Invocations that share a row of `items` in the kernels that use `shaders/lib/four.wgsl`: the fewest of 8, 16, 32 and 64 that
/// hold it in four items each, so that rows of usual widths leave none idle; 64 if none do.
pub(super) fn team_of(items: usize) -> usize {
    items.div_ceil(4).next_power_of_two().clamp(8, LANES)
}

/// Columns that a workgroup adds up with `shaders/lib/columns.wgsl`.
pub(super) const STRIP: usize = 8;
