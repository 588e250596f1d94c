// The sum.

// What a sum begins with, beside its first element.
fn reduction_start(first: Item) -> Item {
    return Item(0.0);
}

fn reduction_of(a: Item, b: Item) -> Item {
    return a + b;
}
