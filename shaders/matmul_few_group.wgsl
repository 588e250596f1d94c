// Matrix product of few rows for GPUs: C = epilogue(A * B), A [M, K] with M up to 4, or some more where C has few
// columns, B [N, K] (weights). Reading B takes all the time; it is read once for every four rows, and nothing is kept
// of it.
//
// N any from 1 up, K a multiple of 4. Strides, offsets and the columns of C from N up to the next multiple of 4 as in
// matmul_tile.wgsl; where C is one row, the latter are its padding. Bindings as there too, layout nt.
//
// Grid: x = ceil(N / 4), y = ceil(rows / 4), z = batch; rows from `first_row`, columns from `first_column` and matrices from
// `first_matrix` on. The 64 invocations of a workgroup lie along K, so that they read 1 KiB of a row of B at a time; they make
// four columns of C, whose sums they then add up, always in the same order.
//
// Elements are f32 or f16 (tiles/matmul_*.wgsl), sums f32. Params are those of lib/matmul.wgsl; one of epilogues/ stores.
// Positions in buffers count vec4s.

@group(0) @binding(0) var<storage, read> a: array<vec4<ElementA>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<ElementB>>;
@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;

// Of each of four rows, what each invocation has summed up for four columns; then the sums of four invocations each.
var<workgroup> sums: array<vec4<f32>, 4u * LANES>;
var<workgroup> fours: array<vec4<f32>, LANES>;

@compute @workgroup_size(LANES)
fn nt(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = params.first_row + 4u * group.y;
    let col = params.first_column / 4u + group.x;
    let a_rows = matmul_row_starts(matmul_a_start(group.z), row, params.m, params.lda);
    let b_rows = matmul_row_starts(matmul_b_start(group.z), 4u * col, params.n, params.ldb);
    let is_single = params.m == 1u;

    var sum = mat4x4<f32>();
    for (var k = lane; k < params.k / 4u; k += LANES) {
        let weights = matmul_b_block(b_rows + k);
        sum[0] += matmul_a(a_rows.x + k) * weights;
        if (!is_single) {
            sum[1] += matmul_a(a_rows.y + k) * weights;
            sum[2] += matmul_a(a_rows.z + k) * weights;
            sum[3] += matmul_a(a_rows.w + k) * weights;
        }
    }
    sums[lane] = sum[0];
    sums[LANES + lane] = sum[1];
    sums[2u * LANES + lane] = sum[2];
    sums[3u * LANES + lane] = sum[3];
    workgroupBarrier(); // the sums are written
    // A quarter of the invocations for each row.
    fours[lane] = (sums[4u * lane] + sums[4u * lane + 1u]) + (sums[4u * lane + 2u] + sums[4u * lane + 3u]);
    workgroupBarrier(); // so are those of four
    if (lane >= 4u || 4u * col >= params.n) {
        return;
    }
    var total = fours[16u * lane];
    for (var i = 1u; i < 16u; i++) {
        total += fours[16u * lane + i];
    }
    let at = matmul_c_start(group.z) + (row + lane) * (params.ldc / 4u) + col;
    matmul_store(at, row + lane, col, total);
}
