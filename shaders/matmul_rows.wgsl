// Matrix product for CPU drivers: C = epilogue(A * B). No workgroup memory; lanes lie along the rows.
//
//   nn: A [M, K], B [K, N]      nt: A [M, K], B [N, K] (weights)      tn: A [K, M], B [K, N]
//
// Any M, N, K from 1 up. Row strides, offsets and batch strides must be multiples of 4 elements, since everything is
// read and written as vec4. If N is no multiple of 4, the columns of C from N up to the next multiple of 4 are
// written too, with products of whatever B's padding holds there (nt: of B's last row); the host keeps those columns
// free. No other padding takes part: it may hold anything. The last vec4 of a matrix may end up to 3 elements past
// it; buffers allow for that.
//
// Bindings, each holding `batch` matrices; matrix z starts at offset + (z / inner) * outer + (z % inner) * inner
// stride:
//   a  nn, nt: [M, K], rows lda apart; tn: [K, M], rows lda apart
//   b  nn, tn: [K, N], rows ldb apart; nt: [N, K], rows ldb apart
//   and those of the epilogue, c [M, N] among them, rows ldc apart
//
// Grid: x = ceil(N / 16), y = ceil(rows / (8 * rows_a_lane)), z = batch; rows from `first_row`, columns from `first_column` and
// matrices from `first_matrix` on. A workgroup is 8 lanes, a subgroup of a CPU driver; each lane makes 4 neighbouring rows (2
// where `rows_a_lane` is 2), and where it is 8 also those 32 further down, of all 16 columns. So B's addresses are uniform
// (scalar loads) and each slow per-lane load of A serves 16 columns. A size that does not divide the tile repeats the last row
// or column and does not store it.
//
// Elements are f32 or f16 (tiles/matmul_*.wgsl), sums f32. Params are those of lib/matmul.wgsl; one of epilogues/ stores.
// Positions in buffers count vec4s.

@group(0) @binding(0) var<storage, read> a: array<vec4<ElementA>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<ElementB>>;
@group(1) @binding(0) var<uniform> params: Params;

// Eight rows a lane (a tile of 64 rows), four (32 rows) or, in nn and nt, two (16 rows): for an M, or a rest of it, that
// would leave much of a larger tile empty.
override rows_a_lane: u32 = 8u;
override tall: bool = rows_a_lane == 8u;
override thin: bool = rows_a_lane == 2u;

// The first of a lane's rows.
fn first_row(tile: u32, lane: u32) -> u32 {
    return params.first_row + tile * 8u * rows_a_lane + select(4u, 2u, thin) * lane;
}

// The first column of a workgroup's tile, in vec4s.
fn first_column(tile: u32) -> u32 {
    return params.first_column / 4u + tile * 4u;
}

// A 4x4 block of C, four steps of K: sum[i] is a row of C, x[i] the same row of A, b[j] is row k + j of B.
fn add_product(sum: mat4x4<f32>, x: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    let row0 = matmul_add_row(sum[0], x[0], b);
    let row1 = matmul_add_row(sum[1], x[1], b);
    if (thin) {
        return mat4x4<f32>(row0, row1, sum[2], sum[3]);
    }
    return mat4x4<f32>(row0, row1, matmul_add_row(sum[2], x[2], b), matmul_add_row(sum[3], x[3], b));
}

// The same for one step of K: x holds four rows' elements, b four columns'.
fn add_outer(sum: mat4x4<f32>, x: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(vec4<f32>(x.x), b, sum[0]), fma(vec4<f32>(x.y), b, sum[1]),
        fma(vec4<f32>(x.z), b, sum[2]), fma(vec4<f32>(x.w), b, sum[3]),
    );
}

// How many of the four vec4 columns from `col` on C has. What follows the loop over K goes column by column, so many times:
// drivers do not unroll a loop to a bound that they do not know, and with all of it in the kernel four times, CPU drivers
// take half as long again to compile a product.
fn columns_from(col: u32) -> u32 {
    return min(4u, (params.n + 3u) / 4u - col);
}

// Writes a lane's rows in one vec4 column of C: those of `top` and, where it is tall, of `low`.
fn store(z: u32, row: u32, col: u32, top: mat4x4<f32>, low: mat4x4<f32>) {
    matmul_store_rows(z, row, col, top, select(4u, 2u, thin));
    if (tall) { matmul_store_rows(z, row + 32u, col, low, 4u); }
}

