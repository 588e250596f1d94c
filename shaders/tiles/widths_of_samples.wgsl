// Rows of a softmax that are as long as their sample.
//
//   lengths  u32[rows / sample]  read; a row has `width` elements where it is more
@group(0) @binding(1) var<storage, read> lengths: array<u32>;

fn width_of(row: u32) -> u32 {
    return min(params.width, lengths[row / params.sample]);
}
