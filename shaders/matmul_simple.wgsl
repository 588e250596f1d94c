// Matrix product, the form that works everywhere: C = epilogue(A * B).
//
//   nn: A [M, K], B [K, N]      nt: A [M, K], B [N, K] (weights)      tn: A [K, M], B [K, N]
//
// Any M, N, K from 1 up, any row stride and offset; nothing outside the matrices is read or written.
//
// Bindings, each holding `batch` matrices; matrix z starts at offset + (z / inner) * outer + (z % inner) * inner
// stride:
//   a  nn, nt: [M, K], rows lda apart; tn: [K, M], rows lda apart
//   b  nn, tn: [K, N], rows ldb apart; nt: [N, K], rows ldb apart
//   and those of the epilogue, c [M, N] among them, rows ldc apart
//
// Grid: x = ceil(N / 64), y = ceil(rows / 8), z = batch; rows from `first_row`, columns from `first_column` and matrices from
// `first_matrix` on. A workgroup is 32 invocations along the columns; each makes 8
// rows of 2 columns, 32 apart. Loads of A are uniform over the workgroup: a broadcast on a GPU, a scalar on a CPU
// driver. A size that does not divide the tile repeats the last row or column and does not store it.
//
// Elements are f32 or f16 (tiles/matmul_*.wgsl), sums f32. Params are those of lib/matmul.wgsl; one of epilogues/ stores.

@group(0) @binding(0) var<storage, read> a: array<ElementA>;
@group(0) @binding(1) var<storage, read> b: array<ElementB>;
@group(1) @binding(0) var<uniform> params: Params;

fn store(start: u32, row: u32, col: u32, product: f32) {
    if (col < params.n) {
        matmul_store(start + row * params.ldc + col, row, col, product);
    }
}

fn store_rows(start: u32, row: u32, col: u32, product: vec4<f32>) {
    store(start, row, col, product.x);
    store(start, row + 1u, col, product.y);
    store(start, row + 2u, col, product.z);
    store(start, row + 3u, col, product.w);
}

// All three layouts: A's element (m, k) is at m * a_m + k * a_k, B's element (k, n) at k * b_k + n * b_n.
fn multiply(group: vec3<u32>, lane: u32, a_m: u32, a_k: u32, b_k: u32, b_n: u32) {
    let a_start = matmul_a_start(group.z);
    let b_start = matmul_b_start(group.z);
    let c_start = matmul_c_start(group.z);
    let row = params.first_row + group.y * 8u;
    let first_col = params.first_column + group.x * 64u;
    let left_col = first_col + lane;
    let right_col = left_col + 32u;

    let last_row = vec4<u32>(params.m - 1u);
    var a_top = a_start + min(row + vec4<u32>(0u, 1u, 2u, 3u), last_row) * a_m;
    var a_low = a_start + min(row + vec4<u32>(4u, 5u, 6u, 7u), last_row) * a_m;
    var b_left = b_start + min(left_col, params.n - 1u) * b_n;
    var b_right = b_start + min(right_col, params.n - 1u) * b_n;

    // Rows 0 to 3 and 4 to 7 of this invocation's two columns.
    var top_left = vec4<f32>();
    var low_left = vec4<f32>();
    var top_right = vec4<f32>();
    var low_right = vec4<f32>();
    for (var k = 0u; k < params.k; k++) {
        let top = vec4<f32>(vec4<ElementA>(a[a_top.x], a[a_top.y], a[a_top.z], a[a_top.w]));
        let low = vec4<f32>(vec4<ElementA>(a[a_low.x], a[a_low.y], a[a_low.z], a[a_low.w]));
        let left = vec4<f32>(f32(b[b_left]));
        let right = vec4<f32>(f32(b[b_right]));
        top_left = fma(top, left, top_left);
        low_left = fma(low, left, low_left);
        top_right = fma(top, right, top_right);
        low_right = fma(low, right, low_right);
        a_top += vec4<u32>(a_k);
        a_low += vec4<u32>(a_k);
        b_left += b_k;
        b_right += b_k;
    }
    // Block by block, the next one moving up, as many as there may be: drivers do not unroll a loop to a bound that they do
    // not know, and so compile one epilogue where there would be four.
    let blocks = select(2u, 4u, first_col + 32u < params.n);
    for (var i = 0u; i < blocks; i++) {
        store_rows(c_start, row + 4u * (i % 2u), left_col + 32u * (i / 2u), top_left);
        top_left = low_left; low_left = top_right; top_right = low_right;
    }
}

@compute @workgroup_size(32)
fn nn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    multiply(group, lane, params.lda, 1u, params.ldb, 1u);
}

@compute @workgroup_size(32)
fn nt(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    multiply(group, lane, params.lda, 1u, 1u, params.ldb);
}

@compute @workgroup_size(32)
fn tn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    multiply(group, lane, 1u, params.lda, params.ldb, 1u);
}
