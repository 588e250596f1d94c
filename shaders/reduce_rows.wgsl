// reduce_rows: what shaders/reduce.wgsl does along rows, its inner 1, by the 64 invocations of a workgroup together.
//
//   x  f32[outer, len]     read
//   y  f32[outer, slices]  written, or added to
//
// Grid: a workgroup for each element of y, folded.

struct Params {
    outer: u32, len: u32, inner: u32,
    slice: u32, slices: u32,
    factor: f32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Item>;
@group(0) @binding(1) var<storage, read_write> y: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn reduce_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups);
    if i >= params.outer * params.slices {
        return; // all of the workgroup
    }
    let first = (i % params.slices) * params.slice;
    let end = min(first + params.slice, params.len);
    let base = (i / params.slices) * params.len;
    // Invocations with nothing of their own must not change the result.
    var result = reduction_start(x[base + first]);
    for (var j = first + lane; j < end; j += 64u) {
        result = reduction_of(result, x[base + j]);
    }
    result = reduction_of_team(result, lane);
    if lane == 0u {
        if params.accumulate == 0u {
            y[i] = params.factor * result;
        } else {
            y[i] += params.factor * result;
        }
    }
}
