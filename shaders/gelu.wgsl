// GELU, exact: y = x Φ(x), Φ(x) = (1 + erf(x / √2)) / 2.
//
//   x   f32[n]  read
//   y   f32[n]  written                     (forward)
//   dy  f32[n]  read                        (backward)
//   dx  f32[n]  written, or added to        (backward)
//
// Grid: one invocation for four elements, 64 a workgroup, folded (lib/grid.wgsl). Any n: buffers are padded to 16 bytes,
// and the padding may be written.

struct Params { n: u32, accumulate: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> params: Params;

// Φ by Abramowitz and Stegun 7.1.26 on |x| / √2: absolute error below 1.5e-7.
fn normal_cdf(x: vec4<f32>) -> vec4<f32> {
    let z = abs(x) * 0.70710678;
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let tail = 0.5 * poly * exp(-z * z);
    return select(tail, 1.0 - tail, x >= vec4<f32>(0.0));
}

// ---- forward ----

@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i * 4u < params.n {
        y[i] = x[i] * normal_cdf(x[i]);
    }
}

// ---- backward of y = x Φ(x): dx = dy (Φ(x) + x φ(x)) ----

@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dx: array<vec4<f32>>;

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i * 4u < params.n {
        let density = 0.39894228 * exp(-0.5 * x[i] * x[i]);
        let slope = dy[i] * (normal_cdf(x[i]) + x[i] * density);
        if params.accumulate == 0u {
            dx[i] = slope;
        } else {
            dx[i] += slope;
        }
    }
}
