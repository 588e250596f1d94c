// convert: y = x, rounded to y's element type; the nearest, ties to even, beyond its range infinite.
//
//   x  From[n / 4]  read
//   y  To[n / 4]    written
//
// From and To are four elements each (tiles/cast_*.wgsl). Grid: an invocation for four elements, 64 a workgroup, folded
// (lib/grid.wgsl). Any n: buffers are padded to 16 bytes, and the padding may be written.

struct Params { n: u32 }

@group(0) @binding(0) var<storage, read> x: array<From>;
@group(0) @binding(1) var<storage, read_write> y: array<To>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn convert(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i * 4u < params.n {
        y[i] = To(x[i]);
    }
}
