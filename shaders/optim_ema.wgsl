// The running average of a segment of the weights, after optim_update.wgsl, and its exchange with the weights.
//
// Grid of both: an invocation for four elements, 64 a workgroup, folded. Segments are multiples of 64 elements, and the
// gaps in them hold zeros in both. Uses lib/grid.wgsl, lib/optim.wgsl.

@group(1) @binding(0) var<uniform> params: Params;

// a <- a + (1 - decay)(w - a), left alone where the update was
@group(0) @binding(0) var<storage, read> now: State;
@group(0) @binding(1) var<storage, read> value: array<vec4<f32>>; // w, f32[elements]
@group(0) @binding(2) var<storage, read_write> average: array<vec4<f32>>; // a, f32[elements]

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
    average[i] += params.ema_share * (value[i] - average[i]);
}

@group(0) @binding(0) var<storage, read_write> first: array<vec4<f32>>; // f32[elements]
@group(0) @binding(1) var<storage, read_write> second: array<vec4<f32>>; // f32[elements]

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
    let held = first[i];
    first[i] = second[i];
    second[i] = held;
}
