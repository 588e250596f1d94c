//! The Vision Transformer (Dosovitskiy et al., 2021), as timm's `VisionTransformer` builds it.

mod attention_pool;
mod config;
#[cfg(feature = "files")]
mod files;
mod patch_embed;
mod readout;
mod rotary;

pub use config::{Pool, VitConfig};
#[cfg(feature = "files")]
pub use files::{
    AdapterNames, ExportOptions, HeadFit, OpenOptions, Pretrained, Resampling, VitFile, check_export_hf,
    check_export_timm, export_hf, export_timm, open, resample_pos_embed, save, save_adapter,
};
pub use patch_embed::PatchEmbed;

pub use crate::preprocess::{CropMode, Interpolation};

use std::fmt;

use self::readout::Readout;
use super::extended::Extended;
use super::layer_of_block;
use crate::autograd::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::{BlockConfig, Classifier, Encoder, Extent, Headed, Init, LayerNorm, Mode, Model, Span};
use crate::ops::{self, Mask, TokenIndices};
use crate::shape::DType;
use crate::tensor::Tensor;

/// A Vision Transformer for classification.
pub struct Vit {
    config: VitConfig,
    parameters: Extended,
    layers: Layers,
}

struct Layers {
    cls_token: Option<Parameter>,
    dist_token: Option<Parameter>,
    reg_token: Option<Parameter>,
    /// None where rotary ones take their place.
    pos_embed: Option<Parameter>,
    patch_embed: PatchEmbed,
    norm_pre: Option<LayerNorm>,
    blocks: Encoder,
    readout: Readout,
}

impl Layers {
    /// With timm's initial values.
    fn new(init: &mut Init<'_>, config: &VitConfig) -> Result<Self> {
        let width = config.embed_dim;
        let cls_token = config.class_token.then(|| init.trunc_normal("cls_token", &[1, 1, width], 1e-6)).transpose()?;
        let dist_token =
            config.distilled.then(|| init.trunc_normal("dist_token", &[1, 1, width], Init::STD)).transpose()?;
        let reg_token = match config.reg_tokens {
            0 => None,
            n => Some(init.trunc_normal("reg_token", &[1, n, width], 1e-6)?),
        };
        let pos_embed = match config.positions() {
            0 => None,
            n => Some(init.trunc_normal("pos_embed", &[1, n, width], Init::STD)?),
        };
        let (patch, normalize) = (config.patch_size, config.normalize);
        let patch_embed = PatchEmbed::new(init.at("patch_embed"), patch, width, config.patch_bias, normalize)?;
        let norm_pre = config.pre_norm.then(|| LayerNorm::new(init.at("norm_pre"), width, config.eps)).transpose()?;
        let blocks = Encoder::new(init.at("blocks"), config.depth, |i| block_config(config, i))?;
        let blocks = match config.rope_temperature {
            Some(base) => blocks.with_rotary(&rotary::positions(init.gpu(), config, base)?),
            None => blocks,
        };
        let readout = Readout::new(init, config)?;
        Ok(Layers { cls_token, dist_token, reg_token, pos_embed, patch_embed, norm_pre, blocks, readout })
    }
}

impl Vit {
    /// Paths of the heads that a model may have, which start anew where classes differ
    /// ([`crate::checkpoint::MatchOptions`]).
    pub const HEADS: &[&str] = config::HEADS;

    /// A new model on `gpu` with timm's initial values, drawn from `seed`.
    ///
    /// # Errors
    /// As [`VitConfig::check`], or if the device has no room.
    pub fn new(gpu: &Gpu, config: VitConfig, seed: u64) -> Result<Self> {
        Ok(Self::new_with(gpu, config, seed, |_| Ok(()))?.0)
    }

