// drop_path: y = x scale where a sample is kept, else 0.
// Backward is the same kernel: dx = dy scale under the same mask, which is made again.
//
//   x  Act[samples, n]  read
//   y  Act[samples, n]  written, or added to
//
// A sample has word 0 of index 0; n counts items, four floats or one, Act as many activations (tiles/).

@group(0) @binding(0) var<storage, read> rows: array<Act>; // x
@group(0) @binding(1) var<storage, read_write> kept_rows: array<Act>; // y

// Grid: items along x, 64 a workgroup, and samples along y; the loops stride on where there are more.
@compute @workgroup_size(64)
fn drop_path(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    for (var sample = group.y; sample < params.samples; sample += groups.y) {
        let keep = dropout_words(0u, sample).x >= params.threshold;
        let base = sample * params.n;
        for (var i = group.x * 64u + lane; i < params.n; i += groups.x * 64u) {
            var value: Item;
            if keep {
                value = params.scale * Item(rows[base + i]);
            }
            if params.accumulate != 0u {
                value += Item(kept_rows[base + i]);
            }
            kept_rows[base + i] = Act(value);
        }
    }
}
