// rsqrt: y = 1 / √(x + a).

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return inverseSqrt(x + params.a);
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return -0.5 * inverseSqrt(x + params.a) / (x + params.a);
}
