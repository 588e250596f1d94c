// log: y = ln x, minus infinity at 0 and NaN below, where some drivers' own is finite. NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    let of_zero = -1.0 / abs(x);
    return nan_kept(x, nan_below_zero(x, select(log(x), of_zero, x == vec4<f32>(0.0))));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / x;
}
