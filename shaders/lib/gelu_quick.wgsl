// GELU by the logistic function: y = x σ(1.702 x), and its slope. In the place of gelu.wgsl, for one float or four (tiles/).
// Exponentials are of negative numbers alone, which cannot overflow.

const GELU_SCALE = 1.702;

fn gelu_value(x: Item) -> Item {
    let v = GELU_SCALE * x;
    let e = exp(-abs(v));
    return x * select(Item(1.0), e, v < Item(0.0)) / (1.0 + e);
}

// dy/dx = s + 1.702 x s (1 − s), s = σ(1.702 x). Where s is 0 or 1 the product may be 0 times infinity.
fn gelu_slope(x: Item) -> Item {
    let v = GELU_SCALE * clamp(x, Item(-64.0), Item(64.0));
    let e = exp(-abs(v));
    let larger = 1.0 / (1.0 + e); // of s and 1 − s; e times it is the other
    return select(Item(1.0), e, v < Item(0.0)) * larger + v * e * larger * larger;
}
