// Attention without stored scores, for CPU drivers: out = softmax(q kᵀ / √D) v for each head, its log-sum-exp, and the
// gradients (Dao et al., 2022).
//
//   qkv     Act[B, T, 3·C / 4]  q, k and v side by side, each H heads of width D
//   out     Act[B, T, C / 4]
//   lse     f32[B, H, T]        log Σ exp(q kᵀ / √D) of each query
//   dy      Act[B, T, C / 4]    the gradient of out
//   delta   f32[B, H, T]        out · dy, which both gradients need
//   dqkv    Act[B, T, 3·C / 4]  written, or added to if `accumulate`
//
// Any T from 1 up; D is 4 * HEAD4. Act is four elements in full or half precision, all sums are in full.
//
// Grid: ceil(T / 24) workgroups for each of B * H matrices, folded. A workgroup is 8 lanes, a subgroup of a CPU driver. A
// lane owns rows `lane`, `lane + 8` and `lane + 16` of the tile, in registers, and meets the rows of the other side two at a
// time. Their addresses are the same in all lanes: scalar loads, each of which serves three rows in eight lanes. Rows
// past the end repeat the last one; they are not stored, or not seen. A query that sees no key gets zeros, and its log-sum-exp
// is 0.

const LANES = 8u;
const ROWS = 24u;

// Two rows' elements 4 d to 4 d + 3.
fn qkv_block(at: vec2<u32>, d: u32) -> mat2x4<f32> {
    return mat2x4<f32>(vec4<f32>(qkv[at.x + d]), vec4<f32>(qkv[at.y + d]));
}

// ---- forward ----

@compute @workgroup_size(8)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = flash_tile(grid_group(group, groups), ROWS);
    let rows = tile.first + lane + LANES * vec3<u32>(0u, 1u, 2u);
    let mine = min(rows, vec3<u32>(tile.last));
    let q_at = tile.qkv + mine * tile.packed;
    var q0: Row; var q1: Row; var q2: Row;
    flash_read(&q0, q_at.x, params.scale);
    flash_read(&q1, q_at.y, params.scale);
    flash_read(&q2, q_at.z, params.scale);
    var o0 = Row(); var o1 = Row(); var o2 = Row();
    let bits = flash_bits_of_three(tile.draws.x, mine);
    var soft0 = flash_softmax_start(); var soft1 = flash_softmax_start(); var soft2 = flash_softmax_start();
    let end = flash_end(tile, ROWS);
    for (var j = params.first; j < end; j += 2u) {
        let keys = j + FLASH_STEPS;
        let k_at = tile.qkv + tile.channels + min(keys, vec2<u32>(tile.last)) * tile.packed;
        let v_at = k_at + tile.channels;
        var s0 = vec2<f32>(); var s1 = vec2<f32>(); var s2 = vec2<f32>();
        for (var d = 0u; d < HEAD4; d++) {
            let k = qkv_block(k_at, d);
            s0 = flash_dots(q0[d], k, s0);
            s1 = flash_dots(q1[d], k, s1);
            s2 = flash_dots(q2[d], k, s2);
        }
        soft0 = flash_softmax(soft0, s0, keys <= vec2<u32>(flash_last_key(mine.x, tile.keys)));
        soft1 = flash_softmax(soft1, s1, keys <= vec2<u32>(flash_last_key(mine.y, tile.keys)));
        soft2 = flash_softmax(soft2, s2, keys <= vec2<u32>(flash_last_key(mine.z, tile.keys)));
        let kept = flash_kept_of_rows(mat3x2<f32>(soft0.p, soft1.p, soft2.p), bits, flash_bits_of_two(tile.draws.y, keys));
        for (var d = 0u; d < HEAD4; d++) {
            let v = qkv_block(v_at, d);
            o0[d] = flash_mix(kept[0], v, soft0.shrink * o0[d]);
            o1[d] = flash_mix(kept[1], v, soft1.shrink * o1[d]);
            o2[d] = flash_mix(kept[2], v, soft2.shrink * o2[d]);
        }
    }
    flash_store_out(tile, rows.x, &o0, soft0);
    flash_store_out(tile, rows.y, &o1, soft1);
    flash_store_out(tile, rows.z, &o2, soft2);
}

