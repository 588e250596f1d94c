// Optimisers over whole segments of the parameter arenas: the global gradient norm with its finite check, then one update
// of every parameter. Nothing here needs the host: the scale and the flag go from pass to pass in `state`.
//
// A segment holds parameters side by side, each starting at a multiple of 64 elements; `owner` names, for every block of
// 64 elements, its row in `table`. The gaps behind a parameter's last element are never touched.
// Uses lib/grid.wgsl.

struct Params {
    elements: u32, // of this segment, with gaps
    first_block: u32, // of this segment in `owner`
    partials: u32, // rows of `partial` written so far, or in total
    nesterov: u32, // sgd
    rate: f32,
    beta1: f32, // sgd: momentum
    beta2: f32, // sgd: dampening
    eps: f32,
    max_norm: f32, // 0: no clipping
    log_beta1: f32, // natural logarithms, from the host in double precision
    log_beta2: f32,
}

// A parameter's place in its segment and how it is treated.
struct Row {
    start: u32, // element
    numel: u32,
    is_active: u32, // 0: frozen or without a gradient in this step, left alone
    weight_decay: f32,
    rate_scale: f32,
    id: u32, // in the order in which parameters were added
    pad0: u32,
    pad1: u32,
}

struct State {
    is_finite: u32, // whether the last gradient was finite
    bad_parameter: u32, // if not, the first offender's id
    norm: f32, // of the last gradient, before clipping
    clip_scale: f32, // what the update multiplies gradients by
    applied: u32, // updates applied: Adam's t
    skipped: u32, // updates skipped
}

const LANES = 64u;
const NO_PARAMETER = 0xffffffffu;

@group(1) @binding(0) var<uniform> params: Params;

// ---- global norm: first pass, sums of squares over 4 096 elements a workgroup ----

@group(0) @binding(0) var<storage, read> owner: array<u32>; // u32[blocks]
@group(0) @binding(1) var<storage, read> table: array<Row>; // [parameters]
@group(0) @binding(2) var<storage, read> grad: array<f32>; // f32[elements]
@group(0) @binding(3) var<storage, read_write> partial: array<vec2<u32>>; // [partials]: bits of the sum, first bad id

const CHUNK = 4096u;

// The parameter to which block `block` of this segment belongs.
fn row_of(block: u32) -> Row {
    return table[owner[params.first_block + block]];
}

var<workgroup> sums: array<f32, LANES>;
var<workgroup> bads: array<u32, LANES>;

// Not a comparison with itself: compilers may assume that there are no NaNs. The exponent's bits cannot be argued with.
fn finite(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u;
}

// Folds each lane's sum and smallest bad id into lane 0, in a fixed order. Not lib/reduce.wgsl: one tree serves both.
fn fold(lane: u32, sum: f32, bad: u32) {
    sums[lane] = sum;
    bads[lane] = bad;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier(); // the level above is written
        if lane < step {
            sums[lane] += sums[lane + step];
            bads[lane] = min(bads[lane], bads[lane + step]);
        }
    }
    workgroupBarrier(); // the total is written
}

// Grid: a workgroup for every 4 096 elements, folded.
@compute @workgroup_size(64)
fn norm_partial(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let chunk = grid_group(group, groups);
    let blocks = params.elements / 64u;
    var sum = 0.0;
    var bad = NO_PARAMETER;
    // A lane takes one block of 64 elements, so that it looks up one parameter.
    let block = chunk * (CHUNK / 64u) + lane;
    if block < blocks {
        let row = row_of(block);
        let end = row.start + row.numel;
        if row.is_active != 0u {
            for (var i = block * 64u; i < min(block * 64u + 64u, end); i++) {
                let g = grad[i];
                sum += g * g;
                if !finite(g) {
                    bad = row.id;
                }
            }
        }
    }
    fold(lane, sum, bad);
    if lane == 0u && chunk * CHUNK < params.elements {
        partial[params.partials + chunk] = vec2<u32>(bitcast<u32>(sums[0]), bads[0]);
    }
}

// ---- second pass: the norm, the flag, the clip scale, the count. Grid: one workgroup. ----

