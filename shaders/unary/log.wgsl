// log: y = ln x. NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return nan_kept(x, log(x));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / x;
}
