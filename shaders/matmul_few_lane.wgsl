// Matrix product of few rows for CPU drivers: C = epilogue(A * B), A [M, K] with M up to 4, B [N, K] (weights).
// Reading B takes all the time; it is read once, and nothing is kept of it.
//
// N any from 1 up, K a multiple of 4. Strides, offsets and the columns of C from N up to the next multiple of 4 as in
// matmul_rows.wgsl; where C is one row, the latter are its padding. Bindings as there too, layout nt.
//
// Grid: x = ceil(N / 32), y = ceil(rows / 4), z = batch; rows from `first_row`, columns from `first_column` and matrices from
// `first_matrix` on. A workgroup is 8 lanes, a subgroup of a CPU driver; each makes four neighbouring columns of all rows, so
// that every lane of a vector has an element of B of its own, and A's addresses are uniform. A sum goes along K step by step,
// as in matmul_rows.wgsl and matmul_simple.wgsl: the results are theirs.
//
// Elements are f32 or f16 (tiles/matmul_*.wgsl), sums f32. Params are those of lib/matmul.wgsl; one of epilogues/ stores.
// Positions in buffers count vec4s.

@group(0) @binding(0) var<storage, read> a: array<vec4<ElementA>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<ElementB>>;
@group(1) @binding(0) var<uniform> params: Params;

const LANES = 8u;

@compute @workgroup_size(LANES)
fn nt(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = params.first_row + 4u * group.y;
    let col = params.first_column / 4u + group.x * LANES + lane;
    let a_rows = matmul_row_starts(matmul_a_start(group.z), row, params.m, params.lda);
    let b_rows = matmul_row_starts(matmul_b_start(group.z), 4u * col, params.n, params.ldb);
    let whole = params.k / 4u;

    var sum = mat4x4<f32>();
    if (params.m == 1u) {
        // A loop of its own, which drivers keep in registers.
        var only = vec4<f32>();
        for (var k = 0u; k < whole; k++) {
            only = matmul_add_row(only, matmul_a(a_rows.x + k), transpose(matmul_b_block(b_rows + k)));
        }
        sum[0] = only;
    } else {
        for (var k = 0u; k < whole; k++) {
            let steps = transpose(matmul_b_block(b_rows + k));
            sum[0] = matmul_add_row(sum[0], matmul_a(a_rows.x + k), steps);
            sum[1] = matmul_add_row(sum[1], matmul_a(a_rows.y + k), steps);
            sum[2] = matmul_add_row(sum[2], matmul_a(a_rows.z + k), steps);
            sum[3] = matmul_add_row(sum[3], matmul_a(a_rows.w + k), steps);
        }
    }
    matmul_store_rows(group.z, row, col, sum, 4u);
}
