// Flash attention where a workgroup owns 32 rows and meets those of the other side 32 at a time: the products of a block
// of rows with another, and sums of rows with such products as weights.
//
// The 64 lanes are 8 x 8. Lane (x, y) makes 4 x 4 products, of rows y, y + 8, y + 16 and y + 24 with rows x, x + 8,
// x + 16 and x + 24; in sums it has the first four rows and their columns x, x + 8, x + 16 and x + 24, counted in
// vec4s. So, as in a matrix product, every vec4 read from workgroup memory serves four rows, and no lane holds a row.
//
// Rows pass through workgroup memory 8 vec4s at a time, a chunk, in full precision: 9 KiB for two blocks, at any D. Rows
// past the end repeat the last one, columns past the end a row's last; neither is stored.

const FLASH_BLOCK = 32u; // rows
const FLASH_CHUNK = 8u; // vec4s of a row
const FLASH_CHUNKS = (HEAD4 + FLASH_CHUNK - 1u) / FLASH_CHUNK; // 1 to 4
const FLASH_WHOLE = HEAD4 % FLASH_CHUNK == 0u; // the last chunk is full

// Two blocks. That on the right can hold weights instead, and that on the left what lanes tell each other. A row is
// followed by an unused vec4, so that eight rows of a column lie in different banks.
var<workgroup> flash_blocks: array<vec4<f32>, 2u * FLASH_RIGHT>;
const FLASH_LEFT = 0u;
const FLASH_RIGHT = FLASH_BLOCK * FLASH_STRIDE;
const FLASH_STRIDE = FLASH_CHUNK + 1u;
const FLASH_EIGHT_ROWS = 8u * FLASH_STRIDE;

// The four rows that a lane has on a side, after the first.
const FLASH_FOUR = vec4<u32>(0u, 8u, 16u, 24u);

struct FlashLane {
    x: u32,
    y: u32,
}

fn flash_lane_of(index: u32) -> FlashLane {
    return FlashLane(index % 8u, index / 8u);
}

// Sums of a lane, a matrix for each chunk of columns that there is: vector i is of row y + 8 i. The others are touched by
// nobody, so that they take no registers.
struct FlashSums {
    c0: mat4x4<f32>,
    c1: mat4x4<f32>,
    c2: mat4x4<f32>,
    c3: mat4x4<f32>,
}

// ---- fetching blocks: `at` is where rows y, y + 8, y + 16 and y + 24 start ----

// Column x of these rows.
fn flash_put(half: u32, rows: mat4x4<f32>, lane: FlashLane) {
    let at = half + FLASH_STRIDE * lane.y + lane.x;
    flash_blocks[at] = rows[0];
    flash_blocks[at + FLASH_EIGHT_ROWS] = rows[1];
    flash_blocks[at + 2u * FLASH_EIGHT_ROWS] = rows[2];
    flash_blocks[at + 3u * FLASH_EIGHT_ROWS] = rows[3];
}

fn flash_column(lane: FlashLane, chunk: u32) -> u32 {
    let column = FLASH_CHUNK * chunk + lane.x;
    return select(min(column, HEAD4 - 1u), column, FLASH_WHOLE);
}

fn flash_fetch_qkv(half: u32, at: vec4<u32>, chunk: u32, lane: FlashLane) {
    let i = at + flash_column(lane, chunk);
    let rows = mat4x4<f32>(vec4<f32>(qkv[i.x]), vec4<f32>(qkv[i.y]), vec4<f32>(qkv[i.z]), vec4<f32>(qkv[i.w]));
    flash_put(half, rows, lane);
}

fn flash_fetch_dy(half: u32, at: vec4<u32>, chunk: u32, lane: FlashLane) {
    let i = at + flash_column(lane, chunk);
    let rows = mat4x4<f32>(vec4<f32>(dy[i.x]), vec4<f32>(dy[i.y]), vec4<f32>(dy[i.z]), vec4<f32>(dy[i.w]));
    flash_put(half, rows, lane);
}

// ---- products: [i][j] is row y + 8 i on the left times row x + 8 j on the right ----

fn flash_four_dots(left: vec4<f32>, right: mat4x4<f32>, sums: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        flash_dot(left, right[0], sums.x),
        flash_dot(left, right[1], sums.y),
        flash_dot(left, right[2], sums.z),
        flash_dot(left, right[3], sums.w),
    );
}

