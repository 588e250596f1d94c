// GELU, exact: y = x Φ(x), Φ(x) = (1 + erf(x / √2)) / 2, and its slope. For one float or four (tiles/). gelu_tanh.wgsl and
// gelu_quick.wgsl have the same functions of the other forms.

// Φ by Abramowitz and Stegun 7.1.26 on |x| / √2: absolute error below 1.5e-7.
fn gelu_cdf(x: Item) -> Item {
    let z = abs(x) * 0.70710678;
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let tail = 0.5 * poly * exp(-z * z);
    return select(tail, 1.0 - tail, x >= Item(0.0));
}

fn gelu_value(x: Item) -> Item {
    return x * gelu_cdf(x);
}

// dy/dx = Φ(x) + x φ(x)
fn gelu_slope(x: Item) -> Item {
    return gelu_cdf(x) + x * 0.39894228 * exp(-0.5 * x * x);
}
