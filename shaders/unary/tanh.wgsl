// tanh: y = tanh x. Some drivers make it of exponentials that overflow, and beyond ±10 it is ±1 in f32. NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    let y = tanh(clamp(x, vec4<f32>(-10.0), vec4<f32>(10.0)));
    // Near 0 those exponentials cancel; the next term of the series is 2/15 x⁵.
    return nan_kept(x, select(y, x * (1.0 - x * x / 3.0), abs(x) < vec4<f32>(0.03)));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    let y = unary_value(x);
    return 1.0 - y * y;
}
