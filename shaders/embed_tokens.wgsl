// embed_tokens: y[b] = concat(prefix, patches[b]) + pos: prefix tokens before each sample's patches, positions added.
//
//   patches  Item[B, N, C]  read
//   prefix   Item[P, C]     read
//   pos      Item[T, C]     read; T = P + N
//   y        Item[B, T, C]  written
//
// `prefix_items` = P C and `items` = T C count items, float or vec4 (tiles/). Grid: items along x, 64 a workgroup, and
// samples along y; where that exceeds the device's limits, the loops stride on.

struct Params { samples: u32, items: u32, prefix_items: u32 }

@group(0) @binding(0) var<storage, read> patches: array<Item>;
@group(0) @binding(1) var<storage, read> prefix: array<Item>;
@group(0) @binding(2) var<storage, read> pos: array<Item>;
@group(0) @binding(3) var<storage, read_write> y: array<Item>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn embed_tokens(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    for (var sample = group.y; sample < params.samples; sample += groups.y) {
        let patch_base = sample * (params.items - params.prefix_items);
        for (var i = group.x * 64u + lane; i < params.items; i += groups.x * 64u) {
            var token: Item;
            if i < params.prefix_items {
                token = prefix[i];
            } else {
                token = patches[patch_base + i - params.prefix_items];
            }
            y[sample * params.items + i] = token + pos[i];
        }
    }
}
