// quick_gelu: y = x σ(1.702 x).

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return x * sigmoid(1.702 * x);
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    let s = sigmoid(1.702 * x);
    return s + 1.702 * x * s * (1.0 - s);
}
