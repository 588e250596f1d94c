// swiglu: y = silu(gate) ⊙ value, silu(x) = x σ(x), of rows that hold gate and value side by side (Shazeer, "GLU Variants Improve
// Transformer", 2020).
//
//   x   Act[rows * 2 * width]  read
//   y   Act[rows * width]  written                      (forward)
//   dy  Act[rows * width]  read                         (backward)
//   d_x Act[rows * 2 * width]  written, or added to     (backward)
//
// An Act is one element or four in full or half precision (tiles/), an Item the same in f32; width counts in them. Grid: one
// invocation for each of y, 64 a workgroup, folded (lib/grid.wgsl).

struct Params { rows: u32, width: u32, accumulate: u32 }

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(1) @binding(0) var<uniform> params: Params;

// Exponentials are of negative numbers alone, which cannot overflow.
fn gate_sigmoid(v: Item) -> Item {
    let e = exp(-abs(v));
    return select(Item(1.0), e, v < Item(0.0)) / (1.0 + e);
}

// ---- forward ----

@group(0) @binding(1) var<storage, read_write> y: array<Act>;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    let row = i / params.width;
    if row < params.rows {
        let at = i + row * params.width;
        let gate = Item(x[at]);
        y[i] = Act(gate * gate_sigmoid(gate) * Item(x[at + params.width]));
    }
}

// ---- backward: dvalue = dy silu(gate), dgate = dy value (s + gate s (1 − s)) ----

@group(0) @binding(1) var<storage, read> dy: array<Act>;
@group(0) @binding(2) var<storage, read_write> d_x: array<Act>;

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    let row = i / params.width;
    if row < params.rows {
        let at = i + row * params.width;
        let gate = Item(x[at]);
        let s = gate_sigmoid(gate);
        let d = Item(dy[i]);
        var dgate = d * Item(x[at + params.width]) * s * (1.0 + gate * (1.0 - s));
        var dvalue = d * gate * s;
        if params.accumulate != 0u {
            dgate += Item(d_x[at]);
            dvalue += Item(d_x[at + params.width]);
        }
        d_x[at] = Act(dgate);
        d_x[at + params.width] = Act(dvalue);
    }
}
