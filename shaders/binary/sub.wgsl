// sub: z = x − y.

fn binary_value(x: Item, y: Item) -> Item {
    return x - y;
}
