//! Every kernel against its plain-Rust reference, on sizes that do not divide any tile.

mod add;
mod cross_entropy;
mod gelu;
mod kept_tokens;
mod layernorm;
mod mul;
mod patchify;
mod softmax;
mod sum;
mod support;
mod token_gather;
mod token_scatter;
mod tokens;
