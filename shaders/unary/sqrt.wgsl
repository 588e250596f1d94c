// sqrt: y = √x.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return sqrt(x);
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return 0.5 / sqrt(x);
}
