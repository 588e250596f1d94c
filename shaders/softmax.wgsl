// Softmax of rows, in place: p = exp(z - max z) / Σ exp(z - max z) over the row's valid elements, 0 in the others.
// A row without any finite element becomes zeros.
//
//   a row is `stride` elements apart from the next and `width` long; if causal > 0 only its first 1 + row % causal
//   elements are valid, else all `width`. What lies between width and stride is set to 0.
//
// Two forms of each pass: `_lane` gives every invocation a row (CPU drivers), `_group` gives every workgroup of 64 a row
// (GPUs). Any number of rows, any width. `stride` counts Items, four floats or one.
// Uses lib/grid.wgsl and lib/reduce.wgsl, and tiles/vec4.wgsl with tiles/columns_vec4.wgsl, or the scalar ones.

struct Params { rows: u32, width: u32, stride: u32, causal: u32 }

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;
const LOWEST = -3.4028234e38;

// ---- forward ----

@group(0) @binding(0) var<storage, read_write> scores: array<Item>; // f32[rows, stride]

fn valid_width(row: u32) -> u32 {
    if params.causal == 0u {
        return params.width;
    }
    return min(params.width, 1u + row % params.causal);
}

// Largest of the elements `first`, `first + step`, ... of a row.
fn largest_of(base: u32, first: u32, step: u32, valid: u32) -> f32 {
    var largest = Item(LOWEST);
    for (var i = first; i * ITEM < valid; i += step) {
        let inside = item_columns(i) < ItemColumns(valid);
        largest = max(largest, select(Item(LOWEST), scores[base + i], inside));
    }
    return item_max(largest);
}

// Turns those elements z into exp(z - largest) and returns their sum.
fn exponentiate(base: u32, first: u32, step: u32, valid: u32, largest: f32) -> f32 {
    var sum = Item();
    for (var i = first; i * ITEM < valid; i += step) {
        let inside = item_columns(i) < ItemColumns(valid);
        let e = select(Item(), exp(scores[base + i] - Item(largest)), inside);
        scores[base + i] = e;
        sum += e;
    }
    return item_sum(sum);
}

// Divides those elements by the row's sum, and sets to 0 what is not valid.
fn finish(base: u32, first: u32, step: u32, valid: u32, sum: f32) {
    let inverse = select(1.0 / sum, 0.0, sum == 0.0);
    var i = first;
    for (; i * ITEM < valid; i += step) {
        scores[base + i] *= inverse;
    }
    for (; i < params.stride; i += step) {
        scores[base + i] = Item();
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
    let base = row * params.stride;
    let valid = valid_width(row);
    let largest = largest_of(base, 0u, 1u, valid);
    let sum = exponentiate(base, 0u, 1u, valid, largest);
    finish(base, 0u, 1u, valid, sum);
}

// Grid: a row a workgroup, folded. Each invocation meets only elements of its own, so memory needs no barrier.
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
    let base = row * params.stride;
    let valid = valid_width(row);
    let largest = reduce_max(largest_of(base, lane, LANES, valid), lane);
    let sum = reduce_sum(exponentiate(base, lane, LANES, valid, largest), lane);
    finish(base, lane, LANES, valid, sum);
}

// ---- backward of p = softmax(z): dz = p (dp - Σ p dp), and 0 between width and stride. p is 0 where it was not valid ----

@group(0) @binding(0) var<storage, read> probabilities: array<Item>; // f32[rows, stride]
@group(0) @binding(1) var<storage, read_write> d: array<Item>; // f32[rows, stride]: dp, then dz

// p (dp - subtrahend); 0 beyond width, whatever dp holds there.
fn product(at: u32, i: u32, subtrahend: Item) -> Item {
    let inside = item_columns(i) < ItemColumns(params.width);
    return select(Item(), probabilities[at] * (d[at] - subtrahend), inside);
}

fn dot_of(base: u32, first: u32, step: u32) -> f32 {
    var sum = Item();
    for (var i = first; i < params.stride; i += step) {
        sum += product(base + i, i, Item());
    }
    return item_sum(sum);
}

fn store_dz(base: u32, first: u32, step: u32, dot: f32) {
    for (var i = first; i < params.stride; i += step) {
        d[base + i] = product(base + i, i, Item(dot));
    }
}

// Grid: a row an invocation, 64 a workgroup, folded.
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
    let base = row * params.stride;
    let dot = dot_of(base, 0u, 1u);
    store_dz(base, 0u, 1u, dot);
}

// Grid: a row a workgroup, folded. Each invocation meets only elements of its own, so memory needs no barrier.
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
    let base = row * params.stride;
    let dot = reduce_sum(dot_of(base, lane, LANES), lane);
    store_dz(base, lane, LANES, dot);
}
