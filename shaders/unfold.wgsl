// unfold: the windows of pictures as rows, so that a convolution is a matrix product and pooling a reduction along rows:
//   y[b, oy·ow + ox, (c·kh + ky)·kw + kx] = x[b, c, oy·stride_y + ky·dilation_y − pad_y, ox·stride_x + kx·dilation_x − pad_x]
// and `outside` where that is beyond the picture.
//
//   x   f32[b, c, h, w]                 read
//   y   f32[b, oh·ow, c·kh·kw]          written (unfold)
//   dy  f32[b, oh·ow, c·kh·kw]          read (fold)
//   d_x f32[b, c, h, w]                 written, or added to (fold)
//
// Grid: an invocation for each element of what is written, 64 a workgroup, folded.

struct Params {
    items: u32, accumulate: u32, outside: f32,
    c: u32, h: u32, w: u32, oh: u32, ow: u32, kh: u32, kw: u32,
    stride_y: u32, stride_x: u32, pad_y: u32, pad_x: u32, dilation_y: u32, dilation_x: u32,
    reach_y: u32, reach_x: u32,
}

@group(1) @binding(0) var<uniform> params: Params;

// ---- forward ----

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn unfold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i >= params.items {
        return;
    }
    let kx = i % params.kw;
    var rest = i / params.kw;
    let ky = rest % params.kh;
    rest /= params.kh;
    let c = rest % params.c;
    rest /= params.c;
    let ox = rest % params.ow;
    rest /= params.ow;
    let oy = rest % params.oh;
    let b = rest / params.oh;
    // Left of the picture wraps around to numbers beyond its right.
    let row = oy * params.stride_y + ky * params.dilation_y - params.pad_y;
    let column = ox * params.stride_x + kx * params.dilation_x - params.pad_x;
    var value = params.outside;
    if row < params.h && column < params.w {
        value = x[((b * params.c + c) * params.h + row) * params.w + column];
    }
    y[i] = value;
}

// ---- backward: each element of dx is the sum over the windows that hold it ----

struct FoldWindows { first: u32, end: u32 }

// The windows along an axis that reach over the place `at` of the padded picture: a window begins every `stride` and ends
// after `reach`.
fn fold_windows(at: u32, reach: u32, stride: u32, windows: u32) -> FoldWindows {
    let first = select((at - reach) / stride + 1u, 0u, at < reach);
    return FoldWindows(first, min(at / stride + 1u, windows));
}

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> d_x: array<f32>;

@compute @workgroup_size(64)
fn fold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i >= params.items {
        return;
    }
    let column = i % params.w;
    var rest = i / params.w;
    let row = rest % params.h;
    rest /= params.h;
    let c = rest % params.c;
    let b = rest / params.c;
    var sum = 0.0;
    // Of the windows along an axis only the last few reach so far back; with a dilation some of these step over the element.
    let rows = fold_windows(row + params.pad_y, params.reach_y, params.stride_y, params.oh);
    let columns = fold_windows(column + params.pad_x, params.reach_x, params.stride_x, params.ow);
    for (var oy = rows.first; oy < rows.end; oy++) {
        let y0 = row + params.pad_y - oy * params.stride_y;
        if y0 % params.dilation_y == 0u {
            for (var ox = columns.first; ox < columns.end; ox++) {
                let x0 = column + params.pad_x - ox * params.stride_x;
                if x0 % params.dilation_x == 0u {
                    let window = (b * params.oh + oy) * params.ow + ox;
                    let tap = (c * params.kh + y0 / params.dilation_y) * params.kw + x0 / params.dilation_x;
                    sum += dy[window * params.c * params.kh * params.kw + tap];
                }
            }
        }
    }
    if params.accumulate == 0u {
        d_x[i] = sum;
    } else {
        d_x[i] += sum;
    }
}
