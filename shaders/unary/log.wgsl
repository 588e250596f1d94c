// log: y = ln x.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return log(x);
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / x;
}
