// Layer normalisation over rows of `width` items:
//   hat = (x - mean) * inverse,  inverse = 1 / sqrt(variance + eps),  y = hat * weight + bias.
// With `indices`, the rows are those of kept tokens in a full tensor, and are put side by side on the way.
//
// x and parameters are Items, four floats or one; y and its gradient are as many activations (tiles/).
// Forms: `_lane` gives every invocation a row (CPU drivers), `_group` gives a row to `lanes` invocations side by side, which
// read it once (GPUs). Any number of rows, any width. The backward pass is layernorm_backward.wgsl.

struct Params {
    rows: u32,
    width: u32,
    eps: f32,
    kept: u32, // R
    tokens: u32, // T
    fault: u32,
    lanes: u32, // invocations on a row, of the group forms: 8, 16, 32 or 64
}

@group(1) @binding(0) var<uniform> params: Params;

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

// ---- the same by a team of `lanes` invocations (lib/four.wgsl) ----

// Items of a row that begins at `start`: the first four, with 0 for those that do not come before `end`. All are read,
// the row's last in place of those behind it, so that no load waits for a branch.
fn four_of_x(start: u32, places: vec4<u32>, end: u32) -> Four {
    let at = start + min(places, vec4<u32>(params.width - 1u));
    let inside = places < vec4<u32>(end);
    return Four(
        select(Item(), x[at.x], inside.x),
        select(Item(), x[at.y], inside.y),
        select(Item(), x[at.z], inside.z),
        select(Item(), x[at.w], inside.w),
    );
}

fn deviation_of(value: Item, mean: f32, inside: bool) -> Item {
    return select(Item(), value - mean, inside);
}

// The two numbers of a row up to `end`, of which `four` is at hand.
fn team_stat_of(start: u32, four: Four, places: vec4<u32>, end: u32, lane: u32) -> vec2<f32> {
    let rest = places.w + params.lanes;
    var sum = four_total(four);
    for (var i = rest; i < end; i += params.lanes) {
        sum += x[start + i];
    }
    let mean = reduce_sum(item_sum(sum), lane, params.lanes) / f32(params.width * ITEM);
    let inside = places < vec4<u32>(end);
    let d = Four(
        deviation_of(four.a, mean, inside.x), deviation_of(four.b, mean, inside.y),
        deviation_of(four.c, mean, inside.z), deviation_of(four.d, mean, inside.w),
    );
    var squares = fma(d.a, d.a, d.b * d.b) + fma(d.c, d.c, d.d * d.d);
    var deviations = four_total(d);
    for (var i = rest; i < end; i += params.lanes) {
        let e = x[start + i] - mean;
        squares += e * e;
        deviations += e;
    }
    // What the rounded mean is off by: of a row that is constant it would pass for a deviation.
    let sums = reduce_sum2(vec2<f32>(item_sum(squares), item_sum(deviations)), lane, params.lanes);
    let off = sums.y / f32(params.width * ITEM);
    return vec2<f32>(mean + off, inverse_of(max(sums.x - sums.y * off, 0.0)));
}

// What the first four items are multiplied by and moved by.
struct Affine { weight: Four, bias: Four }

fn affine_at(places: vec4<u32>) -> Affine {
    let at = min(places, vec4<u32>(params.width - 1u));
    return Affine(
        Four(weight[at.x], weight[at.y], weight[at.z], weight[at.w]),
        Four(bias[at.x], bias[at.y], bias[at.z], bias[at.w]),
    );
}

fn four_of_y(four: Four, affine: Affine, stat: vec2<f32>) -> Four {
    return Four(
        (four.a - stat.x) * stat.y * affine.weight.a + affine.bias.a,
        (four.b - stat.x) * stat.y * affine.weight.b + affine.bias.b,
        (four.c - stat.x) * stat.y * affine.weight.c + affine.bias.c,
        (four.d - stat.x) * stat.y * affine.weight.d + affine.bias.d,
    );
}

fn store_four_y(base: u32, places: vec4<u32>, value: Four) {
    let inside = places < vec4<u32>(params.width);
    if inside.x {
        y[base + places.x] = Act(value.a);
    }
    if inside.y {
        y[base + places.y] = Act(value.b);
    }
    if inside.z {
        y[base + places.z] = Act(value.c);
    }
    if inside.w {
        y[base + places.w] = Act(value.d);
    }
}

// Grid: 64 / lanes rows a workgroup, folded.
@compute @workgroup_size(64)
fn forward_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let seat = four_seat(lane, params.lanes);
    let row = grid_group(group, groups) * four_teams(params.lanes) + seat.team;
    // A team without a row takes part in the barriers with the last one's.
    let base = min(row, params.rows - 1u) * params.width;
    let places = four_places(seat.rank, params.lanes);
    let four = four_of_x(base, places, params.width);
    let affine = affine_at(places);
    let stat = team_stat_of(base, four, places, params.width, lane);
    let value = four_of_y(four, affine, stat);
    if row >= params.rows {
        return;
    }
    if seat.rank == 0u {
        stats[row] = stat;
    }
    store_four_y(base, places, value);
    store_y(base, base, places.w + params.lanes, params.lanes, stat);
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

fn store_four_packed(base: u32, places: vec4<u32>, value: Four) {
    let inside = places < vec4<u32>(params.width);
    if inside.x {
        packed[base + places.x] = value.a;
    }
    if inside.y {
        packed[base + places.y] = value.b;
    }
    if inside.z {
        packed[base + places.z] = value.c;
    }
    if inside.w {
        packed[base + places.w] = value.d;
    }
}

// Grid: 64 / lanes rows a workgroup, folded.
@compute @workgroup_size(64)
fn gather_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let seat = four_seat(lane, params.lanes);
    let row = grid_group(group, groups) * four_teams(params.lanes) + seat.team;
    // A team without a row takes part in the barriers with the last one's, one without a token with a row of no items.
    let last = min(row, params.rows - 1u);
    let index = indices[last];
    let exists = index < params.tokens;
    let start = select(0u, (last / params.kept * params.tokens + index) * params.width, exists);
    let places = four_places(seat.rank, params.lanes);
    let end = select(0u, params.width, exists);
    let four = four_of_x(start, places, end);
    let affine = affine_at(places);
    let stat = team_stat_of(start, four, places, end, lane);
    let value = four_of_y(four, affine, stat);
    if row >= params.rows {
        return;
    }
    let base = row * params.width;
    if seat.rank == 0u {
        stats[row] = stat;
    }
    store_four_packed(base, places, four);
    store_four_y(base, places, value);
    let rest = places.w + params.lanes;
    if exists {
        store_packed(start, base, rest, params.lanes, stat);
    } else {
        store_missing(base, rest, params.lanes);
        if seat.rank == 0u {
            fault_raise(params.fault, index, params.tokens);
        }
    }
}
