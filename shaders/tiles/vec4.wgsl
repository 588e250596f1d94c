// What a kernel counts in, where every row is a multiple of four floats.
alias Item = vec4<f32>;
const ITEM = 4u; // floats in an Item
alias ItemBits = vec4<u32>;
alias ItemTruth = vec4<bool>;