    /// A model as [`Vit::new`] makes it, as a part of one of your own: `added` makes further layers, whose parameters
    /// stand behind the model's in [`Vit::parameters`], so that one trainer and one checkpoint have them all. (It is
    /// called twice, see [`crate::nn::build()`].)
    ///
    /// What is added counts as a part of the head ([`Model::is_head`]): neither adapters nor a run's settings freeze
    /// it. It belongs to the layer that its path says, behind the last block if that is below no block.
    /// [`crate::checkpoint::load_parameters`] reads a checkpoint into it, and says what is new where the paths of what
    /// is added are among [`crate::checkpoint::MatchOptions::head`]. [`save`] and [`VitFile`] write all of it, and
    /// [`open`] reads that; what writes for other libraries refuses it. Random layers that are added are numbered as if
    /// they were of blocks from `depth + 1` on ([`crate::nn::Block::layers_below`], [`Encoder::numbered`]): the head's
    /// dropout has the numbers of one block behind the last.
    ///
    /// ```
    /// # let gpu = wgrad::Gpu::new()?.dry_run()?;
    /// use wgrad::models::vit::{Vit, VitConfig};
    /// use wgrad::nn::{Linear, Mode};
    /// use wgrad::{DType, Tensor, ops};
    ///
    /// // How old somebody is, from a picture.
    /// let config = VitConfig::tiny();
    /// let inputs = config.head_inputs();
    /// let (vit, age) = Vit::new_with(&gpu, config, 0, |init| Linear::new(init.at("age"), inputs, 1, true))?;
    /// assert!(vit.parameters().get("age.weight").is_some());
    ///
    /// // The loss of a task, `train::Task::loss`, whose model is `vit`.
    /// let images = Tensor::zeros(&gpu, DType::F32, &[8, 3, 224, 224])?;
    /// let features = vit.features(&images, &[], &Mode::evaluation())?;
    /// let ages = age.forward(&vit.pool(&features)?)?;
    /// let loss = ops::mse_loss(&ages, &Tensor::zeros(&gpu, DType::F32, &[8, 1])?)?;
    /// # Ok::<(), wgrad::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Vit::new`], those of `added`, and [`Error::Parameter`] if it adds a path that the model has.
    pub fn new_with<E>(
        gpu: &Gpu,
        config: VitConfig,
        seed: u64,
        added: impl Fn(&mut Init<'_>) -> Result<E>,
    ) -> Result<(Self, E)> {
        config.check()?;
        let layers = |init: &mut Init<'_>| Layers::new(init, &config);
        let (parameters, layers, added) = Extended::build(gpu, seed, config.lora.as_ref(), layers, added)?;
        Ok((Vit { config, parameters, layers }, added))
    }

    /// Logits: `u8[B, 3, H, W]` (normalised here) or `f32[B, 3, H, W]` (already normalised) to `f32[B, V]`.
    ///
    /// `spans` are the blocks that see only some of the tokens; none for the plain model. A span from block 0 on that does not
    /// rejoin begins behind the position embedding (PatchDropout, Liu et al., 2022). Tokens that leave for good must not be among
    /// those before the patches, which keep their places.
    ///
    /// # Errors
    /// If the images have another size, the spans are not such of this model, batch and length, or the device fails.
    pub fn forward(&self, images: &Tensor, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        self.classify(&self.features(images, spans, mode)?, mode)
    }

    /// The head on what the last block has made of each token ([`Vit::features`]): `f32[B, T, C]` or `f32[B, R, C]` to logits,
    /// `f32[B, V]`.
    ///
    /// # Errors
    /// If the features are not of the model's width, or the device fails.
    pub fn classify(&self, features: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.layers.readout.head(&self.pool(features)?, &self.config, mode)
    }

    /// The logits of each head by itself, which [`Vit::classify`] gives the mean of: one, or with [`VitConfig::distilled`] two, of the
    /// class token and the distillation token, for a task that gives each a target of its own.
    ///
    /// # Errors
    /// As [`Vit::classify`].
    pub fn classify_each(&self, features: &Tensor, mode: &Mode) -> Result<Vec<Tensor>> {
        self.layers.readout.heads(&self.pool(features)?, &self.config, mode)
    }

    /// What the head reads of what the last block has made of each token ([`Vit::features`]), pooled and normed:
    /// `f32[B, T, C]` or `f32[B, R, C]` to `f32[B, F]` with F of [`Headed::head_inputs`].
    ///
    /// # Errors
    /// If the features are not of the model's width, or the device fails.
    pub fn pool(&self, features: &Tensor) -> Result<Tensor> {
        match features.dims() {
            &[_, _, width] if width == self.config.embed_dim => self.layers.readout.pre_logits(features, &self.config),
            _ => Err(Error::Shape { op: "ViT", what: "needs features [B, T, C]", got: features.info() }),
        }
    }

    /// What the last block makes of each token, `f32[B, T, C]`, before the last norm: [`Vit::forward`] without pooling and head.
    /// `f32[B, R, C]` if tokens have left the model.
    ///
    /// # Errors
    /// As [`Vit::forward`].
    pub fn features(&self, images: &Tensor, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        let mut x = self.embed(images, mode)?;
        let mut spans = spans;
        // Before the norm, which then has less to do; but blocks with rotary positions must know the tokens' places.
        if let [Span { blocks, positions, rejoins: false }] = spans
            && *blocks == (0..self.config.depth)
            && self.config.rope_temperature.is_none()
        {
            x = ops::token_gather(&x, positions)?;
            spans = &[];
        }
        if let Some(norm) = &self.layers.norm_pre {
            x = norm.forward(&x, DType::F32)?;
        }
        self.layers.blocks.forward(x, spans, &Mask::NONE, mode)
    }

    /// What the first block sees, but for a norm before it: images to `f32[B, T, C]`, with their positions.
    ///
    /// # Errors
    /// If the images have another size, or the device fails.
    pub fn embed(&self, images: &Tensor, mode: &Mode) -> Result<Tensor> {
        let &[_, 3, height, width] = images.dims() else {
            return Err(Error::Shape { op: "ViT", what: "needs images [B, 3, H, W]", got: images.info() });
        };
        if (height, width) != self.config.img_size {
            return Err(Error::Shape {
                op: "ViT",
                what: "the images are not of the model's img_size",
                got: images.info(),
            });
        }
        mode.dropout(self.tokens(images)?, self.config.pos_drop_rate, 0)
    }

    /// Images to `f32[B, T, C]`.
    fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        let patches = self.layers.patch_embed.forward(images)?;
        let prefix = self.prefix()?;
        let Some(pos) = self.positions()? else {
            return prefix.as_ref().map_or_else(|| Ok(patches.clone()), |prefix| with_prefix(&patches, prefix));
        };
        match (&prefix, self.config.no_embed_class) {
            (Some(prefix), true) => with_prefix(&ops::embed_tokens(&patches, None, &pos)?, prefix),
            _ => ops::embed_tokens(&patches, prefix.as_ref(), &pos),
        }
    }

