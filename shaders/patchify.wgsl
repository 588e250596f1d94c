// Cuts images into square patches: y[b, n, (c, py, px)] = scale[c] v + shift[c], where v is the pixel
// image[b, c, P (n / across) + py, P (n % across) + px] and P the patch side: patches row by row, each with its channels
// outermost.
//
//   image  u8[batch, 3, height, width], four a word, or f32[..]  read
//   y      f32[batch, patches, 3 P P]                            written
//
// Grid: a patch a workgroup of 64, folded (lib/grid.wgsl), or of very large ones a workgroup for each layer along z. Any P that
// divides both sides.

struct Params {
    count: u32, // batch * patches
    patches: u32, // in an image
    across: u32, // in a row of an image
    side: u32,
    width: u32,
    accumulate: u32,
    scale_r: f32,
    scale_g: f32,
    scale_b: f32,
    shift_r: f32,
    shift_g: f32,
    shift_b: f32,
}

@group(1) @binding(0) var<uniform> params: Params;

const LANES = 64u;

// The first pixel of a patch: an offset in `image`.
fn corner(index: u32) -> u32 {
    let number = index % params.patches;
    let image = index / params.patches * params.patches * 3u * params.side * params.side;
    return image + (number / params.across * params.width + number % params.across) * params.side;
}

// A pixel's channel, and its distance from the patch's first.
struct Place { channel: u32, offset: u32 }

fn place_of(i: u32) -> Place {
    let area = params.side * params.side;
    let channel = i / area;
    let inside = i - channel * area;
    let py = inside / params.side;
    let px = inside - py * params.side;
    return Place(channel, channel * params.patches * area + py * params.width + px);
}

fn scale_of(channel: u32) -> f32 {
    return select(select(params.scale_b, params.scale_g, channel == 1u), params.scale_r, channel == 0u);
}

fn shift_of(channel: u32) -> f32 {
    return select(select(params.shift_b, params.shift_g, channel == 1u), params.shift_r, channel == 0u);
}

// ---- forward ----

fn normalised(value: f32, channel: u32) -> f32 {
    return value * scale_of(channel) + shift_of(channel);
}

@group(0) @binding(0) var<storage, read> bytes: array<u32>;
@group(0) @binding(0) var<storage, read> image: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn forward_u8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = grid_group(group, groups);
    if index >= params.count {
        return;
    }
    let first = corner(index);
    let size = 3u * params.side * params.side;
    for (var i = group.z * LANES + lane; i < size; i += groups.z * LANES) {
        let place = place_of(i);
        let at = first + place.offset;
        let value = f32((bytes[at / 4u] >> (at % 4u * 8u)) & 0xffu);
        y[index * size + i] = normalised(value, place.channel);
    }
}

@compute @workgroup_size(64)
fn forward_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = grid_group(group, groups);
    if index >= params.count {
        return;
    }
    let first = corner(index);
    let size = 3u * params.side * params.side;
    for (var i = group.z * LANES + lane; i < size; i += groups.z * LANES) {
        let place = place_of(i);
        y[index * size + i] = normalised(image[first + place.offset], place.channel);
    }
}

// ---- backward of forward_f32: every pixel is in one patch, so dimage[pixel] = scale[c] dy[its place] ----

@group(0) @binding(0) var<storage, read> dy: array<f32>; // f32[batch, patches, 3 P P]
@group(0) @binding(1) var<storage, read_write> dimage: array<f32>; // f32[batch, 3, height, width]

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = grid_group(group, groups);
    if index >= params.count {
        return;
    }
    let first = corner(index);
    let size = 3u * params.side * params.side;
    for (var i = group.z * LANES + lane; i < size; i += groups.z * LANES) {
        let place = place_of(i);
        let value = dy[index * size + i] * scale_of(place.channel);
        let at = first + place.offset;
        if params.accumulate == 0u {
            dimage[at] = value;
        } else {
            dimage[at] += value;
        }
    }
}
