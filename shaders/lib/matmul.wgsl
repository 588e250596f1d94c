// What the matrix products share: their Params, where a matrix starts, how an element of C is finished.
//
// Everything counts Items, one float or four (tiles/). Use: the kernel declares
//   @group(0) @binding(2) var<storage, read> bias: array<Item>;
//   @group(0) @binding(3) var<storage, read_write> c: array<Item>;
//   @group(1) @binding(0) var<uniform> params: Params;

// Strides and offsets in elements. `first_row` is where a dispatch begins, if others make the rows before.
struct Params {
    m: u32, n: u32, k: u32, inner: u32,
    lda: u32, ldb: u32, ldc: u32, flags: u32,
    a_offset: u32, b_offset: u32, c_offset: u32, alpha: f32,
    a_outer: u32, a_inner: u32, b_outer: u32, b_inner: u32,
    c_outer: u32, c_inner: u32, first_row: u32,
}

const MATMUL_ADD_BIAS = 1u; // bits of flags
const MATMUL_ACCUMULATE = 2u;

// The first item of matrix z in a buffer.
fn matmul_start(z: u32, offset: u32, outer: u32, inner: u32) -> u32 {
    return (offset + (z / params.inner) * outer + (z % params.inner) * inner) / ITEM;
}

fn matmul_a_start(z: u32) -> u32 {
    return matmul_start(z, params.a_offset, params.a_outer, params.a_inner);
}

fn matmul_b_start(z: u32) -> u32 {
    return matmul_start(z, params.b_offset, params.b_outer, params.b_inner);
}

fn matmul_c_start(z: u32) -> u32 {
    return matmul_start(z, params.c_offset, params.c_outer, params.c_inner);
}

// Finishes and writes item `col` of row `row`, which lies at `at`; nothing if there is no such row.
fn matmul_store(at: u32, row: u32, col: u32, product: Item) {
    if (row >= params.m) {
        return;
    }
    var value = params.alpha * product;
    if ((params.flags & MATMUL_ADD_BIAS) != 0u) {
        value += bias[col];
    }
    if ((params.flags & MATMUL_ACCUMULATE) != 0u) {
        value += c[at];
    }
    c[at] = value;
}