    /// The learned positions of what they are added to, `f32[1, N, C]` or `f32[1, T, C]`: zeros where registers alone have none.
    fn positions(&self) -> Result<Option<Tensor>> {
        let Some(pos) = self.layers.pos_embed.as_ref().map(Parameter::tensor) else { return Ok(None) };
        let VitConfig { no_embed_class, no_embed_reg, reg_tokens, embed_dim, .. } = self.config;
        if no_embed_class || !no_embed_reg || reg_tokens == 0 {
            return Ok(Some(pos));
        }
        let (class, positions) = (self.config.prefix_positions(), pos.dims()[1]);
        let none = Tensor::zeros(pos.gpu(), DType::F32, &[1, reg_tokens, embed_dim])?;
        if class == 0 {
            return ops::concat(&[&none, &pos], 1).map(Some);
        }
        let [before, behind] = [0..class, class..positions].map(|range| ops::slice(&pos, 1, range));
        ops::concat(&[&before?, &none, &behind?], 1).map(Some)
    }

    /// The tokens before the patches, `f32[1, P, C]`, if there are any.
    fn prefix(&self) -> Result<Option<Tensor>> {
        let Layers { reg_token, dist_token, cls_token, .. } = &self.layers;
        let tokens = [reg_token, dist_token, cls_token].into_iter().flatten().map(Parameter::tensor);
        tokens.map(Ok).reduce(|behind, token| with_prefix(&behind?, &token?)).transpose()
    }

    /// Its sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Its parameters, in timm's order and under timm's names; and what was added to it ([`Vit::new_with`]).
    pub fn parameters(&self) -> &Parameters {
        self.parameters.all()
    }

    /// Its blocks.
    pub fn encoder(&self) -> &Encoder {
        &self.layers.blocks
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        self.parameters().gpu()
    }
}

