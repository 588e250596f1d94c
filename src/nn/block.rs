//! A transformer block, with random-LTD built in.

use super::{AdaptedLinear, BlockConfig, Init, LayerNorm, Mode, NormOrder, Precision};
use crate::autograd::{Parameter, recompute};
use crate::error::{Error, Result};
use crate::ops::{self, Dropout, Gelu, KeyValues, Mask, Rotary, TokenIndices};
use crate::shape::DType;
use crate::tensor::Tensor;

/// What the packed layer before attention consists of, as adapters have it.
pub(crate) const QKV_PARTS: [&str; 3] = ["query", "key", "value"];

/// What the first layer of a gated MLP consists of: a gate, and what it lets through.
pub(crate) const GATED_PARTS: [&str; 2] = ["gate", "up"];

/// Multi-head self-attention.
#[derive(Clone)]
struct Attention {
    qkv: AdaptedLinear,
    /// Where keys have no bias.
    biases: Option<QueryValueBiases>,
    norm: Option<LayerNorm>,
    proj: AdaptedLinear,
    heads: usize,
    rotary: Option<Rotary>,
}

/// Biases of queries and values, `f32[C]` each, and the zeros that keys have in their place.
#[derive(Clone)]
struct QueryValueBiases {
    q: Parameter,
    v: Parameter,
    zeros: Tensor,
}

impl Attention {
    fn new(init: &mut Init<'_>, config: &BlockConfig) -> Result<Self> {
        let &BlockConfig { width, heads, qkv_bias, key_bias, scale_attn_norm, names, std, eps, .. } = config;
        let has_bias = qkv_bias && key_bias;
        let qkv = AdaptedLinear::of_parts(init.at(names.qkv), [width, 3 * width], has_bias, std, &QKV_PARTS)?;
        let biases = || {
            let q = init.constant(names.q_bias, &[width], 0.0)?;
            let zeros = Tensor::zeros(q.value().gpu(), DType::F32, &[width])?;
            Ok(QueryValueBiases { q, v: init.constant(names.v_bias, &[width], 0.0)?, zeros })
        };
        let biases = (qkv_bias && !key_bias).then(biases).transpose()?;
        let norm = || LayerNorm::new(init.at(names.attn_norm), width, eps);
        let norm = scale_attn_norm.then(norm).transpose()?;
        let proj = AdaptedLinear::new(init.at(names.proj), width, width, true, config.residual_std)?;
        let proj = proj.scaled(init.at(names.ls1), config.init_values)?;
        Ok(Attention { qkv, biases, norm, proj, heads, rotary: None })
    }

    /// What the projection brings together: `f32[B, T, C]` to the same shape.
    fn heads(&self, x: &Tensor, keys: Keys<'_>, mode: &Mode, dropout: Option<Dropout>) -> Result<Tensor> {
        let heads = self.attended(x, keys, mode, dropout)?;
        normed(heads, self.norm.as_ref())
    }

    /// What each head has gathered.
    fn attended(&self, x: &Tensor, keys: Keys<'_>, mode: &Mode, dropout: Option<Dropout>) -> Result<Tensor> {
        let (Keys::Own(_, places) | Keys::Cached(_, places)) = keys;
        let qkv = match &self.rotary {
            Some(rotary) => ops::rotary(self.qkv(x, mode)?, self.heads, rotary, places)?,
            None => self.qkv(x, mode)?,
        };
        match keys {
            Keys::Own(mask, _) => ops::attention(&qkv, self.heads, mask, dropout),
            Keys::Cached(cache, _) => ops::attention_cached(&qkv, self.heads, cache),
        }
    }

    /// Queries, keys and values, `f32[B, T, 3·C]`.
    fn qkv(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let Some(QueryValueBiases { q, v, zeros }) = &self.biases else { return self.qkv.forward(x, mode) };
        let bias = ops::concat(&[&q.tensor(), zeros, &v.tensor()], 0)?;
        self.qkv.forward_biased(x, &bias, mode)
    }
}

/// Which keys the tokens that go through a block see.
enum Keys<'a> {
    /// Each other's, as far as the mask says; and which of all tokens they are, if not all.
    Own(&'a Mask, Option<&'a TokenIndices>),
    /// Those of the tokens before them, which the cache holds, and their own; and where positions are rotary, their
    /// places.
    Cached(&'a mut KeyValues, Option<&'a TokenIndices>),
}

/// Two linear layers with GELU between, or SwiGLU.
#[derive(Clone)]
struct Mlp {
    fc1: AdaptedLinear,
    norm: Option<LayerNorm>,
    fc2: AdaptedLinear,
    gelu: Gelu,
    gated: bool,
}