// One component of four vec4s of A or B.
fn a_lane(at: vec4<u32>, i: u32) -> vec4<f32> {
    return vec4<f32>(vec4<ElementA>(a[at.x][i], a[at.y][i], a[at.z][i], a[at.w][i]));
}

fn b_lane(at: vec4<u32>, i: u32) -> vec4<f32> {
    return vec4<f32>(vec4<ElementB>(b[at.x][i], b[at.y][i], b[at.z][i], b[at.w][i]));
}

@compute @workgroup_size(8)
fn nn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = first_row(group.y, lane);
    let col = first_column(group.x);
    let a_start = matmul_a_start(group.z);
    let a_top = matmul_row_starts(a_start, row, params.m, params.lda);
    let a_low = matmul_row_starts(a_start, row + 32u, params.m, params.lda);
    let b_stride = params.ldb / 4u;
    let b_start = matmul_b_start(group.z);
    let b_col = b_start + min(col + MATMUL_STEPS, vec4<u32>((params.n - 1u) / 4u));

    var top0 = mat4x4<f32>(); var top1 = mat4x4<f32>(); var top2 = mat4x4<f32>(); var top3 = mat4x4<f32>();
    var low0 = mat4x4<f32>(); var low1 = mat4x4<f32>(); var low2 = mat4x4<f32>(); var low3 = mat4x4<f32>();
    let whole = params.k / 4u;
    for (var k = 0u; k < whole; k++) {
        let x_top = matmul_a_block(a_top + k);
        var x_low = x_top;
        if (tall) { x_low = matmul_a_block(a_low + k); }
        let b_row = (4u * k + MATMUL_STEPS) * b_stride;
        let b0 = matmul_b_block(b_col.x + b_row);
        top0 = add_product(top0, x_top, b0);
        if (tall) { low0 = add_product(low0, x_low, b0); }
        let b1 = matmul_b_block(b_col.y + b_row);
        top1 = add_product(top1, x_top, b1);
        if (tall) { low1 = add_product(low1, x_low, b1); }
        let b2 = matmul_b_block(b_col.z + b_row);
        top2 = add_product(top2, x_top, b2);
        if (tall) { low2 = add_product(low2, x_low, b2); }
        let b3 = matmul_b_block(b_col.w + b_row);
        top3 = add_product(top3, x_top, b3);
        if (tall) { low3 = add_product(low3, x_low, b3); }
    }
    // Column by column, the next one moving up.
    for (var i = 0u; i < columns_from(col); i++) {
        // What is left of K, step by step: padding inside a vec4 is read, never used.
        for (var k = 4u * whole; k < params.k; k++) {
            let b_k = matmul_b(b_start + col + i + k * b_stride);
            top0 = add_outer(top0, a_lane(a_top + k / 4u, k % 4u), b_k);
            if (tall) { low0 = add_outer(low0, a_lane(a_low + k / 4u, k % 4u), b_k); }
        }
        store(group.z, row, col + i, top0, low0);
        top0 = top1; top1 = top2; top2 = top3;
        low0 = low1; low1 = low2; low2 = low3;
    }
}

