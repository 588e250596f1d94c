// dropout: y = x scale where an element is kept, else 0, for samples of any size.
// Backward is the same kernel: dx = dy scale under the same mask, which is made again.
//
//   x  f32[samples, n]  read
//   y  f32[samples, n]  written, or added to
//
// Element 4q + j of a sample has word j of index q.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

// Grid: four elements an invocation, 64 a workgroup along x, and samples along y; where that exceeds the device's
// limits, the loops stride on. Any n.
@compute @workgroup_size(64)
fn dropout(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    for (var sample = group.y; sample < params.samples; sample += groups.y) {
        for (var q = group.x * 64u + lane; q * 4u < params.n; q += groups.x * 64u) {
            let factors = select(vec4<f32>(0.0), vec4<f32>(params.scale), dropout_words(q, sample) >= vec4<u32>(params.threshold));
            let base = sample * params.n + q * 4u;
            let count = min(params.n - q * 4u, 4u);
            for (var j = 0u; j < count; j++) {
                // Not a product where dropped: 0 times an infinity is NaN.
                let value = select(0.0, x[base + j] * factors[j], factors[j] != 0.0);
                if params.accumulate == 0u {
                    y[base + j] = value;
                } else {
                    y[base + j] += value;
                }
            }
        }
    }
}