// Adds the products over a chunk.
fn flash_chunk_products(before: mat4x4<f32>, chunk: u32, lane: FlashLane) -> mat4x4<f32> {
    var sums = before;
    // A bound that depends on the chunk even where all are full: compilers that unroll every chunk's steps load so far
    // ahead that they run out of registers.
    let columns = min(FLASH_CHUNK, HEAD4 - FLASH_CHUNK * chunk);
    for (var d = 0u; d < columns; d++) {
        let l = flash_four(FLASH_LEFT + FLASH_STRIDE * lane.y + d);
        let r = flash_four(FLASH_RIGHT + FLASH_STRIDE * lane.x + d);
        sums[0] = flash_four_dots(l[0], r, sums[0]);
        sums[1] = flash_four_dots(l[1], r, sums[1]);
        sums[2] = flash_four_dots(l[2], r, sums[2]);
        sums[3] = flash_four_dots(l[3], r, sums[3]);
    }
    return sums;
}

// A column of four rows that are 8 apart.
fn flash_four(at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        flash_blocks[at],
        flash_blocks[at + FLASH_EIGHT_ROWS],
        flash_blocks[at + 2u * FLASH_EIGHT_ROWS],
        flash_blocks[at + 3u * FLASH_EIGHT_ROWS],
    );
}

fn flash_products(q_at: vec4<u32>, k_at: vec4<u32>, lane: FlashLane) -> mat4x4<f32> {
    var sums = mat4x4<f32>();
    for (var c = 0u; c < FLASH_CHUNKS; c++) {
        workgroupBarrier(); // everyone has read the blocks before they are overwritten
        flash_fetch_qkv(FLASH_LEFT, q_at, c, lane);
        flash_fetch_qkv(FLASH_RIGHT, k_at, c, lane);
        workgroupBarrier(); // the blocks are whole before anyone reads them
        sums = flash_chunk_products(sums, c, lane);
    }
    return sums;
}

// Where a lane's rows start, of a block of queries and a block of keys.
struct FlashStarts {
    q: vec4<u32>,
    dy: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
}

struct FlashProducts {
    s: mat4x4<f32>, // of q and k
    dp: mat4x4<f32>, // of dy and v
}

// Of queries on the side `queries` with keys on the other.
fn flash_products_backward(queries: u32, at: FlashStarts, lane: FlashLane) -> FlashProducts {
    let keys = FLASH_LEFT + FLASH_RIGHT - queries;
    var sums = FlashProducts();
    for (var c = 0u; c < FLASH_CHUNKS; c++) {
        workgroupBarrier(); // everyone has read the blocks before they are overwritten
        flash_fetch_qkv(queries, at.q, c, lane);
        flash_fetch_qkv(keys, at.k, c, lane);
        workgroupBarrier(); // the blocks are whole before anyone reads them
        sums.s = flash_chunk_products(sums.s, c, lane);
        workgroupBarrier(); // everyone has read the blocks before they are overwritten
        flash_fetch_dy(queries, at.dy, c, lane);
        flash_fetch_qkv(keys, at.v, c, lane);
        workgroupBarrier(); // the blocks are whole before anyone reads them
        sums.dp = flash_chunk_products(sums.dp, c, lane);
    }
    return sums;
}

// ---- sums of rows: [i] of chunk c is column x + 8 c of Σ weights[y + 8 i][j] * row j ----

// Leaves a lane's products as weights on the right: element j of the vec4 in column x is the weight of row x + 8 j.
fn flash_put_weights(weights: mat4x4<f32>, lane: FlashLane) {
    workgroupBarrier(); // everyone has read the blocks before they are overwritten
    flash_put(FLASH_RIGHT, weights, lane);
}

fn flash_four_rows(weights: vec4<f32>, rows: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
    let two = fma(vec4<f32>(weights.y), rows[1], fma(vec4<f32>(weights.x), rows[0], sum));
    return fma(vec4<f32>(weights.w), rows[3], fma(vec4<f32>(weights.z), rows[2], two));
}

// Adds the rows on the left by the weights on the right. `count`: the rows that there are, 8 at most; where there are
// fewer, none but these has a weight.
fn flash_add_rows(before: mat4x4<f32>, count: u32, lane: FlashLane) -> mat4x4<f32> {
    var sums = before;
    for (var j = 0u; j < count; j++) {
        let w = flash_four(FLASH_RIGHT + FLASH_STRIDE * lane.y + j);
        let rows = flash_four(FLASH_LEFT + FLASH_STRIDE * j + lane.x);
        sums[0] = flash_four_rows(w[0], rows, sums[0]);
        sums[1] = flash_four_rows(w[1], rows, sums[1]);
        sums[2] = flash_four_rows(w[2], rows, sums[2]);
        sums[3] = flash_four_rows(w[3], rows, sums[3]);
    }
    return sums;
}

