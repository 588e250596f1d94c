// mean_tokens: y[b, c] = factor Σ x[b, t, c] over t = skip .. T - 1, factor = 1 / (T - skip).
//
//   x   Item[B, T, C]  read
//   y   Item[B, C]     written; of each slice of tokens where there are several: Item[B, slices, C]
//   dy  Item[B, C]     read (backward)
//   d_x Item[B, T, C]  written, or added to (backward)
//
// Item is float or vec4 (tiles/), and width = C counts items. Grid of both: an invocation for each column, 64 a workgroup
// along x, and samples along y; where that exceeds the device's limits, the loops stride on. Slices of tokens along z: of those
// from `skip` on, backward of all.

struct Params {
    samples: u32,
    tokens: u32,
    skip: u32,
    slice: u32, // tokens
    width: u32,
    factor: f32,
    accumulate: u32,
}

@group(1) @binding(0) var<uniform> params: Params;

// ---- forward ----

@group(0) @binding(0) var<storage, read> x: array<Item>;
@group(0) @binding(1) var<storage, read_write> y: array<Item>;

const BLOCK = 256u;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = params.skip + group.z * params.slice;
    let end = min(first + params.slice, params.tokens);
    for (var sample = group.y; sample < params.samples; sample += groups.y) {
        for (var column = group.x * 64u + lane; column < params.width; column += groups.x * 64u) {
            let base = sample * params.tokens * params.width + column;
            // Four sums, so that four loads are under way at a time. What BLOCK tokens gave is put aside: long sums lose digits.
            var sums: array<Item, 4>;
            var total: Item;
            var t = first;
            for (; t + 3u < end; t += 4u) {
                sums[0] += x[base + t * params.width];
                sums[1] += x[base + (t + 1u) * params.width];
                sums[2] += x[base + (t + 2u) * params.width];
                sums[3] += x[base + (t + 3u) * params.width];
                if (t - first) % BLOCK == BLOCK - 4u {
                    total += (sums[0] + sums[1]) + (sums[2] + sums[3]);
                    sums = array<Item, 4>();
                }
            }
            for (; t < end; t++) {
                sums[0] += x[base + t * params.width];
            }
            let at = (sample * groups.z + group.z) * params.width + column;
            y[at] = params.factor * (total + ((sums[0] + sums[1]) + (sums[2] + sums[3])));
        }
    }
}

// ---- backward of y = factor Σ x: dx = factor dy for every token that was averaged, 0 for those skipped ----

@group(0) @binding(0) var<storage, read> dy: array<Item>;
@group(0) @binding(1) var<storage, read_write> d_x: array<Item>;

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = group.z * params.slice;
    let end = min(first + params.slice, params.tokens);
    for (var sample = group.y; sample < params.samples; sample += groups.y) {
        for (var column = group.x * 64u + lane; column < params.width; column += groups.x * 64u) {
            let value = params.factor * dy[sample * params.width + column];
            let base = sample * params.tokens * params.width + column;
            if params.accumulate == 0u {
                var zero: Item;
                for (var t = first; t < min(end, params.skip); t++) {
                    d_x[base + t * params.width] = zero;
                }
                for (var t = max(first, params.skip); t < end; t++) {
                    d_x[base + t * params.width] = value;
                }
            } else {
                for (var t = max(first, params.skip); t < end; t++) {
                    d_x[base + t * params.width] += value;
                }
            }
        }
    }
}
