// Epilogue of a matrix product (lib/matmul.wgsl): dh = (A * B) ⊙ GELU'(h), the way back through gelu.wgsl, whose C has
// the gradient A * B.
//
//   c  f32 or f16, [M, N], rows ldc apart: h, and in its place dh
//
// GELU is that of lib/gelu.wgsl, lib/gelu_tanh.wgsl or lib/gelu_quick.wgsl.

@group(0) @binding(2) var<storage, read_write> c: array<ItemC>;

fn epilogue_store(at: u32, row: u32, col: u32, sum: Item) {
    c[at] = ItemC(sum * gelu_slope(Item(c[at])));
}
