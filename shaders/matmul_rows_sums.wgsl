// Matrix product for CPU drivers, layout tn, and the sums of A's columns: C = A^T * B, sums[m] = Σ A[k, m] over k. With A = dy
// and B = x these are a layer's gradients of weight and bias.
//
//   sums  f32[M], M a multiple of 4; added to if params.accumulate_sums is set, else overwritten
//
// After matmul_rows.wgsl, where grid, tile and the other bindings are described, with epilogues/plain.wgsl. One matrix.

@group(0) @binding(3) var<storage, read_write> sums: array<vec4<f32>>;

// The workgroups that make C's first columns go down A beforehand, which they will need in any case.
@compute @workgroup_size(8)
fn tn_sums(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if first_column(group.x) == 0u {
        let row = first_row(group.y, lane);
        sum_columns(row);
        if (tall) { sum_columns(row + 32u); }
    }
    make_tn(group, lane);
}

const BLOCK = 128u;

// Four neighbouring columns of A [K, M] from column `row` on: C's rows.
fn sum_columns(row: u32) {
    if row >= params.m {
        return;
    }
    let stride = params.lda / 4u;
    var at = matmul_a_start(0u) + row / 4u;
    // Two sums, so that two loads are under way at a time. What BLOCK rows gave is put aside: long sums lose digits.
    var total = vec4<f32>();
    var even = vec4<f32>();
    var odd = vec4<f32>();
    for (var k = 0u; k + 1u < params.k; k += 2u) {
        even += matmul_a(at);
        odd += matmul_a(at + stride);
        at += 2u * stride;
        if k % BLOCK == BLOCK - 2u {
            total += even + odd;
            even = vec4<f32>();
            odd = vec4<f32>();
        }
    }
    if params.k % 2u == 1u {
        even += matmul_a(at);
    }
    if params.accumulate_sums != 0u {
        even += sums[row / 4u];
    }
    sums[row / 4u] = total + (even + odd);
}
