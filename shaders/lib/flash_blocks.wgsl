// Flash attention where a workgroup owns BLOCK rows and meets those of the other side BLOCK at a time: the products of
// a block of rows with another, and sums of rows with such products as weights.
//
// The 64 lanes are 8 x 8. Lane (x, y) makes 4 x 4 products, of rows y, y + 8, y + 16 and y + 24 with rows x, x + 8,
// x + 16 and x + 24; in sums it has the first four rows and their columns x, x + 8, x + 16 and x + 24, counted in
// vec4s. So, as in a matrix product, every vec4 that is read from workgroup memory serves four rows, and no lane holds a
// row.
//
// Rows pass through workgroup memory CHUNK vec4s at a time, in full precision: 9 KiB for two blocks, at any D. Rows
// past the end repeat the last one, columns past the end a row's last; neither is stored.
//
// Uses lib/flash.wgsl.

const BLOCK = 32u; // rows
const CHUNK = 8u; // vec4s of a row
const CHUNKS = (HEAD4 + CHUNK - 1u) / CHUNK; // 1 to 4
const WHOLE = HEAD4 % CHUNK == 0u; // the last chunk is full

// Two blocks. That on the right can hold weights instead, and that on the left what lanes tell each other. A row is
// followed by an unused vec4, so that eight rows of a column lie in different banks.
var<workgroup> blocks: array<vec4<f32>, 2u * RIGHT>;
const LEFT = 0u;
const RIGHT = BLOCK * STRIDE;
const STRIDE = CHUNK + 1u;
const EIGHT_ROWS = 8u * STRIDE;

// The four rows that a lane has on a side, after the first.
const FOUR = vec4<u32>(0u, 8u, 16u, 24u);

struct Lane {
    x: u32,
    y: u32,
}

fn flash_lane(index: u32) -> Lane {
    return Lane(index % 8u, index / 8u);
}

// Sums of a lane, a matrix for each chunk of columns: vector i is of row y + 8 i.
struct Sums {
    c0: mat4x4<f32>,
    c1: mat4x4<f32>,
    c2: mat4x4<f32>,
    c3: mat4x4<f32>,
}

// ---- fetching blocks: `at` is where rows y, y + 8, y + 16 and y + 24 start ----

// Column x of these rows.
fn put(half: u32, rows: mat4x4<f32>, lane: Lane) {
    let at = half + STRIDE * lane.y + lane.x;
    blocks[at] = rows[0];
    blocks[at + EIGHT_ROWS] = rows[1];
    blocks[at + 2u * EIGHT_ROWS] = rows[2];
    blocks[at + 3u * EIGHT_ROWS] = rows[3];
}

fn chunk_column(lane: Lane, chunk: u32) -> u32 {
    let column = CHUNK * chunk + lane.x;
    return select(min(column, HEAD4 - 1u), column, WHOLE);
}

fn fetch_qkv(half: u32, at: vec4<u32>, chunk: u32, lane: Lane) {
    let i = at + chunk_column(lane, chunk);
    put(half, mat4x4<f32>(vec4<f32>(qkv[i.x]), vec4<f32>(qkv[i.y]), vec4<f32>(qkv[i.z]), vec4<f32>(qkv[i.w])), lane);
}

fn fetch_dy(half: u32, at: vec4<u32>, chunk: u32, lane: Lane) {
    let i = at + chunk_column(lane, chunk);
    put(half, mat4x4<f32>(vec4<f32>(dy[i.x]), vec4<f32>(dy[i.y]), vec4<f32>(dy[i.z]), vec4<f32>(dy[i.w])), lane);
}

// ---- products: [i][j] is row y + 8 i on the left times row x + 8 j on the right ----

fn four_dots(left: vec4<f32>, right: mat4x4<f32>, sums: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        flash_dot(left, right[0], sums.x),
        flash_dot(left, right[1], sums.y),
        flash_dot(left, right[2], sums.z),
        flash_dot(left, right[3], sums.w),
    );
}

// Adds the products over a chunk.
fn chunk_products(before: mat4x4<f32>, chunk: u32, lane: Lane) -> mat4x4<f32> {
    var sums = before;
    // A bound that depends on the chunk even where all are full: compilers that unroll every chunk's steps load so far
    // ahead that they run out of registers.
    let columns = min(CHUNK, HEAD4 - CHUNK * chunk);
    for (var d = 0u; d < columns; d++) {
        let l = four(LEFT + STRIDE * lane.y + d);
        let r = four(RIGHT + STRIDE * lane.x + d);
        sums[0] = four_dots(l[0], r, sums[0]);
        sums[1] = four_dots(l[1], r, sums[1]);
        sums[2] = four_dots(l[2], r, sums[2]);
        sums[3] = four_dots(l[3], r, sums[3]);
    }
    return sums;
}

