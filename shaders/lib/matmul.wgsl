// What the matrix products share: their Params, where a matrix starts, which elements of C exist.
//
// Everything counts Items, one float or four (tiles/vec4.wgsl, tiles/scalar.wgsl). Use: the kernel declares
//   @group(1) @binding(0) var<uniform> params: Params;
// and one file of epilogues/ finishes the elements of C and writes them. It declares the bindings from 2 on, c last, and
//   fn epilogue_store(at: u32, row: u32, col: u32, sum: Item)
// for item `col` of row `row`, which lies at `at` in C and in whatever has C's layout; sum is the element of A * B.

// Strides and offsets in elements. `first_row`, `first_column` (a multiple of 4) and `first_matrix` are where a dispatch
// begins, if others make what comes before.
struct Params {
    m: u32, n: u32, k: u32, inner: u32,
    lda: u32, ldb: u32, ldc: u32, accumulate: u32,
    a_offset: u32, b_offset: u32, c_offset: u32, alpha: f32,
    a_outer: u32, a_inner: u32, b_outer: u32, b_inner: u32,
    c_outer: u32, c_inner: u32, first_row: u32, first_column: u32, first_matrix: u32,
    accumulate_sums: u32, // of matmul_rows_sums.wgsl
    has_bias: u32, has_residual: u32, // of epilogues/linear.wgsl
    kept: u32, tokens: u32, fault: u32, // of epilogues/scatter.wgsl
}

// The first item of a dispatch's matrix z in a buffer.
fn matmul_start(z: u32, offset: u32, outer: u32, inner: u32) -> u32 {
    let matrix = params.first_matrix + z;
    return (offset + (matrix / params.inner) * outer + (matrix % params.inner) * inner) / ITEM;
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

// Hands an item to the epilogue; nothing if there is no such row.
fn matmul_store(at: u32, row: u32, col: u32, sum: Item) {
    if (row < params.m) {
        epilogue_store(at, row, col, sum);
    }
}
