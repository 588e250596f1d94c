// columns_fold: the end of a sum over rows by a workgroup of 256 on a strip of COLUMNS columns, DEEP invocations a column.
//
// Invocation `lane` has column lane % COLUMNS of the strip and every DEEP-th row from lane / COLUMNS on: neighbours read
// neighbours, and a column has many loads under way at a time. Every invocation calls, once, in uniform control flow, with
// the sum of its rows; the first COLUMNS invocations get the totals of their columns, which always have the same order.
// Item is float or vec4 (tiles/).

const COLUMNS = 8u; // 128 bytes of vec4<f32>
const COLUMNS_DEEP = 32u;

var<workgroup> columns_sums: array<Item, 256>;

fn columns_fold(sum: Item, lane: u32) -> Item {
    columns_sums[lane] = sum;
    workgroupBarrier(); // all sums are written
    var total = sum;
    if lane < COLUMNS {
        for (var i = 1u; i < COLUMNS_DEEP; i++) {
            total += columns_sums[i * COLUMNS + lane];
        }
    }
    return total;
}
