//! A ViT's configuration from the shapes of its tensors, under timm's names, and refusal of what is not computed here.

use super::adapted::places;
use super::forms::Activation;
use crate::checkpoint::{Checkpoint, Known, check_shapes, depth, fault, in_block, is_of_layer, rows};
use crate::error::Result;
use crate::models::adapters;
use crate::models::vit::{Pool, VitConfig};
use crate::ops::{Gelu, Normalize};
use crate::preprocess::{CropMode, Interpolation};

/// What shapes do not tell, from a file beside the weights or the caller.
#[derive(Clone, Debug, Default)]
pub(super) struct Hints {
    pub(super) heads: Option<usize>,
    pub(super) eps: Option<f32>,
    pub(super) img_size: Option<(usize, usize)>,
    pub(super) global_pool: Option<Pool>,
    /// Whether of the prefix the class token alone has a position.
    pub(super) no_embed_reg: bool,
    pub(super) init_values: Option<f32>,
    pub(super) act_layer: Option<Activation>,
    /// With rotary positions, which no tensor tells of.
    pub(super) rope_temperature: Option<f32>,
    /// Where learned positions stand beside those.
    pub(super) ref_feat_shape: Option<(usize, usize)>,
    /// Whether there is a last norm, where that is told.
    pub(super) final_norm: Option<bool>,
    pub(super) normalize: Option<Normalize>,
    pub(super) interpolation: Option<Interpolation>,
    pub(super) crop_mode: CropMode,
    /// Whether the model is a published one, whose heads follow from its width.
    pub(super) is_published: bool,
    /// What the file beside the weights calls the model.
    pub(super) architecture: Option<String>,
}

/// Layers of a block, each with a weight and perhaps a bias.
const LAYERS: [&str; 6] = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"];

/// Norms of their inputs, of attention's projection and of the MLP's second layer.
const INNER_NORMS: [&str; 2] = ["attn.norm", "mlp.norm"];

/// Layer scale of a block's two halves.
const SCALES: [&str; 2] = ["ls1.gamma", "ls2.gamma"];

/// Biases of queries and values where keys have none.
const BIASES: [&str; 2] = ["attn.q_bias", "attn.v_bias"];

/// What timm's layer scale begins with, where nothing tells.
const INIT_VALUES: f32 = 1e-5;

/// Layers outside the blocks.
const OUTER_LAYERS: [&str; 12] = [
    "patch_embed.proj",
    "norm_pre",
    "norm",
    "fc_norm",
    "attn_pool.q",
    "attn_pool.kv",
    "attn_pool.proj",
    "attn_pool.norm",
    "attn_pool.mlp.fc1",
    "attn_pool.mlp.fc2",
    "head",
    "head_dist",
];

/// Tensors that are not layers.
const TOKENS: [&str; 5] = ["cls_token", "dist_token", "reg_token", "pos_embed", LATENT];

/// The query of attention pooling.
const LATENT: &str = "attn_pool.latent";

/// Beginnings of names that change nothing: a head's hidden layer of the first ViTs, which timm drops too, and a token of
/// pretraining.
const HARMLESS: [&str; 2] = ["pre_logits.", "mask_token"];

/// Parts of names, and what has such parts, see [`Known::refused`].
pub(super) const REFUSED: [(&str, &str); 26] = [
    ("word_embeddings", "a language model"),
    ("visual.transformer", "a CLIP model of OpenAI or open_clip"),
    ("encoder.layers.encoder_layer_*", "torchvision's Vision Transformer, whose names are its own"),
    ("layer1.0", "a ResNet"),
    ("stages.0", "a network in stages"),
    ("decoder_blocks", "the decoder of a masked autoencoder"),
    ("decoder", "a decoder"),
    ("gamma_*", "layer scale of another model than timm's ViT, such as BEiT or DINOv3"),
    ("lambda_*", "layer scale of another model than transformers' Dinov2, such as BEiT"),
    ("lambda1", "layer scale of another model than transformers' Dinov2, such as DINOv3"),
    ("q_norm", "normed queries and keys"),
    ("k_norm", "normed queries and keys"),
    ("attn.q_proj", "queries apart from keys and values, as EVA-02's, which is known by the config.json beside it"),
    ("attn.norm", "a norm within attention of another kind than EVA-02's and BEiT-3's"),
    ("mlp.norm", "a norm within the MLP of another kind than EVA-02's and BEiT-3's"),
    ("fc1_*", "a gated MLP (SwiGLU) of another kind than DINOv3's and EVA-02's"),
    ("w12", "a gated MLP (SwiGLU)"),
    ("gate_proj", "a gated MLP (SwiGLU) of another kind than those of DINOv2 and DINOv3"),
    ("attn_pool", "attention pooling of another kind than SigLIP's"),
    ("rel_pos*", "relative positions"),
    ("relative_position*", "relative positions"),
    ("rope*", "rotary positions of another kind than DINOv3's"),
    ("patch_embed.backbone", "a convolutional stem"),
    ("patch_embed.norm", "a norm after the patch projection"),
    ("attns", "parallel layers in a block"),
    ("ffns", "parallel layers in a block"),
];

