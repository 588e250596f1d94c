// copy_rows: copies the same range of every sample to a range of another tensor's samples.
//   y[s, y_first + i] = x[s, x_first + i]  for i < items
//
//   x  Item[samples, x_stride]  read
//   y  Item[samples, y_stride]  written, or added to, in that range
//
// Grid: items along x, 64 a workgroup, and samples along y; where that exceeds the device's limits, the loops stride on.
// Item is float or vec4 (tiles/).

struct Params {
    items: u32, samples: u32,
    x_first: u32, x_stride: u32,
    y_first: u32, y_stride: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Item>;
@group(0) @binding(1) var<storage, read_write> y: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn copy_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    for (var sample = group.y; sample < params.samples; sample += groups.y) {
        let x_base = sample * params.x_stride + params.x_first;
        let y_base = sample * params.y_stride + params.y_first;
        for (var i = group.x * 64u + lane; i < params.items; i += groups.x * 64u) {
            if params.accumulate == 0u {
                y[y_base + i] = x[x_base + i];
            } else {
                y[y_base + i] += x[x_base + i];
            }
        }
    }
}
