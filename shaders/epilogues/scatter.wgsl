// Epilogue of a matrix product (lib/matmul.wgsl): C's rows among those of a longer tensor, with a residual:
// full[b, indices[b, r]] = (A * B + bias + residual)[b, r], for M = batch * kept rows; other rows stay.
//
//   bias        f32[N]
//   residual    f32[M, N], packed
//   indices     u32[batch, kept]
//   fault_flag  raised by an index that is not below `tokens`, whose row is left out
//   c           f32[batch, tokens, N]: full, rows ldc apart
//
// No batch: z is 0.

@group(0) @binding(2) var<storage, read> bias: array<Item>;
@group(0) @binding(3) var<storage, read> residual: array<Item>;
@group(0) @binding(4) var<storage, read> indices: array<u32>;
@group(0) @binding(5) var<storage, read_write> fault_flag: FaultFlag;
@group(0) @binding(6) var<storage, read_write> c: array<ItemC>;

fn epilogue_store(at: u32, row: u32, col: u32, sum: Item) {
    let index = indices[row];
    if (index < params.tokens) {
        let place = row / params.kept * params.tokens + index;
        c[place * (params.ldc / ITEM) + col] = ItemC(sum + bias[col] + residual[at]);
    } else if (col == 0u) {
        fault_raise(params.fault, index, params.tokens);
    }
}
