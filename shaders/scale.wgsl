// scale: y = factor x. Backward is the same kernel: dx = factor dy.
//
//   x  f32[n]  read
//   y  f32[n]  written, or added to
//
// Grid: one invocation for four elements, 64 a workgroup, folded (lib/grid.wgsl). Any n: buffers are padded to 16 bytes,
// and the padding may be written.

struct Params { n: u32, factor: f32, accumulate: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn scale(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i * 4u >= params.n {
        return;
    }
    if params.accumulate == 0u {
        y[i] = params.factor * x[i];
    } else {
        y[i] += params.factor * x[i];
    }
}
