// reduce_sum, reduce_sum2, reduce_max: over `span` invocations side by side of a workgroup of 64, a value from each, the
// result in all of them. `span` is 8, 16, 32 or 64, the same for all. The order of a sum is always the same.
//
// In two levels: each of the first eight invocations takes eight values in; then everyone takes in the results that are
// its span's. Two barriers, where a binary tree of 64 needs seven, and one more before its memory may be used again.
//
// Use: every invocation calls, in uniform control flow (none of the workgroup has returned), with its
// local_invocation_index as `lane`. Calls may follow each other: when one writes the values anew, all have passed the
// second barrier of the one before; when it writes the results of eights anew, all have passed its own first.
// The barriers order the scratch below, which nothing else touches; no kernel may lean on them for memory of its own.

const REDUCE_LANES = 64u;
const REDUCE_EIGHTS = 8u;

var<workgroup> reduce_scalars: array<f32, REDUCE_LANES>;
var<workgroup> reduce_scalar_eights: array<f32, REDUCE_EIGHTS>;
var<workgroup> reduce_pairs: array<vec2<f32>, REDUCE_LANES>;
var<workgroup> reduce_pair_eights: array<vec2<f32>, REDUCE_EIGHTS>;

// The first of the eights of the invocation's span.
fn reduce_first_eight(lane: u32, span: u32) -> u32 {
    return (lane & ~(span - 1u)) / 8u;
}

fn reduce_sum(value: f32, lane: u32, span: u32) -> f32 {
    reduce_scalars[lane] = value;
    workgroupBarrier(); // the values are written
    if lane < REDUCE_EIGHTS {
        var eight = reduce_scalars[8u * lane];
        for (var i = 1u; i < 8u; i++) {
            eight += reduce_scalars[8u * lane + i];
        }
        reduce_scalar_eights[lane] = eight;
    }
    workgroupBarrier(); // the sums of eight are written
    let first = reduce_first_eight(lane, span);
    var total = reduce_scalar_eights[first];
    for (var i = 1u; i < span / 8u; i++) {
        total += reduce_scalar_eights[first + i];
    }
    return total;
}

// Two sums at once.
fn reduce_sum2(value: vec2<f32>, lane: u32, span: u32) -> vec2<f32> {
    reduce_pairs[lane] = value;
    workgroupBarrier(); // the values are written
    if lane < REDUCE_EIGHTS {
        var eight = reduce_pairs[8u * lane];
        for (var i = 1u; i < 8u; i++) {
            eight += reduce_pairs[8u * lane + i];
        }
        reduce_pair_eights[lane] = eight;
    }
    workgroupBarrier(); // the sums of eight are written
    let first = reduce_first_eight(lane, span);
    var totals = reduce_pair_eights[first];
    for (var i = 1u; i < span / 8u; i++) {
        totals += reduce_pair_eights[first + i];
    }
    return totals;
}

fn reduce_max(value: f32, lane: u32, span: u32) -> f32 {
    reduce_scalars[lane] = value;
    workgroupBarrier(); // the values are written
    if lane < REDUCE_EIGHTS {
        var eight = reduce_scalars[8u * lane];
        for (var i = 1u; i < 8u; i++) {
            eight = max(eight, reduce_scalars[8u * lane + i]);
        }
        reduce_scalar_eights[lane] = eight;
    }
    workgroupBarrier(); // the maxima of eight are written
    let first = reduce_first_eight(lane, span);
    var largest = reduce_scalar_eights[first];
    for (var i = 1u; i < span / 8u; i++) {
        largest = max(largest, reduce_scalar_eights[first + i]);
    }
    return largest;
}
