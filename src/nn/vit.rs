//! The Vision Transformer (Dosovitskiy et al., 2021), as timm's `VisionTransformer` builds it.

use super::block::BlockConfig;
use super::layers::INIT_STD;
use super::{Block, Init, LayerNorm, Linear, Mode, PatchEmbed};
use crate::autograd::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::{self, Normalize, TokenIndices};
use crate::shape::DType;
use crate::tensor::Tensor;

/// What the head reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "train", derive(serde::Serialize, serde::Deserialize))]
pub enum Pool {
    /// The class token.
    #[default]
    Token,
    /// The mean of the patch tokens; the last norm then comes after it, unless [`VitConfig::fc_norm`] says otherwise.
    Avg,
}

/// A ViT's sizes, named as timm's arguments. The presets take 224×224 images in patches of 16 to 1,000 classes; change
/// what differs: `VitConfig { num_classes: 10, ..VitConfig::tiny() }`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "train", derive(serde::Serialize, serde::Deserialize))]
pub struct VitConfig {
    /// Height and width of the images.
    pub img_size: (usize, usize),
    /// P.
    pub patch_size: usize,
    /// V.
    pub num_classes: usize,
    /// C.
    pub embed_dim: usize,
    /// L.
    pub depth: usize,
    /// H; divides C.
    pub num_heads: usize,
    /// F / C.
    pub mlp_ratio: f32,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the patch projection has a bias. timm's CLIP models, those with `pre_norm`, have none.
    #[cfg_attr(feature = "train", serde(default = "yes"))]
    pub patch_bias: bool,
    /// Whether there is a class token; without one `global_pool` must be the mean.
    pub class_token: bool,
    /// Register tokens between class token and patches, timm's `reg_tokens`.
    #[cfg_attr(feature = "train", serde(default))]
    pub reg_tokens: usize,
    /// Whether positions are those of the patches alone, and class and register tokens come without.
    #[cfg_attr(feature = "train", serde(default))]
    pub no_embed_class: bool,
    /// Whether a norm, `norm_pre`, comes between the positions and the first block.
    #[cfg_attr(feature = "train", serde(default))]
    pub pre_norm: bool,
    /// Whether the last norm comes after pooling, as `fc_norm`, or before it, as `norm`. By default after a mean and before
    /// the class token is taken out.
    #[cfg_attr(feature = "train", serde(default))]
    pub fc_norm: Option<bool>,
    /// Added to the variance in every norm.
    #[cfg_attr(feature = "train", serde(default = "timms_eps"))]
    pub eps: f32,
    /// What the head reads.
    pub global_pool: Pool,
    /// Dropout before the head.
    pub drop_rate: f32,
    /// Dropout after the positions are added.
    pub pos_drop_rate: f32,
    /// Dropout after attention's projection and in the MLP.
    pub proj_drop_rate: f32,
    /// Stochastic depth of the last block; it rises linearly from 0 at the first.
    pub drop_path_rate: f32,
    /// Mean and deviation by which u8 images are normalised.
    pub normalize: Normalize,
}

/// eps of the norms in timm's ViTs.
const EPS: f32 = 1e-6;

/// What files of a time before the setting mean.
#[cfg(feature = "train")]
fn timms_eps() -> f32 {
    EPS
}

/// As [`timms_eps`].
#[cfg(feature = "train")]
fn yes() -> bool {
    true
}

impl VitConfig {
    /// ViT-Ti/16: 192 wide, 12 deep, 3 heads, 5.7 M parameters.
    pub fn tiny() -> Self {
        Self::custom(192, 12, 3)
    }

    /// ViT-S/16: 384 wide, 12 deep, 6 heads, 22 M parameters.
    pub fn small() -> Self {
        Self::custom(384, 12, 6)
    }

    /// ViT-B/16: 768 wide, 12 deep, 12 heads, 86 M parameters.
    pub fn base() -> Self {
        Self::custom(768, 12, 12)
    }

    /// ViT-L/16: 1024 wide, 24 deep, 16 heads, 304 M parameters.
    pub fn large() -> Self {
        Self::custom(1024, 24, 16)
    }

    /// Any width, depth and number of heads, with the presets' other settings.
    pub fn custom(embed_dim: usize, depth: usize, num_heads: usize) -> Self {
        VitConfig {
            img_size: (224, 224),
            patch_size: 16,
            num_classes: 1000,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio: 4.0,
            qkv_bias: true,
            patch_bias: true,
            class_token: true,
            reg_tokens: 0,
            no_embed_class: false,
            pre_norm: false,
            fc_norm: None,
            eps: EPS,
            global_pool: Pool::Token,
            drop_rate: 0.0,
            pos_drop_rate: 0.0,
            proj_drop_rate: 0.0,
            drop_path_rate: 0.0,
            normalize: Normalize { mean: [0.5; 3], std: [0.5; 3] },
        }
    }

