// Matrix product on matrix units: what lib/matmul.wgsl says, by cooperative 8x8 matrices, f16 times f16 into f32. Tiles of
// `rows` by 32 go through workgroup memory, 16 steps of K at a time, and are narrowed to f16 on the way in.
//
//   nn: A [M, K], B [K, N]      nt: A [M, K], B [N, K] (weights)      tn: A [K, M], B [K, N]
//
// Any M, N, K from 1 up; strides and bindings are those of matmul_tile.wgsl. What lies past M, N and K is zero in the
// tiles. Single elements of a cooperative matrix cannot be reached, so C goes through workgroup memory too, and from there
// to the epilogue.
//
// Grid: x = ceil(N / 32), y = ceil(M / rows), z = batch. A workgroup is several subgroups of `lanes` invocations, each of which
// makes 16 by 16 elements of the tile: cooperative operations are a subgroup's. Together they have 64 invocations or more, since
// Apple's compiler makes wrong code of such kernels with 32 (docs/portability.md). Params are those of lib/matmul.wgsl.

@group(0) @binding(0) var<storage, read> a: array<vec4<ElementA>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<ElementB>>;
@group(1) @binding(0) var<uniform> params: Params;

// Invocations of a subgroup of the device.
override lanes: u32 = 8u;
// Rows of C a workgroup makes: 64, by eight subgroups, or 32, by four.
override rows: u32 = 64u;
override invocations: u32 = rows / 8u * lanes;

const COLUMNS = 32u;
const DEPTH = 16u;

var<workgroup> a_tile: array<f16, rows * DEPTH>; // [rows][DEPTH]
var<workgroup> b_tile: array<f16, 512>; // [DEPTH][COLUMNS]
var<workgroup> c_tile: array<f32, rows * COLUMNS>; // [rows][COLUMNS]

// The elements of a vec4 whose first is number `first` of a row of `count`: zero where there are none.
fn masked(v: vec4<f32>, first: u32, count: u32) -> vec4<f32> {
    return select(vec4<f32>(), v, first + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count));
}

// Elements col to col + 3 of row `row` of a matrix of height x width, or zeros.
fn load_a(start: u32, row: u32, col: u32, height: u32, width: u32) -> vec4<f32> {
    if row >= height || col >= width {
        return vec4<f32>();
    }
    return masked(matmul_a(start + row * (params.lda / 4u) + col / 4u), col, width);
}

fn load_b(start: u32, row: u32, col: u32, height: u32, width: u32) -> vec4<f32> {
    if row >= height || col >= width {
        return vec4<f32>();
    }
    return masked(matmul_b(start + row * (params.ldb / 4u) + col / 4u), col, width);
}

// Four elements of a tile, `step` apart.
fn put_a(at: u32, step: u32, v: vec4<f32>) {
    let narrow = vec4<f16>(v);
    a_tile[at] = narrow.x;
    a_tile[at + step] = narrow.y;
    a_tile[at + 2u * step] = narrow.z;
    a_tile[at + 3u * step] = narrow.w;
}

fn put_b(at: u32, step: u32, v: vec4<f32>) {
    let narrow = vec4<f16>(v);
    b_tile[at] = narrow.x;
    b_tile[at + step] = narrow.y;
    b_tile[at + 2u * step] = narrow.z;
    b_tile[at + 3u * step] = narrow.w;
}

// A's tile from rows of A (nn, nt) ...
fn stage_a_rows(start: u32, row: u32, k: u32, lane: u32) {
    for (var i = lane; i < rows * DEPTH / 4u; i += invocations) {
        let r = i / (DEPTH / 4u);
        let c = i % (DEPTH / 4u) * 4u;
        put_a(r * DEPTH + c, 1u, load_a(start, row + r, k + c, params.m, params.k));
    }
}

// ... or from its columns (tn).
fn stage_a_columns(start: u32, row: u32, k: u32, lane: u32) {
    for (var i = lane; i < rows * DEPTH / 4u; i += invocations) {
        let c = i / (rows / 4u);
        let r = i % (rows / 4u) * 4u;
        put_a(r * DEPTH + c, DEPTH, load_a(start, k + c, row + r, params.k, params.m));
    }
}

