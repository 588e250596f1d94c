// Epilogue of a matrix product (lib/matmul.wgsl): C = A * B + bias + residual.
//
//   bias      f32[N]
//   residual  f32, as c
//   c         f32[M, N], rows ldc apart

@group(0) @binding(2) var<storage, read> bias: array<Item>;
@group(0) @binding(3) var<storage, read> residual: array<Item>;
@group(0) @binding(4) var<storage, read_write> c: array<ItemC>;

fn epilogue_store(at: u32, row: u32, col: u32, sum: Item) {
    c[at] = ItemC(sum + bias[col] + residual[at]);
}