impl Mlp {
    fn new(init: &mut Init<'_>, config: &BlockConfig) -> Result<Self> {
        let &BlockConfig { width, hidden, gelu, gated, scale_mlp_norm, names, std, eps, .. } = config;
        let inputs = if gated { hidden / 2 } else { hidden };
        let parts: &[&str] = if gated { &GATED_PARTS } else { &[] };
        let fc1 = AdaptedLinear::of_parts(init.at(names.fc1), [width, hidden], true, std, parts)?;
        let norm = || LayerNorm::new(init.at(names.mlp_norm), inputs, eps);
        let norm = scale_mlp_norm.then(norm).transpose()?;
        let fc2 = AdaptedLinear::new(init.at(names.fc2), inputs, width, true, config.residual_std)?;
        let fc2 = fc2.scaled(init.at(names.ls2), config.init_values)?;
        Ok(Mlp { fc1, norm, fc2, gelu, gated })
    }

    /// With dropout of the hidden layer and behind the second; `layer` is the first of their two numbers.
    fn forward(&self, x: &Tensor, mode: &Mode, [hidden, output]: [f32; 2], layer: u32) -> Result<Tensor> {
        let h = normed(mode.dropout(self.activated(x, mode)?, hidden, layer)?, self.norm.as_ref())?;
        mode.dropout(self.fc2.forward(&h, mode)?, output, layer + 1)
    }

    /// The first layer and the activation.
    fn activated(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let h = self.fc1.forward(x, mode)?;
        if self.gated { ops::swiglu(&h) } else { ops::gelu(&h, self.gelu) }
    }

    /// residual + mlp(x), put `into` a full tensor where there is one: for when nothing random happens in between, and then in
    /// two passes where both layers are plain and nothing gates or norms.
    fn forward_add(
        &self,
        x: &Tensor,
        residual: &Tensor,
        into: Option<(Tensor, &TokenIndices)>,
        mode: &Mode,
    ) -> Result<Tensor> {
        let is_other = self.gated || self.norm.is_some();
        let plain = if is_other { None } else { self.fc1.plain()?.zip(self.fc2.plain()?) };
        if let Some(((w1, Some(b1)), (w2, Some(b2)))) = plain {
            return ops::mlp(x, (&w1, &b1), (&w2, &b2), self.gelu, residual, into);
        }
        let h = normed(self.activated(x, mode)?, self.norm.as_ref())?;
        scattered(self.fc2.forward_add(&h, residual, mode)?, into)
    }
}

/// What `norm` makes of x, in its element type; x itself where there is none.
fn normed(x: Tensor, norm: Option<&LayerNorm>) -> Result<Tensor> {
    let Some(norm) = norm else { return Ok(x) };
    // Norms are computed in f32, and store halves where these fill vectors.
    let stored = if x.shape().last().is_multiple_of(4) { x.dtype() } else { DType::F32 };
    ops::cast(&norm.forward(&ops::cast(&x, DType::F32)?, stored)?, x.dtype())
}

/// The rows put `into` a full tensor, where there is one.
fn scattered(rows: Tensor, into: Option<(Tensor, &TokenIndices)>) -> Result<Tensor> {
    match into {
        Some((full, kept)) => ops::token_scatter(full, &rows, kept),
        None => Ok(rows),
    }
}

/// A transformer block, with random-LTD built in.
#[derive(Clone)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    config: BlockConfig,
    /// The first of the [`Block::RANDOM_LAYERS`] numbers that its random layers take.
    first_layer: u32,
}

impl Block {
    /// How many random layers a block has: three dropouts, two stochastic depths. Dropout of attention's weights, a purpose of its own,
    /// shares the number of that behind the projection.
    const RANDOM_LAYERS: u32 = 5;

    /// The largest number of a block: adapters' random layers have numbers from 2³¹ on.
    const MOST: usize = 1 << 28;

    /// Block number `number`, from 0, of a model: no two blocks of different numbers draw alike.
    ///
    /// # Errors
    /// [`Error::Argument`] for a number beyond 2²⁸; otherwise as [`crate::autograd::Parameters::add`].
    pub fn new(mut init: Init<'_>, config: BlockConfig, number: usize) -> Result<Self> {
        if number > Self::MOST {
            return Err(Error::argument("Block", "number", format!("at most {}", Self::MOST), number));
        }
        let BlockConfig { width, eps, names, .. } = config;
        Ok(Block {
            norm1: LayerNorm::new(init.at(names.norm1), width, eps)?,
            attn: Attention::new(&mut init, &config)?,
            norm2: LayerNorm::new(init.at(names.norm2), width, eps)?,
            mlp: Mlp::new(&mut init, &config)?,
            config,
            first_layer: Self::layers_below(number),
        })
    }

    /// The same with queries and keys turned by the angles of their tokens' places.
    pub(super) fn with_rotary(mut self, rotary: Rotary) -> Self {
        self.attn.rotary = Some(rotary);
        self
    }

    /// The number of the first random layer behind `blocks` blocks. Number 0 is for what lies below them.
    pub fn layers_below(blocks: usize) -> u32 {
        1 + blocks as u32 * Self::RANDOM_LAYERS
    }

