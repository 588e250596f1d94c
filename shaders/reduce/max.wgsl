// The largest; NaN where one is NaN.

// No number is below every other, minus infinity included, so the first element begins.
fn reduction_start(first: Item) -> Item {
    return first;
}

fn reduction_of(a: Item, b: Item) -> Item {
    return select(a, b, (b > a) | nan_is(b));
}
