// What dropout's kernels share. What falls below `threshold` is dropped; the random words' key, layer and first_* are those
// of lib/philox.wgsl.

struct Params {
    samples: u32, n: u32,
    key_low: u32, key_high: u32, layer: u32, first_low: u32, first_high: u32,
    threshold: u32, scale: f32, accumulate: u32,
}

@group(1) @binding(0) var<uniform> params: Params;

fn dropout_words(index: u32, sample: u32) -> vec4<u32> {
    let first = vec2<u32>(params.first_low, params.first_high);
    return philox_words(index, params.layer, first, sample, vec2<u32>(params.key_low, params.key_high));
}
