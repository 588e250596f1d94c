// Softmax cross-entropy of rows of `classes` logits z, with label y and smoothing s:
//   loss = log Σ exp(z) - (1 - s) z[y] - s mean(z),  averaged over the rows that count.
//
// A row counts unless its label is the one to ignore or is out of range; the latter raises fault 1 (lib/fault.wgsl).
// Two forms of each row-wise pass: `_lane` gives every invocation a row (CPU drivers), `_group` gives every workgroup of
// 64 a row (GPUs). Any number of rows and classes. Uses lib/grid.wgsl and lib/reduce.wgsl.

struct Params { rows: u32, classes: u32, ignores: u32, ignored: u32, smoothing: f32, accumulate: u32 }

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;
const LOWEST = -3.4028234e38;
const FAULT_LABEL = 1u;

@group(0) @binding(0) var<storage, read> logits: array<f32>; // f32[rows, classes]
@group(0) @binding(1) var<storage, read> labels: array<u32>; // u32[rows]
@group(0) @binding(2) var<storage, read_write> fault_flag: FaultFlag;
@group(0) @binding(3) var<storage, read_write> stats: array<vec4<f32>>; // f32[rows, 4], as below

// What is kept of a row, as a vec4: loss, max(z), 1 / Σ exp(z - max(z)), and 1 if it counts, else 0.

// Whether a row with this label counts; tells the host about a label out of range if `report`.
fn counts(label: u32, report: bool) -> bool {
    if params.ignores != 0u && label == params.ignored {
        return false;
    }
    if label < params.classes {
        return true;
    }
    if report {
        fault_raise(FAULT_LABEL, label, params.classes);
    }
    return false;
}

// sums: Σ exp(z - largest) and Σ (z - largest)
fn store_stats(row: u32, label: u32, largest: f32, sums: vec2<f32>) {
    let log_sum = log(sums.x);
    var loss = (1.0 - params.smoothing) * (log_sum - (logits[row * params.classes + label] - largest));
    if params.smoothing > 0.0 { // otherwise a logit of -inf would give 0 * inf
        loss += params.smoothing * (log_sum - sums.y / f32(params.classes));
    }
    stats[row] = vec4<f32>(loss, largest, 1.0 / sums.x, 1.0);
}

// ---- forward: every row for itself ----

// The largest of the logits `first`, `first + step`, ... of a row.
fn largest_of(base: u32, first: u32, step: u32) -> f32 {
    var largest = LOWEST;
    for (var i = first; i < params.classes; i += step) {
        largest = max(largest, logits[base + i]);
    }
    return largest;
}

// Σ exp(z - largest) and Σ (z - largest) over them.
fn sums_of(base: u32, first: u32, step: u32, largest: f32) -> vec2<f32> {
    var sums = vec2<f32>();
    for (var i = first; i < params.classes; i += step) {
        let z = logits[base + i] - largest;
        sums += vec2<f32>(exp(z), z);
    }
    return sums;
}

// Grid: a row an invocation, 64 a workgroup, folded.
@compute @workgroup_size(64)
fn rows_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups) * LANES + lane;
    if row >= params.rows {
        return;
    }
    let label = labels[row];
    if !counts(label, true) {
        stats[row] = vec4<f32>();
        return;
    }
    let base = row * params.classes;
    let largest = largest_of(base, 0u, 1u);
    store_stats(row, label, largest, sums_of(base, 0u, 1u, largest));
}

// Grid: a row a workgroup, folded.
@compute @workgroup_size(64)
fn rows_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let label = labels[row];
    let base = row * params.classes;
    let largest = reduce_max(largest_of(base, lane, LANES), lane);
    let sums = reduce_sum2(sums_of(base, lane, LANES, largest), lane);
    if lane == 0u {
        if counts(label, true) {
            store_stats(row, label, largest, sums);
        } else {
            stats[row] = vec4<f32>();
        }
    }
}

// ---- forward: mean over the rows that count, and the weight of a row in it; both 0 if none counts ----

@group(0) @binding(0) var<storage, read> all_stats: array<vec4<f32>>; // f32[rows, 4]
@group(0) @binding(1) var<storage, read_write> loss: array<f32>; // f32[1]
@group(0) @binding(2) var<storage, read_write> weight: array<f32>; // f32[1]: 1 / the number of rows that count

// Grid: one workgroup.
@compute @workgroup_size(64)
fn mean(@builtin(local_invocation_index) lane: u32) {
    var sums = vec2<f32>();
    for (var row = lane; row < params.rows; row += LANES) {
        sums += all_stats[row].xw;
    }
    sums = reduce_sum2(sums, lane);
    if lane == 0u {
        let each = select(0.0, 1.0 / sums.y, sums.y > 0.0);
        loss[0] = sums.x * each;
        weight[0] = each;
    }
}

// ---- backward of the mean: dz = dy weight (softmax(z) - (1 - s) [i = y] - s / classes), 0 in rows that do not count ----

@group(0) @binding(2) var<storage, read> row_stats: array<vec4<f32>>; // f32[rows, 4]
@group(0) @binding(3) var<storage, read> row_weight: array<f32>; // f32[1]
@group(0) @binding(4) var<storage, read> dy: array<f32>; // f32[1]
@group(0) @binding(5) var<storage, read_write> dlogits: array<f32>; // f32[rows, classes]

// Grid: a row a workgroup, folded.
@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return;
    }
    let stat = row_stats[row];
    let label = labels[row];
    let scale = dy[0] * row_weight[0];
    for (var i = lane; i < params.classes; i += LANES) {
        let at = row * params.classes + i;
        var value = 0.0;
        if stat.w > 0.0 {
            let wanted = select(0.0, 1.0 - params.smoothing, i == label) + params.smoothing / f32(params.classes);
            value = scale * (exp(logits[at] - stat.y) * stat.z - wanted);
        }
        if params.accumulate == 0u {
            dlogits[at] = value;
        } else {
            dlogits[at] += value;
        }
    }
}

// ---- how many rows have their largest logit, or the first of several, at the label ----

@group(0) @binding(3) var<storage, read_write> correct: array<atomic<u32>>; // u32[1], zero before

// How many of the logits `first`, `first + step`, ... of a row do not leave the first place to the label's logit, also
// where either is NaN.
fn better_of(base: u32, first: u32, step: u32, label: u32) -> f32 {
    let own = logits[base + label];
    var better = 0.0;
    for (var i = first; i < params.classes; i += step) {
        let z = logits[base + i];
        let yields = z < own || (z == own && i >= label);
        better += select(1.0, 0.0, yields);
    }
    return better;
}

// Grid: a row an invocation, 64 a workgroup, folded.
@compute @workgroup_size(64)
fn correct_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups) * LANES + lane;
    if row >= params.rows {
        return;
    }
    let label = labels[row];
    if !counts(label, true) {
        return;
    }
    if better_of(row * params.classes, 0u, 1u, label) == 0.0 {
        atomicAdd(&correct[0], 1u);
    }
}

// Grid: a row a workgroup, folded.
@compute @workgroup_size(64)
fn correct_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let label = labels[row];
    let valid = counts(label, lane == 0u);
    var better = 0.0;
    if valid {
        better = better_of(row * params.classes, lane, LANES, label);
    }
    better = reduce_sum(better, lane);
    if lane == 0u && valid && better == 0.0 {
        atomicAdd(&correct[0], 1u);
    }
}
