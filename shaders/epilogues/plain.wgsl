// Epilogue of a matrix product (lib/matmul.wgsl): C = alpha * A * B, or C += alpha * A * B.
//
//   c  f32 or f16, [M, N], rows ldc apart; added to if params.accumulate is set, else overwritten

@group(0) @binding(2) var<storage, read_write> c: array<ItemC>;

fn epilogue_store(at: u32, row: u32, col: u32, sum: Item) {
    var value = params.alpha * sum;
    if (params.accumulate != 0u) {
        value += Item(c[at]);
    }
    c[at] = ItemC(value);
}
