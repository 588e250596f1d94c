// where: z = x where the condition is not 0, else y; and the share of a gradient that goes to one of the two.
//
//   condition  u32[..]     read, broadcast to z's shape: its places are the x of lib/strided.wgsl. Of f32 it is the bits, of
//                          which `mask` leaves out the sign, since −0 is 0
//   x, y       f32[items]  read
//   z          f32[items]  written (forward)
//   dz         f32[items]  read (backward)
//   d          f32[items]  written, or added to: dz where (condition ≠ 0) is `side`, else 0
//
// Grid: an invocation for each element, 64 a workgroup, folded.

struct Params {
    items: u32, side: u32, accumulate: u32, mask: u32,
    d1: u32, d2: u32, d3: u32, d4: u32, d5: u32,
    x0: u32, x1: u32, x2: u32, x3: u32, x4: u32, x5: u32,
    y0: u32, y1: u32, y2: u32, y3: u32, y4: u32, y5: u32,
}

@group(0) @binding(0) var<storage, read> condition: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

fn is_chosen(i: u32) -> bool {
    return (condition[strided_places(i).x] & params.mask) != 0u;
}

// ---- forward ----

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> z: array<f32>;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i < params.items {
        z[i] = select(y[i], x[i], is_chosen(i));
    }
}

// ---- backward of z = condition ? x : y: dx = condition ? dz : 0, dy = condition ? 0 : dz ----

@group(0) @binding(1) var<storage, read> dz: array<f32>;
@group(0) @binding(2) var<storage, read_write> d: array<f32>;

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i >= params.items {
        return;
    }
    let mine = is_chosen(i) == (params.side != 0u);
    let share = select(0.0, dz[i], mine);
    if params.accumulate == 0u {
        d[i] = share;
    } else {
        d[i] += share;
    }
}
