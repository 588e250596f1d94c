//! Networks, each in a folder of its own, which alone knows its name: its sizes, its forward pass, and what others call its
//! parameters.

pub mod vit;