    /// N: patches of an image.
    pub fn patches(&self) -> usize {
        let p = self.patch_size.max(1);
        (self.img_size.0 / p) * (self.img_size.1 / p)
    }

    /// Tokens before the patches: the class token and the registers.
    pub fn prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + self.reg_tokens
    }

    /// Tokens of the prefix that have a position: all or none.
    pub fn prefix_positions(&self) -> usize {
        if self.no_embed_class { 0 } else { self.prefix_tokens() }
    }

    /// T: all tokens.
    pub fn tokens(&self) -> usize {
        self.prefix_tokens() + self.patches()
    }

    /// F: width of the MLP's hidden layer.
    pub fn hidden(&self) -> usize {
        (self.embed_dim as f32 * self.mlp_ratio) as usize
    }

    /// Whether the last norm comes after pooling.
    pub fn has_fc_norm(&self) -> bool {
        self.fc_norm.unwrap_or(self.global_pool == Pool::Avg)
    }

    /// Whether the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that does not.
    pub fn check(&self) -> Result<()> {
        const OP: &str = "ViT";
        let sizes = [
            ("img_size", self.img_size.0.min(self.img_size.1)),
            ("patch_size", self.patch_size),
            ("num_classes", self.num_classes),
            ("embed_dim", self.embed_dim),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 20).contains(size)) {
            return Err(Error::argument(OP, name, "in 1..=1048576", size));
        }
        if !self.img_size.0.is_multiple_of(self.patch_size) || !self.img_size.1.is_multiple_of(self.patch_size) {
            let got = format!("{:?}", self.img_size);
            return Err(Error::argument(
                OP,
                "img_size",
                format!("a multiple of the patch size {}", self.patch_size),
                got,
            ));
        }
        if !self.embed_dim.is_multiple_of(self.num_heads) {
            let expected = format!("a divisor of embed_dim {}", self.embed_dim);
            return Err(Error::argument(OP, "num_heads", expected, self.num_heads));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= 64.0) || self.hidden() == 0 {
            return Err(Error::argument(OP, "mlp_ratio", "in 0..=64", self.mlp_ratio));
        }
        if !self.class_token && self.global_pool == Pool::Token {
            return Err(Error::argument(
                OP,
                "global_pool",
                "the mean where there is no class token",
                "the class token",
            ));
        }
        if self.reg_tokens > 1 << 12 {
            return Err(Error::argument(OP, "reg_tokens", "at most 4096", self.reg_tokens));
        }
        if !(self.eps.is_normal() && self.eps > 0.0 && self.eps < 1.0) {
            return Err(Error::argument(OP, "eps", "between 0 and 1", self.eps));
        }
        let rates = [
            ("drop_rate", self.drop_rate),
            ("pos_drop_rate", self.pos_drop_rate),
            ("proj_drop_rate", self.proj_drop_rate),
            ("drop_path_rate", self.drop_path_rate),
        ];
        match rates.into_iter().find(|(_, rate)| !(0.0..1.0).contains(rate)) {
            Some((name, rate)) => Err(Error::argument(OP, name, "in 0..1", rate)),
            None => Ok(()),
        }
    }
}

/// A Vision Transformer for classification.
pub struct Vit {
    config: VitConfig,
    parameters: Parameters,
    cls_token: Option<Parameter>,
    reg_token: Option<Parameter>,
    pos_embed: Parameter,
    patch_embed: PatchEmbed,
    norm_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    /// `norm`, or `fc_norm` behind the pooling.
    norm: LayerNorm,
    head: Linear,
}

impl Vit {
    /// A new model on `gpu` with timm's initial values, drawn from `seed`.
    ///
    /// # Errors
    /// As [`VitConfig::check`], or if the device has no room.
    pub fn new(gpu: &Gpu, config: VitConfig, seed: u64) -> Result<Self> {
        config.check()?;
        let mut parameters = Parameters::new(gpu);
        let mut init = Init::new(&mut parameters, seed);
        let width = config.embed_dim;
        let cls_token = config.class_token.then(|| init.trunc_normal("cls_token", &[1, 1, width], 1e-6)).transpose()?;
        let reg_token = match config.reg_tokens {
            0 => None,
            n => Some(init.trunc_normal("reg_token", &[1, n, width], 1e-6)?),
        };
        let positions = config.prefix_positions() + config.patches();
        let pos_embed = init.trunc_normal("pos_embed", &[1, positions, width], INIT_STD)?;
        let (patch, normalize) = (config.patch_size, config.normalize);
        let patch_embed = PatchEmbed::new(init.at("patch_embed"), patch, width, config.patch_bias, normalize)?;
        let norm_pre = config.pre_norm.then(|| LayerNorm::new(init.at("norm_pre"), width, config.eps)).transpose()?;
        let blocks = (0..config.depth)
            .map(|i| Block::new(init.at(&format!("blocks.{i}")), block_config(&config, i)))
            .collect::<Result<_>>()?;
        let norm_name = if config.has_fc_norm() { "fc_norm" } else { "norm" };
        let norm = LayerNorm::new(init.at(norm_name), width, config.eps)?;
        let head = Linear::new(init.at("head"), width, config.num_classes, true)?;
        Ok(Vit { config, parameters, cls_token, reg_token, pos_embed, patch_embed, norm_pre, blocks, norm, head })
    }

