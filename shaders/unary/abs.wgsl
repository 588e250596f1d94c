// abs: y = |x|. At 0 the slope is 0, as PyTorch's.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return abs(x);
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return sign(x);
}
