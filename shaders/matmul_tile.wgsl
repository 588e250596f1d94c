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
// Grid: x = ceil(N / tile), y = ceil(rows / tile), z = batch; rows from `first_row`, columns from `first_column` and matrices
// from `first_matrix` on. `tile` is
//   128: 256 invocations, each four 4x4 blocks of C, 16 KiB of workgroup memory, for large products;
//   64: 128 invocations, each two blocks, one below the other, 8 KiB;
//   32: 64 invocations, each one block, 4 KiB, for products of few tiles.
// A size that does not divide the tile repeats the last row or column and does not store it; past the end of K both
// tiles hold zeros.
//
// Elements are f32 or f16 (tiles/matmul_*.wgsl), sums f32. Params are those of lib/matmul.wgsl; one of epilogues/ stores.
// Positions in buffers count vec4s.

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

// Two tiles, A's and B's: of each step of K, `tile` rows of A, then `tile` columns of B. In pairs, since a matrix stored along K comes
// by two lines for each invocation, and a vector must be written whole: two invocations that write parts of one may undo each
// other's, as by Metal's rules.
var<workgroup> tiles: array<vec2<f32>, 4u * DEPTH * width>;

// Where lines 4 i to 4 i + 3 of step k lie in a tile, in fours: neighbours change places every four steps, so that 32 invocations that
// write four steps apart, as those of a matrix stored along K do, meet no bank twice.
fn slot(k: u32, i: u32) -> u32 {
    return k * width + (i ^ (k / 4u % 4u * 2u));
}

// The four lines at a slot.
fn four_at(slot: u32) -> vec4<f32> {
    return vec4<f32>(tiles[2u * slot], tiles[2u * slot + 1u]);
}

fn put_four(slot: u32, value: vec4<f32>) {
    tiles[2u * slot] = value.xy;
    tiles[2u * slot + 1u] = value.zw;
}

// Which two vec4s of a tile an invocation brings.
//
// Of a matrix stored along K (A of nn and nt, B of nt), each vec4 has four steps of one row (A) or column (B): the second
// one's is the next. Four neighbours read 64 consecutive bytes. Else each has four rows or columns of one step,
// and the second one's is half of DEPTH further.
struct Place {
    along: bool,
    step: u32, // first step, within the tile
    line: u32, // first row or column, within the tile
    // Where vec4 `i` lies in its buffer, for the tile that begins with step k:
    // start[i] + min(k + step + i * ramp, K - 1) / per * stride.
    start: vec2<u32>,
    ramp: u32,
    per: u32,
    stride: u32,
}

fn place(index: u32, along: bool, start: u32, first: u32, lines: u32, stride: u32) -> Place {
    if (along) {
        let line = index / 4u * 2u;
        let rows = min(first + line + vec2<u32>(0u, 1u), vec2<u32>(lines - 1u));
        return Place(along, index % 4u * 4u, line, start + rows * (stride / 4u), 0u, 4u, 1u);
    }
    let line = index % width * 4u;
    let column = start + min(first + line, lines - 1u) / 4u;
    return Place(along, index / width, line, vec2<u32>(column), DEPTH / 2u, 1u, stride / 4u);
}

// Where they lie for the tile that begins with step k; past the end of K, the last step again.
fn whereabouts(mine: Place, k: u32) -> vec2<u32> {
    let steps = min(k + mine.step + vec2<u32>(0u, mine.ramp), vec2<u32>(params.k - 1u));
    return mine.start + steps / mine.per * mine.stride;
}

struct PairA {
    first: vec4<ElementA>,
    second: vec4<ElementA>,
}

struct PairB {
    first: vec4<ElementB>,
    second: vec4<ElementB>,
}

fn fetch_a(mine: Place, k: u32) -> PairA {
    let at = whereabouts(mine, k);
    return PairA(a[at.x], a[at.y]);
}

fn fetch_b(mine: Place, k: u32) -> PairB {
    let at = whereabouts(mine, k);
    return PairB(b[at.x], b[at.y]);
}

// Four steps of rows `line` and the next into the tile that begins at `base`.
fn put_along(base: u32, step: u32, line: u32, first: vec4<f32>, second: vec4<f32>) {
    let at = 2u * (base + slot(step, line / 4u)) + line / 2u % 2u;
    tiles[at] = vec2<f32>(first.x, second.x);
    tiles[at + 2u * width] = vec2<f32>(first.y, second.y);
    tiles[at + 4u * width] = vec2<f32>(first.z, second.z);
    tiles[at + 6u * width] = vec2<f32>(first.w, second.w);
}

// Puts a pair into its tile; zeros where there are no such steps. This, not the fetching, is what looks at the elements, so that
// they may arrive while the tiles before are multiplied.
fn put(base: u32, mine: Place, k: u32, first: vec4<f32>, second: vec4<f32>) {
    let step = k + mine.step;
    let end = vec4<u32>(params.k);
    if (mine.along) {
        let inside = step + MATMUL_STEPS < end;
        let none = vec4<f32>();
        put_along(base, mine.step, mine.line, select(none, first, inside), select(none, second, inside));
    } else {
        let later = mine.step + DEPTH / 2u;
        put_four(base + slot(mine.step, mine.line / 4u), select(vec4<f32>(), first, step < params.k));
        put_four(base + slot(later, mine.line / 4u), select(vec4<f32>(), second, k + later < params.k));
    }
}

