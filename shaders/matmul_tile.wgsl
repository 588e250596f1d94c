// Matrix product for GPUs: C = alpha * A * B (+ bias) (+ C).
// Square tiles go through workgroup memory, 16 steps of K at a time.
//
//   nn: A f32[M, K], B f32[K, N]      nt: A f32[M, K], B f32[N, K] (weights)      tn: A f32[K, M], B f32[K, N]
//
// Any M, N, K from 1 up. Row strides, offsets and batch strides must be multiples of 4 elements, since everything is
// read and written as vec4. If N is no multiple of 4, the columns of C from N up to the next multiple of 4 are
// written too, with products of whatever B's padding holds there (nt: of B's last row); the host keeps those columns
// free. No other padding takes part: it may hold anything. The last vec4 of a matrix may end up to 3 elements past
// it; buffers allow for that.
//
// Bindings, each holding `batch` matrices; matrix z starts at offset + (z / inner) * outer + (z % inner) * inner
// stride:
//   a     nn, nt: f32[M, K], rows lda apart; tn: f32[K, M], rows lda apart
//   b     nn, tn: f32[K, N], rows ldb apart; nt: f32[N, K], rows ldb apart
//   bias  f32[N], read only if flags bit 0 is set
//   c     f32[M, N], rows ldc apart; added to if flags bit 1 is set, else overwritten
//
// Grid: x = ceil(N / tile), y = ceil(rows / tile), z = batch; the rows from `first_row` on. `tile` is 64 (128 invocations, each 8 rows of 4 columns,
// 8.5 KiB of workgroup memory) or 32 (64 invocations, each 4 rows of 4 columns, 4.5 KiB: for products of few tiles).
// A size that does not divide the tile repeats the last row or column and does not store it; past the end of K both
// tiles hold zeros.
//
// Uses lib/matmul.wgsl (Params), lib/matmul_vec4.wgsl and tiles/vec4.wgsl. Positions in buffers count vec4s.

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> params: Params;

// Rows and columns of C a workgroup makes: 64 or 32.
override tile: u32 = 64u;

// Steps of K held in workgroup memory.
const DEPTH: u32 = 16u;
// vec4s from one step of K to the next. One more than a row has, so that the transposed writes meet fewer bank
// conflicts.
override row_stride: u32 = tile / 4u + 1u;

// Step k of A's tile: `tile` rows of A as vec4s of four rows; of B's tile: `tile` columns as vec4s of four columns.
var<workgroup> a_tile: array<vec4<f32>, DEPTH * row_stride>;
var<workgroup> b_tile: array<vec4<f32>, DEPTH * row_stride>;

// Steps k to k + 3: which exist.
fn steps_inside(k: u32) -> vec4<bool> {
    return k + MATMUL_STEPS < vec4<u32>(params.k);
}

// A 4x4 block, [step][row or column]. A matrix stored along K (A of nn and nt, B of nt) is turned on the way.
fn turned(block: mat4x4<f32>, k: u32) -> mat4x4<f32> {
    let inside = steps_inside(k);
    let zero = vec4<f32>();
    return transpose(mat4x4<f32>(
        select(zero, block[0], inside), select(zero, block[1], inside),
        select(zero, block[2], inside), select(zero, block[3], inside),
    ));
}

fn straight(block: mat4x4<f32>, k: u32) -> mat4x4<f32> {
    let inside = steps_inside(k);
    let zero = vec4<f32>();
    return mat4x4<f32>(
        select(zero, block[0], inside.x), select(zero, block[1], inside.y),
        select(zero, block[2], inside.z), select(zero, block[3], inside.w),
    );
}

// Where the four rows of a block start in a matrix stored along K: `line` is the first row of A (nn, nt) or of B
// (nt).
fn along_k(start: u32, line: u32, lines: u32, stride: u32, k: u32) -> vec4<u32> {
    return start + min(line + MATMUL_STEPS, vec4<u32>(lines - 1u)) * (stride / 4u) + min(k, params.k - 1u) / 4u;
}

