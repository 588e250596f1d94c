// pow: y = xᵃ. b is what the power of a negative x is multiplied by: 1 for even a, −1 for odd a, NaN for others. NaN stays NaN, but to
// the 0.

// |x|ᵉ; WGSL's own power of 0 may be anything.
fn pow_size(x: vec4<f32>, exponent: f32) -> vec4<f32> {
    let size = abs(x);
    let of_zero = select(size, 1.0 / size, vec4<bool>(exponent < 0.0));
    let power = select(pow(size, vec4<f32>(exponent)), of_zero, size == vec4<f32>(0.0));
    return select(nan_kept(x, power), vec4<f32>(1.0), vec4<bool>(exponent == 0.0));
}

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    // An odd power of -0 is negative too.
    let is_negative_zero = (bitcast<vec4<u32>>(x) == vec4<u32>(0x80000000u)) & vec4<bool>(params.b == -1.0);
    let is_negative = (x < vec4<f32>(0.0)) | is_negative_zero;
    return pow_size(x, params.a) * select(vec4<f32>(1.0), vec4<f32>(params.b), is_negative);
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    let side = select(vec4<f32>(1.0), vec4<f32>(-params.b), x < vec4<f32>(0.0));
    // Without the condition, 0 times an infinity at x = 0.
    return select(params.a * pow_size(x, params.a - 1.0) * side, vec4<f32>(0.0), vec4<bool>(params.a == 0.0));
}
