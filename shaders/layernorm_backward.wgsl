// The gradients of layer normalisation, y = hat * weight + bias with hat = (x - mean) * inverse (layernorm.wgsl):
//   dhat = dy * weight;  dx = inverse * (dhat - mean(dhat) - hat * mean(dhat * hat));  dweight = Σ dy hat, dbias = Σ dy.
//
// Three passes: the two means of each row; then dx, with sums of dweight and dbias over slices of rows on the way, since
// x and dy are at hand; then those sums' totals. No atomics, so that the order of a sum never changes.
//
// x and parameters are Items, four floats or one; dy is as many activations (tiles/). `_lane` is for CPU drivers, `_group`
// for GPUs. Any number of rows, any width. Uses lib/grid.wgsl, lib/reduce.wgsl.

struct Params {
    rows: u32,
    width: u32,
    slice: u32, // rows
    flags: u32,
}

const WANTS_DX = 1u;
const ADD_DX = 2u;
const WANTS_AFFINE = 4u;
// Of the last pass: whether there is a first (dweight) and second (dbias) total, and whether to add to it.
const WANTS_TOTAL = vec2<u32>(8u, 16u);
const ADD_TOTAL = vec2<u32>(32u, 64u);

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;
const NARROW = 16u;

fn has(flag: u32) -> bool {
    return (params.flags & flag) != 0u;
}

@group(0) @binding(0) var<storage, read> x: array<Item>; // f32[rows, width]
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>; // f32[rows, 2]: mean, inverse
@group(0) @binding(2) var<storage, read> dy: array<Act>; // Act[rows, width]
@group(0) @binding(3) var<storage, read> weight: array<Item>; // f32[width]

// ---- first pass: the means of dhat and dhat * hat over each row ----

@group(0) @binding(4) var<storage, read_write> means_out: array<vec2<f32>>; // f32[rows, 2]

// Σ (dhat, dhat * hat) over the items `first`, `first + step`, ... of a row.
fn moments_of(base: u32, first: u32, step: u32, stat: vec2<f32>) -> vec2<f32> {
    var plain: Item;
    var with_hat: Item;
    for (var i = first; i < params.width; i += step) {
        let dhat = Item(dy[base + i]) * weight[i];
        plain += dhat;
        with_hat = fma(dhat, (x[base + i] - stat.x) * stat.y, with_hat);
    }
    return vec2<f32>(item_sum(plain), item_sum(with_hat));
}

// Grid: a row an invocation, NARROW a workgroup, folded.
@compute @workgroup_size(16)
fn means_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups) * NARROW + lane;
    if row < params.rows {
        means_out[row] = moments_of(row * params.width, 0u, 1u, stats[row]) / f32(params.width * ITEM);
    }
}

// Grid: a row a workgroup, folded.
@compute @workgroup_size(64)
fn means_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let sums = reduce_sum2(moments_of(row * params.width, lane, LANES, stats[row]), lane);
    if lane == 0u {
        means_out[row] = sums / f32(params.width * ITEM);
    }
}

// ---- second pass: dx, and partial sums of dweight and dbias ----

@group(0) @binding(4) var<storage, read> means: array<vec2<f32>>; // f32[rows, 2]
@group(0) @binding(5) var<storage, read_write> dx: array<Item>; // f32[rows, width]
@group(0) @binding(6) var<storage, read_write> partial: array<Item>; // f32[2, slices, width]: of dweight, of dbias

// A column of items through the rows of a slice. The rows, and all that is known of them, are the same for the whole
// workgroup.
fn go_down(column: u32, slice: u32, slices: u32) {
    if column >= params.width {
        return;
    }
    let w = weight[column];
    var dweight: Item;
    var dbias: Item;
    for (var row = slice * params.slice; row < min((slice + 1u) * params.slice, params.rows); row++) {
        let at = row * params.width + column;
        let stat = stats[row];
        let mean = means[row];
        let g = Item(dy[at]);
        let hat = (x[at] - stat.x) * stat.y;
        dweight = fma(g, hat, dweight);
        dbias += g;
        let value = stat.y * (g * w - mean.x - hat * mean.y);
        if has(ADD_DX) {
            dx[at] += value;
        } else if has(WANTS_DX) {
            dx[at] = value;
        }
    }
    if has(WANTS_AFFINE) {
        partial[slice * params.width + column] = dweight;
        partial[(slices + slice) * params.width + column] = dbias;
    }
}

// Grid: columns along x, NARROW a workgroup; slices along y.
@compute @workgroup_size(16)
fn columns_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    go_down(group.x * NARROW + lane, group.y, groups.y);
}

// Grid: columns along x, LANES a workgroup; slices along y.
@compute @workgroup_size(64)
fn columns_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    go_down(group.x * LANES + lane, group.y, groups.y);
}

// ---- third pass: the totals of dweight and dbias ----

@group(0) @binding(0) var<storage, read> sums: array<Item>; // f32[2, slices, width]
@group(0) @binding(1) var<storage, read_write> dweight_total: array<Item>; // f32[width]
@group(0) @binding(2) var<storage, read_write> dbias_total: array<Item>; // f32[width]

// Grid: columns along x, NARROW a workgroup; along y dweight, dbias. Here `rows` counts slices.
@compute @workgroup_size(16)
fn totals(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x * NARROW + lane;
    if column >= params.width || !has(WANTS_TOTAL[group.y]) {
        return;
    }
    var even: Item;
    var odd: Item;
    var at = group.y * params.rows * params.width + column;
    var left = params.rows;
    for (; left > 1u; left -= 2u) {
        even += sums[at];
        odd += sums[at + params.width];
        at += 2u * params.width;
    }
    if left == 1u {
        even += sums[at];
    }
    var total = even + odd;
    if group.y == 0u {
        if has(ADD_TOTAL.x) {
            total += dweight_total[column];
        }
        dweight_total[column] = total;
    } else {
        if has(ADD_TOTAL.y) {
            total += dbias_total[column];
        }
        dbias_total[column] = total;
    }
}
