//! Every kernel against its plain-Rust reference, on sizes that do not divide any tile.

mod gelu;
mod layernorm;
