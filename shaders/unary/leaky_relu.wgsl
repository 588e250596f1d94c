// leaky_relu: y = x, or a x where x is not above 0. NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return select(params.a * x, x, x > vec4<f32>(0.0));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(params.a), vec4<f32>(1.0), x > vec4<f32>(0.0));
}
