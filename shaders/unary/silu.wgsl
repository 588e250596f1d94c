// silu: y = x σ(x).

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return x * sigmoid(x);
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    let s = sigmoid(x);
    return s + x * s * (1.0 - s);
}