fn flash_add_chunk_of_qkv(before: mat4x4<f32>, at: vec4<u32>, count: u32, chunk: u32, lane: FlashLane) -> mat4x4<f32> {
    workgroupBarrier(); // everyone has read the block before it is overwritten
    flash_fetch_qkv(FLASH_LEFT, at, chunk, lane);
    workgroupBarrier(); // the block and the weights are whole before anyone reads them
    return flash_add_rows(before, count, lane);
}

fn flash_add_qkv(sums: ptr<function, FlashSums>, at: vec4<u32>, count: u32, lane: FlashLane) {
    (*sums).c0 = flash_add_chunk_of_qkv((*sums).c0, at, count, 0u, lane);
    if FLASH_CHUNKS > 1u {
        (*sums).c1 = flash_add_chunk_of_qkv((*sums).c1, at, count, 1u, lane);
    }
    if FLASH_CHUNKS > 2u {
        (*sums).c2 = flash_add_chunk_of_qkv((*sums).c2, at, count, 2u, lane);
    }
    if FLASH_CHUNKS > 3u {
        (*sums).c3 = flash_add_chunk_of_qkv((*sums).c3, at, count, 3u, lane);
    }
}

fn flash_add_chunk_of_dy(before: mat4x4<f32>, at: vec4<u32>, count: u32, chunk: u32, lane: FlashLane) -> mat4x4<f32> {
    workgroupBarrier(); // everyone has read the block before it is overwritten
    flash_fetch_dy(FLASH_LEFT, at, chunk, lane);
    workgroupBarrier(); // the block and the weights are whole before anyone reads them
    return flash_add_rows(before, count, lane);
}

fn flash_add_dy(sums: ptr<function, FlashSums>, at: vec4<u32>, count: u32, lane: FlashLane) {
    (*sums).c0 = flash_add_chunk_of_dy((*sums).c0, at, count, 0u, lane);
    if FLASH_CHUNKS > 1u {
        (*sums).c1 = flash_add_chunk_of_dy((*sums).c1, at, count, 1u, lane);
    }
    if FLASH_CHUNKS > 2u {
        (*sums).c2 = flash_add_chunk_of_dy((*sums).c2, at, count, 2u, lane);
    }
    if FLASH_CHUNKS > 3u {
        (*sums).c3 = flash_add_chunk_of_dy((*sums).c3, at, count, 3u, lane);
    }
}

fn flash_scale_rows(rows: mat4x4<f32>, by: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(rows[0] * by.x, rows[1] * by.y, rows[2] * by.z, rows[3] * by.w);
}

fn flash_scale(sums: ptr<function, FlashSums>, by: vec4<f32>) {
    (*sums).c0 = flash_scale_rows((*sums).c0, by);
    if FLASH_CHUNKS > 1u {
        (*sums).c1 = flash_scale_rows((*sums).c1, by);
    }
    if FLASH_CHUNKS > 2u {
        (*sums).c2 = flash_scale_rows((*sums).c2, by);
    }
    if FLASH_CHUNKS > 3u {
        (*sums).c3 = flash_scale_rows((*sums).c3, by);
    }
}

// ---- what dropout leaves ----

fn flash_bits_of_four(word: u32, rows: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(
        flash_bits(word, rows.x), flash_bits(word, rows.y), flash_bits(word, rows.z), flash_bits(word, rows.w),
    );
}

fn flash_kept_of_four(weights: vec4<f32>, own: u32, others: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(
        flash_kept(weights.x, own, others.x),
        flash_kept(weights.y, own, others.y),
        flash_kept(weights.z, own, others.z),
        flash_kept(weights.w, own, others.w),
    );
}

// Of the weights, or of their gradients, between a lane's rows and four others.
fn flash_kept_of_block(weights: mat4x4<f32>, own: vec4<u32>, others: vec4<u32>) -> mat4x4<f32> {
    if !flash_drops() {
        return weights;
    }
    return mat4x4<f32>(
        flash_kept_of_four(weights[0], own.x, others),
        flash_kept_of_four(weights[1], own.y, others),
        flash_kept_of_four(weights[2], own.z, others),
        flash_kept_of_four(weights[3], own.w, others),
    );
}

// ---- what the 8 lanes of a row tell each other ----

