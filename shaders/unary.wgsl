// unary: y = f(x), element by element, for the function of the file in shaders/unary/ that is appended.
//
//   x   Act[n / 4]  read
//   y   Act[n / 4]  written (forward)
//   dy  Act[n / 4]  read (backward)
//   d_x Act[n / 4]  written, or added to (backward)
//
// The function's file gives unary_value, f, and unary_slope, its derivative; a and b are its constants. Grid: one invocation
// for four elements, 64 a workgroup, folded. Any n: buffers are padded to 16 bytes, and the padding may be written. Act is of
// tiles/act_f32.wgsl or act_f16.wgsl; in half precision f is computed in f32.

struct Params { n: u32, accumulate: u32, a: f32, b: f32 }

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
        y[i] = Act(unary_value(vec4<f32>(x[i])));
    }
}

// ---- backward of y = f(x): dx = dy f'(x) ----

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
        var d = vec4<f32>(dy[i]) * unary_slope(vec4<f32>(x[i]));
        if params.accumulate != 0u {
            d += vec4<f32>(d_x[i]);
        }
        d_x[i] = Act(d);
    }
}
