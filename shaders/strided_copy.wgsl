// strided_copy: y[y_offset + places.y] = x[x_offset + places.x], walking both in an order of their own. Permuting, repeating,
// taking out a part and putting in a part are all this, and so are their gradients.
//
//   x  Item[..]  read
//   y  Item[..]  written, or added to; no two elements of the walk may have one place in it
//
// The walk has `items` elements, in the sizes of lib/strided.wgsl. Item is float, or vec4 where the last axis is contiguous
// in both and everything counts in fours. Grid: an invocation for each item, 64 a workgroup, folded.

struct Params {
    items: u32, accumulate: u32,
    x_offset: u32, y_offset: u32,
    d1: u32, d2: u32, d3: u32, d4: u32, d5: u32,
    x0: u32, x1: u32, x2: u32, x3: u32, x4: u32, x5: u32,
    y0: u32, y1: u32, y2: u32, y3: u32, y4: u32, y5: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Item>;
@group(0) @binding(1) var<storage, read_write> y: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn strided_copy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i >= params.items {
        return;
    }
    let at = strided_places(i);
    let value = x[params.x_offset + at.x];
    if params.accumulate == 0u {
        y[params.y_offset + at.y] = value;
    } else {
        y[params.y_offset + at.y] += value;
    }
}