fn flash_tell(part: vec4<f32>, lane: FlashLane) {
    workgroupBarrier(); // everyone has read the block before it is overwritten
    flash_blocks[FLASH_LEFT + FLASH_STRIDE * lane.y + lane.x] = part;
    workgroupBarrier(); // all have spoken
}

// The largest of the lanes' values for each of four rows.
fn flash_largest(part: vec4<f32>, lane: FlashLane) -> vec4<f32> {
    flash_tell(part, lane);
    var most = part;
    for (var x = 0u; x < 8u; x++) {
        most = max(most, flash_blocks[FLASH_LEFT + FLASH_STRIDE * lane.y + x]);
    }
    return most;
}

// The sum of the lanes' values for each of four rows: in the same order for all, so that all get the same.
fn flash_sum(part: vec4<f32>, lane: FlashLane) -> vec4<f32> {
    flash_tell(part, lane);
    var sum = vec4<f32>();
    for (var x = 0u; x < 8u; x++) {
        sum += flash_blocks[FLASH_LEFT + FLASH_STRIDE * lane.y + x];
    }
    return sum;
}

// ---- storing a lane's part of four rows ----

// With what the parts before have left, by its share.
fn flash_store_out_of_row(tile: FlashTile, row: u32, column: u32, own: vec4<f32>, before: f32) {
    if row <= tile.last && column < HEAD4 {
        let at = tile.out + row * tile.channels + column;
        var value = own;
        if params.first != 0u {
            value += before * vec4<f32>(out[at]);
        }
        out[at] = Act(value);
    }
}

fn flash_store_out_chunk(
    tile: FlashTile,
    rows: vec4<u32>,
    column: u32,
    values: mat4x4<f32>,
    before: vec4<f32>,
) {
    flash_store_out_of_row(tile, rows.x, column, values[0], before.x);
    flash_store_out_of_row(tile, rows.y, column, values[1], before.y);
    flash_store_out_of_row(tile, rows.z, column, values[2], before.z);
    flash_store_out_of_row(tile, rows.w, column, values[3], before.w);
}

fn flash_store_out(tile: FlashTile, rows: vec4<u32>, lane: FlashLane, sums: FlashSums, before: vec4<f32>) {
    flash_store_out_chunk(tile, rows, lane.x, sums.c0, before);
    if FLASH_CHUNKS > 1u {
        flash_store_out_chunk(tile, rows, lane.x + FLASH_CHUNK, sums.c1, before);
    }
    if FLASH_CHUNKS > 2u {
        flash_store_out_chunk(tile, rows, lane.x + 2u * FLASH_CHUNK, sums.c2, before);
    }
    if FLASH_CHUNKS > 3u {
        flash_store_out_chunk(tile, rows, lane.x + 3u * FLASH_CHUNK, sums.c3, before);
    }
}

// `part`: 0 is q, 1 k and 2 v.
fn flash_store_gradient_of_row(tile: FlashTile, part: u32, row: u32, column: u32, gradient: vec4<f32>) {
    if row <= tile.last && column < HEAD4 {
        let at = tile.qkv + part * tile.channels + row * tile.packed + column;
        var value = gradient;
        if params.accumulate != 0u {
            value += vec4<f32>(dqkv[at]);
        }
        dqkv[at] = Act(value);
    }
}

fn flash_store_gradient_chunk(tile: FlashTile, part: u32, rows: vec4<u32>, column: u32, values: mat4x4<f32>) {
    flash_store_gradient_of_row(tile, part, rows.x, column, values[0]);
    flash_store_gradient_of_row(tile, part, rows.y, column, values[1]);
    flash_store_gradient_of_row(tile, part, rows.z, column, values[2]);
    flash_store_gradient_of_row(tile, part, rows.w, column, values[3]);
}

fn flash_store_gradient(tile: FlashTile, part: u32, rows: vec4<u32>, lane: FlashLane, sums: FlashSums) {
    flash_store_gradient_chunk(tile, part, rows, lane.x, sums.c0);
    if FLASH_CHUNKS > 1u {
        flash_store_gradient_chunk(tile, part, rows, lane.x + FLASH_CHUNK, sums.c1);
    }
    if FLASH_CHUNKS > 2u {
        flash_store_gradient_chunk(tile, part, rows, lane.x + 2u * FLASH_CHUNK, sums.c2);
    }
    if FLASH_CHUNKS > 3u {
        flash_store_gradient_chunk(tile, part, rows, lane.x + 3u * FLASH_CHUNK, sums.c3);
    }
}
