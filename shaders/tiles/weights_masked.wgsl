// Flash attention where a sample may have fewer keys than T, and weights may be dropped.
//
//   lengths  u32[B]  how many keys a sample has, which counts where `padded`; else any buffer of as many words

// The first binding of a pass's own.
const FLASH_FIRST_BINDING = 2u;

@group(0) @binding(1) var<storage, read> lengths: array<u32>;

// How many keys a sample has.
fn flash_keys(sample: u32) -> u32 {
    return min(params.tokens, select(params.tokens, lengths[sample], params.padded != 0u));
}

// One past the last key of this dispatch that the sample has.
fn flash_end_of_keys(keys: u32) -> u32 {
    return min(params.end, keys);
}

// The last key that the query in `row` sees, where the sample has any.
fn flash_last_key(row: u32, keys: u32) -> u32 {
    return select(keys - 1u, min(row, keys - 1u), params.causal != 0u);
}

// Whether a key lies behind those that its sample has.
fn flash_is_padding(key: u32, keys: u32) -> bool {
    return key >= keys;
}

fn flash_drops() -> bool {
    return params.threshold != 0u;
}

// The words that a matrix's bits begin with: of its queries, of its keys.
fn flash_draws(sample: u32, head: u32) -> vec2<u32> {
    if !flash_drops() {
        return vec2<u32>();
    }
    return draws_of(sample, head);
}

// The bits of a query or a key.
fn flash_bits(word: u32, row: u32) -> u32 {
    return draws_mix(word + row);
}

// What dropout leaves of the weight between a query and a key, given the bits of both in either order.
fn flash_kept(weight: f32, own: u32, other: u32) -> f32 {
    return draws_kept(weight, own, other);
}