/// What timm's Vision Transformers are made of.
const KNOWN: Known =
    Known { is_known, refused: &REFUSED, otherwise: "a part that is none of timm's plain Vision Transformer" };

/// Learned positions.
const POSITIONS: &str = "pos_embed";

/// Before a block's number.
const BLOCKS: &str = "blocks.";

/// Widths of published models whose heads are not 64 wide, with their heads.
const UNUSUAL_HEADS: [(usize, usize); 5] = [(1152, 16), (1280, 16), (1408, 16), (1664, 16), (1536, 16)];

/// Those with gated MLPs: DINOv3's ViT-7B. The heads of DINOv2 giant and of DINOv3's ViT-H+, as wide as others above, are 64 wide.
const UNUSUAL_GATED_HEADS: [(usize, usize); 1] = [(4096, 32)];

/// The configuration.
///
/// # Errors
/// [`crate::Error::Parameter`] naming the tensor that is missing, of an impossible shape, or not a part of such a model;
/// [`crate::Error::Argument`] as [`VitConfig::check`].
pub(super) fn infer(checkpoint: &Checkpoint, hints: &Hints) -> Result<VitConfig> {
    KNOWN.check(checkpoint, hints.architecture.as_deref())?;
    let (embed_dim, patch_size) = patch_sizes(checkpoint)?;
    let has = |name: &str| checkpoint.tensors.contains_key(name);
    let depth = depth(checkpoint, BLOCKS, "norm1.weight")?;
    let hidden = rows(checkpoint, "blocks.0.mlp.fc1.weight", embed_dim)?;
    let fc2 = checkpoint.get("blocks.0.mlp.fc2.weight")?.shape.as_slice();
    let gated_mlp = matches!(fc2, &[_, inputs] if inputs.checked_mul(2) == Some(hidden));
    let class_token = has("cls_token");
    let has_fc_norm = has("fc_norm.weight");
    let final_norm = final_norm(checkpoint, hints)?;
    let global_pool = pooling(checkpoint, hints)?;
    let pre_norm = has("norm_pre.weight");
    let has_no_key_bias = has_no_key_bias(checkpoint, hints)?;
    let [scale_attn_norm, scale_mlp_norm] = INNER_NORMS.map(|norm| has(&format!("blocks.0.{norm}.weight")));
    // timm's models with a first norm are CLIP's, those with a norm within attention that nothing tells of BEiT-3's.
    let has_pytorchs_eps = pre_norm || scale_attn_norm && hints.architecture.is_none();
    let is_scaled =
        checkpoint.tensors.keys().any(|name| in_block(BLOCKS, name).is_some_and(|(_, rest)| is_scale(rest)));
    let mut config = VitConfig {
        patch_size,
        mlp_ratio: ratio(hidden, embed_dim),
        gated_mlp,
        qkv_bias: has("blocks.0.attn.qkv.bias") || has_no_key_bias,
        key_bias: !has_no_key_bias,
        scale_attn_norm,
        scale_mlp_norm,
        rope_temperature: hints.rope_temperature,
        ref_feat_shape: hints.ref_feat_shape,
        patch_bias: has("patch_embed.proj.bias"),
        class_token,
        distilled: has("dist_token"),
        reg_tokens: registers(checkpoint, embed_dim)?,
        no_embed_reg: hints.no_embed_reg,
        init_values: is_scaled.then(|| hints.init_values.unwrap_or(INIT_VALUES)),
        pre_norm,
        global_pool,
        fc_norm: Some(has_fc_norm).filter(|&has| final_norm && has != (global_pool == Pool::Avg)),
        final_norm,
        act_layer: activation(hints.act_layer, gated_mlp)?,
        eps: hints.eps.unwrap_or(if has_pytorchs_eps { 1e-5 } else { VitConfig::tiny().eps }),
        ..VitConfig::custom(embed_dim, depth, heads(embed_dim, gated_mlp, hints)?)
    };
    if let Some(normalize) = hints.normalize {
        config.normalize = normalize;
    }
    config.interpolation = hints.interpolation.unwrap_or_default();
    config.crop_mode = hints.crop_mode;
    config.num_classes = classes(checkpoint, &config)?;
    (config.img_size, config.no_embed_class) = picture_size(checkpoint, &config, hints.img_size)?;
    config.check()?;
    check_sizes(checkpoint, &config)?;
    Ok(config)
}

