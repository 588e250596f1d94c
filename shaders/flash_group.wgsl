// Attention without stored scores, for GPUs. Formulas, bindings and sizes are those of flash_lane.wgsl.
//
// Grid: ceil(T / 32) workgroups of 64 for each of B * H matrices, folded. A workgroup owns 32 rows and meets those of
// the other side 32 at a time; lib/flash_blocks.wgsl says how its lanes share the work. None holds whole rows: in the
// backward passes those are up to four of D floats, which is more registers than GPUs have.

// The four rows of a block from `first` on that have a lane's y (to fetch) or x (to multiply).
fn rows_of(first: u32, xy: u32) -> vec4<u32> {
    return first + xy + FLASH_FOUR;
}

fn existing(rows: vec4<u32>, tile: FlashTile) -> vec4<u32> {
    return min(rows, vec4<u32>(tile.last));
}

// The last keys that four queries see.
fn last_keys(rows: vec4<u32>, keys: u32) -> vec4<u32> {
    return vec4<u32>(
        flash_last_key(rows.x, keys),
        flash_last_key(rows.y, keys),
        flash_last_key(rows.z, keys),
        flash_last_key(rows.w, keys),
    );
}

// Scores that count; `weight` makes nothing of the others.
fn seen(scores: vec4<f32>, visible: vec4<bool>) -> vec4<f32> {
    return select(vec4<f32>(FLASH_LOWEST), params.scale * scores, visible);
}

fn scores_of_keys(products: mat4x4<f32>, keys: vec4<u32>, last: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        seen(products[0], keys <= vec4<u32>(last.x)),
        seen(products[1], keys <= vec4<u32>(last.y)),
        seen(products[2], keys <= vec4<u32>(last.z)),
        seen(products[3], keys <= vec4<u32>(last.w)),
    );
}

// exp(score - base). Where a row sees no finite score its base may be FLASH_LOWEST too, so exp alone would not do.
fn weight(score: vec4<f32>, base: vec4<f32>) -> vec4<f32> {
    return select(exp(score - base), vec4<f32>(), score == vec4<f32>(FLASH_LOWEST));
}

// With a base for each row.
fn weights_of_rows(s: mat4x4<f32>, base: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        weight(s[0], vec4<f32>(base.x)),
        weight(s[1], vec4<f32>(base.y)),
        weight(s[2], vec4<f32>(base.z)),
        weight(s[3], vec4<f32>(base.w)),
    );
}

// ---- forward ----

fn largest(s: vec4<f32>) -> f32 {
    return max(max(s.x, s.y), max(s.z, s.w));
}

fn sum_of(p: vec4<f32>) -> f32 {
    return (p.x + p.y) + (p.z + p.w);
}

fn lse_of(tile: FlashTile, rows: vec4<u32>) -> vec4<f32> {
    let at = tile.matrix * params.tokens + rows;
    return vec4<f32>(lse[at.x], lse[at.y], lse[at.z], lse[at.w]);
}

fn lse_of_both(before: vec4<f32>, own: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        flash_lse_of_both(before.x, own.x),
        flash_lse_of_both(before.y, own.y),
        flash_lse_of_both(before.z, own.z),
        flash_lse_of_both(before.w, own.w),
    );
}

