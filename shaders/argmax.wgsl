// argmax: the place of the largest element along an axis, the first of equals; a NaN counts as the largest, as PyTorch's. In
// slices: the first pass looks at every element, later ones at those that won the slices of the pass before.
//
//   x           f32[outer, len, inner]         read
//   candidates  u32[outer, entrants, inner]    read in later passes: places below len
//   places      u32[outer, slices, inner]      written
//
// Grid: an invocation for each element of `places`, 64 a workgroup, folded.

struct Params { outer: u32, len: u32, inner: u32, entrants: u32, slice: u32, slices: u32, has_candidates: u32 }

@group(0) @binding(0) var<storage, read> x: array<Item>;
@group(0) @binding(1) var<storage, read> candidates: array<u32>;
@group(0) @binding(2) var<storage, read_write> places: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn argmax(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i >= params.outer * params.slices * params.inner {
        return;
    }
    let column = i % params.inner;
    let row = i / params.inner;
    let outer = row / params.slices;
    let first = (row % params.slices) * params.slice;
    let end = min(first + params.slice, params.entrants);
    let base = outer * params.len * params.inner + column;
    var best = 0u;
    var largest = 0.0;
    for (var j = first; j < end; j++) {
        var place = j;
        if params.has_candidates != 0u {
            place = candidates[(outer * params.entrants + j) * params.inner + column];
        }
        let value = x[base + place * params.inner];
        let wins = (value > largest) | (nan_is(value) & !nan_is(largest));
        if wins || j == first {
            best = place;
            largest = value;
        }
    }
    places[i] = best;
}
