// The float of an Item (tiles/scalar.wgsl), for kernels that reduce along a row.
alias ItemColumns = u32;

// The column of a row's item `i`.
fn item_columns(i: u32) -> u32 {
    return i;
}

fn item_max(v: f32) -> f32 {
    return v;
}

fn item_sum(v: f32) -> f32 {
    return v;
}
