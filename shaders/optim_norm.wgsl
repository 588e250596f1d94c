// The global norm of all gradients with its finite check, and what follows from it for the update, in two passes. Nothing
// here needs the host: the scale and the flag go to the update in `state`.
//
// Blocks, gaps and the structs are explained in lib/optim.wgsl.

const LANES = 64u;
const NO_PARAMETER = 0xffffffffu;

@group(1) @binding(0) var<uniform> params: Params;

// ---- first pass: sums of squares ----

@group(0) @binding(0) var<storage, read> owner: array<u32>; // u32[blocks]
@group(0) @binding(1) var<storage, read> table: array<Row>; // [parameters]
@group(0) @binding(2) var<storage, read> grad: array<vec4<u32>>; // f32[elements of the gradients' segment], their bits
@group(0) @binding(3) var<storage, read_write> partial: array<vec2<u32>>; // [partials]: bits of the sum, first bad id

// Whether a number is finite is asked of bits that were read, as whole numbers. Of a float that was computed compilers may take it
// for granted that it is, and then leave out a comparison, and a look at its exponent too.
const INFINITE = 0x7f800000u; // bits of what is not finite, without their sign, are this or above
const LARGEST = 1e38; // of sums and scales: far enough below infinity that this comparison is made

// The bits of the four elements at item `i` of the gradients, from element `first` of the moments on; zeros from the parameter's
// end on.
fn bits_of(i: u32, first: u32, row: Row) -> vec4<u32> {
    return select(vec4<u32>(), grad[i], optim_inside(first, row));
}

struct Squares {
    sum: vec4<f32>, // of squares
    largest: vec4<u32>, // bits, without their sign
}

fn with_squares(before: Squares, bits: vec4<u32>) -> Squares {
    let g = bitcast<vec4<f32>>(bits);
    return Squares(fma(g, g, before.sum), max(before.largest, bits & vec4<u32>(0x7fffffffu)));
}

fn both(one: Squares, other: Squares) -> Squares {
    return Squares(one.sum + other.sum, max(one.largest, other.largest));
}

// Those of the block's items `first`, `first + 2 step`, ... and those `step` behind them.
fn squares_of(row: Row, block: u32, first: u32, step: u32) -> Squares {
    let start = optim_item(block * OPTIM_BLOCK_ITEMS, row, row.grad_start);
    var even = Squares();
    var odd = Squares();
    for (var i = first; i < OPTIM_BLOCK_ITEMS; i += 2u * step) {
        let at = block * OPTIM_BLOCK_ITEMS + i;
        even = with_squares(even, bits_of(start + i, at * 4u, row));
        odd = with_squares(odd, bits_of(start + i + step, (at + step) * 4u, row));
    }
    return both(even, odd);
}

fn total_of(squares: Squares) -> f32 {
    let v = squares.sum;
    return (v.x + v.y) + (v.z + v.w);
}

fn has_bad(squares: Squares) -> bool {
    return any(squares.largest >= vec4<u32>(INFINITE));
}

// Whether an element of the block is not finite.
fn is_bad(row: Row, block: u32) -> bool {
    for (var at = block * OPTIM_BLOCK_ITEMS; at < (block + 1u) * OPTIM_BLOCK_ITEMS; at++) {
        let bits = bits_of(optim_item(at, row, row.grad_start), at * 4u, row);
        if any((bits & vec4<u32>(0x7fffffffu)) >= vec4<u32>(INFINITE)) {
            return true;
        }
    }
    return false;
}

// The first parameter with an element that is not finite. Few invocations have met one, and only the blocks of those are looked into:
// from `first` to before `end`, `step` apart.
fn first_bad(first: u32, end: u32, step: u32) -> u32 {
    var bad = NO_PARAMETER;
    for (var block = first; block < end; block += step) {
        let id = owner[params.first_block + block];
        let row = table[id];
        if row.is_active != 0u && is_bad(row, block) {
            bad = min(bad, id);
        }
    }
    return bad;
}

// CPU drivers: every invocation takes RUN blocks, one after the other. Grid: an invocation for every RUN blocks, 64 a
// workgroup, folded. Writes a partial for each.
const RUN = 8u;

@compute @workgroup_size(64)
fn norm_partial_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let run = grid_group(group, groups) * LANES + lane;
    let first = run * RUN;
    let end = min(first + RUN, params.elements / OPTIM_BLOCK);
    if first >= end {
        return;
    }
    var squares = Squares();
    for (var block = first; block < end; block++) {
        let row = table[owner[params.first_block + block]];
        if row.is_active != 0u {
            squares = both(squares, squares_of(row, block, 0u, 1u));
        }
    }
    var bad = NO_PARAMETER;
    if has_bad(squares) {
        bad = first_bad(first, end, 1u);
    }
    partial[params.partials + run] = vec2<u32>(bitcast<u32>(total_of(squares)), bad);
}

// Invocations of the passes that fold their results.
const WIDE = 256u;
const WIDE_ROOT = 16u;

var<workgroup> sums: array<f32, WIDE>;
var<workgroup> bads: array<u32, WIDE>;
var<workgroup> root_sums: array<f32, WIDE_ROOT>;
var<workgroup> root_bads: array<u32, WIDE_ROOT>;

struct Folded { sum: f32, bad: u32 }