fn store_lse(tile: FlashTile, row: u32, value: f32) {
    if row <= tile.last {
        lse[tile.matrix * params.tokens + row] = value;
    }
}

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let tile = flash_tile(grid_group(group, groups), FLASH_BLOCK);
    let lane = flash_lane_of(index);
    let rows = rows_of(tile.first, lane.y);
    let mine = existing(rows, tile);
    let q_at = tile.qkv + mine * tile.packed;
    var o = FlashSums();
    var most = vec4<f32>(FLASH_LOWEST);
    var sum = vec4<f32>(); // of this lane's keys
    let bits = flash_bits_of_four(tile.draws.x, rows);
    let end = flash_end(tile, FLASH_BLOCK);
    for (var first = params.first; first < end; first += FLASH_BLOCK) {
        let count = min(8u, end - first);
        let k_at = tile.qkv + tile.channels + existing(rows_of(first, lane.y), tile) * tile.packed;
        let keys = rows_of(first, lane.x);
        let s = scores_of_keys(flash_products(q_at, k_at, lane), keys, last_keys(mine, tile.keys));
        let of_lane = vec4<f32>(largest(s[0]), largest(s[1]), largest(s[2]), largest(s[3]));
        let before = most;
        most = max(most, flash_largest(of_lane, lane));
        let shrink = exp(before - most);
        let p = weights_of_rows(s, most);
        sum = fma(sum, shrink, vec4<f32>(sum_of(p[0]), sum_of(p[1]), sum_of(p[2]), sum_of(p[3])));
        flash_scale(&o, shrink);
        flash_put_weights(flash_kept_of_block(p, bits, flash_bits_of_four(tile.draws.y, keys)), lane);
        flash_add_qkv(&o, k_at + tile.channels, count, lane);
    }
    let whole = flash_sum(sum, lane);
    // What o is multiplied by, and what is there of the parts before.
    let is_blind = whole == vec4<f32>(); // the row sees no key of this part, or only scores of -∞
    var own = select(1.0 / whole, vec4<f32>(), is_blind);
    var before = vec4<f32>();
    let nothing = select(FLASH_LOWEST, 0.0, flash_is_padding(0u, tile.keys));
    var l = select(most + log(whole), vec4<f32>(nothing), is_blind);
    if params.first != 0u {
        if params.first >= end {
            return; // uniform: no row of the tile sees a key of this part
        }
        before = lse_of(tile, mine);
        storageBarrier(); // everyone has read them before they are overwritten
        let both = lse_of_both(before, l);
        own *= exp(l - both);
        before = exp(before - both);
        l = both;
    }
    flash_scale(&o, own);
    flash_store_out(tile, rows, lane, o, before);
    if lane.x == 0u {
        store_lse(tile, rows.x, l.x);
        store_lse(tile, rows.y, l.y);
        store_lse(tile, rows.z, l.z);
        store_lse(tile, rows.w, l.w);
    }
}

// ---- backward, of the lines above: a pass for dq, which also leaves delta, then one for dk and dv ----

fn store_delta(tile: FlashTile, row: u32, value: f32) {
    if row <= tile.last {
        delta[tile.matrix * params.tokens + row] = value;
    }
}

// out · dy of four rows, each shared by 8 lanes.
fn out_dy(at: vec4<u32>, lane: FlashLane) -> vec4<f32> {
    var part = vec4<f32>();
    for (var d = lane.x; d < HEAD4; d += FLASH_CHUNK) {
        let i = at + d;
        part += vec4<f32>(
            dot(vec4<f32>(y[i.x]), vec4<f32>(dy[i.x])),
            dot(vec4<f32>(y[i.y]), vec4<f32>(dy[i.y])),
            dot(vec4<f32>(y[i.z]), vec4<f32>(dy[i.z])),
            dot(vec4<f32>(y[i.w]), vec4<f32>(dy[i.w])),
        );
    }
    return flash_sum(part, lane);
}

