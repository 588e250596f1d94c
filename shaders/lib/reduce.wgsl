// reduce_sum, reduce_sum2, reduce_max: over a workgroup of 64, a value from each invocation, the result in all of them.
// The tree is binary and always the same, so that the order of a sum never changes.
//
// Use: every invocation calls, in uniform control flow (none of the workgroup has returned), with its
// local_invocation_index as `lane`. A call begins and ends with the scratch free, so that calls may follow each other.
// Its barriers order the scratch below, which nothing else touches; no kernel may lean on them for memory of its own.

const REDUCE_LANES = 64u;

var<workgroup> reduce_scalars: array<f32, REDUCE_LANES>;
var<workgroup> reduce_pairs: array<vec2<f32>, REDUCE_LANES>;

fn reduce_sum(value: f32, lane: u32) -> f32 {
    reduce_scalars[lane] = value;
    for (var span = REDUCE_LANES / 2u; span > 0u; span /= 2u) {
        workgroupBarrier(); // the sums of the level above are written
        if lane < span {
            reduce_scalars[lane] += reduce_scalars[lane + span];
        }
    }
    workgroupBarrier(); // the total is written
    let total = reduce_scalars[0];
    workgroupBarrier(); // everyone has read it, before the next call overwrites it
    return total;
}

// Two sums at once.
fn reduce_sum2(value: vec2<f32>, lane: u32) -> vec2<f32> {
    reduce_pairs[lane] = value;
    for (var span = REDUCE_LANES / 2u; span > 0u; span /= 2u) {
        workgroupBarrier(); // the sums of the level above are written
        if lane < span {
            reduce_pairs[lane] += reduce_pairs[lane + span];
        }
    }
    workgroupBarrier(); // the totals are written
    let totals = reduce_pairs[0];
    workgroupBarrier(); // everyone has read them, before the next call overwrites them
    return totals;
}

fn reduce_max(value: f32, lane: u32) -> f32 {
    reduce_scalars[lane] = value;
    for (var span = REDUCE_LANES / 2u; span > 0u; span /= 2u) {
        workgroupBarrier(); // the maxima of the level above are written
        if lane < span {
            reduce_scalars[lane] = max(reduce_scalars[lane], reduce_scalars[lane + span]);
        }
    }
    workgroupBarrier(); // the largest is written
    let largest = reduce_scalars[0];
    workgroupBarrier(); // everyone has read it, before the next call overwrites it
    return largest;
}
