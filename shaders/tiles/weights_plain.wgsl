// Flash attention where every sample has all its keys and keeps all its weights.

// The first binding of a pass's own.
const FLASH_FIRST_BINDING = 1u;

// What these say is in weights_masked.wgsl.

fn flash_keys(sample: u32) -> u32 {
    return params.tokens;
}

fn flash_end_of_keys(keys: u32) -> u32 {
    return params.end;
}

fn flash_last_key(row: u32, keys: u32) -> u32 {
    return select(params.tokens - 1u, row, params.causal != 0u);
}

fn flash_is_padding(key: u32, keys: u32) -> bool {
    return false;
}

fn flash_drops() -> bool {
    return false;
}

fn flash_draws(sample: u32, head: u32) -> vec2<u32> {
    return vec2<u32>();
}

fn flash_bits(word: u32, row: u32) -> u32 {
    return 0u;
}

fn flash_kept(weight: f32, own: u32, other: u32) -> f32 {
    return weight;
}
