// Matrix product for GPUs: C = epilogue(A * B).
// Square tiles go through workgroup memory, 16 steps of K at a time.
//
//   nn: A [M, K], B [K, N]      nt: A [M, K], B [N, K] (weights)      tn: A [K, M], B [K, N]
//
// Any M, N, K from 1 up. Row strides, offsets and batch strides must be multiples of 4 elements, since everything is
// read and written as vec4. If N is no multiple of 4, the columns of C from N up to the next multiple of 4 are
// written too, with products of whatever B's padding holds there (nt: of B's last row); the host keeps those columns
// free. No other padding takes part: it may hold anything. The last vec4 of a matrix may end up to 3 elements past
// it; buffers allow for that.
//
// Bindings, each holding `batch` matrices; matrix z starts at offset + (z / inner) * outer + (z % inner) * inner
// stride:
//   a  nn, nt: [M, K], rows lda apart; tn: [K, M], rows lda apart
//   b  nn, tn: [K, N], rows ldb apart; nt: [N, K], rows ldb apart
//   and those of the epilogue, c [M, N] among them, rows ldc apart
//
// Grid: x = ceil(N / tile), y = ceil(rows / tile), z = batch; the rows from `first_row` on. `tile` is
//   128: 256 invocations, each four 4x4 blocks of C, 16 KiB of workgroup memory, for large products;
//   64: 128 invocations, each two blocks, one below the other, 8 KiB;
//   32: 64 invocations, each one block, 4 KiB, for products of few tiles.
// A size that does not divide the tile repeats the last row or column and does not store it; past the end of K both
// tiles hold zeros.
//
// Elements are f32 or f16 (tiles/matmul_*.wgsl), sums f32. Uses lib/matmul.wgsl (Params), lib/matmul_vec4.wgsl,
// tiles/vec4.wgsl and one of epilogues/. Positions in buffers count vec4s.

@group(0) @binding(0) var<storage, read> a: array<vec4<ElementA>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<ElementB>>;
@group(1) @binding(0) var<uniform> params: Params;

// Rows and columns of C a workgroup makes: 128, 64 or 32.
override tile: u32 = 64u;
override two_down: bool = tile >= 64u;
override two_across: bool = tile >= 128u;

// Steps of K held in workgroup memory.
const DEPTH: u32 = 16u;
// vec4s from one step of K to the next.
override width: u32 = tile / 4u;

// Step k of A's tile: `tile` rows of A as vec4s of four rows; of B's tile: `tile` columns as vec4s of four columns. Where
// they lie in a step is `slot`.
var<workgroup> a_tile: array<vec4<f32>, DEPTH * width>;
var<workgroup> b_tile: array<vec4<f32>, DEPTH * width>;

// Where vec4 `i` of step k lies: neighbours change places every four steps, so that transposed writes, whose steps are four
// apart, meet fewer bank conflicts.
fn slot(k: u32, i: u32) -> u32 {
    return k * width + (i ^ (k / 4u % 4u));
}

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
    // Of the blocks of C in a row or column of the tile, an invocation makes the first and, where it makes two, the one
    // half a tile further.
    let across = select(width, width / 2u, two_across);
    return Share(
        index < tile,
        vec2<u32>(block % 4u, block / 4u) * 4u,
        vec2<u32>(block / width, block % width) * 4u,
        index / across * 4u,
        index % across * 4u,
    );
}

// Puts a block into its tile; `place` is its first step and first row or column.
fn put(brings_a: bool, place: vec2<u32>, block: mat4x4<f32>) {
    let at = slot(place.x, place.y / 4u);
    if (brings_a) {
        a_tile[at] = block[0];
        a_tile[at + width] = block[1];
        a_tile[at + 2u * width] = block[2];
        a_tile[at + 3u * width] = block[3];
    } else {
        b_tile[at] = block[0];
        b_tile[at + width] = block[1];
        b_tile[at + 2u * width] = block[2];
        b_tile[at + 3u * width] = block[3];
    }
}