impl fmt::Debug for Vit {
    /// Its sizes alone: parameters are a device's memory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vit").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Model for Vit {
    fn parameters(&self) -> &Parameters {
        self.parameters.all()
    }

    fn identity(&self) -> String {
        self.parameters.identity(self.config.identity())
    }

    fn extent(&self) -> Extent {
        let VitConfig { depth, .. } = self.config;
        Extent { depth, tokens: self.config.tokens(), prefix: self.config.prefix_tokens() }
    }

    fn layer(&self, path: &str) -> usize {
        layer(path, self.config.depth)
    }

    fn is_head(&self, path: &str) -> bool {
        path.split('.').next().is_some_and(|first| Self::HEADS.contains(&first)) || self.parameters.is_added(path)
    }

    /// timm's grouping: none on biases, norms, the class token and the positions.
    fn decays(&self, path: &str, rank: usize) -> bool {
        const NEVER: [&str; 4] = ["cls_token", "pos_embed", "reg_token", "dist_token"];
        let name = path.rsplit('.').next().unwrap_or(path);
        rank > 1 && name != "bias" && !NEVER.contains(&name)
    }
}

impl Classifier for Vit {
    fn classes(&self) -> usize {
        self.config.num_classes
    }

    fn image_size(&self) -> (usize, usize) {
        self.config.img_size
    }

    fn logits(&self, images: &Tensor, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        self.forward(images, spans, mode)
    }
}

impl Headed for Vit {
    /// Of each of two heads, those of a token of its own.
    fn head_inputs(&self) -> usize {
        if self.config.distilled { 2 * self.config.embed_dim } else { self.config.head_inputs() }
    }

    fn pre_logits(&self, images: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.pool(&self.features(images, &[], mode)?)
    }

    fn head(&self, pre_logits: &Tensor, mode: &Mode) -> Result<Tensor> {
        match pre_logits.dims() {
            &[_, width] if width == self.head_inputs() => self.layers.readout.head(pre_logits, &self.config, mode),
            _ => Err(Error::Shape { op: "ViT", what: "needs what the head reads, [B, F]", got: pre_logits.info() }),
        }
    }
}

/// First parts of the names of what lies below the first block.
const STEM: [&str; 7] = ["cls_token", "pos_embed", "patch_embed", "reg_token", "dist_token", "norm_pre", "mask_token"];

/// The layer of a ViT of `depth` blocks that the parameter `path` belongs to, as BEiT numbers them: 0 for patches, tokens and
/// positions, i + 1 for block i, `depth` + 1 for the last norm and the head.
fn layer(path: &str, depth: usize) -> usize {
    let first = path.split('.').next().unwrap_or(path);
    if STEM.contains(&first) { 0 } else { layer_of_block("blocks.", path, depth) }
}

/// `prefix`, `f32[1, P, C]`, before each sample of `x`, `f32[B, N, C]`: `f32[B, P + N, C]`.
fn with_prefix(x: &Tensor, prefix: &Tensor) -> Result<Tensor> {
    let (&[_, patches, width], &[_, rows, _]) = (x.dims(), prefix.dims()) else {
        return Err(Error::Shape { op: "ViT", what: "needs tokens [B, N, C]", got: x.info() });
    };
    let no_positions = Tensor::zeros(x.gpu(), DType::F32, &[1, rows + patches, width])?;
    ops::embed_tokens(x, Some(prefix), &no_positions)
}

fn block_config(config: &VitConfig, i: usize) -> BlockConfig {
    BlockConfig {
        hidden: config.hidden(),
        qkv_bias: config.qkv_bias,
        key_bias: config.key_bias,
        gelu: config.act_layer,
        gated: config.gated_mlp,
        scale_attn_norm: config.scale_attn_norm,
        scale_mlp_norm: config.scale_mlp_norm,
        dropout: config.proj_drop_rate,
        attention_dropout: config.attn_drop_rate,
        hidden_dropout: config.proj_drop_rate,
        // Linear from 0 at the first block to the full rate at the last.
        drop_path: config.drop_path_rate * i as f32 / config.depth.saturating_sub(1).max(1) as f32,
        eps: config.eps,
        init_values: config.init_values,
        ..BlockConfig::new(config.embed_dim, config.num_heads)
    }
}