// First row and column within the tile of the first 4x4 block of C that an invocation makes. 32 neighbours make 4 rows of 8
// blocks: of two that differ in the lowest bit of their index, both read the same vec4 of A, of two that differ in the next
// one, both the same of B, which takes the fewest passes over the banks.
fn block_of_c(index: u32) -> vec2<u32> {
    let warps_across = select(width, width / 2u, two_across) / 8u;
    let warp = index / 32u;
    return 4u * vec2<u32>(
        warp / warps_across * 4u + ((index >> 1u) & 1u) + ((index >> 3u) & 2u),
        warp % warps_across * 8u + (index & 1u) + ((index >> 1u) & 6u),
    );
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

// One step of K for an invocation's blocks, whose first slots in the tiles are a_at and b_at.
fn add_step(sums: ptr<function, Sums>, a_at: u32, b_at: u32) {
    let top = four_at(a_at);
    let left = four_at(b_at);
    (*sums).top_left = outer((*sums).top_left, top, left);
    if (two_down) {
        let low = four_at(a_at + width / 2u);
        (*sums).low_left = outer((*sums).low_left, low, left);
        if (two_across) {
            let right = four_at(b_at + width / 2u);
            (*sums).top_right = outer((*sums).top_right, top, right);
            (*sums).low_right = outer((*sums).low_right, low, right);
        }
    }
}

// Four steps of K, from k on.
fn add_four(sums: ptr<function, Sums>, block: vec2<u32>, k: u32) {
    let a_at = slot(k, block.x / 4u);
    let b_at = DEPTH * width + slot(k, block.y / 4u);
    add_step(sums, a_at, b_at);
    add_step(sums, a_at + width, b_at + width);
    add_step(sums, a_at + 2u * width, b_at + 2u * width);
    add_step(sums, a_at + 3u * width, b_at + 3u * width);
}

// All steps. Written out, because Mesa moves what is fetched for the next tiles behind a loop, where nothing hides its latency.
fn add_tiles(sums: ptr<function, Sums>, block: vec2<u32>) {
    add_four(sums, block, 0u);
    add_four(sums, block, 4u);
    add_four(sums, block, 8u);
    add_four(sums, block, 12u);
}

// The first row of a workgroup's tile.
fn first_row(group: vec3<u32>) -> u32 {
    return params.first_row + group.y * tile;
}

// Its first column.
fn first_column(group: vec3<u32>) -> u32 {
    return params.first_column + group.x * tile;
}

fn store(group: vec3<u32>, block: vec2<u32>, sums: ptr<function, Sums>) {
    let half = tile / 2u;
    let row = first_row(group) + block.x;
    let col = (first_column(group) + block.y) / 4u;
    matmul_store_rows(group.z, row, col, (*sums).top_left, 4u);
    if (two_down) {
        matmul_store_rows(group.z, row + half, col, (*sums).low_left, 4u);
    }
    if (two_across) {
        matmul_store_rows(group.z, row, col + half / 4u, (*sums).top_right, 4u);
        matmul_store_rows(group.z, row + half, col + half / 4u, (*sums).low_right, 4u);
    }
}

// A workgroup's tile of C. The three entry points differ in which operands are stored along K. The next tiles are fetched while
// the present ones are multiplied; the last fetch, past the end of K, is not used.
fn product(group: vec3<u32>, index: u32, a_along: bool, b_along: bool) {
    let place_a = place(index, a_along, matmul_a_start(group.z), first_row(group), params.m, params.lda);
    let place_b = place(index, b_along, matmul_b_start(group.z), first_column(group), params.n, params.ldb);
    let block = block_of_c(index);
    var sums = Sums();
    var from_a = fetch_a(place_a, 0u);
    var from_b = fetch_b(place_b, 0u);
    for (var k = 0u; k < params.k; k += DEPTH) {
        put(0u, place_a, k, vec4<f32>(from_a.first), vec4<f32>(from_a.second));
        put(DEPTH * width, place_b, k, vec4<f32>(from_b.first), vec4<f32>(from_b.second));
        workgroupBarrier(); // the tiles are whole before anyone reads them
        from_a = fetch_a(place_a, k + DEPTH);
        from_b = fetch_b(place_b, k + DEPTH);
        add_tiles(&sums, block);
        workgroupBarrier(); // everyone has read them before they are overwritten
    }
    store(group, block, &sums);
}

@compute @workgroup_size(2u * tile)
fn nn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    product(group, index, true, false);
}

@compute @workgroup_size(2u * tile)
fn nt(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    product(group, index, true, true);
}

@compute @workgroup_size(2u * tile)
fn tn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    product(group, index, false, false);
}