    /// Logits: `u8[B, 3, H, W]` (normalised here) or `f32[B, 3, H, W]` (already normalised) to `f32[B, V]`.
    ///
    /// `kept` holds, for each block, the tokens that go through it (random-LTD), or is empty for the plain model.
    ///
    /// # Errors
    /// If the images have another size, `kept` is neither empty nor one for each block, or the device fails.
    pub fn forward(&self, images: &Tensor, kept: &[Option<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        if !kept.is_empty() && kept.len() != self.blocks.len() {
            let expected = format!("empty or one for each of {} blocks", self.blocks.len());
            return Err(Error::argument("ViT", "kept", expected, kept.len()));
        }
        self.encode(self.embedded(images, mode)?, kept, mode)
    }

    /// [`Vit::forward`] where only the tokens in `subset` go on behind the position embedding, through every block
    /// (PatchDropout, Liu et al., 2022). All tokens before the patches must be among them, at their places.
    ///
    /// # Errors
    /// If the images have another size, `subset` is for another batch or length, or the device fails.
    pub fn forward_subset(&self, images: &Tensor, subset: &TokenIndices, mode: &Mode) -> Result<Tensor> {
        self.encode(ops::token_gather(&self.embedded(images, mode)?, subset)?, &[], mode)
    }

    /// Checked images to `f32[B, T, C]`, behind the dropout of the positions.
    fn embedded(&self, images: &Tensor, mode: &Mode) -> Result<Tensor> {
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
        mode.dropout(self.embed(images)?, self.config.pos_drop_rate, 0)
    }

    /// Embedded tokens, all of them or a subset, to logits.
    fn encode(&self, mut x: Tensor, kept: &[Option<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        let batch = x.dims()[0];
        if let Some(norm) = &self.norm_pre {
            x = norm.forward(&x, DType::F32)?;
        }
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, kept.get(i).and_then(Option::as_ref), mode)?;
        }
        let pooled = self.pool(&x, batch)?;
        let last_layer = 1 + self.config.depth as u32 * Block::RANDOM_LAYERS;
        self.head.forward(&mode.dropout(pooled, self.config.drop_rate, last_layer)?)
    }

    /// Images to `f32[B, T, C]`.
    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        let patches = self.patch_embed.forward(images)?;
        let pos = self.pos_embed.tensor();
        let prefix = self.prefix()?;
        match (&prefix, self.config.no_embed_class) {
            (Some(prefix), true) => with_prefix(&ops::embed_tokens(&patches, None, &pos)?, prefix),
            _ => ops::embed_tokens(&patches, prefix.as_ref(), &pos),
        }
    }

    /// Class token and registers, `f32[1, P, C]`, if there are any.
    fn prefix(&self) -> Result<Option<Tensor>> {
        let [class, registers] = [&self.cls_token, &self.reg_token].map(|p| p.as_ref().map(Parameter::tensor));
        match (class, registers) {
            (Some(class), Some(registers)) => with_prefix(&registers, &class).map(Some),
            (class, registers) => Ok(class.or(registers)),
        }
    }

    /// `f32[B, T, C]` to `f32[B, C]`, normed. A norm treats each token by itself, so norming the class token alone after
    /// taking it out gives what timm gets from norming all tokens first; for a mean the order shows.
    fn pool(&self, x: &Tensor, batch: usize) -> Result<Tensor> {
        let first_patch = self.config.prefix_tokens();
        match self.config.global_pool {
            Pool::Token => {
                let class = ops::reshape(&ops::slice_tokens(x, 0..1)?, &[batch, self.config.embed_dim])?;
                self.norm.forward(&class, DType::F32)
            }
            Pool::Avg if self.config.has_fc_norm() => self.norm.forward(&ops::mean_tokens(x, first_patch)?, DType::F32),
            Pool::Avg => ops::mean_tokens(&self.norm.forward(x, DType::F32)?, first_patch),
        }
    }

    /// Its sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Its parameters, in timm's order and under timm's names.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        self.parameters.gpu()
    }
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
        width: config.embed_dim,
        heads: config.num_heads,
        hidden: config.hidden(),
        qkv_bias: config.qkv_bias,
        dropout: config.proj_drop_rate,
        // Linear from 0 at the first block to the full rate at the last.
        drop_path: config.drop_path_rate * i as f32 / config.depth.saturating_sub(1).max(1) as f32,
        eps: config.eps,
        first_layer: 1 + i as u32 * Block::RANDOM_LAYERS,
    }
}
