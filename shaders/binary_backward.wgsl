// binary_backward: the gradients of shaders/binary.wgsl, where z = f(x, y): dx = dz ∂f/∂x (backward_x), dy = dz ∂f/∂y
// (backward_y).
//
//   x   Item[..]     read
//   y   Item[..]     read
//   dz  Item[items]  read
//   d   Item[items]  written, or added to: the gradient of an operand; of a broadcast one, before its sum
//
// The function's file gives binary_slope_x and binary_slope_y. Grid and forms are those of shaders/binary.wgsl.

struct Params {
    items: u32, accumulate: u32,
    d1: u32, d2: u32, d3: u32, d4: u32, d5: u32,
    x0: u32, x1: u32, x2: u32, x3: u32, x4: u32, x5: u32,
    y0: u32, y1: u32, y2: u32, y3: u32, y4: u32, y5: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Item>;
@group(0) @binding(1) var<storage, read> y: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

@group(0) @binding(2) var<storage, read> dz: array<Item>;
@group(0) @binding(3) var<storage, read_write> d: array<Item>;

fn store(i: u32, value: Item) {
    if params.accumulate == 0u {
        d[i] = value;
    } else {
        d[i] += value;
    }
}

@compute @workgroup_size(64)
fn backward_x(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i < params.items {
        let at = strided_places(i);
        store(i, dz[i] * binary_slope_x(x[at.x], y[at.y]));
    }
}

@compute @workgroup_size(64)
fn backward_y(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i < params.items {
        let at = strided_places(i);
        store(i, dz[i] * binary_slope_y(x[at.x], y[at.y]));
    }
}
