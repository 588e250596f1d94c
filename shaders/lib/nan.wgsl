// nan_is, nan_kept: whether a float, or each of four, is NaN, by its bits: compilers may assume that comparing never meets one. For an Item
// with its ItemBits (tiles/).

fn nan_is(x: Item) -> ItemTruth {
    return (bitcast<ItemBits>(x) & ItemBits(0x7fffffffu)) > ItemBits(0x7f800000u);
}

// y, or the NaN that x is: some drivers' exponentials and selections make numbers of it.
fn nan_kept(x: Item, y: Item) -> Item {
    return select(y, x, nan_is(x));
}
