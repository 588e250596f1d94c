// column_sum: sums[s, c] = Σ x[r, c] over the rows r of slice s. Run a second time, over the slices, it gives the total;
// without atomics, so that the order of the sum never changes.
//
//   x     Act[rows, width]     read; rows lie `stride` apart
//   sums  Item[slices, width]  written, or added to; slices = ceil(rows / slice)
//
// Grid: an invocation for each slice and column, 64 a workgroup, folded. Any size. Item is float or vec4, Act
// as many activations (tiles/), and width and stride count items. Uses lib/grid.wgsl.

struct Params { rows: u32, stride: u32, width: u32, slice: u32, accumulate: u32 }

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read_write> sums: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn column_sum(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = grid_group(group, groups) * 64u + lane;
    let slices = (params.rows + params.slice - 1u) / params.slice;
    if item >= slices * params.width {
        return;
    }
    let first = item / params.width * params.slice;
    let end = min(first + params.slice, params.rows);
    let column = item % params.width;
    // Two sums, so that two loads are under way at a time.
    var even: Item;
    var odd: Item;
    var row = first;
    for (; row + 1u < end; row += 2u) {
        even += Item(x[row * params.stride + column]);
        odd += Item(x[(row + 1u) * params.stride + column]);
    }
    if row < end {
        even += Item(x[row * params.stride + column]);
    }
    if params.accumulate == 0u {
        sums[item] = even + odd;
    } else {
        sums[item] += even + odd;
    }
}