@compute @workgroup_size(8)
fn nt(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = first_row(group.y, lane);
    let col = first_column(group.x);
    let a_start = matmul_a_start(group.z);
    let a_top = matmul_row_starts(a_start, row, params.m, params.lda);
    let a_low = matmul_row_starts(a_start, row + 32u, params.m, params.lda);
    // B's rows are C's columns: four of them for each vec4 column of C.
    let b_start = matmul_b_start(group.z);
    let b_row0 = matmul_row_starts(b_start, 4u * col, params.n, params.ldb);
    let b_row1 = matmul_row_starts(b_start, 4u * col + 4u, params.n, params.ldb);
    let b_row2 = matmul_row_starts(b_start, 4u * col + 8u, params.n, params.ldb);
    let b_row3 = matmul_row_starts(b_start, 4u * col + 12u, params.n, params.ldb);

    var top0 = mat4x4<f32>(); var top1 = mat4x4<f32>(); var top2 = mat4x4<f32>(); var top3 = mat4x4<f32>();
    var low0 = mat4x4<f32>(); var low1 = mat4x4<f32>(); var low2 = mat4x4<f32>(); var low3 = mat4x4<f32>();
    let whole = params.k / 4u;
    for (var k = 0u; k < whole; k++) {
        let x_top = matmul_a_block(a_top + k);
        var x_low = x_top;
        if (tall) { x_low = matmul_a_block(a_low + k); }
        let b0 = transpose(matmul_b_block(b_row0 + k));
        top0 = add_product(top0, x_top, b0);
        if (tall) { low0 = add_product(low0, x_low, b0); }
        let b1 = transpose(matmul_b_block(b_row1 + k));
        top1 = add_product(top1, x_top, b1);
        if (tall) { low1 = add_product(low1, x_low, b1); }
        let b2 = transpose(matmul_b_block(b_row2 + k));
        top2 = add_product(top2, x_top, b2);
        if (tall) { low2 = add_product(low2, x_low, b2); }
        let b3 = transpose(matmul_b_block(b_row3 + k));
        top3 = add_product(top3, x_top, b3);
        if (tall) { low3 = add_product(low3, x_low, b3); }
    }
    // Column by column, the next one moving up.
    for (var i = 0u; i < columns_from(col); i++) {
        let b_rows = matmul_row_starts(b_start, 4u * (col + i), params.n, params.ldb);
        // What is left of K, step by step: padding inside a vec4 is read, never used.
        for (var k = 4u * whole; k < params.k; k++) {
            let b_k = b_lane(b_rows + k / 4u, k % 4u);
            top0 = add_outer(top0, a_lane(a_top + k / 4u, k % 4u), b_k);
            if (tall) { low0 = add_outer(low0, a_lane(a_low + k / 4u, k % 4u), b_k); }
        }
        store(group.z, row, col + i, top0, low0);
        top0 = top1; top1 = top2; top2 = top3;
        low0 = low1; low1 = low2; low2 = low3;
    }
}

@compute @workgroup_size(8)
fn tn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    make_tn(group, lane);
}

// The whole of it, for matmul_rows_sums.wgsl too.
fn make_tn(group: vec3<u32>, lane: u32) {
    let row = first_row(group.y, lane);
    let col = first_column(group.x);
    // A's columns are C's rows: one vec4 of A holds four rows' elements of one step of K.
    let a_stride = params.lda / 4u;
    let a_start = matmul_a_start(group.z);
    let a_last = (params.m - 1u) / 4u;
    let a_top = a_start + min(row / 4u, a_last);
    let a_low = a_start + min(row / 4u + 8u, a_last);
    let b_stride = params.ldb / 4u;
    let b_start = matmul_b_start(group.z);
    let b_col = b_start + min(col + MATMUL_STEPS, vec4<u32>((params.n - 1u) / 4u));

    var top0 = mat4x4<f32>(); var top1 = mat4x4<f32>(); var top2 = mat4x4<f32>(); var top3 = mat4x4<f32>();
    var low0 = mat4x4<f32>(); var low1 = mat4x4<f32>(); var low2 = mat4x4<f32>(); var low3 = mat4x4<f32>();
    let whole = params.k / 4u * 4u;
    for (var k = 0u; k < whole; k += 4u) {
        let a_row = (k + MATMUL_STEPS) * a_stride;
        let x_top = transpose(matmul_a_block(a_top + a_row));
        var x_low = x_top;
        if (tall) { x_low = transpose(matmul_a_block(a_low + a_row)); }
        let b_row = (k + MATMUL_STEPS) * b_stride;
        let b0 = matmul_b_block(b_col.x + b_row);
        top0 = add_product(top0, x_top, b0);
        if (tall) { low0 = add_product(low0, x_low, b0); }
        let b1 = matmul_b_block(b_col.y + b_row);
        top1 = add_product(top1, x_top, b1);
        if (tall) { low1 = add_product(low1, x_low, b1); }
        let b2 = matmul_b_block(b_col.z + b_row);
        top2 = add_product(top2, x_top, b2);
        if (tall) { low2 = add_product(low2, x_low, b2); }
        let b3 = matmul_b_block(b_col.w + b_row);
        top3 = add_product(top3, x_top, b3);
        if (tall) { low3 = add_product(low3, x_low, b3); }
    }
    // Column by column, the next one moving up.
    for (var i = 0u; i < columns_from(col); i++) {
        // What is left of K, step by step.
        for (var k = whole; k < params.k; k++) {
            let b_k = matmul_b(b_start + col + i + k * b_stride);
            top0 = add_outer(top0, matmul_a(a_top + k * a_stride), b_k);
            if (tall) { low0 = add_outer(low0, matmul_a(a_low + k * a_stride), b_k); }
        }
        store(group.z, row, col + i, top0, low0);
        top0 = top1; top1 = top2; top2 = top3;
        low0 = low1; low1 = low2; low2 = low3;
    }
}
