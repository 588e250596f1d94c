// What a kernel counts in, where rows have any number of floats.
alias Item = f32;
const ITEM = 1u; // floats in an Item
alias ItemBits = u32;
alias ItemTruth = bool;
