// weights_dropout: what dropout leaves of attention's stored weights, or of their gradients.
//
//   y  vec4<f32>[B * H, T, row]  written; in place, read before
//   x  vec4<f32>[B * H, T, row]  read
//
// A row holds a query's weights of 4 * row keys. Grid: 1024 vec4s of a matrix a workgroup, `groups` workgroups for each of
// B * H matrices, folded.

struct Params {
    items: u32, // T * row
    row: u32,
    heads: u32, // H
    matrices: u32, // B * H
    groups: u32,
    // Of lib/draws.wgsl.
    key_low: u32,
    key_high: u32,
    layer: u32,
    first_low: u32,
    first_high: u32,
    threshold: u32,
    keep_scale: f32,
}

@group(1) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

const LANES = 64u;
const RUN = 16u; // vec4s an invocation

// The share of an invocation: every 64th vec4 of its workgroup's.
struct Share {
    base: u32, // where the matrix starts
    first: u32,
    draws: vec2<u32>,
}

// A workgroup past the last matrix has no share.
fn share_of(group: u32, lane: u32) -> Share {
    let matrix = min(group / params.groups, params.matrices - 1u);
    let is_surplus = group / params.groups > matrix;
    let first = (group % params.groups) * LANES * RUN + lane;
    return Share(
        matrix * params.items,
        select(first, params.items, is_surplus),
        draws_of(matrix / params.heads, matrix % params.heads),
    );
}

// What is left of the weights of item `i` of a matrix.
fn kept_of(weights: vec4<f32>, draws: vec2<u32>, i: u32) -> vec4<f32> {
    let query = draws_mix(draws.x + i / params.row);
    let key = draws.y + 4u * (i % params.row);
    return vec4<f32>(
        draws_kept(weights.x, query, draws_mix(key)),
        draws_kept(weights.y, query, draws_mix(key + 1u)),
        draws_kept(weights.z, query, draws_mix(key + 2u)),
        draws_kept(weights.w, query, draws_mix(key + 3u)),
    );
}

@compute @workgroup_size(64)
fn into(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let share = share_of(grid_group(group, groups), lane);
    for (var j = 0u; j < RUN; j++) {
        let i = share.first + LANES * j;
        if i < params.items {
            y[share.base + i] = kept_of(x[share.base + i], share.draws, i);
        }
    }
}

@compute @workgroup_size(64)
fn in_place(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let share = share_of(grid_group(group, groups), lane);
    for (var j = 0u; j < RUN; j++) {
        let i = share.first + LANES * j;
        if i < params.items {
            y[share.base + i] = kept_of(y[share.base + i], share.draws, i);
        }
    }
}
