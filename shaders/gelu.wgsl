// GELU in one of its forms, as the library says.
//
//   x   Act[n / 4]  read
//   y   Act[n / 4]  written                     (forward)
//   dy  Act[n / 4]  read                        (backward)
//   d_x Act[n / 4]  written, or added to        (backward)
//
// An Act is four elements in full or half precision (tiles/act_*.wgsl); sums are f32. Grid: one invocation for four
// elements, 64 a workgroup, folded (lib/grid.wgsl). Any n: buffers are padded to 16 bytes, and the padding may be written.
// GELU is that of lib/gelu.wgsl, lib/gelu_tanh.wgsl or lib/gelu_quick.wgsl.

struct Params { n: u32, accumulate: u32 }

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(1) @binding(0) var<uniform> params: Params;

// ---- forward ----

@group(0) @binding(1) var<storage, read_write> y: array<Act>;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i * 4u < params.n {
        y[i] = Act(gelu_value(Item(x[i])));
    }
}

// ---- backward: dx = dy times the slope at x ----

@group(0) @binding(1) var<storage, read> dy: array<Act>;
@group(0) @binding(2) var<storage, read_write> d_x: array<Act>;

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i * 4u < params.n {
        var slope = Item(dy[i]) * gelu_slope(Item(x[i]));
        if params.accumulate != 0u {
            slope += Item(d_x[i]);
        }
        d_x[i] = Act(slope);
    }
}