// ---- backward of s = q kᵀ / √D, p = exp(s - lse), out = p v: with dp = dy vᵀ and ds = p (dp - delta),
//      dq = ds k / √D, dk = dsᵀ q / √D, dv = pᵀ dy. Under dropout, out = r v, dv = rᵀ dy and dp is kept as r is, with
//      r = what is kept of p. A pass for dq, which also leaves delta, then one for dk and dv ----

fn dy_block(at: vec2<u32>, d: u32) -> mat2x4<f32> {
    return mat2x4<f32>(vec4<f32>(dy[at.x + d]), vec4<f32>(dy[at.y + d]));
}

// ds of a query and two keys, of which it sees those up to `last`.
fn ds_of(s: vec2<f32>, dp: vec2<f32>, lse: f32, product: f32, keys: vec2<u32>, last: u32) -> vec2<f32> {
    return flash_weights(s, vec2<f32>(lse), keys <= vec2<u32>(last)) * (dp - product);
}

@compute @workgroup_size(8)
fn backward_q(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = flash_tile(grid_group(group, groups), ROWS);
    let rows = tile.first + lane + LANES * vec3<u32>(0u, 1u, 2u);
    let mine = min(rows, vec3<u32>(tile.last));
    let q_at = tile.qkv + mine * tile.packed;
    let dy_at = tile.out + mine * tile.channels;
    let lse_at = tile.matrix * params.tokens + mine;
    let l = vec3<f32>(row_lse[lse_at.x], row_lse[lse_at.y], row_lse[lse_at.z]);
    var q0: Row; var q1: Row; var q2: Row;
    flash_read(&q0, q_at.x, params.scale);
    flash_read(&q1, q_at.y, params.scale);
    flash_read(&q2, q_at.z, params.scale);
    var dy0: Row; var dy1: Row; var dy2: Row;
    let product = vec3<f32>(flash_read_dy(&dy0, dy_at.x), flash_read_dy(&dy1, dy_at.y), flash_read_dy(&dy2, dy_at.z));
    let bits = flash_bits_of_three(tile.draws.x, mine);
    var dq0 = Row(); var dq1 = Row(); var dq2 = Row();
    let end = flash_end(tile, ROWS);
    for (var j = params.first; j < end; j += 2u) {
        let keys = j + FLASH_STEPS;
        let k_at = tile.qkv + tile.channels + min(keys, vec2<u32>(tile.last)) * tile.packed;
        let v_at = k_at + tile.channels;
        var s0 = vec2<f32>(); var s1 = vec2<f32>(); var s2 = vec2<f32>();
        var dp0 = vec2<f32>(); var dp1 = vec2<f32>(); var dp2 = vec2<f32>();
        for (var d = 0u; d < HEAD4; d++) {
            let k = qkv_block(k_at, d);
            s0 = flash_dots(q0[d], k, s0);
            s1 = flash_dots(q1[d], k, s1);
            s2 = flash_dots(q2[d], k, s2);
        }
        for (var d = 0u; d < HEAD4; d++) {
            let v = qkv_block(v_at, d);
            dp0 = flash_dots(dy0[d], v, dp0);
            dp1 = flash_dots(dy1[d], v, dp1);
            dp2 = flash_dots(dy2[d], v, dp2);
        }
        let dp = flash_kept_of_rows(mat3x2<f32>(dp0, dp1, dp2), bits, flash_bits_of_two(tile.draws.y, keys));
        let ds0 = ds_of(s0, dp[0], l.x, product.x, keys, flash_last_key(mine.x, tile.keys));
        let ds1 = ds_of(s1, dp[1], l.y, product.y, keys, flash_last_key(mine.y, tile.keys));
        let ds2 = ds_of(s2, dp[2], l.z, product.z, keys, flash_last_key(mine.z, tile.keys));
        for (var d = 0u; d < HEAD4; d++) {
            let k = qkv_block(k_at, d);
            dq0[d] = flash_mix(ds0, k, dq0[d]);
            dq1[d] = flash_mix(ds1, k, dq1[d]);
            dq2[d] = flash_mix(ds2, k, dq2[d]);
        }
    }
    flash_store_dq(tile, rows.x, &dq0, product.x);
    flash_store_dq(tile, rows.y, &dq1, product.y);
    flash_store_dq(tile, rows.z, &dq2, product.z);
}

