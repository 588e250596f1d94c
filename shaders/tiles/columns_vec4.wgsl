// The floats of an Item (tiles/vec4.wgsl), for kernels that reduce along a row.
alias ItemColumns = vec4<u32>;

// The columns of a row's item `i`.
fn item_columns(i: u32) -> vec4<u32> {
    return vec4<u32>(0u, 1u, 2u, 3u) + i * ITEM;
}

fn item_max(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

fn item_sum(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}
