// Reading A and B as vec4s and in 4x4 blocks, for kernels that compute with what they read at once.
//
// Use: with lib/matmul_vec4.wgsl and a file tiles/matmul_*.wgsl; the kernel declares
//   @group(0) @binding(0) var<storage, read> a: array<vec4<ElementA>>;
//   @group(0) @binding(1) var<storage, read> b: array<vec4<ElementB>>;

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

// Where four rows of a row-major matrix start; rows past the end repeat the last.
fn matmul_row_starts(start: u32, row: u32, rows: u32, stride: u32) -> vec4<u32> {
    return start + min(row + MATMUL_STEPS, vec4<u32>(rows - 1u)) * (stride / 4u);
}

// Four steps of K for four columns of a row of C: sum + x[0] * b[0] + x[1] * b[1] + x[2] * b[2] + x[3] * b[3], where x has the
// steps of the row of A and b[i] the i-th of each column of B.
fn matmul_add_row(sum: vec4<f32>, x: vec4<f32>, b: mat4x4<f32>) -> vec4<f32> {
    let half = fma(vec4<f32>(x.y), b[1], fma(vec4<f32>(x.x), b[0], sum));
    return fma(vec4<f32>(x.w), b[3], fma(vec4<f32>(x.z), b[2], half));
}
