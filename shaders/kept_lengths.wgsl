// kept_lengths: below[b] = how many of a sample's kept positions, which are ascending, lie below its length.
//
//   positions  u32[B, R]  read
//   lengths    u32[B]     read
//   below      u32[B]     written
//
// Grid: a sample an invocation, 64 a workgroup, folded.

struct Params {
    samples: u32,
    kept: u32, // R
    half: u32, // the largest power of two up to R
}

@group(1) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<storage, read> positions: array<u32>;
@group(0) @binding(1) var<storage, read> lengths: array<u32>;
@group(0) @binding(2) var<storage, read_write> below: array<u32>;

@compute @workgroup_size(64)
fn kept_lengths(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let sample = grid_group(group, groups) * 64u + lane;
    if sample >= params.samples {
        return;
    }
    // The first `count` positions are known to lie below; bit by bit it becomes the most for which that holds.
    var count = 0u;
    for (var step = params.half; step > 0u; step >>= 1u) {
        let next = min(count + step, params.kept);
        if positions[sample * params.kept + next - 1u] < lengths[sample] {
            count = next;
        }
    }
    below[sample] = count;
}
