// update_means: running means of values by their ids, in two passes with the sums between them (embedding.wgsl): to every id that
// occurs, mean <- momentum mean + (1 - momentum) (the mean of its values).
//
//   ids     u32[places]       one that is not below `total` and not the one to ignore raises `fault`, and does not count
//   values  f32[places]       one that is not finite does not count
//   pairs   f32[places, 2]    written: a value and 1, or zeros where the id does not count
//   sums    f32[total, 2]     read: the sums of the pairs of each id
//   means   f32[total]        read
//   result  f32[total]        written
//
// Grid of both: an invocation for each place or id, 64 a workgroup, folded.

struct Params { places: u32, total: u32, ignores: u32, ignored: u32, momentum: f32, fault: u32 }

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;

// ---- first pass ----

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> pairs: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> fault_flag: FaultFlag;

@compute @workgroup_size(64)
fn pair(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = grid_group(group, groups) * LANES + lane;
    if place >= params.places {
        return;
    }
    let id = ids[place];
    var value = vec2<f32>();
    if params.ignores == 0u || id != params.ignored {
        if id < params.total {
            let own = values[place];
            // By its bits: a compiler may take every float for finite.
            let is_finite = (bitcast<u32>(own) & 0x7f800000u) != 0x7f800000u;
            value = select(vec2<f32>(), vec2<f32>(own, 1.0), is_finite);
        } else {
            fault_raise(params.fault, id, params.total);
        }
    }
    pairs[place] = value;
}

// ---- second pass ----

@group(0) @binding(0) var<storage, read> means: array<f32>;
@group(0) @binding(1) var<storage, read> sums: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;

@compute @workgroup_size(64)
fn fold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = grid_group(group, groups) * LANES + lane;
    if id >= params.total {
        return;
    }
    let sum = sums[id];
    var mean = means[id];
    if sum.y > 0.0 {
        mean = params.momentum * mean + (1.0 - params.momentum) * (sum.x / sum.y);
    }
    result[id] = mean;
}
