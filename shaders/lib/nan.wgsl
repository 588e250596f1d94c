// nan_is: whether a float, or each of four, is NaN, by its bits: compilers may assume that comparing never meets one. For an Item
// with its ItemBits (tiles/).

fn nan_is(x: Item) -> ItemTruth {
    return (bitcast<ItemBits>(x) & ItemBits(0x7fffffffu)) > ItemBits(0x7f800000u);
}
