// div: z = x / y.

fn binary_value(x: Item, y: Item) -> Item {
    return x / y;
}

fn binary_slope_x(x: Item, y: Item) -> Item {
    return 1.0 / y;
}

fn binary_slope_y(x: Item, y: Item) -> Item {
    // The square of y may be 0 or infinite.
    return -(x / y) / y;
}
