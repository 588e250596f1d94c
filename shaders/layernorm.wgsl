// Layer normalisation over rows of `width` elements:
//   hat = (x - mean) * inverse,  inverse = 1 / sqrt(variance + eps),  y = hat * weight + bias.
//
// Two forms of each row-wise pass: `_lane` gives every invocation a row (CPU drivers), `_group` gives every workgroup of
// 64 a row (GPUs). Any number of rows, any width. Uses lib/grid.wgsl and lib/reduce.wgsl.

struct Params { rows: u32, width: u32, eps: f32, accumulate: u32 }

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;

// ---- forward ----

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[rows, width]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // f32[width]
@group(0) @binding(2) var<storage, read> bias: array<f32>; // f32[width]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // f32[rows, width]
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>; // f32[rows, 2]: mean, inverse

// Σ x over the elements `first`, `first + step`, ... of a row.
fn sum_of(base: u32, first: u32, step: u32) -> f32 {
    var sum = 0.0;
    for (var i = first; i < params.width; i += step) {
        sum += x[base + i];
    }
    return sum;
}

// Σ (x - mean)² over them.
fn squares_of(base: u32, first: u32, step: u32, mean: f32) -> f32 {
    var squares = 0.0;
    for (var i = first; i < params.width; i += step) {
        let d = x[base + i] - mean;
        squares += d * d;
    }
    return squares;
}

fn inverse_of(squares: f32) -> f32 {
    return 1.0 / sqrt(squares / f32(params.width) + params.eps);
}

fn store_y(base: u32, first: u32, step: u32, mean: f32, inverse: f32) {
    for (var i = first; i < params.width; i += step) {
        y[base + i] = (x[base + i] - mean) * inverse * weight[i] + bias[i];
    }
}

// Grid: a row an invocation, 64 a workgroup, folded.
@compute @workgroup_size(64)
fn forward_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups) * LANES + lane;
    if row >= params.rows {
        return;
    }
    let base = row * params.width;
    let mean = sum_of(base, 0u, 1u) / f32(params.width);
    let inverse = inverse_of(squares_of(base, 0u, 1u, mean));
    stats[row] = vec2<f32>(mean, inverse);
    store_y(base, 0u, 1u, mean, inverse);
}

// Grid: a row a workgroup, folded.
@compute @workgroup_size(64)
fn forward_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let base = row * params.width;
    let mean = reduce_sum(sum_of(base, lane, LANES), lane) / f32(params.width);
    let inverse = inverse_of(reduce_sum(squares_of(base, lane, LANES, mean), lane));
    if lane == 0u {
        stats[row] = vec2<f32>(mean, inverse);
    }
    store_y(base, lane, LANES, mean, inverse);
}

// ---- backward of y = hat * weight + bias, with respect to x ----
//   dhat = dy * weight;  dx = inverse * (dhat - mean(dhat) - hat * mean(dhat * hat))

@group(0) @binding(2) var<storage, read> row_stats: array<vec2<f32>>; // f32[rows, 2]
@group(0) @binding(3) var<storage, read> dy: array<f32>; // f32[rows, width]
@group(0) @binding(4) var<storage, read_write> dx: array<f32>; // f32[rows, width]

// Σ (dhat, dhat * hat) over the elements `first`, `first + step`, ... of a row.
fn moments_of(base: u32, first: u32, step: u32, stat: vec2<f32>) -> vec2<f32> {
    var sum = vec2<f32>();
    for (var i = first; i < params.width; i += step) {
        let dhat = dy[base + i] * weight[i];
        sum += vec2<f32>(dhat, dhat * (x[base + i] - stat.x) * stat.y);
    }
    return sum;
}

// mean: of dhat and of dhat * hat.
fn store_dx(base: u32, first: u32, step: u32, stat: vec2<f32>, mean: vec2<f32>) {
    for (var i = first; i < params.width; i += step) {
        let at = base + i;
        let hat = (x[at] - stat.x) * stat.y;
        let value = stat.y * (dy[at] * weight[i] - mean.x - hat * mean.y);
        if params.accumulate == 0u {
            dx[at] = value;
        } else {
            dx[at] += value;
        }
    }
}

@compute @workgroup_size(64)
fn backward_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups) * LANES + lane;
    if row >= params.rows {
        return;
    }
    let base = row * params.width;
    let stat = row_stats[row];
    let mean = moments_of(base, 0u, 1u, stat) / f32(params.width);
    store_dx(base, 0u, 1u, stat, mean);
}

@compute @workgroup_size(64)
fn backward_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let base = row * params.width;
    let stat = row_stats[row];
    let mean = reduce_sum2(moments_of(base, lane, LANES, stat), lane) / f32(params.width);
    store_dx(base, lane, LANES, stat, mean);
}

// ---- backward with respect to weight and bias: dweight = Σ dy hat, dbias = Σ dy over rows ----
// Two passes without atomics, so that the order of the sum never changes: first over slices of 32 rows, then over slices.

const AFFINE_ROWS = 32u;

@group(0) @binding(1) var<storage, read> slice_stats: array<vec2<f32>>; // f32[rows, 2]
@group(0) @binding(2) var<storage, read> slice_dy: array<f32>; // f32[rows, width]
@group(0) @binding(3) var<storage, read_write> partial: array<f32>; // f32[2, slices, width]: of dweight, of dbias

fn slice_count() -> u32 {
    return (params.rows + AFFINE_ROWS - 1u) / AFFINE_ROWS;
}

// Grid: an invocation for each slice and column, 64 a workgroup, folded.
@compute @workgroup_size(64)
fn backward_affine_partial(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = grid_group(group, groups) * LANES + lane;
    let slices = slice_count();
    if item >= slices * params.width {
        return;
    }
    let column = item % params.width;
    let first = item / params.width * AFFINE_ROWS;
    let end = min(first + AFFINE_ROWS, params.rows);
    var dweight = 0.0;
    var dbias = 0.0;
    for (var row = first; row < end; row++) {
        let at = row * params.width + column;
        let stat = slice_stats[row];
        dweight += slice_dy[at] * (x[at] - stat.x) * stat.y;
        dbias += slice_dy[at];
    }
    partial[item] = dweight;
    partial[slices * params.width + item] = dbias;
}

@group(0) @binding(0) var<storage, read> sums: array<f32>; // f32[2, slices, width]
@group(0) @binding(1) var<storage, read_write> total: array<f32>; // f32[width]

// accumulate: bit 0 add to `total`, bit 1 take the bias half. Grid: an invocation for each column, 64 a workgroup.
@compute @workgroup_size(64)
fn backward_affine_total(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = grid_group(group, groups) * LANES + lane;
    if column >= params.width {
        return;
    }
    let slices = slice_count();
    let half = (params.accumulate >> 1u) * slices * params.width;
    var sum = 0.0;
    for (var s = 0u; s < slices; s++) {
        sum += sums[half + s * params.width + column];
    }
    if (params.accumulate & 1u) == 0u {
        total[column] = sum;
    } else {
        total[column] += sum;
    }
}
