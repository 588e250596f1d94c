// The running average of a segment of the weights, after optim_update.wgsl, and its exchange with the weights: of what is or was
// trained, as the average's segments hold it. Of the rest the average is the weight itself.
//
// Grid of both: an invocation for four elements, 64 a workgroup, folded. Segments are multiples of 64 elements, and the
// gaps in them hold zeros in both.

@group(1) @binding(0) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> owner: array<u32>; // u32[blocks]
@group(0) @binding(1) var<storage, read> table: array<Row>; // [parameters]
@group(0) @binding(2) var<storage, read_write> average: array<vec4<f32>>; // a, f32[elements]

// Where the weights of item `i` of the average lie: in a segment that is trained whole, at the same place.
fn weight_item(i: u32) -> u32 {
    if params.is_packed == 0u {
        return i;
    }
    let row = table[owner[params.first_block + i / OPTIM_BLOCK_ITEMS]];
    return optim_item(i, row, row.value_start);
}

// a <- a + (1 - decay)(w - a), left alone where the update was
@group(0) @binding(3) var<storage, read> now: State;
@group(0) @binding(4) var<storage, read> value: array<vec4<f32>>; // w, f32[elements of the values' segment]

@compute @workgroup_size(64)
fn follow(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if now.is_finite == 0u || i * 4u >= params.elements {
        return;
    }
    average[i] += params.ema_share * (value[weight_item(i)] - average[i]);
}

@group(0) @binding(3) var<storage, read_write> weights: array<vec4<f32>>; // f32[elements of the values' segment]

@compute @workgroup_size(64)
fn exchange(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i * 4u >= params.elements {
        return;
    }
    let at = weight_item(i);
    let held = average[i];
    average[i] = weights[at];
    weights[at] = held;
}
