// sigmoid: y = σ(x) = 1 / (1 + e⁻ˣ). NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return nan_kept(x, sigmoid(x));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    let s = sigmoid(x);
    return s * (1.0 - s);
}
