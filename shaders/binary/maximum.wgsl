// maximum: z = the larger of x and y, NaN where one of them is. Equals share the gradient, and beside a NaN
// both have all of it, as PyTorch's.

fn binary_value(x: Item, y: Item) -> Item {
    return select(x, y, (y > x) | nan_is(y));
}

fn binary_slope_x(x: Item, y: Item) -> Item {
    return select(select(Item(1.0), Item(0.5), x == y), Item(0.0), x < y);
}

fn binary_slope_y(x: Item, y: Item) -> Item {
    return select(select(Item(1.0), Item(0.5), x == y), Item(0.0), y < x);
}
