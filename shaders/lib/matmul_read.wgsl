// Reading A and B as vec4s and in 4x4 blocks, for kernels that compute with what they read at once.
//
// Use: with a file tiles/matmul_*.wgsl; the kernel declares
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