// Here a lane owns three keys.
@compute @workgroup_size(8)
fn backward_kv(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = flash_tile(grid_group(group, groups), ROWS);
    let rows = tile.first + lane + LANES * vec3<u32>(0u, 1u, 2u);
    let mine = min(rows, vec3<u32>(tile.last));
    let row_k = tile.qkv + tile.channels + mine * tile.packed;
    let row_v = row_k + tile.channels;
    var k0: Row; var k1: Row; var k2: Row;
    flash_read(&k0, row_k.x, params.scale);
    flash_read(&k1, row_k.y, params.scale);
    flash_read(&k2, row_k.z, params.scale);
    var v0: Row; var v1: Row; var v2: Row;
    flash_read(&v0, row_v.x, 1.0);
    flash_read(&v1, row_v.y, 1.0);
    flash_read(&v2, row_v.z, 1.0);
    let bits = flash_bits_of_three(tile.draws.y, mine);
    var dk0 = Row(); var dk1 = Row(); var dk2 = Row();
    var dv0 = Row(); var dv1 = Row(); var dv2 = Row();
    for (var i = max(params.first, flash_first_query(tile, tile.first)); i < params.end; i += 2u) {
        let queries = i + FLASH_STEPS;
        let there = min(queries, vec2<u32>(tile.last));
        let q_at = tile.qkv + there * tile.packed;
        let dy_at = tile.out + there * tile.channels;
        let lse_at = tile.matrix * params.tokens + there;
        let l = flash_lse_at(lse_at);
        let product = flash_delta_at(lse_at);
        var s0 = vec2<f32>(); var s1 = vec2<f32>(); var s2 = vec2<f32>();
        var dp0 = vec2<f32>(); var dp1 = vec2<f32>(); var dp2 = vec2<f32>();
        for (var d = 0u; d < HEAD4; d++) {
            let q = qkv_block(q_at, d);
            s0 = flash_dots(k0[d], q, s0);
            s1 = flash_dots(k1[d], q, s1);
            s2 = flash_dots(k2[d], q, s2);
        }
        for (var d = 0u; d < HEAD4; d++) {
            let g = dy_block(dy_at, d);
            dp0 = flash_dots(v0[d], g, dp0);
            dp1 = flash_dots(v1[d], g, dp1);
            dp2 = flash_dots(v2[d], g, dp2);
        }
        let p0 = flash_weights(s0, l, flash_seen_by(tile, queries, mine.x));
        let p1 = flash_weights(s1, l, flash_seen_by(tile, queries, mine.y));
        let p2 = flash_weights(s2, l, flash_seen_by(tile, queries, mine.z));
        let query_bits = flash_bits_of_two(tile.draws.x, queries);
        let kept = flash_kept_of_rows(mat3x2<f32>(p0, p1, p2), bits, query_bits);
        let dp = flash_kept_of_rows(mat3x2<f32>(dp0, dp1, dp2), bits, query_bits);
        for (var d = 0u; d < HEAD4; d++) {
            let g = dy_block(dy_at, d);
            dv0[d] = flash_mix(kept[0], g, dv0[d]);
            dv1[d] = flash_mix(kept[1], g, dv1[d]);
            dv2[d] = flash_mix(kept[2], g, dv2[d]);
        }
        let ds0 = p0 * (dp[0] - product);
        let ds1 = p1 * (dp[1] - product);
        let ds2 = p2 * (dp[2] - product);
        for (var d = 0u; d < HEAD4; d++) {
            let q = qkv_block(q_at, d);
            dk0[d] = flash_mix(ds0, q, dk0[d]);
            dk1[d] = flash_mix(ds1, q, dk1[d]);
            dk2[d] = flash_mix(ds2, q, dk2[d]);
        }
    }
    flash_store_dkv(tile, rows.x, &dk0, &dv0);
    flash_store_dkv(tile, rows.y, &dk1, &dv1);
    flash_store_dkv(tile, rows.z, &dk2, &dv2);
}
