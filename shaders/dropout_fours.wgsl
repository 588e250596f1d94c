// dropout.wgsl for samples of a multiple of four elements, in either precision.
//
//   x  Act[samples, n / 4]  read
//   y  Act[samples, n / 4]  written, or added to
//
// Act is four activations (tiles/).

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read_write> y: array<Act>;

// Grid: four elements an invocation, 64 a workgroup along x, and samples along y; the loops stride on where there are more.
@compute @workgroup_size(64)
fn dropout(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let fours = params.n / 4u;
    for (var sample = group.y; sample < params.samples; sample += groups.y) {
        for (var q = group.x * 64u + lane; q < fours; q += groups.x * 64u) {
            let at = sample * fours + q;
            let keeps = dropout_words(q, sample) >= vec4<u32>(params.threshold);
            // Not a product where dropped: 0 times an infinity is NaN.
            var value = select(vec4<f32>(), vec4<f32>(x[at]) * params.scale, keeps);
            if params.accumulate != 0u {
                value += vec4<f32>(y[at]);
            }
            y[at] = Act(value);
        }
    }
}
