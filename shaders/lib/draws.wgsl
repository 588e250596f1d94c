// Which of attention's weights are dropped: word (q, k) of a head is mix(mix(w.x + q) ^ mix(w.y + k)), with the first words w
// of philox4x32 at the counter (head, layer, the sample's position). What falls below `threshold` is dropped, and what is left
// is multiplied by `keep_scale`. (src/ops/random.rs)
//
// The kernel's Params have key_low, key_high, layer, first_low, first_high, threshold and keep_scale.

fn draws_of(sample: u32, head: u32) -> vec2<u32> {
    let first = vec2<u32>(params.first_low, params.first_high);
    return philox_words(head, params.layer, first, sample, vec2<u32>(params.key_low, params.key_high)).xy;
}

// A permutation of the words in which every bit depends on all.
fn draws_mix(word: u32) -> u32 {
    var x = word;
    x = (x ^ (x >> 16u)) * 0x7feb352du;
    x = (x ^ (x >> 15u)) * 0x846ca68bu;
    return x ^ (x >> 16u);
}

// What is left of the weight between a query and a key, of which `query` and `key` are mix(w.x + q) and mix(w.y + k).
fn draws_kept(weight: f32, query: u32, key: u32) -> f32 {
    return select(0.0, params.keep_scale * weight, draws_mix(query ^ key) >= params.threshold);
}