    /// `f32[B, T, C]` to the same shape. With `kept` only those rows go through the block, and the others pass it
    /// unchanged (random-LTD, Yao et al., 2022); the mask is that of the rows which go through. Takes `x` by value so that the
    /// scatter may work in place.
    ///
    /// # Errors
    /// If the indices are not for this batch and length.
    pub fn forward(&self, x: Tensor, kept: Option<&TokenIndices>, mask: &Mask, mode: &Mode) -> Result<Tensor> {
        let Some(kept) = kept else { return self.forward_rows(x, None, mask, mode) };
        let keys = Keys::Own(mask, Some(kept));
        if mode.is_recomputing() {
            let rows = self.forward_rows(ops::token_gather(&x, kept)?, Some(kept), mask, mode)?;
            return ops::token_scatter(x, &rows, kept);
        }
        match self.config.order {
            NormOrder::Pre => {
                let (rows, y) = self.norm1.gather_forward(&x, kept, mode.activations())?;
                self.after_norm(&rows, &y, Some((x, kept)), keys, mode)
            }
            NormOrder::Post => {
                let rows = self.post_norm(&ops::token_gather(&x, kept)?, keys, mode)?;
                ops::token_scatter(x, &rows, kept)
            }
        }
    }

    /// `f32[B, R, C]` to the same shape, all rows through the block: those of the tokens `places`, or of all. Where a block is
    /// computed again in backward, that lies between gather and scatter: of the input only these rows are stored.
    pub(super) fn forward_rows(
        &self,
        x: Tensor,
        places: Option<&TokenIndices>,
        mask: &Mask,
        mode: &Mode,
    ) -> Result<Tensor> {
        if !mode.is_recomputing() {
            return self.plain(&x, Keys::Own(mask, places), mode);
        }
        let (block, places, mask, mode) = (self.clone(), places.cloned(), mask.clone(), *mode);
        recompute(x, move |x| block.plain(&x, Keys::Own(&mask, places.as_ref()), &mode))
    }

    /// As [`super::Encoder::forward_cached`].
    pub(super) fn forward_cached(
        &self,
        x: &Tensor,
        cache: &mut KeyValues,
        places: Option<&TokenIndices>,
        precision: Precision,
    ) -> Result<Tensor> {
        self.plain(x, Keys::Cached(cache, places), &Mode::evaluation().with_precision(precision))
    }

    fn plain(&self, x: &Tensor, keys: Keys<'_>, mode: &Mode) -> Result<Tensor> {
        match self.config.order {
            NormOrder::Pre => self.after_norm(x, &self.norm1.forward(x, mode.activations())?, None, keys, mode),
            NormOrder::Post => self.post_norm(x, keys, mode),
        }
    }

    /// The pre-norm block on all rows of `x`, given norm1(x); the result is put `into` a full tensor where there is one.
    fn after_norm(
        &self,
        x: &Tensor,
        y: &Tensor,
        into: Option<(Tensor, &TokenIndices)>,
        keys: Keys<'_>,
        mode: &Mode,
    ) -> Result<Tensor> {
        let dtype = mode.activations();
        let x = self.add_attention(x, y, keys, mode)?;
        let y = self.norm2.forward(&x, dtype)?;
        self.add_mlp(&x, &y, into, mode)
    }

    fn post_norm(&self, x: &Tensor, keys: Keys<'_>, mode: &Mode) -> Result<Tensor> {
        let dtype = mode.activations();
        let x = self.norm1.forward(&self.add_attention(x, &ops::cast(x, dtype)?, keys, mode)?, DType::F32)?;
        let sum = self.add_mlp(&x, &ops::cast(&x, dtype)?, None, mode)?;
        self.norm2.forward(&sum, DType::F32)
    }

    /// x + attention(y). Without randomness between, each half of a block ends in the product that adds it to the residual.
    fn add_attention(&self, x: &Tensor, y: &Tensor, keys: Keys<'_>, mode: &Mode) -> Result<Tensor> {
        let (BlockConfig { attention_dropout, dropout, drop_path, .. }, first) = (self.config, self.first_layer);
        let heads = self.attn.heads(y, keys, mode, mode.attention_dropout(attention_dropout, first))?;
        if !mode.draws(&[dropout, drop_path]) {
            return self.attn.proj.forward_add(&heads, x, mode);
        }
        let y = ops::cast(&self.attn.proj.forward(&heads, mode)?, DType::F32)?;
        ops::add(x, &mode.drop_path(mode.dropout(y, dropout, first)?, drop_path, first + 1)?)
    }

    /// x + mlp(y), put `into` a full tensor where there is one.
    fn add_mlp(&self, x: &Tensor, y: &Tensor, into: Option<(Tensor, &TokenIndices)>, mode: &Mode) -> Result<Tensor> {
        let BlockConfig { dropout, hidden_dropout, drop_path, .. } = self.config;
        if !mode.draws(&[dropout, hidden_dropout, drop_path]) {
            return self.mlp.forward_add(y, x, into, mode);
        }
        let first = self.first_layer;
        let y = self.mlp.forward(y, mode, [hidden_dropout, dropout], first + 2)?;
        let sum = ops::add(x, &mode.drop_path(ops::cast(&y, DType::F32)?, drop_path, first + 4)?)?;
        scattered(sum, into)
    }
}
