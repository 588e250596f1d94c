//! How a block is built.

use super::Init;
use crate::ops::Gelu;

/// Where a block norms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormOrder {
    /// Before attention and before the MLP, as ViTs and GPT-2 do: x + attn(norm1(x)), then x + mlp(norm2(x)).
    #[default]
    Pre,
    /// Behind each sum, as BERT does: norm1(x + attn(x)), then norm2(x + mlp(x)).
    Post,
}

/// What a model's checkpoints call the layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockNames {
    /// The norm of attention: before it, or behind its sum.
    pub norm1: &'static str,
    /// Queries, keys and values.
    pub qkv: &'static str,
    /// Biases of queries and values, where keys have none.
    pub q_bias: &'static str,
    /// As `q_bias`.
    pub v_bias: &'static str,
    /// The norm before attention's projection, where there is one.
    pub attn_norm: &'static str,
    /// Attention's projection.
    pub proj: &'static str,
    /// The norm of the MLP.
    pub norm2: &'static str,
    /// The MLP's first layer.
    pub fc1: &'static str,
    /// The norm before the MLP's second layer, where there is one.
    pub mlp_norm: &'static str,
    /// The MLP's second layer.
    pub fc2: &'static str,
    /// Layer scale of attention.
    pub ls1: &'static str,
    /// Layer scale of the MLP.
    pub ls2: &'static str,
}

impl BlockNames {
    /// timm's.
    pub const TIMM: Self = BlockNames {
        norm1: "norm1",
        qkv: "attn.qkv",
        q_bias: "attn.q_bias",
        v_bias: "attn.v_bias",
        attn_norm: "attn.norm",
        proj: "attn.proj",
        norm2: "norm2",
        fc1: "mlp.fc1",
        mlp_norm: "mlp.norm",
        fc2: "mlp.fc2",
        ls1: "ls1",
        ls2: "ls2",
    };
}

/// How a block is built.
#[derive(Clone, Copy, Debug)]
pub struct BlockConfig {
    /// C.
    pub width: usize,
    /// H; divides C.
    pub heads: usize,
    /// F, the width of the MLP's hidden layer.
    pub hidden: usize,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Where they have, whether k has. Without one, q's and v's are parameters of their own.
    pub key_bias: bool,
    /// The MLP's activation, unless it is gated.
    pub gelu: Gelu,
    /// Whether the MLP is gated ([`crate::ops::swiglu()`]): its first layer gives F numbers, its second takes half as many.
    pub gated: bool,
    /// Whether attention's projection reads normed heads: timm's `scale_attn_norm`, as the CLIPs of EVA-02 have it.
    pub scale_attn_norm: bool,
    /// Whether the MLP's second layer reads a normed hidden layer: timm's `scale_mlp_norm`, as EVA-02's ViT-B and L have it (NormFormer,
    /// Shleifer et al., 2021).
    pub scale_mlp_norm: bool,
    /// Dropout after attention's projection and after the MLP.
    pub dropout: f32,
    /// Dropout of attention's weights.
    pub attention_dropout: f32,
    /// Dropout of the MLP's hidden layer.
    pub hidden_dropout: f32,
    /// Stochastic depth of this block.
    pub drop_path: f32,
    /// Added to the variance in its norms.
    pub eps: f32,
    /// Layer scale (Touvron et al., 2021): with a value here, attention and MLP are each multiplied by learned numbers γ
    /// `f32[C]` before they are added to the residual stream, and this is what those begin with.
    pub init_values: Option<f32>,
    /// Where it norms.
    pub order: NormOrder,
    /// What its layers are called.
    pub names: BlockNames,
    /// Deviation of initial weights.
    pub std: f32,
    /// The same of the two layers whose results are added to the residual stream.
    pub residual_std: f32,
}

impl BlockConfig {
    /// timm's block of `width` channels in `heads` heads: an MLP four times as wide, pre-norm, no dropout, no layer scale.
    pub fn new(width: usize, heads: usize) -> Self {
        BlockConfig {
            width,
            heads,
            hidden: 4 * width,
            qkv_bias: true,
            key_bias: true,
            gelu: Gelu::Erf,
            gated: false,
            scale_attn_norm: false,
            scale_mlp_norm: false,
            dropout: 0.0,
            attention_dropout: 0.0,
            hidden_dropout: 0.0,
            drop_path: 0.0,
            eps: 1e-6,
            init_values: None,
            order: NormOrder::Pre,
            names: BlockNames::TIMM,
            std: Init::STD,
            residual_std: Init::STD,
        }
    }
}