// A column of four rows that are 8 apart.
fn four(at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        blocks[at],
        blocks[at + EIGHT_ROWS],
        blocks[at + 2u * EIGHT_ROWS],
        blocks[at + 3u * EIGHT_ROWS],
    );
}

fn products_forward(q_at: vec4<u32>, k_at: vec4<u32>, lane: Lane) -> mat4x4<f32> {
    var sums = mat4x4<f32>();
    for (var c = 0u; c < CHUNKS; c++) {
        workgroupBarrier(); // everyone has read the blocks before they are overwritten
        fetch_qkv(LEFT, q_at, c, lane);
        fetch_qkv(RIGHT, k_at, c, lane);
        workgroupBarrier(); // the blocks are whole before anyone reads them
        sums = chunk_products(sums, c, lane);
    }
    return sums;
}

// Where a lane's rows start, of a block of queries and a block of keys.
struct Starts {
    q: vec4<u32>,
    dy: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
}

struct Products {
    s: mat4x4<f32>, // of q and k
    dp: mat4x4<f32>, // of dy and v
}

// Of queries on the side `queries` with keys on the other.
fn products_backward(queries: u32, at: Starts, lane: Lane) -> Products {
    let keys = LEFT + RIGHT - queries;
    var sums = Products();
    for (var c = 0u; c < CHUNKS; c++) {
        workgroupBarrier(); // everyone has read the blocks before they are overwritten
        fetch_qkv(queries, at.q, c, lane);
        fetch_qkv(keys, at.k, c, lane);
        workgroupBarrier(); // the blocks are whole before anyone reads them
        sums.s = chunk_products(sums.s, c, lane);
        workgroupBarrier(); // everyone has read the blocks before they are overwritten
        fetch_dy(queries, at.dy, c, lane);
        fetch_qkv(keys, at.v, c, lane);
        workgroupBarrier(); // the blocks are whole before anyone reads them
        sums.dp = chunk_products(sums.dp, c, lane);
    }
    return sums;
}

// ---- sums of rows: [i] of chunk c is column x + 8 c of Σ weights[y + 8 i][j] * row j ----

// Leaves a lane's products as weights on the right: element j of the vec4 in column x is the weight of row x + 8 j.
fn put_weights(weights: mat4x4<f32>, lane: Lane) {
    workgroupBarrier(); // everyone has read the blocks before they are overwritten
    put(RIGHT, weights, lane);
}

fn four_rows(weights: vec4<f32>, rows: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
    let two = fma(vec4<f32>(weights.y), rows[1], fma(vec4<f32>(weights.x), rows[0], sum));
    return fma(vec4<f32>(weights.w), rows[3], fma(vec4<f32>(weights.z), rows[2], two));
}

// Adds the rows on the left by the weights on the right. `count`: the rows that there are, 8 at most; where there are
// fewer, none but these has a weight.
fn add_rows(before: mat4x4<f32>, count: u32, lane: Lane) -> mat4x4<f32> {
    var sums = before;
    for (var j = 0u; j < count; j++) {
        let w = four(RIGHT + STRIDE * lane.y + j);
        let rows = four(LEFT + STRIDE * j + lane.x);
        sums[0] = four_rows(w[0], rows, sums[0]);
        sums[1] = four_rows(w[1], rows, sums[1]);
        sums[2] = four_rows(w[2], rows, sums[2]);
        sums[3] = four_rows(w[3], rows, sums[3]);
    }
    return sums;
}

fn add_chunk_of_qkv(before: mat4x4<f32>, at: vec4<u32>, count: u32, chunk: u32, lane: Lane) -> mat4x4<f32> {
    workgroupBarrier(); // everyone has read the block before it is overwritten
    fetch_qkv(LEFT, at, chunk, lane);
    workgroupBarrier(); // the block and the weights are whole before anyone reads them
    return add_rows(before, count, lane);
}

fn add_qkv(sums: ptr<function, Sums>, at: vec4<u32>, count: u32, lane: Lane) {
    (*sums).c0 = add_chunk_of_qkv((*sums).c0, at, count, 0u, lane);
    if CHUNKS > 1u {
        (*sums).c1 = add_chunk_of_qkv((*sums).c1, at, count, 1u, lane);
    }
    if CHUNKS > 2u {
        (*sums).c2 = add_chunk_of_qkv((*sums).c2, at, count, 2u, lane);
    }
    if CHUNKS > 3u {
        (*sums).c3 = add_chunk_of_qkv((*sums).c3, at, count, 3u, lane);
    }
}

fn add_chunk_of_dy(before: mat4x4<f32>, at: vec4<u32>, count: u32, chunk: u32, lane: Lane) -> mat4x4<f32> {
    workgroupBarrier(); // everyone has read the block before it is overwritten
    fetch_dy(LEFT, at, chunk, lane);
    workgroupBarrier(); // the block and the weights are whole before anyone reads them
    return add_rows(before, count, lane);
}

