//! How kernels divide rows of items ([`super::variants::ByItem`]) among invocations, and how many rounds their loops then make.

use std::ops::Range;

use crate::gpu::{Grid, MAX_GROUPS, looped};

/// Invocations a workgroup of most kernels.
pub(super) const LANES: usize = 64;

/// The grid of a kernel that treats each element by itself, four of them an invocation.
pub(super) fn vec4_grid(numel: usize) -> Grid {
    Grid::linear(numel.div_ceil(4), LANES)
}

/// The grid of a kernel that treats `items` of each of `samples` alike: items along x, samples along y. Above the
/// device's limit the kernels' loops stride on.
pub(super) fn sample_grid(items: usize, samples: usize) -> Grid {
    let most = MAX_GROUPS as usize;
    Grid::strided(items.div_ceil(LANES).clamp(1, most), samples.min(most))
}

/// The rounds of a kernel on such a grid, whose loops over samples hold its loops over items, with `inside` for each item.
pub(super) fn sample_rounds(items: u32, samples: u32, [x, y, _]: [u32; 3], inside: u64) -> u64 {
    looped(samples.div_ceil(y.max(1)), strided(items, x, inside))
}

/// The rounds of the loop over `items` by `x` workgroups.
pub(super) fn strided(items: u32, x: u32, inside: u64) -> u64 {
    looped(u64::from(items).div_ceil(LANES as u64 * u64::from(x.max(1))), inside)
}

/// Invocations that share a row of `items` in the kernels that use `shaders/lib/four.wgsl`: the fewest of 8, 16, 32 and 64 that
/// hold it in four items each, so that rows of usual widths leave none idle; 64 if none do.
pub(super) fn team_of(items: usize) -> usize {
    items.div_ceil(4).next_power_of_two().clamp(8, LANES)
}

/// The rounds of a loop over what a row of `items` has behind the first four of each of its `lanes` invocations.
pub(super) fn rest_rounds(items: u32, lanes: u32) -> u64 {
    looped(items.div_ceil(lanes.max(1)).saturating_sub(4), 0)
}

/// The grid of a kernel that gives a row to a workgroup, whose loops over `items` stride along z too: more than one layer only
/// where a row would take them too many rounds.
pub(super) fn row_grid(rows: usize, items: usize) -> Grid {
    const MOST_TURNS: usize = 32_768;
    Grid::linear(rows, 1).layers(items.div_ceil(LANES * MOST_TURNS).max(1))
}

/// The longest share of `whole` that `fits`: all of it, or that of the fewest equal parts, rounded up to a multiple of `unit`.
/// If none fits, all of it, for the dispatch to refuse.
pub(super) fn longest(whole: usize, unit: usize, fits: impl Fn(usize) -> bool) -> usize {
    let share = |parts: usize| whole.div_ceil(parts).next_multiple_of(unit).min(whole);
    (1..=whole.div_ceil(unit)).map(share).find(|share| fits(*share)).unwrap_or(whole)
}

/// `range` in pieces of at most `most`.
pub(super) fn pieces(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(most).map(move |first| first..range.end.min(first + most))
}

/// Columns that a workgroup adds up with `shaders/lib/columns.wgsl`.
pub(super) const STRIP: usize = 8;

/// The rounds of such a sum over `rows`: invocations take every 32nd row, four in a round, and one of them adds up 32 sums.
pub(super) fn strip_rounds(rows: u32) -> u64 {
    looped(rows.div_ceil(128), 0) + looped(31u64, 0)
}
