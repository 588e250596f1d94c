// ne: z = 1 where x is not y; NaN is nothing, else 0.

fn binary_value(x: Item, y: Item) -> Item {
    return select(Item(0.0), Item(1.0), (x != y) | nan_is(x) | nan_is(y));
}
