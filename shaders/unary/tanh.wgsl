// tanh: y = tanh x. Some drivers make it of exponentials that overflow, and beyond ±10 it is ±1 in f32. NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return nan_kept(x, tanh(clamp(x, vec4<f32>(-10.0), vec4<f32>(10.0))));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    let y = unary_value(x);
    return 1.0 - y * y;
}
