// nan_is, nan_kept, nan_below_zero: NaN by its bits, since compilers may assume that comparing never meets one. For an Item with its
// ItemBits (tiles/): a float, or each of four.

fn nan_is(x: Item) -> ItemTruth {
    return (bitcast<ItemBits>(x) & ItemBits(0x7fffffffu)) > ItemBits(0x7f800000u);
}

// y, or the NaN that x is: some drivers' exponentials and selections make numbers of it.
fn nan_kept(x: Item, y: Item) -> Item {
    return select(y, x, nan_is(x));
}

// y, or NaN where x is below 0. WGSL has no constant that is NaN: x lends it bits.
fn nan_below_zero(x: Item, y: Item) -> Item {
    return select(y, bitcast<Item>(bitcast<ItemBits>(x) | ItemBits(0x7fc00000u)), x < Item(0.0));
}
