// binary: z = f(x, y), element by element, for the function of the file in shaders/binary/ that is appended.
//
//   x  Item[..]     read
//   y  Item[..]     read
//   z  Item[items]  written
//
// The function's file gives binary_value. Operands of one shape are read as vec4 (tiles/vec4.wgsl with tiles/places_same.wgsl),
// broadcast ones as floats (tiles/scalar.wgsl with lib/strided.wgsl). Grid: an invocation for each item, 64 a workgroup, folded.
// Any number of elements: buffers are padded to 16 bytes, and the padding may be written.

struct Params {
    items: u32, accumulate: u32,
    d1: u32, d2: u32, d3: u32, d4: u32, d5: u32,
    x0: u32, x1: u32, x2: u32, x3: u32, x4: u32, x5: u32,
    y0: u32, y1: u32, y2: u32, y3: u32, y4: u32, y5: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Item>;
@group(0) @binding(1) var<storage, read> y: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

@group(0) @binding(2) var<storage, read_write> z: array<Item>;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i < params.items {
        let at = strided_places(i);
        z[i] = binary_value(x[at.x], y[at.y]);
    }
}
