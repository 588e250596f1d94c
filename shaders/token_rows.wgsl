// Rows of kept tokens, between a full tensor f32[batch, tokens, width] and a packed one f32[batch, kept, width]:
//   packed[b, r] = full[b, indices[b, r]]   and back.
//
// Grid of every entry point: a packed row a workgroup of 64, folded (lib/grid.wgsl), or of very wide rows a workgroup for each
// layer along z; rows = batch * kept. Any sizes: `width` counts Items, four floats or one (tiles/). An index that is not below
// `tokens` raises `fault` (lib/fault.wgsl), and no memory of the full tensor is touched for its row.

struct Params { rows: u32, kept: u32, tokens: u32, width: u32, accumulate: u32, fault: u32 }

@group(1) @binding(0) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> indices: array<u32>; // u32[batch, kept]
@group(0) @binding(1) var<storage, read_write> fault_flag: FaultFlag;

const LANES = 64u;
const NOWHERE = 0xffffffffu;

// Where in the full tensor packed row `row` belongs, or NOWHERE if its index is out of range.
fn place_of(row: u32, lane: u32) -> u32 {
    let index = indices[row];
    if index < params.tokens {
        return (row / params.kept * params.tokens + index) * params.width;
    }
    if lane == 0u {
        fault_raise(params.fault, index, params.tokens);
    }
    return NOWHERE;
}

@group(0) @binding(2) var<storage, read> source: array<Item>;
@group(0) @binding(3) var<storage, read_write> destination: array<Item>;

fn store(at: u32, value: Item) {
    if params.accumulate == 0u {
        destination[at] = value;
    } else {
        destination[at] += value;
    }
}

// ---- packed (destination) = or += rows of full (source); zeros for an index out of range ----

@compute @workgroup_size(64)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return;
    }
    let place = place_of(row, lane);
    for (var i = group.z * LANES + lane; i < params.width; i += groups.z * LANES) {
        var value = Item();
        if place != NOWHERE {
            value = source[place + i];
        }
        store(row * params.width + i, value);
    }
}

// ---- rows of full (destination) = or += packed (source); other rows are left alone. The inverse of `gather` ----

@compute @workgroup_size(64)
fn scatter(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return;
    }
    let place = place_of(row, lane);
    if place == NOWHERE {
        return;
    }
    for (var i = group.z * LANES + lane; i < params.width; i += groups.z * LANES) {
        store(place + i, source[row * params.width + i]);
    }
}

// ---- packed = or += rows of full, which are then 0: what reaches the rows that `scatter` has put in, and what is left for
// those that it has overwritten ----

@group(0) @binding(2) var<storage, read_write> full: array<Item>;

@compute @workgroup_size(64)
fn take(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return;
    }
    let place = place_of(row, lane);
    for (var i = group.z * LANES + lane; i < params.width; i += groups.z * LANES) {
        var value = Item();
        if place != NOWHERE {
            value = full[place + i];
            full[place + i] = Item();
        }
        store(row * params.width + i, value);
    }
}

// ---- rows of full = 0, where nobody wants them ----

@group(0) @binding(2) var<storage, read_write> zeroed: array<Item>;

@compute @workgroup_size(64)
fn zero(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = grid_group(group, groups);
    if row >= params.rows {
        return;
    }
    let place = place_of(row, lane);
    if place == NOWHERE {
        return;
    }
    for (var i = group.z * LANES + lane; i < params.width; i += groups.z * LANES) {
        zeroed[place + i] = Item();
    }
}
