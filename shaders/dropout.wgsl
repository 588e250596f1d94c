// dropout: y = x scale where an element is kept, else 0. drop_path: the same for whole samples.
// Backward is the same kernel: dx = dy scale under the same mask, which is made again.
//
//   x  f32[samples, n]  read
//   y  f32[samples, n]  written, or added to
//
// What falls below `threshold` is dropped. The random words' key, layer and first_* are those of lib/philox.wgsl.

struct Params {
    samples: u32, n: u32,
    key_low: u32, key_high: u32, layer: u32, first_low: u32, first_high: u32,
    threshold: u32, scale: f32, accumulate: u32,
}

@group(1) @binding(0) var<uniform> params: Params;

fn words(index: u32, sample: u32) -> vec4<u32> {
    let first = vec2<u32>(params.first_low, params.first_high);
    return philox_words(index, params.layer, first, sample, vec2<u32>(params.key_low, params.key_high));
}

// ---- dropout: element 4q + j of a sample has word j of index q ----

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
            let factors = select(vec4<f32>(0.0), vec4<f32>(params.scale), words(q, sample) >= vec4<u32>(params.threshold));
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

// ---- drop_path: a sample has word 0 of index 0; n counts items, float or vec4 (tiles/) ----

@group(0) @binding(0) var<storage, read> rows: array<Item>; // x
@group(0) @binding(1) var<storage, read_write> kept_rows: array<Item>; // y

// Grid: items along x, 64 a workgroup, and samples along y; the loops stride on where there are more.
@compute @workgroup_size(64)
fn drop_path(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    for (var sample = group.y; sample < params.samples; sample += groups.y) {
        let keep = words(0u, sample).x >= params.threshold;
        let base = sample * params.n;
        for (var i = group.x * 64u + lane; i < params.n; i += groups.x * 64u) {
            var value: Item;
            if keep {
                value = params.scale * rows[base + i];
            }
            if params.accumulate == 0u {
                kept_rows[base + i] = value;
            } else {
                kept_rows[base + i] += value;
            }
        }
    }
}