@compute @workgroup_size(64)
fn backward_q(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let tile = flash_tile(grid_group(group, groups), FLASH_BLOCK);
    let lane = flash_lane_of(index);
    let rows = rows_of(tile.first, lane.y);
    let mine = existing(rows, tile);
    let q_at = tile.qkv + mine * tile.packed;
    let dy_at = tile.out + mine * tile.channels;
    let lse_at = tile.matrix * params.tokens + mine;
    let l = vec4<f32>(row_lse[lse_at.x], row_lse[lse_at.y], row_lse[lse_at.z], row_lse[lse_at.w]);
    let product = out_dy(dy_at, lane);
    var dq = FlashSums();
    let bits = flash_bits_of_four(tile.draws.x, rows);
    let end = flash_end(tile, FLASH_BLOCK);
    for (var first = params.first; first < end; first += FLASH_BLOCK) {
        let count = min(8u, end - first);
        let k_at = tile.qkv + tile.channels + existing(rows_of(first, lane.y), tile) * tile.packed;
        let products = flash_products_backward(FLASH_LEFT, FlashStarts(q_at, dy_at, k_at, k_at + tile.channels), lane);
        let keys = rows_of(first, lane.x);
        let s = scores_of_keys(products.s, keys, last_keys(mine, tile.keys));
        let p = weights_of_rows(s, l);
        let dp = flash_kept_of_block(products.dp, bits, flash_bits_of_four(tile.draws.y, keys));
        flash_put_weights(mat4x4<f32>(
            p[0] * (dp[0] - product.x),
            p[1] * (dp[1] - product.y),
            p[2] * (dp[2] - product.z),
            p[3] * (dp[3] - product.w),
        ), lane);
        flash_add_qkv(&dq, k_at, count, lane);
    }
    flash_scale(&dq, vec4<f32>(params.scale));
    flash_store_gradient(tile, 0u, rows, lane, dq);
    if lane.x == 0u {
        store_delta(tile, rows.x, product.x);
        store_delta(tile, rows.y, product.y);
        store_delta(tile, rows.z, product.z);
        store_delta(tile, rows.w, product.w);
    }
}

// The weights that four queries give a key; those past the end, and those that do not see it, give none.
fn weights_of_queries(tile: FlashTile, products: vec4<f32>, queries: vec4<u32>, key: u32, l: vec4<f32>) -> vec4<f32> {
    let visible = (queries >= vec4<u32>(flash_first_query(tile, key))) & (queries < vec4<u32>(params.tokens));
    return weight(seen(products, visible), l);
}

// Here a workgroup owns keys.
@compute @workgroup_size(64)
fn backward_kv(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let tile = flash_tile(grid_group(group, groups), FLASH_BLOCK);
    let lane = flash_lane_of(index);
    let rows = rows_of(tile.first, lane.y);
    let k_at = tile.qkv + tile.channels + existing(rows, tile) * tile.packed;
    var dk = FlashSums();
    var dv = FlashSums();
    let bits = flash_bits_of_four(tile.draws.y, rows);
    for (var first = max(params.first, flash_first_query(tile, tile.first)); first < params.end; first += FLASH_BLOCK) {
        let count = min(8u, params.end - first);
        let fetched = existing(rows_of(first, lane.y), tile);
        let q_at = tile.qkv + fetched * tile.packed;
        let dy_at = tile.out + fetched * tile.channels;
        let queries = rows_of(first, lane.x);
        let at = tile.matrix * params.tokens + existing(queries, tile);
        let products = flash_products_backward(FLASH_RIGHT, FlashStarts(q_at, dy_at, k_at, k_at + tile.channels), lane);
        let s = products.s;
        let l = vec4<f32>(row_lse[at.x], row_lse[at.y], row_lse[at.z], row_lse[at.w]);
        let product = vec4<f32>(row_delta[at.x], row_delta[at.y], row_delta[at.z], row_delta[at.w]);
        let p = mat4x4<f32>(
            weights_of_queries(tile, s[0], queries, rows.x, l),
            weights_of_queries(tile, s[1], queries, rows.y, l),
            weights_of_queries(tile, s[2], queries, rows.z, l),
            weights_of_queries(tile, s[3], queries, rows.w, l),
        );
        let query_bits = flash_bits_of_four(tile.draws.x, queries);
        let dp = flash_kept_of_block(products.dp, bits, query_bits);
        flash_put_weights(flash_kept_of_block(p, bits, query_bits), lane);
        flash_add_dy(&dv, dy_at, count, lane);
        flash_put_weights(mat4x4<f32>(
            p[0] * (dp[0] - product),
            p[1] * (dp[1] - product),
            p[2] * (dp[2] - product),
            p[3] * (dp[3] - product),
        ), lane);
        flash_add_qkv(&dk, q_at, count, lane);
    }
    flash_scale(&dk, vec4<f32>(params.scale));
    flash_store_gradient(tile, 1u, rows, lane, dk);
    flash_store_gradient(tile, 2u, rows, lane, dv);
}
