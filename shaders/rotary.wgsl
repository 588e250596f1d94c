// Rotary positions: of each head's queries and keys, pair j of the channels is turned by the angle that the token's place has for j,
// in place: (u, v) -> (u cos − v sin, v cos + u sin). Pair j begins at step·j, and apart lies between its two: of halves, 1 and D/2;
// of neighbours, 2 and 1 (single channels alone). Values stay as they are. Backward is the same kernel with the other sense: the
// gradient turns back.
//
//   qkv        Act[rows * stride]  read and written: q, k and v of C channels each in a row
//   table      Item[tokens * 2 * pairs]  read: a place's cosines for j < D/2, then its sines
//   positions  u32[rows]  read: which place a row has                                       (turn_kept)
//
// An Item is one channel or four (tiles/), an Act the same in full or half precision; sums are f32. pairs, the Items of half a head,
// stride, step and apart count in Items; heads are those of q and k together. Row i of a sample has place i (turn), or the one that positions
// tell (turn_kept); one beyond the table leaves the row alone: what has gathered the rows has told of the fault. Grid: one invocation
// for a pair of Items, 64 a workgroup, folded (lib/grid.wgsl).

struct Params { rows: u32, heads: u32, pairs: u32, stride: u32, step: u32, apart: u32, tokens: u32, sense: f32 }

@group(0) @binding(0) var<storage, read_write> qkv: array<Act>;
@group(0) @binding(1) var<storage, read> table: array<Item>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

// Pair number `i` of all, of a row at `place`.
fn turn_pair(i: u32, place: u32) {
    let pairs = params.pairs;
    let head = i / pairs % params.heads;
    let u_at = i / (pairs * params.heads) * params.stride + head * 2u * pairs + i % pairs * params.step;
    let angle = place * 2u * pairs + i % pairs;
    let u = Item(qkv[u_at]);
    let v_at = u_at + params.apart;
    let v = Item(qkv[v_at]);
    let c = table[angle];
    let s = params.sense * table[angle + pairs];
    qkv[u_at] = Act(u * c - v * s);
    qkv[v_at] = Act(v * c + u * s);
}

@compute @workgroup_size(64)
fn turn(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    let row = i / (params.pairs * params.heads);
    if row < params.rows {
        turn_pair(i, row % params.tokens);
    }
}

@compute @workgroup_size(64)
fn turn_kept(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    let row = i / (params.pairs * params.heads);
    if row < params.rows {
        let place = positions[row];
        if place < params.tokens {
            turn_pair(i, place);
        }
    }
}
