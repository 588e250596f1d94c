// softplus: y = ln(1 + eˣ) = max(x, 0) + ln(1 + e^−|x|). NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    let e = exp(-abs(x));
    // Of a small e, 1 + e has lost digits: there ln(1 + e) = 2 artanh s, whose next term is 2/7 s⁷.
    let s = e / (2.0 + e);
    let tail = select(log(1.0 + e), s * (2.0 + s * s * (2.0 / 3.0 + 0.4 * s * s)), e < vec4<f32>(0.1));
    return nan_kept(x, select(x, vec4<f32>(0.0), x < vec4<f32>(0.0)) + tail);
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return sigmoid(x);
}