/// Whether queries and values have biases, and keys none: which is so where positions are rotary.
fn has_no_key_bias(checkpoint: &Checkpoint, hints: &Hints) -> Result<bool> {
    const NAME: &str = "blocks.0.attn.q_bias";
    let is_so = checkpoint.tensors.contains_key(NAME);
    if is_so && hints.rope_temperature.is_none() {
        let what = "is there, as in models with rotary positions, of which nothing beside it tells: a config.json with timm's \
                    `architecture`, such as eva02_tiny_patch14_224, would";
        return Err(fault(NAME, what));
    }
    Ok(is_so)
}

/// Height and width of the pictures, and whether the prefix has no positions.
fn picture_size(
    checkpoint: &Checkpoint,
    config: &VitConfig,
    told: Option<(usize, usize)>,
) -> Result<((usize, usize), bool)> {
    let has_learned = config.rope_temperature.is_none() || config.ref_feat_shape.is_some();
    if has_learned {
        return grid(checkpoint, config, told);
    }
    if checkpoint.tensors.contains_key(POSITIONS) {
        return Err(fault(POSITIONS, "is there beside rotary positions in its place"));
    }
    let untold = "is no part of it, and nothing else tells the size of its pictures: tell it (trained_on)";
    told.map(|size| (size, config.no_embed_class)).ok_or_else(|| fault(POSITIONS, untold))
}

/// Whether there is a last norm, of tokens or of what is pooled, which must be as it is told.
fn final_norm(checkpoint: &Checkpoint, hints: &Hints) -> Result<bool> {
    let has = |name: &str| checkpoint.tensors.contains_key(name);
    let is_told = hints.final_norm.unwrap_or(true);
    match (has("fc_norm.weight"), has("norm.weight")) {
        (true, true) => Err(fault("norm.weight", "is there beside fc_norm")),
        (false, false) if is_told => Err(fault("norm.weight", "is not in the checkpoint, nor is fc_norm")),
        (true, _) | (_, true) if !is_told => Err(fault("norm.weight", "is there, though final_norm is false")),
        _ => Ok(is_told),
    }
}

/// What the head reads.
fn pooling(checkpoint: &Checkpoint, hints: &Hints) -> Result<Pool> {
    let has = |name: &str| checkpoint.tensors.contains_key(name);
    let natural = match has(LATENT) {
        true => Pool::Map,
        false if has("fc_norm.weight") || !has("cls_token") => Pool::Avg,
        false => Pool::Token,
    };
    let pool = hints.global_pool.unwrap_or(natural);
    if has(LATENT) != (pool == Pool::Map) {
        let what = if has(LATENT) { "is there, though pooling is another" } else { "is not in the checkpoint" };
        return Err(fault(LATENT, what));
    }
    if has(LATENT) && has("norm_pre.weight") {
        // No model that is computed here has both.
        let what = "is there beside norm_pre, as in the Perception Encoder, whose rotary positions are not in its file";
        return Err(fault(LATENT, what));
    }
    Ok(pool)
}

/// Those of its heads, as many in each; 1 without a head.
fn classes(checkpoint: &Checkpoint, config: &VitConfig) -> Result<usize> {
    if !checkpoint.tensors.contains_key("head.weight") {
        return Ok(1);
    }
    let classes = rows(checkpoint, "head.weight", config.head_inputs())?;
    let name = "head_dist.weight";
    if config.distilled && rows(checkpoint, name, config.embed_dim)? != classes {
        return Err(fault(name, format!("is of another number of classes than head.weight, {classes}")));
    }
    Ok(classes)
}

