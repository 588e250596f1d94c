// What the matrix products that read and write vec4 share besides lib/matmul.wgsl: 4x4 blocks.
//
// Use: with tiles/vec4.wgsl and a file tiles/matmul_*.wgsl; the kernel also declares
//   @group(0) @binding(0) var<storage, read> a: array<vec4<ElementA>>;
//   @group(0) @binding(1) var<storage, read> b: array<vec4<ElementB>>;

// An item as C stores it.
alias ItemC = vec4<ElementC>;

// Four neighbours.
const MATMUL_STEPS = vec4<u32>(0u, 1u, 2u, 3u);

fn matmul_a(at: u32) -> vec4<f32> {
    return vec4<f32>(a[at]);
}

fn matmul_b(at: u32) -> vec4<f32> {
    return vec4<f32>(b[at]);
}

// Four loads of A or B from four places.
fn matmul_a_block(at: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(matmul_a(at.x), matmul_a(at.y), matmul_a(at.z), matmul_a(at.w));
}

fn matmul_b_block(at: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(matmul_b(at.x), matmul_b(at.y), matmul_b(at.z), matmul_b(at.w));
}

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
