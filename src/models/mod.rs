//! Networks, each in a folder of its own, which alone knows its name: its sizes, its forward pass, what others call its
//! parameters, and its files.

pub mod vit;
