//! Kernels by what they are for.

use serde::Serialize;

/// What kernels are counted together: [`Group::of`] sorts them by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Group {
    Products,
    Attention,
    BiasGradients,
    LayerNorm,
    Gelu,
    Residuals,
    Tokens,
    Loss,
    Optimiser,
    Other,
}

impl Group {
    pub const ALL: [Group; 10] = [
        Group::Products,
        Group::Attention,
        Group::BiasGradients,
        Group::LayerNorm,
        Group::Gelu,
        Group::Residuals,
        Group::Tokens,
        Group::Loss,
        Group::Optimiser,
        Group::Other,
    ];

    /// The group of a kernel, by the file that its name begins with.
    pub fn of(kernel: &str) -> Group {
        const FILES: [(&str, Group); 18] = [
            ("matmul", Group::Products),
            ("flash", Group::Attention),
            ("softmax", Group::Attention),
            ("rotary", Group::Attention),
            ("column_sum", Group::BiasGradients),
            ("layernorm", Group::LayerNorm),
            ("gelu", Group::Gelu),
            ("swiglu", Group::Gelu),
            ("add", Group::Residuals),
            ("accumulate", Group::Residuals),
            ("patchify", Group::Tokens),
            ("embed_tokens", Group::Tokens),
            ("embedding", Group::Tokens),
            ("token_", Group::Tokens),
            ("mean_tokens", Group::Tokens),
            ("strided_copy", Group::Tokens),
            ("cross_entropy", Group::Loss),
            ("optim", Group::Optimiser),
        ];
        FILES.iter().find(|(file, _)| kernel.starts_with(file)).map_or(Group::Other, |(_, group)| *group)
    }

    pub fn name(self) -> &'static str {
        match self {
            Group::Products => "matrix products",
            Group::Attention => "attention",
            Group::BiasGradients => "bias gradients",
            Group::LayerNorm => "layer norm",
            Group::Gelu => "GELU",
            Group::Residuals => "residuals",
            Group::Tokens => "tokens",
            Group::Loss => "loss",
            Group::Optimiser => "optimiser",
            Group::Other => "other",
        }
    }
}