// The same for a matrix whose rows are steps of K: `line` is the first column of A (tn) or of B (nn, tn).
fn across_k(start: u32, line: u32, lines: u32, stride: u32, k: u32) -> vec4<u32> {
    return start + min(k + MATMUL_STEPS, vec4<u32>(params.k - 1u)) * (stride / 4u) + min(line, lines - 1u) / 4u;
}

// One invocation's share of the work: half of the workgroup brings A's tile, the other half B's, one 4x4 block each.
struct Share {
    brings_a: bool,
    // The block's first step of K and first row (A) or column (B) within the tile, if the matrix is stored along K:
    // four neighbours read 64 consecutive bytes of one row.
    along: vec2<u32>,
    // If its rows are steps of K: neighbours read along the row.
    across: vec2<u32>,
    // First row and column of C's block within the tile.
    row: u32,
    col: u32,
}

fn share(index: u32) -> Share {
    let block = index % tile;
    let width = tile / 4u;
    return Share(
        index < tile,
        vec2<u32>(block % 4u, block / 4u) * 4u,
        vec2<u32>(block / width, block % width) * 4u,
        index / width * 4u,
        index % width * 4u,
    );
}

// Puts a block into its tile; `place` is its first step and first row or column.
fn put(brings_a: bool, place: vec2<u32>, block: mat4x4<f32>) {
    let at = place.x * row_stride + place.y / 4u;
    if (brings_a) {
        a_tile[at] = block[0];
        a_tile[at + row_stride] = block[1];
        a_tile[at + 2u * row_stride] = block[2];
        a_tile[at + 3u * row_stride] = block[3];
    } else {
        b_tile[at] = block[0];
        b_tile[at + row_stride] = block[1];
        b_tile[at + 2u * row_stride] = block[2];
        b_tile[at + 3u * row_stride] = block[3];
    }
}

// One step of K for a 4x4 block of C: x holds four rows' elements of A, y four columns' of B; sum[i] is a row of C.
fn add_outer(sum: ptr<function, mat4x4<f32>>, x: vec4<f32>, y: vec4<f32>) {
    (*sum)[0] = fma(vec4<f32>(x.x), y, (*sum)[0]);
    (*sum)[1] = fma(vec4<f32>(x.y), y, (*sum)[1]);
    (*sum)[2] = fma(vec4<f32>(x.z), y, (*sum)[2]);
    (*sum)[3] = fma(vec4<f32>(x.w), y, (*sum)[3]);
}

// One step of K for both blocks; a and b are vec4 positions in the tiles. The second block exists in the 64 tile
// only.
fn add_step(top: ptr<function, mat4x4<f32>>, low: ptr<function, mat4x4<f32>>, a_at: u32, b_at: u32) {
    let y = b_tile[b_at];
    add_outer(top, a_tile[a_at], y);
    if (tile > 32u) {
        add_outer(low, a_tile[a_at + 8u], y);
    }
}

fn add_tiles(top: ptr<function, mat4x4<f32>>, low: ptr<function, mat4x4<f32>>, mine: Share) {
    var a_at = mine.row / 4u;
    var b_at = mine.col / 4u;
    for (var k = 0u; k < DEPTH; k += 4u) {
        add_step(top, low, a_at, b_at);
        add_step(top, low, a_at + row_stride, b_at + row_stride);
        add_step(top, low, a_at + 2u * row_stride, b_at + 2u * row_stride);
        add_step(top, low, a_at + 3u * row_stride, b_at + 3u * row_stride);
        a_at += 4u * row_stride;
        b_at += 4u * row_stride;
    }
}

// The first row of a workgroup's tile.
fn first_row(group: vec3<u32>) -> u32 {
    return params.first_row + group.y * tile;
}