/// Whether every large tensor of the model is there in its shape, so that the model takes no more memory than the file.
///
/// # Errors
/// [`crate::Error::Parameter`] naming the first that is not.
pub(super) fn check_sizes(checkpoint: &Checkpoint, config: &VitConfig) -> Result<()> {
    let (width, hidden, patch) = (config.embed_dim, config.hidden(), config.patch_size);
    let positions = Some(config.positions()).filter(|&count| count > 0);
    let positions = positions.map(|count| (POSITIONS.to_owned(), vec![1, count, width]));
    let patches = ("patch_embed.proj.weight".to_owned(), vec![width, 3, patch, patch]);
    let pool = [
        (LATENT, vec![1, 1, width]),
        ("attn_pool.q.weight", vec![width, width]),
        ("attn_pool.kv.weight", vec![2 * width, width]),
        ("attn_pool.proj.weight", vec![width, width]),
        ("attn_pool.mlp.fc1.weight", vec![hidden, width]),
        ("attn_pool.mlp.fc2.weight", vec![width, hidden]),
    ];
    let pool = pool.into_iter().filter(|_| config.global_pool == Pool::Map);
    let pool = pool.map(|(name, shape)| (name.to_owned(), shape));
    // Where there is one: without it the classes are another's to choose.
    let has_head = |head: &&str| checkpoint.tensors.contains_key(&format!("{head}.weight"));
    let of_head = |head: &str| (format!("{head}.weight"), vec![config.num_classes, config.head_inputs()]);
    let heads = config.heads().iter().copied().filter(has_head).map(of_head);
    let outer = std::iter::once(patches).chain(positions).chain(pool).chain(heads);
    let inner_norms = [
        ("attn.norm.weight", width, config.scale_attn_norm),
        ("mlp.norm.weight", config.hidden_outputs(), config.scale_mlp_norm),
    ];
    let in_block = |i: usize| {
        [
            ("norm1.weight", vec![width]),
            ("attn.qkv.weight", vec![3 * width, width]),
            ("attn.proj.weight", vec![width, width]),
            ("norm2.weight", vec![width]),
            ("mlp.fc1.weight", vec![hidden, width]),
            ("mlp.fc2.weight", vec![width, config.hidden_outputs()]),
        ]
        .into_iter()
        .chain(inner_norms.iter().filter(|(_, _, is_there)| *is_there).map(|&(norm, width, _)| (norm, vec![width])))
        .chain(config.init_values.into_iter().flat_map(|_| SCALES.map(|scale| (scale, vec![width]))))
        .map(move |(tensor, shape)| (format!("{BLOCKS}{i}.{tensor}"), shape))
    };
    let of_adapters = adapters::shapes(places(config), config.lora.as_ref());
    check_shapes(checkpoint, outer.chain((0..config.depth).flat_map(in_block)).chain(of_adapters))
}

/// F / C such that [`VitConfig::hidden`] is F again.
fn ratio(hidden: usize, width: usize) -> f32 {
    let ratio = hidden as f32 / width as f32;
    if ((width as f32 * ratio) as usize) < hidden { ratio.next_up() } else { ratio }
}

fn is_known(name: &str) -> bool {
    TOKENS.contains(&name)
        || is_of_layer(&OUTER_LAYERS, name)
        || HARMLESS.iter().any(|start| name.starts_with(start))
        || in_block(BLOCKS, name).is_some_and(|(_, rest)| {
            is_of_layer(&LAYERS, rest) || is_of_layer(&INNER_NORMS, rest) || is_scale(rest) || BIASES.contains(&rest)
        })
}

/// Whether a block's tensor is one of layer scale.
fn is_scale(rest: &str) -> bool {
    SCALES.contains(&rest)
}

/// (C, P).
fn patch_sizes(checkpoint: &Checkpoint) -> Result<(usize, usize)> {
    const NAME: &str = "patch_embed.proj.weight";
    match checkpoint.get(NAME)?.shape.as_slice() {
        &[width, 3, rows, columns] if rows == columns && rows > 0 && width > 0 => Ok((width, rows)),
        other => Err(fault(NAME, format!("is {other:?}, expected [C, 3, P, P]"))),
    }
}

