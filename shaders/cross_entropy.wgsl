// Softmax cross-entropy of rows of `classes` logits z, with label a and perhaps a second one b, weights w of the classes,
// and smoothing s. A row's own label has share h, the second 1 - h. With the log-probabilities l = z - log Σ exp(z):
//   loss = Σ over rows of ( -(1 - s) (h w[a] l[a] + (1 - h) w[b] l[b]) - s/classes Σ_i w[i] l[i] )  /  Σ over rows of n,
//   n = h w[a] + (1 - h) w[b].
// Without a second label h is 1, without weights each w is 1: the mean over the rows.
//
// A label that is the one to ignore or out of range counts nothing: its share becomes 0 in both sums, and the smoothed
// term shrinks to the share that is left. One out of range raises a fault (lib/fault.wgsl).
// Two forms of each row-wise pass: `_lane` gives every invocation a row (CPU drivers), `_group` gives every workgroup of
// 64 a row (GPUs). Any number of rows and classes.
//
// A dispatch can be of some rows alone, from `first_row` on, whose logits lie by themselves; rows of logits are `stride` apart.

struct Params {
    rows: u32,
    first_row: u32,
    classes: u32,
    stride: u32,
    ignores: u32,
    ignored: u32,
    mixed: u32, // whether there are second labels; else `others` and `shares` are other buffers and not read
    weighted: u32, // whether classes have weights; else `class_weights` is another buffer and not read
    smoothing: f32,
    weight_sum: f32, // Σ w
    accumulate: u32,
    fault: u32, // of lib/fault.wgsl
}

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;
const LOWEST = -3.4028234e38;

@group(0) @binding(0) var<storage, read> logits: array<f32>; // f32[rows, stride]
@group(0) @binding(1) var<storage, read> labels: array<u32>; // u32[all rows]: a
@group(0) @binding(2) var<storage, read_write> fault_flag: FaultFlag;
@group(0) @binding(3) var<storage, read_write> stats: array<vec4<f32>>; // f32[all rows, 8], as below
@group(0) @binding(4) var<storage, read> others: array<u32>; // u32[all rows]: b
@group(0) @binding(5) var<storage, read> shares: array<f32>; // f32[all rows]: h
@group(0) @binding(6) var<storage, read> class_weights: array<f32>; // f32[classes]: w

// What is kept of a row, as two vec4:
//   its loss, max(z), 1 / Σ exp(z - max(z)), n;
//   and the target that backward needs: its sum, what a and b have of it, and what each class has for each unit of w.

fn class_weight(class_index: u32) -> f32 {
    if params.weighted == 0u {
        return 1.0;
    }
    return class_weights[class_index];
}

// Whether this label counts; tells the host about one out of range if `report`.
fn counts(label: u32, report: bool) -> bool {
    if params.ignores != 0u && label == params.ignored {
        return false;
    }
    if label < params.classes {
        return true;
    }
    if report {
        fault_raise(params.fault, label, params.classes);
    }
    return false;
}

// What a row's two labels have of it, those that do not count nothing.
fn shares_of(row: u32) -> vec2<f32> {
    var both = vec2<f32>(1.0, 0.0);
    if params.mixed != 0u {
        both = vec2<f32>(shares[row], 1.0 - shares[row]);
        if !counts(others[row], true) {
            both.y = 0.0;
        }
    }
    if !counts(labels[row], true) {
        both.x = 0.0;
    }
    return both;
}

// -l of one class of the row whose logits begin at `base`
fn negative_log(base: u32, class_index: u32, largest: f32, log_sum: f32) -> f32 {
    return log_sum - (logits[base + class_index] - largest);
}

// Of row `first_row` + i; sums: Σ exp(z - largest) and Σ w (z - largest). A share of 0 is left out: its label may be no class, its
// logit -inf.
fn store_stats(i: u32, largest: f32, sums: vec2<f32>) {
    let row = params.first_row + i;
    let base = i * params.stride;
    let share = shares_of(row);
    let log_sum = nan_kept(sums.x, log(sums.x));
    var weights = vec2<f32>();
    var loss = 0.0;
    if share.x != 0.0 {
        weights.x = share.x * class_weight(labels[row]);
    }
    if weights.x != 0.0 {
        loss += (1.0 - params.smoothing) * weights.x * negative_log(base, labels[row], largest, log_sum);
    }
    if share.y != 0.0 {
        weights.y = share.y * class_weight(others[row]);
    }
    if weights.y != 0.0 {
        loss += (1.0 - params.smoothing) * weights.y * negative_log(base, others[row], largest, log_sum);
    }
    let spread = params.smoothing * (share.x + share.y) / f32(params.classes);
    if spread != 0.0 { // otherwise a logit of -inf would give 0 * inf
        loss += spread * (params.weight_sum * log_sum - sums.y);
    }
    let hot = (1.0 - params.smoothing) * weights;
    stats[2u * row] = vec4<f32>(loss, largest, 1.0 / sums.x, weights.x + weights.y);
    stats[2u * row + 1u] = vec4<f32>(hot.x + hot.y + spread * params.weight_sum, hot, spread);
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

// Σ exp(z - largest) and Σ w (z - largest) over them, BLOCK by BLOCK: one long sum would lose what small terms add to a large one.
const BLOCK = 64u;

fn sums_of(base: u32, first: u32, step: u32, largest: f32) -> vec2<f32> {
    var sums = vec2<f32>();
    for (var block = first; block < params.classes; block += BLOCK * step) {
        var part = vec2<f32>();
        for (var i = block; i < min(block + BLOCK * step, params.classes); i += step) {
            let z = logits[base + i] - largest;
            part += vec2<f32>(nan_kept(z, exp(z)), class_weight(i) * z);
        }
        sums += part;
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
    let i = grid_group(group, groups) * LANES + lane;
    if i >= params.rows {
        return;
    }
    let base = i * params.stride;
    let largest = largest_of(base, 0u, 1u);
    store_stats(i, largest, sums_of(base, 0u, 1u, largest));
}

// Grid: a row a workgroup, folded.
@compute @workgroup_size(64)
fn rows_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups);
    if i >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let base = i * params.stride;
    let largest = reduce_max(largest_of(base, lane, LANES), lane, LANES);
    let sums = reduce_sum2(sums_of(base, lane, LANES, largest), lane, LANES);
    if lane == 0u {
        store_stats(i, largest, sums);
    }
}

