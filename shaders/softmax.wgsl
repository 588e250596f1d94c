// Softmax of rows, in place: p = exp(z - max z) / Σ exp(z - max z) over the row's valid elements, 0 in the others.
// A row without any finite element becomes zeros.
//
//   a row is `stride` elements apart from the next and `width` long; if causal > 0 only its first before + 1 + row % causal
//   elements are valid, else all `width`; and where samples have lengths, no more than its sample's. What lies behind, up to
//   stride, is set to 0.
//
// Two forms of each pass: `_lane` gives every invocation a row (CPU drivers), `_group` gives a row to `lanes` invocations side
// by side, 8, 16, 32 or 64, which read it once (GPUs). Any number of rows, any width. `stride` counts Items, four floats or
// one. Rows are read by tiles/columns_vec4.wgsl or columns_scalar.wgsl, and end where tiles/widths_*.wgsl says.

struct Params {
    rows: u32,
    width: u32,
    stride: u32,
    causal: u32,
    before: u32, // elements that every row sees, if causal
    sample: u32, // rows of a sample, where they have lengths
    lanes: u32,
}

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u; // rows a workgroup, of the lane forms
const LOWEST = -3.4028234e38;

// ---- forward ----

@group(0) @binding(0) var<storage, read_write> scores: array<Item>; // f32[rows, stride]

