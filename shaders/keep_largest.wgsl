// keep_largest: of each sample the places of the `kept` tokens with the largest scores, ascending. The first `prefix` tokens come
// before all others, those at or beyond the sample's length after; of equal scores the first comes first, and NaN is the largest.
// By counting: a token is kept if fewer than `kept` come before it, and its place in the result is how many kept ones stand before.
//
//   scores     f32[samples, tokens]     read as bits
//   lengths    u32[samples]             read if params.has_lengths is set, else another buffer
//   counts     u32[2, samples, tokens]  zeros before; how many come before each token, how many kept ones stand before it
//   positions  u32[samples, kept]       written
//
// Both passes count over the tokens from `first` to before `end`: long samples take several dispatches. All invocations of a
// workgroup read the same token at a time, which costs CPU drivers least. Grid: an invocation for each token, 64 a workgroup,
// `groups` workgroups for each sample, folded.

struct Params {
    samples: u32,
    tokens: u32,
    kept: u32,
    prefix: u32,
    groups: u32,
    first: u32,
    end: u32,
    has_lengths: u32,
}

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;

// ---- first pass: how many come before each token ----

@group(0) @binding(0) var<storage, read> scores: array<u32>;
@group(0) @binding(1) var<storage, read> lengths: array<u32>;
@group(0) @binding(2) var<storage, read_write> counts: array<u32>;

// What tokens are ordered by, the largest first: prefix, token or padding; then the score, as a whole number in its order.
fn key_of(sample: u32, token: u32) -> vec2<u32> {
    if token < params.prefix {
        return vec2<u32>(2u, 0u);
    }
    if params.has_lengths != 0u && token >= lengths[sample] {
        return vec2<u32>(0u, 0u);
    }
    let bits = scores[sample * params.tokens + token];
    let size = bits & 0x7fffffffu;
    if size > 0x7f800000u { // NaN
        return vec2<u32>(1u, 0xffffffffu);
    }
    // Of both zeros, one.
    return vec2<u32>(1u, select(0x80000000u + size, 0x80000000u - size, bits != size));
}

// Whether `a` of an earlier or later token comes before `b`.
fn comes_before(a: vec2<u32>, b: vec2<u32>, is_earlier: bool) -> bool {
    if a.x != b.x {
        return a.x > b.x;
    }
    return a.y > b.y || (a.y == b.y && is_earlier);
}

@compute @workgroup_size(64)
fn rank(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = grid_group(group, groups);
    let sample = number / params.groups;
    let token = number % params.groups * LANES + lane;
    if sample >= params.samples || token >= params.tokens {
        return;
    }
    let own = key_of(sample, token);
    var before = 0u;
    for (var other = params.first; other < params.end; other++) {
        before += select(0u, 1u, other != token && comes_before(key_of(sample, other), own, other < token));
    }
    counts[sample * params.tokens + token] += before;
}

// ---- second pass: how many kept ones stand before each token; the last dispatch puts the kept ones there ----

@group(0) @binding(0) var<storage, read_write> all_counts: array<u32>; // counts
@group(0) @binding(1) var<storage, read_write> positions: array<u32>;

@compute @workgroup_size(64)
fn place(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = grid_group(group, groups);
    let sample = number / params.groups;
    let token = number % params.groups * LANES + lane;
    if sample >= params.samples || token >= params.tokens {
        return;
    }
    let row = sample * params.tokens;
    let own = params.samples * params.tokens + row + token;
    var before = all_counts[own];
    for (var other = params.first; other < params.end; other++) {
        before += select(0u, 1u, other < token && all_counts[row + other] < params.kept);
    }
    all_counts[own] = before;
    if params.end == params.tokens && all_counts[row + token] < params.kept {
        positions[sample * params.kept + before] = token;
    }
}
