// exp: y = eˣ. NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return nan_kept(x, exp(x));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return exp(x);
}
