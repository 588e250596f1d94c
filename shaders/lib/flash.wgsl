// What the forms of flash attention share: Params, the bindings, where the parts of a head lie, and who sees whom.
//
// Positions in qkv, out and their gradients count Acts, four elements. What differs by kernel is in tiles/act_*.wgsl (Act),
// tiles/head_*.wgsl (HEAD4) and tiles/weights_*.wgsl (the keys that a sample has, and the weights that are kept).

struct Params {
    tokens: u32, // T
    heads: u32, // H
    matrices: u32, // B * H
    tiles: u32, // workgroups to a matrix
    causal: u32, // 1: a query sees the keys up to its own position
    // The rows of the other side that this dispatch meets: all, or those of a part. Multiples of 32, but for the last end. What
    // parts before have made of `out`, `lse` and gradients is added to.
    first: u32,
    end: u32,
    accumulate: u32, // 1: gradients are added to what is there
    scale: f32, // 1 / √D
    // The rest is for tiles/weights_masked.wgsl.
    padded: u32, // 1: samples have keys up to their lengths
    // Dropout's (lib/draws.wgsl).
    key_low: u32,
    key_high: u32,
    layer: u32,
    first_low: u32,
    first_high: u32,
    threshold: u32, // 0: none
    keep_scale: f32,
}

// qkv, and lengths where there are such, are read by all; then what is forward's, and what is the two backward passes'.
@group(0) @binding(0) var<storage, read> qkv: array<Act>;
@group(1) @binding(0) var<uniform> params: Params;
@group(0) @binding(FLASH_FIRST_BINDING) var<storage, read_write> out: array<Act>;
@group(0) @binding(FLASH_FIRST_BINDING + 1u) var<storage, read_write> lse: array<f32>;

@group(0) @binding(FLASH_FIRST_BINDING) var<storage, read> dy: array<Act>;
@group(0) @binding(FLASH_FIRST_BINDING + 1u) var<storage, read> row_lse: array<f32>; // lse
@group(0) @binding(FLASH_FIRST_BINDING + 2u) var<storage, read_write> dqkv: array<Act>;
@group(0) @binding(FLASH_FIRST_BINDING + 3u) var<storage, read_write> delta: array<f32>; // backward_q
@group(0) @binding(FLASH_FIRST_BINDING + 4u) var<storage, read> y: array<Act>; // backward_q: out
@group(0) @binding(FLASH_FIRST_BINDING + 3u) var<storage, read> row_delta: array<f32>; // backward_kv: delta

const FLASH_LOWEST = -3.4028234e38;

// The share of a workgroup.
struct FlashTile {
    matrix: u32, // b * H + h
    first: u32, // its first row
    last: u32, // the last row that there is
    packed: u32, // from a row to the next, in qkv
    channels: u32, // from a row to the next, in out; from q to k and from k to v
    qkv: u32, // where q of row 0 starts
    out: u32, // where out of row 0 starts
    keys: u32, // that the sample has
    draws: vec2<u32>, // the words of its queries' and of its keys' bits
}

// A workgroup past the last matrix gets a tile past its end, of which nothing is stored. (It does not return early: what
// follows a return costs CPU drivers a mask.)
fn flash_tile(group: u32, rows: u32) -> FlashTile {
    let matrix = min(group / params.tiles, params.matrices - 1u);
    let surplus = group / params.tiles > matrix;
    let channels = params.heads * HEAD4;
    let sample = matrix / params.heads;
    let head = matrix % params.heads;
    let row = sample * params.tokens;
    let column = head * HEAD4;
    return FlashTile(
        matrix,
        select((group % params.tiles) * rows, params.tokens, surplus),
        params.tokens - 1u,
        3u * channels,
        channels,
        row * 3u * channels + column,
        row * channels + column,
        flash_keys(sample),
        flash_draws(sample, head),
    );
}

// x · y + sum
fn flash_dot(x: vec4<f32>, y: vec4<f32>, sum: f32) -> f32 {
    return fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, sum))));
}

// One past the last key of this dispatch that some of a tile's `rows` see.
fn flash_end(tile: FlashTile, rows: u32) -> u32 {
    let end = flash_end_of_keys(tile.keys);
    return select(end, min(end, tile.first + rows), params.causal != 0u);
}

// The first query that sees the key in row `first` or one after, T if none does.
fn flash_first_query(tile: FlashTile, first: u32) -> u32 {
    return select(select(0u, first, params.causal != 0u), params.tokens, flash_is_padding(first, tile.keys));
}

// log Σ exp of all keys, from that of the parts before and of this one.
fn flash_lse_of_both(before: f32, own: f32) -> f32 {
    return max(before, own) + log(1.0 + exp(-abs(before - own)));
}
