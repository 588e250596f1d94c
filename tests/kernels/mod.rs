//! Every kernel against its plain-Rust reference, on sizes that do not divide any tile.

mod add;
mod attention;
mod cast;
mod concat_tokens;
mod cross_entropy;
mod dropout;
mod embed_tokens;
mod gelu;
mod kept_tokens;
mod layernorm;
mod long_loops;
mod matmul;
mod mean_tokens;
mod messages;
mod mlp;
mod mul;
mod patchify;
mod reshape;
mod slice_tokens;
mod softmax;
mod sum;
mod support;
mod token_gather;
mod token_scatter;
mod tuning;