// The sum of all invocations' sums and their smallest bad id, in a fixed order: each of the first sixteen takes in sixteen,
// then everyone the results. Called once, in uniform control flow.
fn fold(lane: u32, sum: f32, bad: u32) -> Folded {
    sums[lane] = sum;
    bads[lane] = bad;
    workgroupBarrier(); // the values are written
    if lane < WIDE_ROOT {
        var part = Folded(0.0, NO_PARAMETER);
        for (var i = 0u; i < WIDE_ROOT; i++) {
            part.sum += sums[WIDE_ROOT * lane + i];
            part.bad = min(part.bad, bads[WIDE_ROOT * lane + i]);
        }
        root_sums[lane] = part.sum;
        root_bads[lane] = part.bad;
    }
    workgroupBarrier(); // the results of sixteen are written
    var all = Folded(0.0, NO_PARAMETER);
    for (var i = 0u; i < WIDE_ROOT; i++) {
        all.sum += root_sums[i];
        all.bad = min(all.bad, root_bads[i]);
    }
    return all;
}

// GPUs: SHARING invocations side by side share a block, so that neighbours read neighbours. Grid: a workgroup for every
// CHUNK blocks, folded. Writes a partial for each.
const SHARING = 8u;
const CHUNK = 256u;

@compute @workgroup_size(256)
fn norm_partial_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let chunk = grid_group(group, groups);
    let end = min(chunk * CHUNK + CHUNK, params.elements / OPTIM_BLOCK);
    let first = chunk * CHUNK + lane / SHARING;
    var squares = Squares();
    for (var block = first; block < end; block += WIDE / SHARING) {
        let row = table[owner[params.first_block + block]];
        if row.is_active != 0u {
            squares = both(squares, squares_of(row, block, lane % SHARING, SHARING));
        }
    }
    var bad = NO_PARAMETER;
    if has_bad(squares) {
        bad = first_bad(first, end, WIDE / SHARING);
    }
    let all = fold(lane, total_of(squares), bad);
    if lane == 0u && chunk * CHUNK < end {
        partial[params.partials + chunk] = vec2<u32>(bitcast<u32>(all.sum), all.bad);
    }
}

// ---- second pass: the norm, the flag, the factor on gradients, the counts, the loss scale. Grid: one workgroup. ----

@group(0) @binding(0) var<storage, read> partials: array<vec2<u32>>; // [partials]
@group(0) @binding(1) var<storage, read_write> state: State;
@group(0) @binding(2) var<storage, read_write> loss_scale: array<f32>; // f32[1], 1 where none is asked for
@group(0) @binding(3) var<storage, read_write> rows: array<Row>; // [parameters]
@group(0) @binding(4) var<storage, read_write> updates: array<u32>; // u32[parameters], applied so far

var<workgroup> is_applied: u32;

// 1 - exp(x) for x <= 0, without the cancellation near 0.
fn one_minus_exp(x: f32) -> f32 {
    let series = -x * (1.0 + x * (0.5 + x * (0.16666667 + x * 0.041666668)));
    return select(1.0 - exp(x), series, x > -0.02);
}

// Lowers the loss scale after a bad step, raises it after `interval` good ones.
fn adapt_loss_scale(ok: bool) {
    let scale = loss_scale[0];
    state.loss_scale = scale;
    state.good_steps += 1u;
    state.is_excused = 0u;
    if !ok {
        state.good_steps = 0u;
        state.is_excused = u32(params.backoff < 1.0 && scale * params.backoff >= params.floor);
        loss_scale[0] = max(scale * params.backoff, params.floor);
    } else if state.good_steps == params.interval {
        state.good_steps = 0u;
        if scale * params.growth < LARGEST {
            loss_scale[0] = scale * params.growth;
        }
    }
}

// What follows from the sum of squares and the first bad parameter; returns whether the update is applied.
fn conclude(all: Folded) -> bool {
    let unscale = 1.0 / loss_scale[0];
    let norm = sqrt(all.sum) * unscale;
    // Finite gradients whose squares overflow would give a useless scale: skipped too, without an offender.
    let ok = all.bad == NO_PARAMETER && all.sum < LARGEST;
    state.is_finite = u32(ok);
    state.bad_parameter = all.bad;
    state.norm = norm;
    // torch.nn.utils.clip_grad_norm_: max_norm / (norm + 1e-6), at most 1
    state.grad_scale = unscale * select(1.0, min(1.0, params.max_norm / (norm + 1e-6)), params.max_norm > 0.0);
    state.applied += u32(ok);
    state.skipped += u32(!ok);
    adapt_loss_scale(ok);
    return ok;
}

// Counts this update of a parameter. One that has no gradient in this step is left out, as in PyTorch.
fn count_update(id: u32) {
    if rows[id].is_active == 0u {
        return;
    }
    let t = updates[id] + 1u;
    updates[id] = t;
    rows[id].updates = t;
    rows[id].correction1 = one_minus_exp(f32(t) * params.log_beta1);
    rows[id].correction2 = one_minus_exp(f32(t) * params.log_beta2);
}

@compute @workgroup_size(256)
fn norm_total(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    var bad = NO_PARAMETER;
    for (var i = lane; i < params.partials; i += WIDE) {
        sum += bitcast<f32>(partials[i].x);
        bad = min(bad, partials[i].y);
    }
    let all = fold(lane, sum, bad);
    if lane == 0u {
        is_applied = u32(conclude(all));
    }
    workgroupBarrier(); // the conclusion is written
    if is_applied == 0u {
        return;
    }
    for (var id = lane; id < params.parameters; id += WIDE) {
        count_update(id);
    }
}
