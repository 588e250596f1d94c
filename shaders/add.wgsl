// add: z = x + y, with y repeated over the leading axes of x.
//
//   x  Item[items]   read
//   y  Item[repeat]  read; repeat divides items
//   z  Item[items]   written
//
// Grid: an invocation for each item, 64 a workgroup, folded. Item is float or vec4 (tiles/).

struct Params { items: u32, repeat: u32 }

@group(0) @binding(0) var<storage, read> x: array<Item>;
@group(0) @binding(1) var<storage, read> y: array<Item>;
@group(0) @binding(2) var<storage, read_write> z: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i >= params.items {
        return;
    }
    var at = i;
    if params.repeat < params.items {
        at = i % params.repeat; // slow on CPU drivers, and the usual sum has equal shapes
    }
    z[i] = x[i] + y[at];
}
