// Flash attention where a lane owns rows of D elements: reading and storing them, their softmax as keys come two at a
// time, and sums over blocks of two rows.

// A row of a head: of q, k, v or out.
alias Row = array<vec4<f32>, HEAD4>;

// Two neighbours.
const FLASH_STEPS = vec2<u32>(0u, 1u);

// Two sums, each with the product of x and a row.
fn flash_dots(x: vec4<f32>, rows: mat2x4<f32>, sums: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(flash_dot(x, rows[0], sums.x), flash_dot(x, rows[1], sums.y));
}

// sum + Σ weights[j] * rows[j]
fn flash_mix(weights: vec2<f32>, rows: mat2x4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return fma(vec4<f32>(weights.y), rows[1], fma(vec4<f32>(weights.x), rows[0], sum));
}

// A row's softmax, as far as its keys have been met.
struct FlashSoftmax {
    most: f32, // the largest score
    sum: f32, // Σ exp(score - most)
    shrink: f32, // what the newest block of keys makes of sums over the earlier ones
    p: vec2<f32>, // exp(score - most) of that block
}

fn flash_softmax_start() -> FlashSoftmax {
    return FlashSoftmax(FLASH_LOWEST, 0.0, 0.0, vec2<f32>());
}

// Takes in two more scores.
fn flash_softmax(before: FlashSoftmax, scores: vec2<f32>, visible: vec2<bool>) -> FlashSoftmax {
    let s = select(vec2<f32>(FLASH_LOWEST), scores, visible);
    let most = max(before.most, max(s.x, s.y));
    let shrink = exp(before.most - most);
    let p = flash_weights(scores, vec2<f32>(most), visible);
    return FlashSoftmax(most, fma(before.sum, shrink, p.x + p.y), shrink, p);
}

// exp(score - lse), the softmax weights once lse is known; 0 where the query does not see the key.
fn flash_weights(scores: vec2<f32>, lse: vec2<f32>, visible: vec2<bool>) -> vec2<f32> {
    return select(vec2<f32>(), exp(scores - lse), visible);
}

// log Σ exp(score) over the whole row.
fn flash_lse(softmax: FlashSoftmax) -> f32 {
    return softmax.most + log(softmax.sum);
}

// Of two queries, those that are there and see the key in `row`.
fn flash_seen_by(tile: FlashTile, queries: vec2<u32>, row: u32) -> vec2<bool> {
    return (queries >= vec2<u32>(flash_first_query(tile, row))) & (queries < vec2<u32>(params.tokens));
}

// The bits of a lane's three rows, and of two rows on the other side.
fn flash_bits_of_three(word: u32, rows: vec3<u32>) -> vec3<u32> {
    return vec3<u32>(flash_bits(word, rows.x), flash_bits(word, rows.y), flash_bits(word, rows.z));
}

fn flash_bits_of_two(word: u32, rows: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(flash_bits(word, rows.x), flash_bits(word, rows.y));
}

// What dropout leaves of the weights, or of their gradients, between a lane's rows and two others.
fn flash_kept_of_rows(weights: mat3x2<f32>, own: vec3<u32>, others: vec2<u32>) -> mat3x2<f32> {
    if !flash_drops() {
        return weights;
    }
    return mat3x2<f32>(
        flash_kept(weights[0].x, own.x, others.x), flash_kept(weights[0].y, own.x, others.y),
        flash_kept(weights[1].x, own.y, others.x), flash_kept(weights[1].y, own.y, others.y),
        flash_kept(weights[2].x, own.z, others.x), flash_kept(weights[2].y, own.z, others.y),
    );
}

// Reads a row of qkv.
fn flash_read(row: ptr<function, Row>, at: u32, scale: f32) {
    for (var d = 0u; d < HEAD4; d++) {
        (*row)[d] = scale * vec4<f32>(qkv[at + d]);
    }
}

fn flash_store_out(tile: FlashTile, row: u32, o: ptr<function, Row>, softmax: FlashSoftmax) {
    let is_blind = softmax.sum == 0.0; // it sees no key of this part
    if row > tile.last || (is_blind && params.first != 0u) {
        return;
    }
    // What o is multiplied by, and what is there of the parts before.
    var own = select(1.0 / softmax.sum, 0.0, is_blind);
    var before = 0.0;
    let lse_at = tile.matrix * params.tokens + row;
    // What other parts give a row that sees scores of -∞ alone is not to be weighed against exp(0).
    let nothing = select(FLASH_LOWEST, 0.0, flash_is_padding(0u, tile.keys));
    var l = select(flash_lse(softmax), nothing, is_blind);
    if params.first != 0u {
        let both = flash_lse_of_both(lse[lse_at], l);
        own *= exp(l - both);
        before = exp(lse[lse_at] - both);
        l = both;
    }
    let at = tile.out + row * tile.channels;
    for (var d = 0u; d < HEAD4; d++) {
        var value = (*o)[d] * own;
        if params.first != 0u {
            value += before * vec4<f32>(out[at + d]);
        }
        out[at + d] = Act(value);
    }
    lse[lse_at] = l;
}

fn flash_store_gradient(at: u32, gradient: ptr<function, Row>, scale: f32) {
    for (var d = 0u; d < HEAD4; d++) {
        var value = scale * (*gradient)[d];
        if params.accumulate != 0u {
            value += vec4<f32>(dqkv[at + d]);
        }
        dqkv[at + d] = Act(value);
    }
}

// Reads a row of dy, and returns its product with out's.
fn flash_read_dy(row: ptr<function, Row>, at: u32) -> f32 {
    var sum = 0.0;
    for (var d = 0u; d < HEAD4; d++) {
        (*row)[d] = vec4<f32>(dy[at + d]);
        sum = flash_dot((*row)[d], vec4<f32>(y[at + d]), sum);
    }
    return sum;
}

fn flash_store_dq(tile: FlashTile, row: u32, dq: ptr<function, Row>, product: f32) {
    if row > tile.last {
        return;
    }
    flash_store_gradient(tile.qkv + row * tile.packed, dq, params.scale);
    delta[tile.matrix * params.tokens + row] = product;
}

fn flash_store_dkv(tile: FlashTile, row: u32, dk: ptr<function, Row>, dv: ptr<function, Row>) {
    if row > tile.last {
        return;
    }
    let at = tile.qkv + tile.channels + row * tile.packed;
    flash_store_gradient(at, dk, params.scale);
    flash_store_gradient(at + tile.channels, dv, 1.0);
}

// What backward_kv reads of two queries besides their rows.
fn flash_lse_at(at: vec2<u32>) -> vec2<f32> {
    return vec2<f32>(row_lse[at.x], row_lse[at.y]);
}

fn flash_delta_at(at: vec2<u32>) -> vec2<f32> {
    return vec2<f32>(row_delta[at.x], row_delta[at.y]);
}
