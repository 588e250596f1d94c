// sqrt: y = √x. NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return nan_kept(x, sqrt(x));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return 0.5 / sqrt(x);
}
