//! A ViT's sizes.

use crate::error::{Error, Result};
use crate::identity::json;
use crate::models::settings;
use crate::nn::LoraConfig;
use crate::ops::{Gelu, Normalize};
use crate::preprocess::{CropMode, Interpolation};

/// What the head reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Pool {
    /// The class token.
    #[default]
    Token,
    /// The mean of the patch tokens; the last norm then comes after it, unless [`VitConfig::fc_norm`] says otherwise.
    Avg,
    /// The class token and behind it the mean of the patch tokens, 2·C numbers, both of normed tokens: what transformers'
    /// `Dinov2ForImageClassification` reads.
    TokenAvg,
    /// What a learned query sees of the patch tokens, normed; of all tokens where positions are rotary, as timm has it: attention pooling, of
    /// SigLIP.
    Map,
}

/// A ViT's sizes, named as timm's arguments. The presets take 224×224 images in patches of 16 to 1,000 classes; change
/// what differs: `VitConfig { num_classes: 10, ..VitConfig::tiny() }`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
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
    /// Whether the MLP is gated, as in DINOv2 giant and DINOv3's S+, H+ and 7B: its first layer gives F numbers, a half each of gates
    /// and values, its second takes half as many.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gated_mlp: bool,
    /// Whether attention's projection reads normed heads, as in the CLIPs of EVA-02.
    #[serde(default, skip_serializing_if = "is_false")]
    pub scale_attn_norm: bool,
    /// Whether the MLP's second layer reads a normed hidden layer, as in EVA-02's ViT-B and L.
    #[serde(default, skip_serializing_if = "is_false")]
    pub scale_mlp_norm: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Where they have, whether k has: with rotary positions, DINOv3's and EVA-02's have none.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub key_bias: bool,
    /// Whether the patch projection has a bias. timm's CLIP models, those with `pre_norm`, have none.
    #[serde(default = "yes")]
    pub patch_bias: bool,
    /// Whether there is a class token; without one `global_pool` must be the mean or attention pooling.
    pub class_token: bool,
    /// Whether there is a distillation token behind the class token, and a head for each, as in distilled DeiTs. Logits are the mean
    /// of both heads' in training too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub distilled: bool,
    /// Register tokens between class token and patches, timm's `reg_tokens`.
    #[serde(default)]
    pub reg_tokens: usize,
    /// Whether positions are those of the patches alone, and class and register tokens come without.
    #[serde(default)]
    pub no_embed_class: bool,
    /// Whether register tokens come without positions, though the class token has one: transformers' `Dinov2WithRegisters`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_embed_reg: bool,
    /// With rotary positions: the base of their periods, 100 in DINOv3, 10,000 in EVA-02.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_temperature: Option<f32>,
    /// With rotary positions beside learned ones, as EVA-02 has them: rows and columns of patches that theirs are counted as, 16 × 16
    /// there. Without, they stand in the place of learned ones, as in DINOv3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref_feat_shape: Option<(usize, usize)>,
    /// Whether a norm, `norm_pre`, comes between the positions and the first block.
    #[serde(default)]
    pub pre_norm: bool,
    /// Whether the last norm comes after pooling, as `fc_norm`, or before it, as `norm`. By default after a mean and before
    /// the class token is taken out.
    #[serde(default)]
    pub fc_norm: Option<bool>,
    /// Whether there is a last norm at all: transformers' `CLIPForImageClassification` has none.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub final_norm: bool,
    /// The MLP's activation: the exact GELU, by tanh in some of SigLIP, the quick one in OpenAI's CLIP.
    #[serde(default, with = "settings::gelu", skip_serializing_if = "is_exact")]
    pub act_layer: Gelu,
    /// Added to the variance in every norm.
    #[serde(default = "timms_eps")]
    pub eps: f32,
    /// With layer scale, as DeiT3 and DINOv2 have it: what its numbers begin with ([`crate::nn::BlockConfig::init_values`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_values: Option<f32>,
    /// What the head reads.
    pub global_pool: Pool,
    /// Dropout before the head.
    pub drop_rate: f32,
    /// Dropout after the positions are added.
    pub pos_drop_rate: f32,
    /// Dropout after attention's projection and in the MLP.
    pub proj_drop_rate: f32,
    /// Dropout of attention's weights in the blocks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attn_drop_rate: f32,
    /// Stochastic depth of the last block; it rises linearly from 0 at the first.
    pub drop_path_rate: f32,
    /// Mean and deviation by which u8 images are normalised.
    pub normalize: Normalize,
    /// How the pictures that it was trained on were resized, and others should be. Nothing here is computed by it.
    #[serde(default, skip_serializing_if = "Interpolation::is_default")]
    pub interpolation: Interpolation,
    /// What part of them it is shown in evaluation. As above.
    #[serde(default, skip_serializing_if = "CropMode::is_default")]
    pub crop_mode: CropMode,
    /// Adapters, beside which the rest of the model is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

