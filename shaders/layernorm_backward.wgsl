// The gradients of layer normalisation, y = hat * weight + bias with hat = (x - mean) * inverse (layernorm.wgsl):
//   dhat = dy * weight;  dx = inverse * (dhat - mean(dhat) - hat * mean(dhat * hat));  dweight = Σ dy hat, dbias = Σ dy.
//
// On CPU drivers (`_lane`) three passes: the two means of each row; then dx, with sums of dweight and dbias over slices of
// rows on the way, since x and dy are at hand; then those sums' totals. On GPUs (`_group`) the first two are one, which reads
// x and dy once. No atomics, so that the order of a sum never changes.
//
// x and parameters are Items, four floats or one; dy is as many activations (tiles/). Any number of rows, any width.

struct Params {
    rows: u32,
    width: u32,
    slice: u32, // rows
    flags: u32,
    lanes: u32, // invocations on a row, of the group form: 8, 16, 32 or 64
}

const WANTS_DX = 1u;
const ADD_DX = 2u;
const WANTS_AFFINE = 4u;
// Of the last pass: whether there is a first (dweight) and second (dbias) total, and whether to add to it.
const WANTS_TOTAL = vec2<u32>(8u, 16u);
const ADD_TOTAL = vec2<u32>(32u, 64u);

@group(1) @binding(0) var<uniform> params: Params;

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

// ---- second pass: dx, and partial sums of dweight and dbias ----

@group(0) @binding(4) var<storage, read_write> d_x: array<Item>; // f32[rows, width]
@group(0) @binding(5) var<storage, read_write> partial: array<Item>; // f32[2, slices, width]: of dweight, of dbias
@group(0) @binding(6) var<storage, read> means: array<vec2<f32>>; // f32[rows, 2]

fn store_dx(at: u32, value: Item) {
    if has(ADD_DX) {
        d_x[at] += value;
    } else if has(WANTS_DX) {
        d_x[at] = value;
    }
}

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
        store_dx(at, stat.y * (g * w - mean.x - hat * mean.y));
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

// ---- GPUs: both passes in one. A workgroup takes a slice of rows, a team of `lanes` invocations (lib/four.wgsl) each of them
// in turn. An invocation keeps its first four items of a row and their sums of dweight and dbias in registers. Of a wider row
// it reads the others twice, and adds to their sums in `partial`, which has a slice for each team ----

fn four_of_dy(base: u32, places: vec4<u32>, end: u32) -> Four {
    let at = base + min(places, vec4<u32>(params.width - 1u));
    let inside = places < vec4<u32>(end);
    return Four(
        select(Item(), Item(dy[at.x]), inside.x),
        select(Item(), Item(dy[at.y]), inside.y),
        select(Item(), Item(dy[at.z]), inside.z),
        select(Item(), Item(dy[at.w]), inside.w),
    );
}

// Of places behind the row's end the last item's: what it is multiplied by is 0 there.
fn four_of_hat(base: u32, places: vec4<u32>, stat: vec2<f32>) -> Four {
    let at = base + min(places, vec4<u32>(params.width - 1u));
    return Four(
        (x[at.x] - stat.x) * stat.y,
        (x[at.y] - stat.x) * stat.y,
        (x[at.z] - stat.x) * stat.y,
        (x[at.w] - stat.x) * stat.y,
    );
}

fn four_of_weight(places: vec4<u32>) -> Four {
    let at = min(places, vec4<u32>(params.width - 1u));
    return Four(weight[at.x], weight[at.y], weight[at.z], weight[at.w]);
}

// What dx holds before, if it is to be added to. Read with x and dy, not when it is needed.
fn four_of_dx(base: u32, places: vec4<u32>) -> Four {
    var before: Four;
    if has(ADD_DX) {
        let at = base + min(places, vec4<u32>(params.width - 1u));
        before = Four(d_x[at.x], d_x[at.y], d_x[at.z], d_x[at.w]);
    }
    return before;
}

fn store_four_dx(base: u32, places: vec4<u32>, end: u32, value: Four) {
    let inside = places < vec4<u32>(end);
    if inside.x {
        d_x[base + places.x] = value.a;
    }
    if inside.y {
        d_x[base + places.y] = value.b;
    }
    if inside.z {
        d_x[base + places.z] = value.c;
    }
    if inside.w {
        d_x[base + places.w] = value.d;
    }
}

fn store_four_partial(base: u32, places: vec4<u32>, value: Four) {
    let inside = places < vec4<u32>(params.width);
    if inside.x {
        partial[base + places.x] = value.a;
    }
    if inside.y {
        partial[base + places.y] = value.b;
    }
    if inside.z {
        partial[base + places.z] = value.c;
    }
    if inside.w {
        partial[base + places.w] = value.d;
    }
}

// inverse (dhat - mean(dhat) - hat mean(dhat * hat))
fn dx_of(dhat: Item, hat: Item, mean: vec2<f32>, inverse: f32) -> Item {
    return inverse * (dhat - mean.x - hat * mean.y);
}

// Where a team's sums of dweight and dbias lie in `partial`.
struct Sums { dweight: u32, dbias: u32 }

fn clear_rest(sums: Sums, first: u32) {
    for (var i = first; i < params.width; i += params.lanes) {
        partial[sums.dweight + i] = Item();
        partial[sums.dbias + i] = Item();
    }
}

