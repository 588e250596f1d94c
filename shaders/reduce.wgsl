// reduce: the sum or the largest over an axis, in slices that a later pass reduces in turn: no invocation goes far, and the
// order is always the same.
//   y[o, s, i] = factor · Σ or max of x[o, j, i] over the j of slice s, which are `slice` from s · slice on
//
//   x  Item[outer, len, inner]     read
//   y  Item[outer, slices, inner]  written, or added to
//
// What is computed is in shaders/reduce/. Item is float or vec4 (tiles/), `inner` counts items.

struct Params {
    outer: u32, len: u32, inner: u32,
    slice: u32, slices: u32,
    factor: f32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Item>;
@group(0) @binding(1) var<storage, read_write> y: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

const BLOCK = 32u;

fn store(i: u32, value: Item) {
    if params.accumulate == 0u {
        y[i] = params.factor * value;
    } else {
        y[i] += params.factor * value;
    }
}

// Grid: an invocation for each item of y, 64 a workgroup, folded.
@compute @workgroup_size(64)
fn reduce_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i >= params.outer * params.slices * params.inner {
        return;
    }
    let row = i / params.inner;
    let first = (row % params.slices) * params.slice;
    let end = min(first + params.slice, params.len);
    let base = (row / params.slices) * params.len * params.inner + i % params.inner;
    // Block by block: one long sum would lose digits.
    var result = reduction_start(x[base + first * params.inner]);
    for (var block = first; block < end; block += BLOCK) {
        var part = reduction_start(x[base + block * params.inner]);
        for (var j = block; j < min(block + BLOCK, end); j++) {
            part = reduction_of(part, x[base + j * params.inner]);
        }
        result = reduction_of(result, part);
    }
    store(i, result);
}