fn add_dy(sums: ptr<function, Sums>, at: vec4<u32>, count: u32, lane: Lane) {
    (*sums).c0 = add_chunk_of_dy((*sums).c0, at, count, 0u, lane);
    if CHUNKS > 1u {
        (*sums).c1 = add_chunk_of_dy((*sums).c1, at, count, 1u, lane);
    }
    if CHUNKS > 2u {
        (*sums).c2 = add_chunk_of_dy((*sums).c2, at, count, 2u, lane);
    }
    if CHUNKS > 3u {
        (*sums).c3 = add_chunk_of_dy((*sums).c3, at, count, 3u, lane);
    }
}

fn scale_rows(rows: mat4x4<f32>, by: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(rows[0] * by.x, rows[1] * by.y, rows[2] * by.z, rows[3] * by.w);
}

fn scale_sums(sums: ptr<function, Sums>, by: vec4<f32>) {
    (*sums).c0 = scale_rows((*sums).c0, by);
    (*sums).c1 = scale_rows((*sums).c1, by);
    (*sums).c2 = scale_rows((*sums).c2, by);
    (*sums).c3 = scale_rows((*sums).c3, by);
}

// ---- what the 8 lanes of a row tell each other ----

fn tell(part: vec4<f32>, lane: Lane) {
    workgroupBarrier(); // everyone has read the block before it is overwritten
    blocks[LEFT + STRIDE * lane.y + lane.x] = part;
    workgroupBarrier(); // all have spoken
}

// The largest of the lanes' values for each of four rows.
fn largest_of_rows(part: vec4<f32>, lane: Lane) -> vec4<f32> {
    tell(part, lane);
    var most = part;
    for (var x = 0u; x < 8u; x++) {
        most = max(most, blocks[LEFT + STRIDE * lane.y + x]);
    }
    return most;
}

// The sum of the lanes' values for each of four rows: in the same order for all, so that all get the same.
fn sum_of_rows(part: vec4<f32>, lane: Lane) -> vec4<f32> {
    tell(part, lane);
    var sum = vec4<f32>();
    for (var x = 0u; x < 8u; x++) {
        sum += blocks[LEFT + STRIDE * lane.y + x];
    }
    return sum;
}

// ---- storing a lane's part of four rows ----

fn store_out_of_row(tile: FlashTile, row: u32, column: u32, value: vec4<f32>) {
    if row <= tile.last && column < HEAD4 {
        out[tile.out + row * tile.channels + column] = Act(value);
    }
}

fn store_out_chunk(tile: FlashTile, rows: vec4<u32>, column: u32, values: mat4x4<f32>) {
    store_out_of_row(tile, rows.x, column, values[0]);
    store_out_of_row(tile, rows.y, column, values[1]);
    store_out_of_row(tile, rows.z, column, values[2]);
    store_out_of_row(tile, rows.w, column, values[3]);
}

fn store_out(tile: FlashTile, rows: vec4<u32>, lane: Lane, sums: Sums) {
    store_out_chunk(tile, rows, lane.x, sums.c0);
    store_out_chunk(tile, rows, lane.x + CHUNK, sums.c1);
    store_out_chunk(tile, rows, lane.x + 2u * CHUNK, sums.c2);
    store_out_chunk(tile, rows, lane.x + 3u * CHUNK, sums.c3);
}

// `part`: 0 is q, 1 k and 2 v.
fn store_gradient_of_row(tile: FlashTile, part: u32, row: u32, column: u32, gradient: vec4<f32>) {
    if row <= tile.last && column < HEAD4 {
        let at = tile.qkv + part * tile.channels + row * tile.packed + column;
        var value = gradient;
        if params.accumulate != 0u {
            value += vec4<f32>(dqkv[at]);
        }
        dqkv[at] = Act(value);
    }
}

fn store_gradient_chunk(tile: FlashTile, part: u32, rows: vec4<u32>, column: u32, values: mat4x4<f32>) {
    store_gradient_of_row(tile, part, rows.x, column, values[0]);
    store_gradient_of_row(tile, part, rows.y, column, values[1]);
    store_gradient_of_row(tile, part, rows.z, column, values[2]);
    store_gradient_of_row(tile, part, rows.w, column, values[3]);
}

fn store_gradient(tile: FlashTile, part: u32, rows: vec4<u32>, lane: Lane, sums: Sums) {
    store_gradient_chunk(tile, part, rows, lane.x, sums.c0);
    store_gradient_chunk(tile, part, rows, lane.x + CHUNK, sums.c1);
    store_gradient_chunk(tile, part, rows, lane.x + 2u * CHUNK, sums.c2);
    store_gradient_chunk(tile, part, rows, lane.x + 3u * CHUNK, sums.c3);
}

