// sum: the total of all elements, in two passes without atomics, so that its order never changes.
//
//   x         f32[n]         read
//   partials  f32[runs, 64]  written (sum_partials)
//   total     f32[]          written: factor Σ x (sum_total)
//   dy        f32[]          read (spread)
//   d_x       f32[n]         written, or added to: factor dy (spread)
//
// Any n: what lies in a buffer's padding is not added up, but may be written by `spread`.

struct Params { n: u32, runs: u32, rounds: u32, factor: f32, accumulate: u32 }

@group(1) @binding(0) var<uniform> params: Params;

// ---- forward ----

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;

// Four elements, those past the end as 0: the padding may hold anything, NaN too.
fn load(i: u32) -> vec4<f32> {
    let at = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), x[i], at < vec4<u32>(params.n));
}

// The sum of every 64th group of four elements from `first` on, at most `rounds` of them.
fn lane_sum(first: u32, rounds: u32) -> f32 {
    let end = min(first + rounds * 64u, (params.n + 3u) / 4u);
    var sum = vec4<f32>(0.0);
    for (var i = first; i < end; i += 64u) {
        sum += load(i);
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

// Grid: 64 partial sums a workgroup, which reads one run of elements, `rounds` times 64 fours, neighbours side by side.
@compute @workgroup_size(64)
fn sum_partials(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let run = grid_group(group, groups);
    if run < params.runs {
        partials[run * 64u + lane] = lane_sum(run * 64u * params.rounds + lane, params.rounds);
    }
}

@group(0) @binding(1) var<storage, read_write> total: array<f32>; // f32[]

// Grid: one workgroup.
@compute @workgroup_size(64)
fn sum_total(@builtin(local_invocation_index) lane: u32) {
    let sum = reduce_sum(lane_sum(lane, params.rounds), lane, 64u);
    if lane == 0u {
        total[0] = params.factor * sum;
    }
}

// ---- backward of y = factor Σ x: dx = factor dy, the same for every element ----

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> d_x: array<vec4<f32>>;

// Grid: one invocation for four elements, 64 a workgroup, folded.
@compute @workgroup_size(64)
fn spread(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i * 4u >= params.n {
        return;
    }
    let value = vec4<f32>(params.factor * dy[0]);
    if params.accumulate == 0u {
        d_x[i] = value;
    } else {
        d_x[i] += value;
    }
}