@group(0) @binding(0) var<storage, read> partials: array<vec2<u32>>; // [partials]
@group(0) @binding(1) var<storage, read_write> state: State;

@compute @workgroup_size(64)
fn norm_total(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    var bad = NO_PARAMETER;
    for (var i = lane; i < params.partials; i += LANES) {
        sum += bitcast<f32>(partials[i].x);
        bad = min(bad, partials[i].y);
    }
    fold(lane, sum, bad);
    if lane != 0u {
        return;
    }
    let norm = sqrt(sums[0]);
    // Finite gradients whose squares overflow would give a useless scale: skipped too, without an offender.
    let ok = bads[0] == NO_PARAMETER && finite(norm);
    state.is_finite = u32(ok);
    state.bad_parameter = bads[0];
    state.norm = norm;
    // torch.nn.utils.clip_grad_norm_: max_norm / (norm + 1e-6), at most 1
    state.clip_scale = select(1.0, min(1.0, params.max_norm / (norm + 1e-6)), params.max_norm > 0.0);
    state.applied += u32(ok);
    state.skipped += u32(!ok);
}

// ---- updates. Grid: an invocation for each element of the segment, 64 a workgroup, folded. ----

@group(0) @binding(3) var<storage, read> now: State;
@group(0) @binding(4) var<storage, read_write> value: array<f32>; // f32[elements]
@group(0) @binding(5) var<storage, read_write> moment1: array<f32>; // f32[elements]; sgd: momentum
@group(0) @binding(6) var<storage, read_write> moment2: array<f32>; // f32[elements]

// Whether element `i` belongs to a parameter that is to be updated.
fn applies(i: u32, row: Row) -> bool {
    return now.is_finite != 0u && row.is_active != 0u && i - row.start < row.numel;
}

// 1 - exp(x) for x <= 0, without the cancellation near 0.
fn one_minus_exp(x: f32) -> f32 {
    let series = -x * (1.0 + x * (0.5 + x * (0.16666667 + x * 0.041666668)));
    return select(1.0 - exp(x), series, x > -0.02);
}

// AdamW (Loshchilov and Hutter, 2019), in PyTorch's form:
//   w <- w (1 - lr decay);  m <- m + (1 - b1)(g - m);  v <- b2 v + (1 - b2) g²
//   w <- w - lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)
@compute @workgroup_size(64)
fn adamw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = grid_group(group, groups);
    let i = block * 64u + lane;
    if i >= params.elements {
        return;
    }
    let row = row_of(block);
    if !applies(i, row) {
        return;
    }
    let t = f32(now.applied);
    let correction1 = one_minus_exp(t * params.log_beta1);
    let correction2 = one_minus_exp(t * params.log_beta2);
    let rate = params.rate * row.rate_scale;
    let g = grad[i] * now.clip_scale;
    let m = moment1[i] + (1.0 - params.beta1) * (g - moment1[i]);
    let v = params.beta2 * moment2[i] + (1.0 - params.beta2) * g * g;
    moment1[i] = m;
    moment2[i] = v;
    value[i] = value[i] * (1.0 - rate * row.weight_decay) - rate / correction1 * m / (sqrt(v / correction2) + params.eps);
}

// SGD with momentum, in PyTorch's form:
//   g <- g + decay w;  b <- momentum b + (1 - dampening) g  (b <- g at first);  w <- w - lr (nesterov ? g + momentum b : b)
@compute @workgroup_size(64)
fn sgd(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = grid_group(group, groups);
    let i = block * 64u + lane;
    if i >= params.elements {
        return;
    }
    let row = row_of(block);
    if !applies(i, row) {
        return;
    }
    let g = grad[i] * now.clip_scale + row.weight_decay * value[i];
    let first = now.applied == 1u;
    let b = select(params.beta1 * moment1[i] + (1.0 - params.beta2) * g, g, first);
    moment1[i] = b;
    let direction = select(b, g + params.beta1 * b, params.nesterov != 0u);
    value[i] -= params.rate * row.rate_scale * direction;
}
