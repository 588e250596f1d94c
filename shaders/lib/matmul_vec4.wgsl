// What the matrix products that read and write vec4 share besides lib/matmul.wgsl: storing 4x4 blocks.
//
// Use: with tiles/vec4.wgsl and a file tiles/matmul_*.wgsl.

// An item as C stores it.
alias ItemC = vec4<ElementC>;

// Four neighbours.
const MATMUL_STEPS = vec4<u32>(0u, 1u, 2u, 3u);

// Writes the first `rows` of four rows of matrix z of C, which begin at `row`, in the vec4 column `col`; what lies outside
// of C is left out.
fn matmul_store_rows(z: u32, row: u32, col: u32, block: mat4x4<f32>, rows: u32) {
    if (col * 4u >= params.n) {
        return;
    }
    let stride = params.ldc / 4u;
    let at = matmul_c_start(z) + row * stride + col;
    matmul_store(at, row, col, block[0]);
    matmul_store(at + stride, row + 1u, col, block[1]);
    if (rows > 2u) {
        matmul_store(at + 2u * stride, row + 2u, col, block[2]);
        matmul_store(at + 3u * stride, row + 3u, col, block[3]);
    }
}