/// Paths of the heads that a model may have.
pub(super) const HEADS: &[&str] = &["head", "head_dist"];

/// Whom errors are of.
const OP: &str = "ViT";

/// More than any model attends to. Rotary positions have a table of them, which no tensor in a file vouches for.
const MOST_PATCHES: usize = 1 << 20;

/// The largest such table, of tokens by half of a head: 65,536 tokens with heads of 64.
const MOST_ANGLES: usize = 1 << 21;

/// eps of the norms in timm's ViTs.
const EPS: f32 = 1e-6;

/// What files of a time before the setting mean.
fn timms_eps() -> f32 {
    EPS
}

/// As [`timms_eps`].
fn yes() -> bool {
    true
}

/// What the identity of a model without the setting does not mention.
fn is_false(setting: &bool) -> bool {
    !setting
}

/// As [`is_false`].
fn is_true(setting: &bool) -> bool {
    *setting
}

/// As [`is_false`].
fn is_zero(rate: &f32) -> bool {
    *rate == 0.0
}

/// As [`is_false`].
fn is_exact(gelu: &Gelu) -> bool {
    *gelu == Gelu::Erf
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
            gated_mlp: false,
            scale_attn_norm: false,
            scale_mlp_norm: false,
            qkv_bias: true,
            key_bias: true,
            patch_bias: true,
            class_token: true,
            distilled: false,
            reg_tokens: 0,
            no_embed_class: false,
            no_embed_reg: false,
            rope_temperature: None,
            ref_feat_shape: None,
            pre_norm: false,
            fc_norm: None,
            final_norm: true,
            act_layer: Gelu::Erf,
            eps: EPS,
            init_values: None,
            global_pool: Pool::Token,
            drop_rate: 0.0,
            pos_drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
            normalize: Normalize::INCEPTION,
            interpolation: Interpolation::Bicubic,
            crop_mode: CropMode::Center,
            lora: None,
        }
    }

    /// N: patches of an image.
    pub fn patches(&self) -> usize {
        let p = self.patch_size.max(1);
        (self.img_size.0 / p).saturating_mul(self.img_size.1 / p)
    }

    /// Tokens before the patches: the class token, that of distillation and the registers.
    pub fn prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + usize::from(self.distilled) + self.reg_tokens
    }

    /// Learned positions: of patches and tokens before them, or none where rotary ones take their place.
    pub fn positions(&self) -> usize {
        let has_others = self.rope_temperature.is_some() && self.ref_feat_shape.is_none();
        if has_others { 0 } else { self.prefix_positions().saturating_add(self.patches()) }
    }

    /// Tokens of the prefix that have a position: all, those before the registers, or none.
    pub fn prefix_positions(&self) -> usize {
        match (self.no_embed_class, self.no_embed_reg) {
            (true, _) => 0,
            (false, true) => self.prefix_tokens() - self.reg_tokens,
            (false, false) => self.prefix_tokens(),
        }
    }

    /// T: all tokens.
    pub fn tokens(&self) -> usize {
        self.prefix_tokens() + self.patches()
    }

    /// F: width of the MLP's hidden layer.
    pub fn hidden(&self) -> usize {
        (self.embed_dim as f32 * self.mlp_ratio) as usize
    }

    /// What the MLP's second layer takes: F, or half of it.
    pub fn hidden_outputs(&self) -> usize {
        if self.gated_mlp { self.hidden() / 2 } else { self.hidden() }
    }

    /// The paths of its heads: of the class token or of what pools, and of the distillation token.
    pub fn heads(&self) -> &'static [&'static str] {
        if self.distilled { HEADS } else { &HEADS[..1] }
    }

    /// How many numbers each head reads.
    pub fn head_inputs(&self) -> usize {
        if self.global_pool == Pool::TokenAvg { 2 * self.embed_dim } else { self.embed_dim }
    }

    /// Whether the last norm comes after pooling.
    pub fn has_fc_norm(&self) -> bool {
        self.final_norm && self.fc_norm.unwrap_or(self.global_pool == Pool::Avg)
    }

    /// Itself as JSON.
    pub fn identity(&self) -> String {
        json(self)
    }

    /// The configuration that [`VitConfig::identity`] made this text of.
    ///
    /// # Errors
    /// [`Error::Parameter`] if it is none, and as [`VitConfig::check`].
    pub fn from_identity(text: &str) -> Result<Self> {
        let config: VitConfig = serde_json::from_str(text).map_err(|e| Error::Parameter {
            name: "config".to_owned(),
            what: format!("not a ViT's configuration: {e}"),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Whether the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that does not.
    pub fn check(&self) -> Result<()> {
        self.check_sizes()?;
        self.check_readout()?;
        self.check_positions()?;
        settings::check_eps(OP, "eps", self.eps)?;
        if let Some(value) = self.init_values.filter(|value| !value.is_finite()) {
            return Err(Error::argument(OP, "init_values", "finite", value));
        }
        if let Some(lora) = &self.lora {
            lora.check()?;
        }
        let rates = [
            ("drop_rate", self.drop_rate),
            ("pos_drop_rate", self.pos_drop_rate),
            ("proj_drop_rate", self.proj_drop_rate),
            ("attn_drop_rate", self.attn_drop_rate),
            ("drop_path_rate", self.drop_path_rate),
        ];
        settings::check_rates(OP, &rates)
    }

    /// Each by itself, and patches, heads and hidden layer, which divide others.
    fn check_sizes(&self) -> Result<()> {
        let sizes = [
            ("img_size", self.img_size.0),
            ("img_size", self.img_size.1),
            ("patch_size", self.patch_size),
            ("num_classes", self.num_classes),
            ("embed_dim", self.embed_dim),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 20).contains(size)) {
            return Err(Error::argument(OP, name, "in 1..=1048576", size));
        }
        let of_pictures = |expected| Err(Error::argument(OP, "img_size", expected, format!("{:?}", self.img_size)));
        if !self.img_size.0.is_multiple_of(self.patch_size) || !self.img_size.1.is_multiple_of(self.patch_size) {
            return of_pictures(format!("a multiple of the patch size {}", self.patch_size));
        }
        if self.patches() > MOST_PATCHES {
            return of_pictures(format!("of at most {MOST_PATCHES} patches of {}", self.patch_size));
        }
        if !self.embed_dim.is_multiple_of(self.num_heads) {
            let expected = format!("a divisor of embed_dim {}", self.embed_dim);
            return Err(Error::argument(OP, "num_heads", expected, self.num_heads));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= 64.0) || self.hidden() == 0 {
            return Err(Error::argument(OP, "mlp_ratio", "in 0..=64", self.mlp_ratio));
        }
        if self.reg_tokens > 1 << 12 {
            return Err(Error::argument(OP, "reg_tokens", "at most 4096", self.reg_tokens));
        }
        Ok(())
    }

    /// Whether there is what the heads read.
    fn check_readout(&self) -> Result<()> {
        if self.gated_mlp && (self.global_pool == Pool::Map || !self.hidden().is_multiple_of(2)) {
            let expected = "false where the hidden layer has no two halves, or attention pools";
            return Err(Error::argument(OP, "gated_mlp", expected, true));
        }
        if !self.class_token && !matches!(self.global_pool, Pool::Avg | Pool::Map) {
            let expected = "the mean or attention pooling where there is no class token";
            return Err(Error::argument(OP, "global_pool", expected, "the class token"));
        }
        if matches!(self.global_pool, Pool::TokenAvg | Pool::Map) && self.has_fc_norm() {
            let expected = "false where the head reads class token and mean, or attention pools";
            return Err(Error::argument(OP, "fc_norm", expected, "true"));
        }
        let is_deit = !self.gated_mlp
            && self.class_token
            && self.global_pool == Pool::Token
            && self.reg_tokens == 0
            && !self.no_embed_class;
        if self.distilled && !is_deit {
            let expected =
                "false where the heads read anything but class token and distillation token of a plain prefix";
            return Err(Error::argument(OP, "distilled", expected, true));
        }
        Ok(())
    }

    /// Whether positions that are rotary can be so.
    fn check_positions(&self) -> Result<()> {
        let Some(base) = self.rope_temperature else {
            if let Some(shape) = self.ref_feat_shape {
                let expected = "none, but where positions are rotary";
                return Err(Error::argument(OP, "ref_feat_shape", expected, format!("{shape:?}")));
            }
            // Where nothing turns keys, their bias has no effect.
            let fault = || Error::argument(OP, "key_bias", "true, but where positions are rotary", false);
            return self.key_bias.then_some(()).ok_or_else(fault);
        };
        let width = self.embed_dim / self.num_heads;
        let angles = self.tokens().saturating_mul(width / 2);
        if angles > MOST_ANGLES {
            let expected = format!("of at most {MOST_ANGLES} rotary angles");
            return Err(Error::argument(OP, "img_size", expected, format!("{:?} with {angles}", self.img_size)));
        }
        if !(base.is_finite() && base >= 1.0) {
            return Err(Error::argument(OP, "rope_temperature", "at least 1", base));
        }
        if let Some(shape) =
            self.ref_feat_shape.filter(|&(h, w)| ![h, w].iter().all(|side| (1..=1 << 20).contains(side)))
        {
            return Err(Error::argument(OP, "ref_feat_shape", "sides in 1..=1048576", format!("{shape:?}")));
        }
        if !width.is_multiple_of(4) {
            let expected = "one whose heads are a multiple of 4 wide, where positions are rotary";
            return Err(Error::argument(OP, "num_heads", expected, self.num_heads));
        }
        Ok(())
    }
}
