// gelu_tanh: y = x (1 + tanh u) / 2 = x σ(2u), u = √(2/π) (x + 0.044715 x³). Uses lib/sigmoid.wgsl.

const GELU_TANH_SCALE = 1.5957691; // 2 √(2/π)

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    return x * sigmoid(GELU_TANH_SCALE * x * (1.0 + 0.044715 * x * x));
}

// dy/dx = s + x s (1 − s) 2 du/dx, s = σ(2u). Where s is 0 or 1 the square of x may be infinite.
fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    let near = clamp(x, vec4<f32>(-16.0), vec4<f32>(16.0));
    let square = near * near;
    let s = sigmoid(GELU_TANH_SCALE * near * (1.0 + 0.044715 * square));
    return s + near * s * (1.0 - s) * GELU_TANH_SCALE * (1.0 + 0.134145 * square);
}
