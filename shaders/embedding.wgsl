// embedding: y[n] = weight[ids[n]], rows of a table, and its gradient, dweight[ids[n]] += dy[n]. There repeated ids add up in the
// order of their places, without atomics: `link` chains the places of each id, `add` goes along each chain.
//
//   ids      u32[places]        one that is not below `total` has y = 0 and raises `fault`, and no gradient
//   weight   Item[rows, width]  the rows of the table from `first_row` on: as many as can be bound
//   dweight  Item[rows, width]  likewise, added to
//   y, dy    Item[places, width]
//   links    u32[2, end - first_place]  of the places from `first_place` to before `end`: one more than how far behind `first_place` the next place
//                                 with the same id is, 0 if there is none; then, whether there is one before. Zeros before `link`
//
// An Item is a float or four (tiles/). Any number of places and items.

struct Params {
    places: u32,
    width: u32,
    total: u32, // rows of the whole table
    first_row: u32,
    rows: u32,
    first_place: u32,
    end: u32,
    fault: u32,
}

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;

// ---- forward. Each place's item is written by the dispatch that has its row; that of a bad id by the first. Grid: an invocation
// for each item of y, 64 a workgroup, folded ----

@group(0) @binding(1) var<storage, read> weight: array<Item>;
@group(0) @binding(2) var<storage, read_write> y: array<Item>;
@group(0) @binding(3) var<storage, read_write> fault_flag: FaultFlag;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * LANES + lane;
    let place = i / params.width;
    if place >= params.places {
        return;
    }
    let id = ids[place];
    if id >= params.total {
        if params.first_row == 0u {
            y[i] = Item();
            fault_raise(params.fault, id, params.total);
        }
    } else if id >= params.first_row && id - params.first_row < params.rows {
        y[i] = weight[(id - params.first_row) * params.width + i % params.width];
    }
}

// ---- backward, first: the chains. All invocations of a workgroup read the same id at a time, which costs CPU drivers least.
// Grid: an invocation for each place from `first_place` to before `end`, 64 a workgroup, folded ----

@group(0) @binding(1) var<storage, read_write> links: array<u32>; // u32[2, end - first_place], zeros before

@compute @workgroup_size(64)
fn link(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = params.first_place + grid_group(group, groups) * LANES;
    let place = first + lane;
    if place >= params.end {
        return;
    }
    let own = ids[place];
    var next = 0u;
    for (var at = first + 1u; at < params.end; at++) {
        if ids[at] == own && next == 0u && at > place {
            next = at - params.first_place + 1u;
        }
    }
    if next != 0u {
        links[place - params.first_place] = next;
        links[params.end - params.first_place + next - 1u] = 1u;
    }
}

// ---- backward, then: dweight[id] += the sum over its chain. Grid: an invocation for each item of the places from `first_place` to
// before `end`, 64 a workgroup, folded; those at the head of a chain go along it ----

@group(0) @binding(1) var<storage, read> chains: array<u32>; // links
@group(0) @binding(2) var<storage, read> dy: array<Item>;
@group(0) @binding(3) var<storage, read_write> dweight: array<Item>;

// So many are added before they are added to the others: a long sum of equals would lose digits.
const BLOCK = 64u;

@compute @workgroup_size(64)
fn add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * LANES + lane;
    let head = i / params.width;
    let count = params.end - params.first_place;
    if head >= count || chains[count + head] != 0u {
        return;
    }
    let id = ids[params.first_place + head];
    if id < params.first_row || id - params.first_row >= params.rows {
        return;
    }
    let item = i % params.width;
    var sum = Item();
    var part = dy[(params.first_place + head) * params.width + item];
    var next = chains[head];
    for (var added = 1u; added < count && next != 0u; added++) {
        if added % BLOCK == 0u {
            sum += part;
            part = Item();
        }
        part += dy[(params.first_place + next - 1u) * params.width + item];
        next = chains[next - 1u];
    }
    dweight[(id - params.first_row) * params.width + item] += sum + part;
}