fn valid_width(row: u32) -> u32 {
    if params.causal == 0u {
        return width_of(row);
    }
    return min(width_of(row), params.before + 1u + row % params.causal);
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

// NaN stays NaN, and with it the row's sum.
fn exponential(score: Item, largest: f32) -> Item {
    let below = score - Item(largest);
    return nan_kept(below, exp(below));
}

// So many are added before they are added to the others: one long sum would lose what small terms add to a large one.
const BLOCK = 64u;

// Turns those elements z into exp(z - largest) and returns their sum.
fn exponentiate(base: u32, first: u32, step: u32, valid: u32, largest: f32) -> f32 {
    var sum = Item();
    var part = Item();
    var added = 0u;
    for (var i = first; i * ITEM < valid; i += step) {
        let inside = item_columns(i) < ItemColumns(valid);
        let e = select(Item(), exponential(scores[base + i], largest), inside);
        scores[base + i] = e;
        part += e;
        added++;
        if added % BLOCK == 0u {
            sum += part;
            part = Item();
        }
    }
    return item_sum(sum + part);
}

fn inverse_of(sum: f32) -> f32 {
    return select(1.0 / sum, 0.0, sum == 0.0);
}

// Divides those elements by the row's sum, and sets to 0 what is not valid.
fn finish(base: u32, first: u32, step: u32, valid: u32, sum: f32) {
    let inverse = inverse_of(sum);
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

// What is left of a score of a group form: LOWEST where it is not valid, which leaves the largest alone.
fn score_of(value: Item, i: u32, valid: u32) -> Item {
    return select(Item(LOWEST), value, item_columns(i) < ItemColumns(valid));
}

fn exponential_of(score: Item, i: u32, valid: u32, largest: f32) -> Item {
    return select(Item(), exponential(score, largest), item_columns(i) < ItemColumns(valid));
}

fn store_four_scores(base: u32, places: vec4<u32>, value: Four) {
    let inside = places < vec4<u32>(params.stride);
    if inside.x {
        scores[base + places.x] = value.a;
    }
    if inside.y {
        scores[base + places.y] = value.b;
    }
    if inside.z {
        scores[base + places.z] = value.c;
    }
    if inside.w {
        scores[base + places.w] = value.d;
    }
}

// Grid: 64 / lanes rows a workgroup, folded. Each invocation meets only elements of its own, so memory needs no barrier.
@compute @workgroup_size(64)
fn forward_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = params.lanes;
    let seat = four_seat(lane, n);
    let row = grid_group(group, groups) * four_teams(n) + seat.team;
    // A team without a row takes part in the barriers, with no valid elements of the last one's.
    let real_row = min(row, params.rows - 1u);
    let base = real_row * params.stride;
    let valid = select(0u, valid_width(real_row), row < params.rows);
    let places = four_places(seat.rank, n);
    let rest = places.w + n;
    // All are read, the row's last in place of those behind it, so that no load waits for a branch.
    let at = base + min(places, vec4<u32>(params.stride - 1u));
    let z = Four(
        score_of(scores[at.x], places.x, valid),
        score_of(scores[at.y], places.y, valid),
        score_of(scores[at.z], places.z, valid),
        score_of(scores[at.w], places.w, valid),
    );
    let four_largest = item_max(max(max(z.a, z.b), max(z.c, z.d)));
    let largest = reduce_max(max(four_largest, largest_of(base, rest, n, valid)), lane, n);
    let e = Four(
        exponential_of(z.a, places.x, valid, largest),
        exponential_of(z.b, places.y, valid, largest),
        exponential_of(z.c, places.z, valid, largest),
        exponential_of(z.d, places.w, valid, largest),
    );
    let sum = reduce_sum(item_sum(four_total(e)) + exponentiate(base, rest, n, valid, largest), lane, n);
    if row >= params.rows {
        return;
    }
    let inverse = inverse_of(sum);
    store_four_scores(base, places, Four(e.a * inverse, e.b * inverse, e.c * inverse, e.d * inverse));
    finish(base, rest, n, valid, sum);
}

// ---- backward of p = softmax(z): dz = p (dp - Σ p dp), and 0 between width and stride. p is 0 where it was not valid ----

@group(0) @binding(0) var<storage, read> probabilities: array<Item>; // f32[rows, stride]
@group(0) @binding(1) var<storage, read_write> d: array<Item>; // f32[rows, stride]: dp, then dz

// p (dp - subtrahend); 0 beyond width, whatever dp holds there.
fn product(at: u32, i: u32, subtrahend: Item) -> Item {
    let inside = item_columns(i) < ItemColumns(params.width);
    return select(Item(), probabilities[at] * (d[at] - subtrahend), inside);
}

// Block by block, as in `exponentiate`: dz is what dp differs by from this sum, and mostly small beside it.
fn dot_of(base: u32, first: u32, step: u32) -> f32 {
    var sum = Item();
    var part = Item();
    var added = 0u;
    for (var i = first; i < params.stride; i += step) {
        part += product(base + i, i, Item());
        added++;
        if added % BLOCK == 0u {
            sum += part;
            part = Item();
        }
    }
    return item_sum(sum + part);
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

fn store_four_d(base: u32, places: vec4<u32>, value: Four) {
    let inside = places < vec4<u32>(params.stride);
    if inside.x {
        d[base + places.x] = value.a;
    }
    if inside.y {
        d[base + places.y] = value.b;
    }
    if inside.z {
        d[base + places.z] = value.c;
    }
    if inside.w {
        d[base + places.w] = value.d;
    }
}

// 0 where i does not lie in the row, whatever the value.
fn within(value: Item, i: u32) -> Item {
    return select(Item(), value, item_columns(i) < ItemColumns(params.width));
}

// Grid: 64 / lanes rows a workgroup, folded. Each invocation meets only elements of its own, so memory needs no barrier.
@compute @workgroup_size(64)
fn backward_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = params.lanes;
    let seat = four_seat(lane, n);
    let row = grid_group(group, groups) * four_teams(n) + seat.team;
    // A team without a row takes part in the barriers with the last one's.
    let base = min(row, params.rows - 1u) * params.stride;
    let places = four_places(seat.rank, n);
    let rest = places.w + n;
    let at = base + min(places, vec4<u32>(params.stride - 1u));
    let p = Four(probabilities[at.x], probabilities[at.y], probabilities[at.z], probabilities[at.w]);
    let dp = Four(d[at.x], d[at.y], d[at.z], d[at.w]);
    let terms = Four(
        within(p.a * dp.a, places.x),
        within(p.b * dp.b, places.y),
        within(p.c * dp.c, places.z),
        within(p.d * dp.d, places.w),
    );
    let dot = reduce_sum(item_sum(four_total(terms)) + dot_of(base, rest, n), lane, n);
    if row >= params.rows {
        return;
    }
    let dz = Four(
        within(p.a * (dp.a - dot), places.x),
        within(p.b * (dp.b - dot), places.y),
        within(p.c * (dp.c - dot), places.z),
        within(p.d * (dp.d - dot), places.w),
    );
    store_four_d(base, places, dz);
    store_dz(base, rest, n, dot);
}
