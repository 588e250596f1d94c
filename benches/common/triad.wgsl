// The memory bound: a copy, y = x, and a triad, y = x + 3·z, over arrays far beyond any cache. One vec4 an invocation, 256
// invocations a workgroup; the arrays are a multiple of that.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> z: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(256)
fn copy(@builtin(global_invocation_id) id: vec3<u32>) {
    y[id.x] = x[id.x];
}

@compute @workgroup_size(256)
fn triad(@builtin(global_invocation_id) id: vec3<u32>) {
    y[id.x] = x[id.x] + 3.0 * z[id.x];
}
