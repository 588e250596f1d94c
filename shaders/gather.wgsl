// gather: y[o, k, i] = x[o, index[o, k, i], i], along an axis of x; and its gradient, which is also scatter_add:
// y[o, index[o, k, i], i] += x[o, k, i].
//
//   index  u32[outer, count, inner]  read; an index that is not below `len` raises `fault`, and its element is 0 in gather
//                                    and left out in scatter_add
//   x      f32[outer, len, inner]    read (gather)
//          f32[outer, count, inner]  read (scatter_add)
//   y      f32[outer, count, inner]  written, or added to (gather)
//          f32[outer, len, inner]    added to (scatter_add)

struct Params { outer: u32, len: u32, count: u32, inner: u32, first: u32, end: u32, accumulate: u32, fault: u32 }

@group(0) @binding(0) var<storage, read> index: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> fault_flag: FaultFlag;
@group(1) @binding(0) var<uniform> params: Params;

// Grid: an invocation for each element of y, 64 a workgroup, folded.
@compute @workgroup_size(64)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i >= params.outer * params.count * params.inner {
        return;
    }
    let at = index[i];
    var value = 0.0;
    if at < params.len {
        value = x[(i / (params.count * params.inner) * params.len + at) * params.inner + i % params.inner];
    } else {
        fault_raise(params.fault, at, params.len);
    }
    if params.accumulate == 0u {
        y[i] = value;
    } else {
        y[i] += value;
    }
}

// So many elements that go to one place after another are added before they are added to the others: a long sum would lose digits.
const BLOCK = 64u;

// Grid: an invocation for each column [o, ·, i] of y, 64 a workgroup, folded. It alone adds to its column, element after
// element, so that repeated indices add up in one order, without atomics. k runs from `first` to `end`: long axes take several
// dispatches.
@compute @workgroup_size(64)
fn scatter_add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = grid_group(group, groups) * 64u + lane;
    if column >= params.outer * params.inner {
        return;
    }
    let o = column / params.inner;
    let i = column % params.inner;
    let base = o * params.len;
    // `part` is for `place`, at first nowhere.
    var place = params.len;
    var part = 0.0;
    var added = 0u;
    for (var k = params.first; k < params.end; k++) {
        let source = (o * params.count + k) * params.inner + i;
        let at = index[source];
        if at != place || added == BLOCK {
            if place < params.len {
                y[(base + place) * params.inner + i] += part;
            }
            place = at;
            part = 0.0;
            added = 0u;
        }
        if at < params.len {
            part += x[source];
            added++;
        } else {
            fault_raise(params.fault, at, params.len);
        }
    }
    if place < params.len {
        y[(base + place) * params.inner + i] += part;
    }
}
