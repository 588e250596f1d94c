// mul: z = x y.

fn binary_value(x: Item, y: Item) -> Item {
    return x * y;
}

fn binary_slope_x(x: Item, y: Item) -> Item {
    return y;
}

fn binary_slope_y(x: Item, y: Item) -> Item {
    return x;
}