// The items of a row from `first` to before `end`.
fn go_along_rest(base: u32, sums: Sums, first: u32, end: u32, stat: vec2<f32>, mean: vec2<f32>) {
    for (var i = first; i < end; i += params.lanes) {
        let g = Item(dy[base + i]);
        let hat = (x[base + i] - stat.x) * stat.y;
        store_dx(base + i, dx_of(g * weight[i], hat, mean, stat.y));
        if has(WANTS_AFFINE) {
            partial[sums.dweight + i] += g * hat;
            partial[sums.dbias + i] += g;
        }
    }
}

// Grid: a slice a workgroup, folded.
@compute @workgroup_size(64)
fn backward_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let slice = grid_group(group, groups);
    if slice * params.slice >= params.rows {
        return; // uniform: the whole workgroup leaves
    }
    let slices = (params.rows + params.slice - 1u) / params.slice;
    let last = min((slice + 1u) * params.slice, params.rows);
    let teams = four_teams(params.lanes);
    let seat = four_seat(lane, params.lanes);
    let place = (slice * teams + seat.team) * params.width;
    let sums = Sums(place, slices * teams * params.width + place);
    let places = four_places(seat.rank, params.lanes);
    let rest = places.w + params.lanes;
    let w = four_of_weight(places);
    var dweight: Four;
    var dbias: Four;
    if has(WANTS_AFFINE) {
        clear_rest(sums, rest);
    }
    for (var top = slice * params.slice; top < last; top += teams) {
        // A team without a row takes part in the barriers with the slice's last one, as one of no items.
        let row = min(top + seat.team, last - 1u);
        let end = select(0u, params.width, top + seat.team < last);
        let base = row * params.width;
        let before = four_of_dx(base, places);
        let stat = stats[row];
        let g = four_of_dy(base, places, end);
        let hat = four_of_hat(base, places, stat);
        let dhat = four_mul(g, w);
        dweight = four_add(dweight, four_mul(g, hat));
        dbias = four_add(dbias, g);
        let own = vec2<f32>(item_sum(four_total(dhat)), item_sum(four_total(four_mul(dhat, hat))));
        let all = reduce_sum2(own + moments_of(base, rest, params.lanes, stat), lane, params.lanes);
        let mean = all / f32(params.width * ITEM);
        if has(WANTS_DX | ADD_DX) {
            let value = Four(
                dx_of(dhat.a, hat.a, mean, stat.y),
                dx_of(dhat.b, hat.b, mean, stat.y),
                dx_of(dhat.c, hat.c, mean, stat.y),
                dx_of(dhat.d, hat.d, mean, stat.y),
            );
            store_four_dx(base, places, end, four_add(before, value));
        }
        go_along_rest(base, sums, rest, end, stat, mean);
    }
    if has(WANTS_AFFINE) {
        store_four_partial(sums.dweight, places, dweight);
        store_four_partial(sums.dbias, places, dbias);
    }
}

// ---- last pass: the totals of dweight and dbias ----

@group(0) @binding(0) var<storage, read> sums: array<Item>; // f32[2, slices, width]
@group(0) @binding(1) var<storage, read_write> dweight_total: array<Item>; // f32[width]
@group(0) @binding(2) var<storage, read_write> dbias_total: array<Item>; // f32[width]

// Of dweight (0) or dbias (1), one column.
fn store_total(which: u32, column: u32, sum: Item) {
    var total = sum;
    if which == 0u {
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

const BLOCK = 128u;

// Grid: columns, NARROW a workgroup, folded; along z dweight, dbias. Here `rows` counts slices.
@compute @workgroup_size(16)
fn totals_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = grid_group(group, groups) * NARROW + lane;
    if column >= params.width || !has(WANTS_TOTAL[group.z]) {
        return;
    }
    // Two sums, so that two loads are under way at a time. What BLOCK slices gave is put aside: long sums lose digits.
    var total: Item;
    var even: Item;
    var odd: Item;
    var at = group.z * params.rows * params.width + column;
    for (var slice = 0u; slice + 1u < params.rows; slice += 2u) {
        even += sums[at];
        odd += sums[at + params.width];
        at += 2u * params.width;
        if slice % BLOCK == BLOCK - 2u {
            total += even + odd;
            even = Item();
            odd = Item();
        }
    }
    if params.rows % 2u == 1u {
        even += sums[at];
    }
    store_total(group.z, column, total + (even + odd));
}

// Grid: columns, COLUMNS a workgroup (lib/columns.wgsl), folded; along z dweight, dbias. Here `rows` counts slices.
@compute @workgroup_size(256)
fn totals_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if !has(WANTS_TOTAL[group.z]) {
        return; // uniform: the whole workgroup leaves
    }
    let column = grid_group(group, groups) * COLUMNS + lane % COLUMNS;
    let base = group.z * params.rows * params.width + min(column, params.width - 1u);
    var sum: Item;
    // Four rows at a time, the last one in place of those behind it, so that four loads are under way.
    let last = params.rows - 1u;
    for (var row = lane / COLUMNS; row <= last; row += 4u * COLUMNS_DEEP) {
        let rows = row + COLUMNS_DEEP * vec4<u32>(0u, 1u, 2u, 3u);
        let at = base + min(rows, vec4<u32>(last)) * params.width;
        let inside = rows <= vec4<u32>(last);
        sum += (select(Item(), sums[at.x], inside.x) + select(Item(), sums[at.y], inside.y))
            + (select(Item(), sums[at.z], inside.z) + select(Item(), sums[at.w], inside.w));
    }
    let total = columns_fold(sum, lane);
    if lane < COLUMNS && column < params.width {
        store_total(group.z, column, total);
    }
}
