// equal: z = 1 where x is y, else 0.

fn binary_value(x: Item, y: Item) -> Item {
    return select(Item(0.0), Item(1.0), x == y);
}
