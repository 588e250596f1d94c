// The update of every parameter that is trained in a segment of the arenas, after optim_norm.wgsl has left in `now` whether to do it.
//
// Two forms: `_lane` for CPU drivers, with eight invocations side by side on RUN blocks, whose rows are the same for all;
// `_group` for GPUs, with an invocation for four elements. Blocks, gaps and the structs are explained in lib/optim.wgsl.

@group(1) @binding(0) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> owner: array<u32>; // u32[blocks]
@group(0) @binding(1) var<storage, read> table: array<Row>; // [parameters]
@group(0) @binding(2) var<storage, read> grad: array<vec4<f32>>; // f32[elements of the gradients' segment]
@group(0) @binding(3) var<storage, read> now: State;
@group(0) @binding(4) var<storage, read_write> value: array<vec4<f32>>; // f32[elements of the values' segment]
@group(0) @binding(5) var<storage, read_write> moment1: array<vec4<f32>>; // f32[elements]; sgd: momentum
@group(0) @binding(6) var<storage, read_write> moment2: array<vec4<f32>>; // f32[elements]

const NARROW = 8u;
const RUN = 32u;
const WIDE = 64u;

fn row_of(block: u32) -> Row {
    return table[owner[params.first_block + block]];
}

// The gradient at item `i` of the moments, clipped and without the loss scale.
fn gradient_at(i: u32, row: Row) -> vec4<f32> {
    let g = grad[optim_item(i, row, row.grad_start)];
    return select(vec4<f32>(), g, optim_inside(i * 4u, row)) * now.grad_scale;
}

// AdamW (Loshchilov and Hutter, 2019), in PyTorch's form:
//   w <- w (1 - lr decay);  m <- m + (1 - b1)(g - m);  v <- b2 v + (1 - b2) g²
//   w <- w - lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)   with the parameter's own t
fn adamw_at(i: u32, row: Row) {
    let rate = params.rate * row.rate_scale;
    let g = gradient_at(i, row);
    let m = moment1[i] + (1.0 - params.beta1) * (g - moment1[i]);
    let v = params.beta2 * moment2[i] + (1.0 - params.beta2) * g * g;
    moment1[i] = m;
    moment2[i] = v;
    let step = rate / row.correction1 * m / (sqrt(v) * (1.0 / sqrt(row.correction2)) + params.eps);
    let at = optim_item(i, row, row.value_start);
    value[at] = value[at] * (1.0 - rate * row.weight_decay) - step;
}

// SGD with momentum, in PyTorch's form:
//   g <- g + decay w;  b <- momentum b + (1 - dampening) g  (b <- g at first);  w <- w - lr (nesterov ? g + momentum b : b)
fn sgd_at(i: u32, row: Row) {
    let at = optim_item(i, row, row.value_start);
    let w = value[at];
    let g = gradient_at(i, row) + row.weight_decay * w;
    let keep = select(params.beta1, 0.0, row.updates == 1u);
    let take = select(1.0 - params.beta2, 1.0, row.updates == 1u);
    let b = keep * moment1[i] + take * g;
    moment1[i] = b;
    let direction = select(b, g + params.beta1 * b, params.nesterov != 0u);
    value[at] = w - params.rate * row.rate_scale * direction;
}

// Grid of the lane forms: a workgroup for every RUN blocks, folded.

@compute @workgroup_size(8)
fn adamw_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if now.is_finite == 0u {
        return;
    }
    let first = grid_group(group, groups) * RUN;
    let end = min(first + RUN, params.elements / OPTIM_BLOCK);
    for (var block = first; block < end; block++) {
        let row = row_of(block);
        if row.is_active != 0u {
            let i = block * OPTIM_BLOCK_ITEMS + lane;
            adamw_at(i, row);
            adamw_at(i + NARROW, row);
        }
    }
}

@compute @workgroup_size(8)
fn sgd_lane(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if now.is_finite == 0u {
        return;
    }
    let first = grid_group(group, groups) * RUN;
    let end = min(first + RUN, params.elements / OPTIM_BLOCK);
    for (var block = first; block < end; block++) {
        let row = row_of(block);
        if row.is_active != 0u {
            let i = block * OPTIM_BLOCK_ITEMS + lane;
            sgd_at(i, row);
            sgd_at(i + NARROW, row);
        }
    }
}

// Grid of the group forms: an invocation for four elements, WIDE a workgroup, folded.

@compute @workgroup_size(64)
fn adamw_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * WIDE + lane;
    if now.is_finite == 0u || i * 4u >= params.elements {
        return;
    }
    let row = row_of(i / OPTIM_BLOCK_ITEMS);
    if row.is_active != 0u {
        adamw_at(i, row);
    }
}

@compute @workgroup_size(64)
fn sgd_group(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * WIDE + lane;
    if now.is_finite == 0u || i * 4u >= params.elements {
        return;
    }
    let row = row_of(i / OPTIM_BLOCK_ITEMS);
    if row.is_active != 0u {
        sgd_at(i, row);
    }
}
