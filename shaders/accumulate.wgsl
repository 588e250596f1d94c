// accumulate: y += x, where a value has several consumers and their gradients add up.
//
//   x  Act[n / 4]  read
//   y  Act[n / 4]  read, written
//
// Grid: one invocation for four elements, 64 a workgroup. Any n: buffers are padded to 16 bytes, and the padding may
// be written. Act is of tiles/act_f32.wgsl or act_f16.wgsl.

struct Params { n: u32 }

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read_write> y: array<Act>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn accumulate(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i * 4u < params.n {
        y[i] = Act(vec4<f32>(y[i]) + vec4<f32>(x[i]));
    }
}
