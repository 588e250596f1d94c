// Epilogue of a matrix product (lib/matmul.wgsl): h = A * B + bias, C = GELU(h).
//
//   bias  f32[N]
//   h     f32 or f16, as c: what backward needs (gelu_backward.wgsl)
//   c     f32 or f16, [M, N], rows ldc apart
//
// GELU is that of lib/gelu.wgsl, lib/gelu_tanh.wgsl or lib/gelu_quick.wgsl.

@group(0) @binding(2) var<storage, read> bias: array<Item>;
@group(0) @binding(3) var<storage, read_write> h: array<ItemC>;
@group(0) @binding(4) var<storage, read_write> c: array<ItemC>;

fn epilogue_store(at: u32, row: u32, col: u32, sum: Item) {
    let value = sum + bias[col];
    h[at] = ItemC(value);
    c[at] = ItemC(gelu_value(value));
}
