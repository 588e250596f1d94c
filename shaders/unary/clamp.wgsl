// clamp: y = x, but at least a and at most b. The slope is 1 from a to b, both included, and 0 of a NaN, as PyTorch's. NaN stays NaN.

fn unary_value(x: vec4<f32>) -> vec4<f32> {
    let above = select(x, vec4<f32>(params.a), x < vec4<f32>(params.a));
    return nan_kept(x, select(above, vec4<f32>(params.b), x > vec4<f32>(params.b)));
}

fn unary_slope(x: vec4<f32>) -> vec4<f32> {
    let inside = (x >= vec4<f32>(params.a)) & (x <= vec4<f32>(params.b)) & !nan_is(x);
    return select(vec4<f32>(0.0), vec4<f32>(1.0), inside);
}
