// rsqrt: y = 1 / √(x + a). NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return nan_kept(x, inverseSqrt(x + params.a));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return -0.5 * inverseSqrt(x + params.a) / (x + params.a);
}
