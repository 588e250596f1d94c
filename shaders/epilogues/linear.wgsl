// Epilogue of a matrix product (lib/matmul.wgsl): C = alpha * A * B, plus what is asked for of bias, residual and C itself. The
// forward pass of a linear layer, and every product of layout nt with nothing else behind it: in one kernel, since each takes a
// driver a tenth of a second to compile.
//
//   bias      f32[N], if params.has_bias is set, else another buffer and not read
//   residual  f32, as c, if params.has_residual is set, else another buffer and not read
//   c         f32 or f16, [M, N], rows ldc apart; added to if params.accumulate is set, else overwritten

@group(0) @binding(2) var<storage, read> bias: array<Item>;
@group(0) @binding(3) var<storage, read> residual: array<Item>;
@group(0) @binding(4) var<storage, read_write> c: array<ItemC>;

fn epilogue_store(at: u32, row: u32, col: u32, sum: Item) {
    var value = params.alpha * sum;
    if (params.has_bias != 0u) {
        value += bias[col];
    }
    if (params.has_residual != 0u) {
        value += residual[at];
    }
    if (params.accumulate != 0u) {
        value += Item(c[at]);
    }
    c[at] = ItemC(value);
}
