// softplus: y = ln(1 + eˣ) = max(x, 0) + ln(1 + e^−|x|). NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    let e = exp(-abs(x));
    // Of a small e, 1 + e has lost most digits; the next term of the series is e³/3.
    let tail = select(log(1.0 + e), e * (1.0 - 0.5 * e), e < vec4<f32>(1e-3));
    return nan_kept(x, select(x, vec4<f32>(0.0), x < vec4<f32>(0.0)) + tail);
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return sigmoid(x);
}
