// column_sum: sums[s, c] = Σ x[r, c] over the rows r of slice s. Run a second time, over the slices, it gives the total;
// without atomics, so that the order of the sum never changes.
//
//   x     Act[rows, width]     read; rows lie `stride` apart
//   sums  Item[slices, width]  written, or added to; slices = ceil(rows / slice)
//
// Two forms: `column_sum` gives an invocation a column of a slice (CPU drivers, and short sums), `column_sum_group` has
// COLUMNS_DEEP share one (GPUs). Any size. Item is float or vec4, Act as many activations (tiles/), and width and stride
// count items.

struct Params { rows: u32, stride: u32, width: u32, slice: u32, accumulate: u32 }

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read_write> sums: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

fn store(at: u32, sum: Item) {
    if params.accumulate == 0u {
        sums[at] = sum;
    } else {
        sums[at] += sum;
    }
}

// Grid: an invocation for each slice and column, 64 a workgroup, folded.
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
    store(item, even + odd);
}

// Grid: a workgroup for each slice and strip of COLUMNS columns, folded.
@compute @workgroup_size(256)
fn column_sum_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let strips = (params.width + COLUMNS - 1u) / COLUMNS;
    let tile = grid_group(group, groups);
    let slice = tile / strips;
    if slice * params.slice >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let column = tile % strips * COLUMNS + lane % COLUMNS;
    let near = min(column, params.width - 1u);
    var sum: Item;
    // Four rows at a time, the last one in place of those behind it, so that four loads are under way.
    let last = min((slice + 1u) * params.slice, params.rows) - 1u;
    for (var row = slice * params.slice + lane / COLUMNS; row <= last; row += 4u * COLUMNS_DEEP) {
        let rows = row + COLUMNS_DEEP * vec4<u32>(0u, 1u, 2u, 3u);
        let at = near + min(rows, vec4<u32>(last)) * params.stride;
        let inside = rows <= vec4<u32>(last);
        sum += (select(Item(), Item(x[at.x]), inside.x) + select(Item(), Item(x[at.y]), inside.y))
            + (select(Item(), Item(x[at.z]), inside.z) + select(Item(), Item(x[at.w]), inside.w));
    }
    let total = columns_fold(sum, lane);
    if lane < COLUMNS && column < params.width {
        store(slice * params.width + column, total);
    }
}
