// Layer normalisation over rows of `width` items:
//   hat = (x - mean) * inverse,  inverse = 1 / sqrt(variance + eps),  y = hat * weight + bias.
// With `indices`, the rows are those of kept tokens in a full tensor, and are put side by side on the way.
//
// x and parameters are Items, four floats or one; y and its gradient are as many activations (tiles/).
// Forms: `_lane` gives every invocation a row (CPU drivers), `_group` gives every workgroup of 64 a row (GPUs).
// Any number of rows, any width. The backward pass is layernorm_backward.wgsl. Uses lib/grid.wgsl, lib/reduce.wgsl,
// lib/fault.wgsl.

struct Params {
    rows: u32,
    width: u32,
    eps: f32,
    kept: u32, // R
    tokens: u32, // T
    fault: u32,
}

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;
const NARROW = 16u;

@group(0) @binding(0) var<storage, read> x: array<Item>; // f32[rows, width], or f32[batch, tokens, width]
@group(0) @binding(1) var<storage, read> weight: array<Item>; // f32[width]
@group(0) @binding(2) var<storage, read> bias: array<Item>; // f32[width]
@group(0) @binding(3) var<storage, read_write> y: array<Act>; // Act[rows, width]
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>; // f32[rows, 2]: mean, inverse

fn inverse_of(squares: f32) -> f32 {
    return 1.0 / sqrt(squares / f32(params.width * ITEM) + params.eps);
}

fn store_y(start: u32, base: u32, first: u32, step: u32, stat: vec2<f32>) {
    for (var i = first; i < params.width; i += step) {
        y[base + i] = Act((x[start + i] - stat.x) * stat.y * weight[i] + bias[i]);
    }
}

// ---- mean and inverse by one invocation, in one pass: chunks of four items, each exact by itself, are merged by the
// formula of Chan, Golub and LeVeque (1979), so that nothing cancels ----

struct Running {
    mean: f32,
    squares: f32, // Σ (x - mean)²
}

// A chunk of `count` items, merged into what `before` items gave.
fn merge(all: Running, before: u32, mean: f32, squares: f32, count: u32) -> Running {
    let share = f32(count) / f32(before + count);
    let delta = mean - all.mean;
    return Running(all.mean + delta * share, all.squares + squares + delta * delta * share * f32(before * ITEM));
}

fn stat_of(start: u32) -> vec2<f32> {
    var all = Running(0.0, 0.0);
    var i = 0u;
    for (; i + 4u <= params.width; i += 4u) {
        let a = x[start + i];
        let b = x[start + i + 1u];
        let c = x[start + i + 2u];
        let d = x[start + i + 3u];
        let mean = item_sum((a + b) + (c + d)) / f32(4u * ITEM);
        let e = a - mean;
        let f = b - mean;
        let g = c - mean;
        let h = d - mean;
        all = merge(all, i, mean, item_sum(fma(e, e, f * f) + fma(g, g, h * h)), 4u);
    }
    for (; i < params.width; i++) {
        let a = x[start + i];
        let mean = item_sum(a) / f32(ITEM);
        all = merge(all, i, mean, item_sum((a - mean) * (a - mean)), 1u);
    }
    return vec2<f32>(all.mean, inverse_of(all.squares));
}

// Grid: a row an invocation, NARROW a workgroup, folded.
@compute @workgroup_size(16)
fn forward_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups) * NARROW + lane;
    if row >= params.rows {
        return;
    }
    let base = row * params.width;
    let stat = stat_of(base);
    stats[row] = stat;
    store_y(base, base, 0u, 1u, stat);
}

// ---- the same by a workgroup: the row stays in the cache between the passes ----

fn group_stat_of(start: u32, lane: u32) -> vec2<f32> {
    var sum: Item;
    for (var i = lane; i < params.width; i += LANES) {
        sum += x[start + i];
    }
    let mean = reduce_sum(item_sum(sum), lane) / f32(params.width * ITEM);
    var squares: Item;
    for (var i = lane; i < params.width; i += LANES) {
        let d = x[start + i] - mean;
        squares += d * d;
    }
    return vec2<f32>(mean, inverse_of(reduce_sum(item_sum(squares), lane)));
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
    let stat = group_stat_of(base, lane);
    if lane == 0u {
        stats[row] = stat;
    }
    store_y(base, base, lane, LANES, stat);
}

// ---- rows of kept tokens: packed[b, r] = x[b, indices[b, r]], y = its norm ----
// An index that is not below `tokens` raises `fault`; its row counts as zeros, and nothing is read for it.

@group(0) @binding(5) var<storage, read> indices: array<u32>; // u32[batch, kept]
@group(0) @binding(6) var<storage, read_write> fault_flag: FaultFlag;
@group(0) @binding(7) var<storage, read_write> packed: array<Item>; // f32[rows, width]

fn store_packed(start: u32, base: u32, first: u32, step: u32, stat: vec2<f32>) {
    for (var i = first; i < params.width; i += step) {
        let value = x[start + i];
        packed[base + i] = value;
        y[base + i] = Act((value - stat.x) * stat.y * weight[i] + bias[i]);
    }
}

fn store_missing(base: u32, first: u32, step: u32) {
    for (var i = first; i < params.width; i += step) {
        packed[base + i] = Item();
        y[base + i] = Act(bias[i]);
    }
}

// Grid: a row an invocation, NARROW a workgroup, folded.
@compute @workgroup_size(16)
fn gather_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups) * NARROW + lane;
    if row >= params.rows {
        return;
    }
    let base = row * params.width;
    let index = indices[row];
    if index >= params.tokens {
        fault_raise(params.fault, index, params.tokens);
        stats[row] = vec2<f32>(0.0, inverse_of(0.0));
        store_missing(base, 0u, 1u);
        return;
    }
    let start = (row / params.kept * params.tokens + index) * params.width;
    let stat = stat_of(start);
    stats[row] = stat;
    store_packed(start, base, 0u, 1u, stat);
}

// Grid: a row a workgroup, folded.
@compute @workgroup_size(64)
fn gather_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let base = row * params.width;
    let index = indices[row];
    let exists = index < params.tokens;
    // Without its row, the workgroup takes part in the barriers with another one's.
    let start = select(0u, (row / params.kept * params.tokens + index) * params.width, exists);
    var stat = group_stat_of(start, lane);
    if exists {
        store_packed(start, base, lane, LANES, stat);
    } else {
        stat = vec2<f32>(0.0, inverse_of(0.0));
        store_missing(base, lane, LANES);
    }
    if lane == 0u {
        stats[row] = stat;
        if !exists {
            fault_raise(params.fault, index, params.tokens);
        }
    }
}
