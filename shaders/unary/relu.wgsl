// relu: y = x, or 0 where x is below 0. At 0 the slope is 0, as PyTorch's. NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return nan_kept(x, select(x, vec4<f32>(0.0), x < vec4<f32>(0.0)));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(1.0), vec4<f32>(0.0), x <= vec4<f32>(0.0));
}