// The blocks of C that an invocation makes: with the tile's sizes `top_left` alone, also `low_left`, or all four.
struct Sums {
    top_left: mat4x4<f32>,
    low_left: mat4x4<f32>,
    top_right: mat4x4<f32>,
    low_right: mat4x4<f32>,
}

// One step of K for a 4x4 block of C: x holds four rows' elements of A, y four columns' of B; sum[i] is a row of C.
fn outer(sum: mat4x4<f32>, x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(vec4<f32>(x.x), y, sum[0]), fma(vec4<f32>(x.y), y, sum[1]),
        fma(vec4<f32>(x.z), y, sum[2]), fma(vec4<f32>(x.w), y, sum[3]),
    );
}

// One step of K for an invocation's blocks, whose first vec4s in the tiles are at a_at and b_at.
fn add_step(sums: ptr<function, Sums>, a_at: u32, b_at: u32) {
    let top = a_tile[a_at];
    let left = b_tile[b_at];
    (*sums).top_left = outer((*sums).top_left, top, left);
    if (two_down) {
        let low = a_tile[a_at + width / 2u];
        (*sums).low_left = outer((*sums).low_left, low, left);
        if (two_across) {
            let right = b_tile[b_at + width / 2u];
            (*sums).top_right = outer((*sums).top_right, top, right);
            (*sums).low_right = outer((*sums).low_right, low, right);
        }
    }
}

fn add_tiles(sums: ptr<function, Sums>, mine: Share) {
    for (var k = 0u; k < DEPTH; k += 4u) {
        let a_at = slot(k, mine.row / 4u);
        let b_at = slot(k, mine.col / 4u);
        add_step(sums, a_at, b_at);
        add_step(sums, a_at + width, b_at + width);
        add_step(sums, a_at + 2u * width, b_at + 2u * width);
        add_step(sums, a_at + 3u * width, b_at + 3u * width);
    }
}

// The first row of a workgroup's tile.
fn first_row(group: vec3<u32>) -> u32 {
    return params.first_row + group.y * tile;
}

fn store(group: vec3<u32>, mine: Share, sums: ptr<function, Sums>) {
    let half = tile / 2u;
    let row = first_row(group) + mine.row;
    let col = (group.x * tile + mine.col) / 4u;
    matmul_store_rows(group.z, row, col, (*sums).top_left, 4u);
    if (two_down) {
        matmul_store_rows(group.z, row + half, col, (*sums).low_left, 4u);
    }
    if (two_across) {
        matmul_store_rows(group.z, row, col + half / 4u, (*sums).top_right, 4u);
        matmul_store_rows(group.z, row + half, col + half / 4u, (*sums).low_right, 4u);
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
    var sums = Sums();
    var block = fetch_nn(group, mine, 0u);
    for (var k = 0u; k < params.k; k += DEPTH) {
        put(mine.brings_a, place, block);
        workgroupBarrier(); // the tiles are whole before anyone reads them
        block = fetch_nn(group, mine, k + DEPTH);
        add_tiles(&sums, mine);
        workgroupBarrier(); // everyone has read them before they are overwritten
    }
    store(group, mine, &sums);
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
    var sums = Sums();
    var block = fetch_nt(group, mine, 0u);
    for (var k = 0u; k < params.k; k += DEPTH) {
        put(mine.brings_a, mine.along, block);
        workgroupBarrier(); // the tiles are whole before anyone reads them
        block = fetch_nt(group, mine, k + DEPTH);
        add_tiles(&sums, mine);
        workgroupBarrier(); // everyone has read them before they are overwritten
    }
    store(group, mine, &sums);
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
    var sums = Sums();
    var block = fetch_tn(group, mine, 0u);
    for (var k = 0u; k < params.k; k += DEPTH) {
        put(mine.brings_a, mine.across, block);
        workgroupBarrier(); // the tiles are whole before anyone reads them
        block = fetch_tn(group, mine, k + DEPTH);
        add_tiles(&sums, mine);
        workgroupBarrier(); // everyone has read them before they are overwritten
    }
    store(group, mine, &sums);
}