fn registers(checkpoint: &Checkpoint, width: usize) -> Result<usize> {
    match checkpoint.tensors.get("reg_token").map(|tensor| tensor.shape.as_slice()) {
        None => Ok(0),
        Some(&[1, count, columns]) if columns == width => Ok(count),
        Some(other) => Err(fault("reg_token", format!("is {other:?}, expected [1, registers, {width}]"))),
    }
}

/// Told, or known of published models, or from the usual width of a head.
fn heads(width: usize, gated_mlp: bool, hints: &Hints) -> Result<usize> {
    if let Some(heads) = hints.heads {
        return Ok(heads);
    }
    let published: &[(usize, usize)] = if gated_mlp { &UNUSUAL_GATED_HEADS } else { &UNUSUAL_HEADS };
    let unusual = published.iter().find(|(of, _)| *of == width).map(|(_, heads)| *heads);
    let Some(heads) = unusual.or_else(|| width.is_multiple_of(64).then_some(width / 64)) else {
        let what = format!(
            "is not told by the weights, and a width of {width} is none of published models: tell it (`heads`, --heads)"
        );
        return Err(fault("num_heads", what));
    };
    if !hints.is_published {
        log::warn!(
            "nothing tells the number of heads: taken to be {heads}, each {} wide, as is usual; else tell it (`heads`, --heads)",
            width / heads
        );
    }
    Ok(heads)
}

/// That of an MLP without a gate; of one with a gate, which has SiLU, any.
fn activation(told: Option<Activation>, gated_mlp: bool) -> Result<Gelu> {
    match (told, gated_mlp) {
        (Some(Activation::Gelu(gelu)), false) => Ok(gelu),
        (None, _) | (Some(Activation::Silu), true) => Ok(Gelu::default()),
        (Some(Activation::Silu), false) => {
            Err(fault("act_layer", "is SiLU, which is computed in gated MLPs alone, and this one has no gate"))
        }
        (Some(Activation::Gelu(_)), true) => {
            Err(fault("act_layer", "is GELU, but of gated MLPs those with SiLU alone are computed here"))
        }
    }
}

/// The image size, and whether the prefix has no positions.
fn grid(checkpoint: &Checkpoint, config: &VitConfig, told: Option<(usize, usize)>) -> Result<((usize, usize), bool)> {
    const NAME: &str = POSITIONS;
    let &[1, positions, _] = checkpoint.get(NAME)?.shape.as_slice() else {
        return Err(fault(NAME, format!("is {:?}, expected [1, T, C]", checkpoint.get(NAME)?.shape)));
    };
    let (prefix, patch) = (config.prefix_tokens(), config.patch_size);
    // With and without positions for the prefix.
    let counts = if config.no_embed_reg {
        [positions.checked_sub(config.prefix_positions()), None]
    } else {
        [positions.checked_sub(prefix), Some(positions).filter(|_| prefix > 0)]
    };
    let fitting = |grid: &dyn Fn(usize) -> Option<(usize, usize)>| {
        let sizes = counts.iter().map(|count| count.filter(|&n| n > 0).and_then(grid));
        sizes.enumerate().find_map(|(i, size)| size.map(|size| (size, i == 1)))
    };
    if let Some(told) = told {
        let (height, width) = (told.0 / patch * patch, told.1 / patch * patch);
        if (height, width) != told {
            log::warn!(
                "pictures of {} x {} are not whole patches of {patch}: taken to be {height} x {width}",
                told.0,
                told.1
            );
        }
        let patches = (height / patch).checked_mul(width / patch);
        return fitting(&|count| (patches == Some(count)).then_some((height, width))).ok_or_else(|| {
            fault(NAME, format!("has {positions} positions, which are not those of {height} x {width} pictures"))
        });
    }
    let square = |count: usize| {
        let side = count.isqrt();
        (side * side == count).then_some(side.checked_mul(patch)).flatten().map(|size| (size, size))
    };
    let Some(found) = fitting(&square) else {
        let what = format!("has {positions} positions, not those of a square picture: tell its size (trained_on)");
        return Err(fault(NAME, what));
    };
    let (height, width) = found.0;
    log::warn!(
        "nothing tells the size of pictures: taken to be square, {height} x {width}; else tell it (`trained_on`, --trained-on)"
    );
    Ok(found)
}