// ---- forward: the sum of the rows' losses by the sum of their n, and 1 by the latter; both 0 if that is 0 ----

@group(0) @binding(0) var<storage, read> all_stats: array<vec4<f32>>; // f32[rows, 8], of all rows
@group(0) @binding(1) var<storage, read_write> loss: array<f32>; // f32[1]
@group(0) @binding(2) var<storage, read_write> weight: array<f32>; // f32[1]: 1 / Σ n

// Grid: one workgroup.
@compute @workgroup_size(64)
fn mean(@builtin(local_invocation_index) lane: u32) {
    var sums = vec2<f32>();
    var part = vec2<f32>();
    for (var row = lane; row < params.rows; row += LANES) {
        part += all_stats[2u * row].xw;
        if row / LANES % BLOCK == BLOCK - 1u {
            sums += part;
            part = vec2<f32>();
        }
    }
    sums = reduce_sum2(sums + part, lane, LANES);
    if lane == 0u {
        let each = select(0.0, 1.0 / sums.y, sums.y > 0.0);
        loss[0] = sums.x * each;
        weight[0] = each;
    }
}

// ---- backward of that quotient: dz = dy weight (Σ t softmax(z) - t), with the target
//      t[i] = (1 - s) (h w[a] [i = a] + (1 - h) w[b] [i = b]) + s/classes w[i]; 0 in rows that do not count ----

@group(0) @binding(2) var<storage, read> row_stats: array<vec4<f32>>; // f32[all rows, 8]
@group(0) @binding(3) var<storage, read> row_weight: array<f32>; // f32[1]
@group(0) @binding(5) var<storage, read> dy: array<f32>; // f32[1]
@group(0) @binding(7) var<storage, read_write> dlogits: array<f32>; // f32[rows, stride]

// What a row's gradient is made of.
struct Slope {
    stat: vec4<f32>,
    target_sum: f32,
    hot: vec2<f32>,
    spread: f32,
    label: u32,
    other: u32,
    scale: f32,
}

fn slope_of(row: u32) -> Slope {
    let label = labels[row];
    var other = label;
    if params.mixed != 0u {
        other = others[row];
    }
    let goal = row_stats[2u * row + 1u];
    return Slope(row_stats[2u * row], goal.x, goal.yz, goal.w, label, other, dy[0] * row_weight[0]);
}

// dz of a class of the row.
fn slope_at(row: Slope, class_index: u32, z: f32) -> f32 {
    if row.target_sum == 0.0 {
        return 0.0;
    }
    let wanted = select(0.0, row.hot.x, class_index == row.label)
        + select(0.0, row.hot.y, class_index == row.other)
        + row.spread * class_weight(class_index);
    return row.scale * (row.target_sum * exp(z - row.stat.y) * row.stat.z - wanted);
}

// Grid: a row a workgroup, folded.
@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups);
    if i >= params.rows {
        return;
    }
    let row = slope_of(params.first_row + i);
    for (var class_index = lane; class_index < params.classes; class_index += LANES) {
        let at = i * params.stride + class_index;
        let value = slope_at(row, class_index, logits[at]);
        if params.accumulate == 0u {
            dlogits[at] = value;
        } else {
            dlogits[at] += value;
        }
    }
}

// The same in the logits' own memory, with zeros in what a row is padded by.
@group(0) @binding(0) var<storage, read_write> logits_and_slopes: array<f32>; // f32[rows, stride]

@compute @workgroup_size(64)
fn backward_in_place(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups);
    if i >= params.rows {
        return;
    }
    let row = slope_of(params.first_row + i);
    for (var class_index = lane; class_index < params.stride; class_index += LANES) {
        let at = i * params.stride + class_index;
        var value = 0.0;
        if class_index < params.classes {
            value = slope_at(row, class_index, logits_and_slopes[at]);
        }
        logits_and_slopes[at] = value;
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
    let i = grid_group(group, groups) * LANES + lane;
    if i >= params.rows {
        return;
    }
    let label = labels[params.first_row + i];
    if !counts(label, true) {
        return;
    }
    if better_of(i * params.stride, 0u, 1u, label) == 0.0 {
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
    let i = grid_group(group, groups);
    if i >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let label = labels[params.first_row + i];
    let valid = counts(label, lane == 0u);
    var better = 0.0;
    if valid {
        better = better_of(i * params.stride, lane, LANES, label);
    }
    better = reduce_sum(better, lane, LANES);
    if lane == 0u && valid && better == 0.0 {
        atomicAdd(&correct[0], 1u);
    }
}
