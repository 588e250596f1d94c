// GELU by the hyperbolic tangent: y = x (1 + tanh u) / 2 = x σ(2u), u = √(2/π) (x + 0.044715 x³), and its slope. In the place of
// gelu.wgsl, for one float or four (tiles/). Exponentials are of negative numbers alone, which cannot overflow.

const GELU_SCALE = 1.5957691; // 2 √(2/π)

fn gelu_value(x: Item) -> Item {
    let v = GELU_SCALE * x * (1.0 + 0.044715 * x * x);
    let e = exp(-abs(v));
    return x * select(Item(1.0), e, v < Item(0.0)) / (1.0 + e);
}

// dy/dx = s + x s (1 − s) 2 du/dx, s = σ(2u). Where s is 0 or 1 the square of x may be infinite.
fn gelu_slope(x: Item) -> Item {
    let near = clamp(x, Item(-16.0), Item(16.0));
    let square = near * near;
    let v = GELU_SCALE * near * (1.0 + 0.044715 * square);
    let e = exp(-abs(v));
    let larger = 1.0 / (1.0 + e); // of s and 1 − s; e times it is the other
    return select(Item(1.0), e, v < Item(0.0)) * larger
        + near * e * larger * larger * GELU_SCALE * (1.0 + 0.134145 * square);
}
