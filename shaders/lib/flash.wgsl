// What the forms of flash attention share: Params, the bindings, where the parts of a head lie, and who sees whom.
//
// Positions in qkv, out and their gradients count Acts, four elements. Uses tiles/act_*.wgsl (Act), tiles/head_*.wgsl
// (HEAD4) and lib/grid.wgsl.

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
}

// qkv is read by all; then what is forward's, and what is the two backward passes'.
@group(0) @binding(0) var<storage, read> qkv: array<Act>;
@group(1) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<Act>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;

@group(0) @binding(1) var<storage, read> dy: array<Act>;
@group(0) @binding(2) var<storage, read> row_lse: array<f32>; // lse
@group(0) @binding(3) var<storage, read_write> dqkv: array<Act>;
@group(0) @binding(4) var<storage, read_write> delta: array<f32>; // backward_q
@group(0) @binding(5) var<storage, read> y: array<Act>; // backward_q: out
@group(0) @binding(4) var<storage, read> row_delta: array<f32>; // backward_kv: delta

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
}

// A workgroup past the last matrix gets a tile past its end, of which nothing is stored. (It does not return early: what
// follows a return costs CPU drivers a mask.)
fn flash_tile(group: u32, rows: u32) -> FlashTile {
    let matrix = min(group / params.tiles, params.matrices - 1u);
    let surplus = group / params.tiles > matrix;
    let channels = params.heads * HEAD4;
    let token = (matrix / params.heads) * params.tokens;
    let head = (matrix % params.heads) * HEAD4;
    return FlashTile(
        matrix,
        select((group % params.tiles) * rows, params.tokens, surplus),
        params.tokens - 1u,
        3u * channels,
        channels,
        token * 3u * channels + head,
        token * channels + head,
    );
}

// x · y + sum
fn flash_dot(x: vec4<f32>, y: vec4<f32>, sum: f32) -> f32 {
    return fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, sum))));
}

// The last key that the query in `row` sees.
fn flash_last_key(row: u32) -> u32 {
    return select(params.tokens - 1u, row, params.causal != 0u);
}

// One past the last key of this dispatch that rows `first` to `first + rows - 1` see.
fn flash_end(first: u32, rows: u32) -> u32 {
    return select(params.end, min(params.end, first + rows), params.causal != 0u);
}

// The first query that sees a key in row `first` or after.
fn flash_first_query(first: u32) -> u32 {
    return select(0u, first, params.causal != 0u);
}

// log Σ exp of all keys, from that of the parts before and of this one.
fn flash_lse_of_both(before: f32, own: f32) -> f32 {
    return max(before, own) + log(1.0 + exp(-abs(before - own)));
}
