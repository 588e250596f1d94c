// Attention without stored scores, for GPUs. Formulas, bindings and sizes are those of flash_lane.wgsl.
//
// Grid: ceil(T / 64) workgroups of 64 for each of B * H matrices, folded. An invocation owns a row of the tile, in
// registers. The rows of the other side pass through workgroup memory, TILE at a time (8 KiB in full precision, for both of
// k and v, or q and dy), fetched by neighbours from neighbouring addresses; then all invocations read the same address at a
// time, two rows a step. Rows past the end repeat the last one; they are not stored, or not seen.
//
// Uses lib/flash.wgsl, lib/grid.wgsl, tiles/act_*.wgsl and tiles/head_*.wgsl.

const ROWS = 64u;
const TILE = 256u / HEAD4 / 2u * 2u; // rows; whole steps of two

var<workgroup> left: array<Act, TILE * HEAD4>; // k, or q
var<workgroup> right: array<Act, TILE * HEAD4>; // v, or dy

// Elements 4 d to 4 d + 3 of two rows of a tile, from row `at` on.
fn left_block(at: u32, d: u32) -> mat2x4<f32> {
    let i = at * HEAD4 + d;
    return mat2x4<f32>(vec4<f32>(left[i]), vec4<f32>(left[i + HEAD4]));
}

fn right_block(at: u32, d: u32) -> mat2x4<f32> {
    let i = at * HEAD4 + d;
    return mat2x4<f32>(vec4<f32>(right[i]), vec4<f32>(right[i + HEAD4]));
}

// Rows `first` and following of k and v.
fn fetch_keys(tile: FlashTile, first: u32, lane: u32) {
    for (var i = lane; i < TILE * HEAD4; i += ROWS) {
        let row = min(first + i / HEAD4, tile.last);
        let at = tile.qkv + tile.channels + row * tile.packed + i % HEAD4;
        left[i] = qkv[at];
        right[i] = qkv[at + tile.channels];
    }
}

// ---- forward ----

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = flash_tile(grid_group(group, groups), ROWS);
    let row = tile.first + lane;
    let mine = min(row, tile.last);
    var q: Row;
    flash_read(&q, tile.qkv + mine * tile.packed, params.scale);
    var o = Row();
    var softmax = flash_softmax_start();
    let end = flash_end(tile.first, ROWS);
    for (var first = 0u; first < end; first += TILE) {
        workgroupBarrier(); // everyone has read the tiles before they are overwritten
        fetch_keys(tile, first, lane);
        workgroupBarrier(); // the tiles are whole before anyone reads them
        let count = min(TILE, end - first);
        for (var j = 0u; j < count; j += 2u) {
            var s = vec2<f32>();
            for (var d = 0u; d < HEAD4; d++) {
                s = flash_dots(q[d], left_block(j, d), s);
            }
            softmax = flash_softmax(softmax, s, first + j + FLASH_STEPS <= vec2<u32>(flash_last_key(mine)));
            for (var d = 0u; d < HEAD4; d++) {
                o[d] = flash_mix(softmax.p, right_block(j, d), softmax.shrink * o[d]);
            }
        }
    }
    flash_store_out(tile, row, &o, softmax);
}

// ---- backward, of the lines above: a pass for dq, which also leaves delta, then one for dk and dv ----

@compute @workgroup_size(64)
fn backward_q(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = flash_tile(grid_group(group, groups), ROWS);
    let row = tile.first + lane;
    let mine = min(row, tile.last);
    var q: Row;
    flash_read(&q, tile.qkv + mine * tile.packed, params.scale);
    var dy_row: Row;
    let product = flash_read_dy(&dy_row, tile.out + mine * tile.channels);
    let l = vec2<f32>(row_lse[tile.matrix * params.tokens + mine]);
    var dq = Row();
    let end = flash_end(tile.first, ROWS);
    for (var first = 0u; first < end; first += TILE) {
        workgroupBarrier(); // everyone has read the tiles before they are overwritten
        fetch_keys(tile, first, lane);
        workgroupBarrier(); // the tiles are whole before anyone reads them
        let count = min(TILE, end - first);
        for (var j = 0u; j < count; j += 2u) {
            var s = vec2<f32>();
            var dp = vec2<f32>();
            for (var d = 0u; d < HEAD4; d++) {
                s = flash_dots(q[d], left_block(j, d), s);
                dp = flash_dots(dy_row[d], right_block(j, d), dp);
            }
            let visible = first + j + FLASH_STEPS <= vec2<u32>(flash_last_key(mine));
            let ds = flash_weights(s, l, visible) * (dp - product);
            for (var d = 0u; d < HEAD4; d++) {
                dq[d] = flash_mix(ds, left_block(j, d), dq[d]);
            }
        }
    }
    flash_store_dq(tile, row, &dq, product);
}

// Rows `first` and following of q and dy.
fn fetch_queries(tile: FlashTile, first: u32, lane: u32) {
    for (var i = lane; i < TILE * HEAD4; i += ROWS) {
        let row = min(first + i / HEAD4, tile.last);
        left[i] = qkv[tile.qkv + row * tile.packed + i % HEAD4];
        right[i] = dy[tile.out + row * tile.channels + i % HEAD4];
    }
}

// Here an invocation owns a key.
@compute @workgroup_size(64)
fn backward_kv(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = flash_tile(grid_group(group, groups), ROWS);
    let row = tile.first + lane;
    let mine = min(row, tile.last);
    let k_at = tile.qkv + tile.channels + mine * tile.packed;
    var k: Row;
    flash_read(&k, k_at, params.scale);
    var v: Row;
    flash_read(&v, k_at + tile.channels, 1.0);
    var dk = Row();
    var dv = Row();
    for (var first = flash_first_query(tile.first); first < params.tokens; first += TILE) {
        workgroupBarrier(); // everyone has read the tiles before they are overwritten
        fetch_queries(tile, first, lane);
        workgroupBarrier(); // the tiles are whole before anyone reads them
        let count = min(TILE, params.tokens - first);
        for (var i = 0u; i < count; i += 2u) {
            let queries = first + i + FLASH_STEPS;
            let at = tile.matrix * params.tokens + min(queries, vec2<u32>(tile.last));
            let l = flash_lse_at(at);
            let product = flash_delta_at(at);
            var s = vec2<f32>();
            var dp = vec2<f32>();
            for (var d = 0u; d < HEAD4; d++) {
                s = flash_dots(k[d], left_block(i, d), s);
                dp = flash_dots(v[d], right_block(i, d), dp);
            }
            let p = flash_weights(s, l, flash_seen_by(queries, mine));
            let ds = p * (dp - product);
            for (var d = 0u; d < HEAD4; d++) {
                dv[d] = flash_mix(p, right_block(i, d), dv[d]);
                dk[d] = flash_mix(ds, left_block(i, d), dk[d]);
            }
        }
    }
    flash_store_dkv(tile, row, &dk, &dv);
}
