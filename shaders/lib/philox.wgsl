// philox4x32: ten rounds of Philox (Salmon et al., 2011), random bits from a counter and a key without any state.

// (low, high) word of a * b; WGSL has no 64-bit product.
fn philox_product(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let middle = a_high * b_low + ((a_low * b_low) >> 16u);
    let carried = a_low * b_high + (middle & 0xffffu);
    return vec2<u32>(a * b, a_high * b_high + (middle >> 16u) + (carried >> 16u));
}

fn philox4x32(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round++) {
        let first = philox_product(0xd2511f53u, c.x);
        let second = philox_product(0xcd9e8d57u, c.z);
        c = vec4<u32>(second.y ^ c.y ^ k.x, second.x, first.y ^ c.w ^ k.y, first.x);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// Four random words for `index` within sample `first + sample` of the global batch, in the part `layer` of the model.
// The counter is (index, layer, low and high word of the sample's position).
fn philox_words(index: u32, layer: u32, first: vec2<u32>, sample: u32, key: vec2<u32>) -> vec4<u32> {
    let low = first.x + sample;
    let high = first.y + u32(low < sample); // the carry
    return philox4x32(vec4<u32>(index, layer, low, high), key);
}