// B's tile from rows of B (nn, tn) ...
fn stage_b_rows(start: u32, col: u32, k: u32, lane: u32) {
    for (var i = lane; i < COLUMNS * DEPTH / 4u; i += invocations) {
        let r = i / (COLUMNS / 4u);
        let c = i % (COLUMNS / 4u) * 4u;
        put_b(r * COLUMNS + c, 1u, load_b(start, k + r, col + c, params.k, params.n));
    }
}

// ... or from its columns (nt).
fn stage_b_columns(start: u32, col: u32, k: u32, lane: u32) {
    for (var i = lane; i < COLUMNS * DEPTH / 4u; i += invocations) {
        let c = i / (DEPTH / 4u);
        let r = i % (DEPTH / 4u) * 4u;
        put_b(r * COLUMNS + c, COLUMNS, load_b(start, col + c, k + r, params.n, params.k));
    }
}

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;

// A workgroup's tile of C. Whether A's and B's tiles are made of the matrices' columns is the layout.
fn product(group: vec3<u32>, lane: u32, a_columns: bool, b_columns: bool) {
    let row = params.first_row + group.y * rows;
    let col = params.first_column + group.x * COLUMNS;
    let a_start = matmul_a_start(group.z);
    let b_start = matmul_b_start(group.z);
    // Where the subgroup's part of the tile begins.
    let subgroup = lane / lanes;
    let down = subgroup / 2u * 16u;
    let across = subgroup % 2u * 16u;
    var c00 = Sum(); var c01 = Sum();
    var c10 = Sum(); var c11 = Sum();
    for (var k = 0u; k < params.k; k += DEPTH) {
        workgroupBarrier(); // the tiles of the step before have been read
        if a_columns { stage_a_columns(a_start, row, k, lane); } else { stage_a_rows(a_start, row, k, lane); }
        if b_columns { stage_b_columns(b_start, col, k, lane); } else { stage_b_rows(b_start, col, k, lane); }
        workgroupBarrier(); // the tiles are written
        for (var step = 0u; step < DEPTH; step += 8u) {
            let a0 = coopLoadT<Left>(&a_tile[down * DEPTH + step], DEPTH);
            let a1 = coopLoadT<Left>(&a_tile[(down + 8u) * DEPTH + step], DEPTH);
            let b0 = coopLoadT<Right>(&b_tile[step * COLUMNS + across], COLUMNS);
            let b1 = coopLoadT<Right>(&b_tile[step * COLUMNS + across + 8u], COLUMNS);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
        }
    }
    // Bound to names, because naga 30 loses a value that is made in the store's own arguments.
    let at = down * COLUMNS + across;
    let sum00 = c00;
    coopStoreT(sum00, &c_tile[at], COLUMNS);
    let sum01 = c01;
    coopStoreT(sum01, &c_tile[at + 8u], COLUMNS);
    let sum10 = c10;
    coopStoreT(sum10, &c_tile[at + 8u * COLUMNS], COLUMNS);
    let sum11 = c11;
    coopStoreT(sum11, &c_tile[at + 8u * COLUMNS + 8u], COLUMNS);
    workgroupBarrier(); // C's tile is written
    let c_start = matmul_c_start(group.z);
    for (var i = lane; i < rows * COLUMNS / 4u; i += invocations) {
        let r = row + i / (COLUMNS / 4u);
        let c = col / 4u + i % (COLUMNS / 4u);
        if c * 4u < params.n {
            let sum = vec4<f32>(c_tile[4u * i], c_tile[4u * i + 1u], c_tile[4u * i + 2u], c_tile[4u * i + 3u]);
            matmul_store(c_start + r * (params.ldc / 4u) + c, r, c, sum);
        }
    }
}

@compute @workgroup_size(invocations)
fn nn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    product(group, lane, false, false);
}

@compute @workgroup_size(invocations)
fn nt(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    product(group, lane, false, true);
}

@compute @workgroup_size(invocations)
fn tn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    product(group, lane, true, false);
}