fn store(group: vec3<u32>, mine: Share, top: mat4x4<f32>, low: mat4x4<f32>) {
    let row = first_row(group) + mine.row;
    let col = (group.x * tile + mine.col) / 4u;
    matmul_store_rows(group.z, row, col, top, 4u);
    if (tile > 32u) {
        matmul_store_rows(group.z, row + 32u, col, low, 4u);
    }
}

// The three entry points differ in how a block is fetched only. Each fetches the next blocks while the present tiles
// are multiplied; the last fetch, past the end of K, repeats the last step and is not used.

fn fetch_nn(group: vec3<u32>, mine: Share, k: u32) -> mat4x4<f32> {
    if (mine.brings_a) {
        let start = matmul_a_start(group.z);
        let step = k + mine.along.x;
        return turned(matmul_a_block(along_k(start, first_row(group) + mine.along.y, params.m, params.lda, step)), step);
    }
    let start = matmul_b_start(group.z);
    let step = k + mine.across.x;
    return straight(matmul_b_block(across_k(start, group.x * tile + mine.across.y, params.n, params.ldb, step)), step);
}

@compute @workgroup_size(2u * tile)
fn nn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let mine = share(index);
    let place = select(mine.across, mine.along, mine.brings_a);
    var top = mat4x4<f32>();
    var low = mat4x4<f32>();
    var block = fetch_nn(group, mine, 0u);
    for (var k = 0u; k < params.k; k += DEPTH) {
        put(mine.brings_a, place, block);
        workgroupBarrier(); // the tiles are whole before anyone reads them
        block = fetch_nn(group, mine, k + DEPTH);
        add_tiles(&top, &low, mine);
        workgroupBarrier(); // everyone has read them before they are overwritten
    }
    store(group, mine, top, low);
}

fn fetch_nt(group: vec3<u32>, mine: Share, k: u32) -> mat4x4<f32> {
    let step = k + mine.along.x;
    if (mine.brings_a) {
        let start = matmul_a_start(group.z);
        return turned(matmul_a_block(along_k(start, first_row(group) + mine.along.y, params.m, params.lda, step)), step);
    }
    let start = matmul_b_start(group.z);
    return turned(matmul_b_block(along_k(start, group.x * tile + mine.along.y, params.n, params.ldb, step)), step);
}

@compute @workgroup_size(2u * tile)
fn nt(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let mine = share(index);
    var top = mat4x4<f32>();
    var low = mat4x4<f32>();
    var block = fetch_nt(group, mine, 0u);
    for (var k = 0u; k < params.k; k += DEPTH) {
        put(mine.brings_a, mine.along, block);
        workgroupBarrier(); // the tiles are whole before anyone reads them
        block = fetch_nt(group, mine, k + DEPTH);
        add_tiles(&top, &low, mine);
        workgroupBarrier(); // everyone has read them before they are overwritten
    }
    store(group, mine, top, low);
}

fn fetch_tn(group: vec3<u32>, mine: Share, k: u32) -> mat4x4<f32> {
    let step = k + mine.across.x;
    if (mine.brings_a) {
        let start = matmul_a_start(group.z);
        let at = across_k(start, first_row(group) + mine.across.y, params.m, params.lda, step);
        return straight(matmul_a_block(at), step);
    }
    let start = matmul_b_start(group.z);
    return straight(matmul_b_block(across_k(start, group.x * tile + mine.across.y, params.n, params.ldb, step)), step);
}

@compute @workgroup_size(2u * tile)
fn tn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let mine = share(index);
    var top = mat4x4<f32>();
    var low = mat4x4<f32>();
    var block = fetch_tn(group, mine, 0u);
    for (var k = 0u; k < params.k; k += DEPTH) {
        put(mine.brings_a, mine.across, block);
        workgroupBarrier(); // the tiles are whole before anyone reads them
        block = fetch_tn(group, mine, k + DEPTH);
        add_tiles(&top, &low, mine);
        workgroupBarrier(); // everyone has read them before they are overwritten
    }
    store(group, mine, top, low);
}
