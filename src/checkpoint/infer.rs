//! A ViT's configuration from the shapes of its tensors, under timm's names, and refusal of what is not computed here.

use super::{Checkpoint, SkippedTensor, quoted};
use crate::error::{Error, Result};
use crate::models::vit::{Pool, VitConfig};
use crate::ops::Normalize;

/// What shapes do not tell, from a file beside the weights or the caller.
#[derive(Clone, Debug, Default)]
pub(super) struct Hints {
    pub(super) heads: Option<usize>,
    pub(super) eps: Option<f32>,
    pub(super) img_size: Option<(usize, usize)>,
    pub(super) global_pool: Option<Pool>,
    pub(super) normalize: Option<Normalize>,
    /// Whether the model is a published one, whose heads follow from its width.
    pub(super) is_published: bool,
    /// What the file beside the weights calls the model.
    pub(super) architecture: Option<String>,
}

/// Layers of a block, each with a weight and perhaps a bias.
const LAYERS: [&str; 6] = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"];

/// Layers outside the blocks.
const OUTER_LAYERS: [&str; 5] = ["patch_embed.proj", "norm_pre", "norm", "fc_norm", "head"];

/// Tensors that are not layers.
const TOKENS: [&str; 3] = ["cls_token", "reg_token", "pos_embed"];

/// Beginnings of names that change nothing: a head's hidden layer of the first ViTs, which timm drops too, and a token of
/// pretraining.
const HARMLESS: [&str; 2] = ["pre_logits.", "mask_token"];

/// Parts of names, and what has such parts; a star stands for any end of the last. The first that fits explains a refusal.
const REFUSED: [(&str, &str); 32] = [
    ("lora_*", "an adapter (LoRA), not yet merged into its model"),
    ("word_embeddings", "a language model"),
    ("vision_model.embeddings", "a CLIP or SigLIP model of transformers"),
    ("visual.transformer", "a CLIP model of OpenAI or open_clip"),
    ("encoder.layers.encoder_layer_*", "torchvision's Vision Transformer, whose names are its own"),
    ("layer1.0", "a ResNet"),
    ("stages.0", "a network in stages"),
    ("decoder_blocks", "the decoder of a masked autoencoder"),
    ("decoder", "a decoder"),
    ("dist_token", "a distillation token"),
    ("distillation_token", "a distillation token"),
    ("head_dist", "a distillation token"),
    ("distillation_classifier", "a distillation token"),
    ("ls1", "layer scale"),
    ("ls2", "layer scale"),
    ("layer_scale*", "layer scale"),
    ("gamma_*", "layer scale"),
    ("lambda_*", "layer scale"),
    ("q_norm", "normed queries and keys"),
    ("k_norm", "normed queries and keys"),
    ("attn.norm", "a norm within attention"),
    ("mlp.norm", "a norm within the MLP"),
    ("fc1_*", "a gated MLP (SwiGLU)"),
    ("w12", "a gated MLP (SwiGLU)"),
    ("attn_pool", "attention pooling"),
    ("rel_pos*", "relative positions"),
    ("relative_position*", "relative positions"),
    ("rope*", "rotary positions"),
    ("patch_embed.backbone", "a convolutional stem"),
    ("patch_embed.norm", "a norm after the patch projection"),
    ("attns", "parallel layers in a block"),
    ("ffns", "parallel layers in a block"),
];

/// Widths of published models whose heads are not 64 wide, with their heads.
const UNUSUAL_HEADS: [(usize, usize); 4] = [(1152, 16), (1280, 16), (1408, 16), (1664, 16)];

/// The configuration.
///
/// # Errors
/// [`Error::Parameter`] naming the tensor that is missing, of an impossible shape, or not a part of such a model;
/// [`Error::Argument`] as [`VitConfig::check`].
pub(super) fn infer(checkpoint: &Checkpoint, hints: &Hints) -> Result<VitConfig> {
    refuse_unknown(checkpoint, hints.architecture.as_deref())?;
    refuse_unread(checkpoint)?;
    let (embed_dim, patch_size) = patch_sizes(checkpoint)?;
    let has = |name: &str| checkpoint.tensors.contains_key(name);
    let depth = depth(checkpoint)?;
    let hidden = matrix(checkpoint, "blocks.0.mlp.fc1.weight", embed_dim)?;
    let class_token = has("cls_token");
    let has_fc_norm = has("fc_norm.weight");
    if has_fc_norm == has("norm.weight") {
        let what = if has_fc_norm { "is there beside fc_norm" } else { "is not in the checkpoint, nor is fc_norm" };
        return Err(parameter("norm.weight", what));
    }
    let natural = if has_fc_norm || !class_token { Pool::Avg } else { Pool::Token };
    let global_pool = hints.global_pool.unwrap_or(natural);
    let pre_norm = has("norm_pre.weight");
    let mut config = VitConfig {
        patch_size,
        num_classes: if has("head.weight") { matrix(checkpoint, "head.weight", embed_dim)? } else { 1 },
        mlp_ratio: ratio(hidden, embed_dim),
        qkv_bias: has("blocks.0.attn.qkv.bias"),
        patch_bias: has("patch_embed.proj.bias"),
        class_token,
        reg_tokens: registers(checkpoint, embed_dim)?,
        pre_norm,
        global_pool,
        fc_norm: Some(has_fc_norm).filter(|&has| has != (global_pool == Pool::Avg)),
        // timm's models with a first norm are CLIP's, and those have PyTorch's default.
        eps: hints.eps.unwrap_or(if pre_norm { 1e-5 } else { VitConfig::tiny().eps }),
        ..VitConfig::custom(embed_dim, depth, heads(embed_dim, hints)?)
    };
    if let Some(normalize) = hints.normalize {
        config.normalize = normalize;
    }
    (config.img_size, config.no_embed_class) = grid(checkpoint, &config, hints.img_size)?;
    config.check()?;
    check_shapes(checkpoint, &config)?;
    Ok(config)
}

/// Whether every large tensor of the model is there in its shape, so that the model takes no more memory than the file.
///
/// # Errors
/// [`Error::Parameter`] naming the first that is not.
pub(super) fn check_shapes(checkpoint: &Checkpoint, config: &VitConfig) -> Result<()> {
    let (width, hidden, patch) = (config.embed_dim, config.hidden(), config.patch_size);
    let positions = config.prefix_positions().saturating_add(config.patches());
    let outer = [
        ("patch_embed.proj.weight".to_owned(), vec![width, 3, patch, patch]),
        ("pos_embed".to_owned(), vec![1, positions, width]),
    ];
    let in_block = |i: usize| {
        [
            ("norm1", vec![width]),
            ("attn.qkv", vec![3 * width, width]),
            ("attn.proj", vec![width, width]),
            ("norm2", vec![width]),
            ("mlp.fc1", vec![hidden, width]),
            ("mlp.fc2", vec![width, hidden]),
        ]
        .map(|(layer, shape)| (format!("blocks.{i}.{layer}.weight"), shape))
    };
    for (name, shape) in outer.into_iter().chain((0..config.depth).flat_map(in_block)) {
        let found = &checkpoint.get(&name)?.shape;
        if *found != shape {
            return Err(parameter(&name, format!("is {found:?}, expected {shape:?}")));
        }
    }
    Ok(())
}

/// F / C such that [`VitConfig::hidden`] is F again.
fn ratio(hidden: usize, width: usize) -> f32 {
    let ratio = hidden as f32 / width as f32;
    if ((width as f32 * ratio) as usize) < hidden { ratio.next_up() } else { ratio }
}

/// Refuses every tensor that the model would leave out: without it, another function would be computed.
fn refuse_unknown(checkpoint: &Checkpoint, architecture: Option<&str>) -> Result<()> {
    let unknown: Vec<&str> = checkpoint.tensors.keys().map(String::as_str).filter(|name| !is_known(name)).collect();
    let Some(first) = unknown.first() else { return Ok(()) };
    let (name, reason) = refusal(&unknown).unwrap_or((first, "a part that is none of timm's plain Vision Transformer"));
    let of = architecture.map_or_else(String::new, |name| format!(" of {}", quoted(name)));
    Err(parameter(name, format!("belongs to {reason}{of}, which is not computed here")))
}

/// One of the names with the reason why it is refused, if a reason is known.
pub(super) fn refusal<'a>(names: &[&'a str]) -> Option<(&'a str, &'static str)> {
    let found = |(part, reason): &(&str, &'static str)| {
        names.iter().find(|name| has_parts(name, part)).map(|name| (*name, *reason))
    };
    REFUSED.iter().find_map(found)
}

/// Whether a name has these parts, one after the other: `attn.norm` is in `blocks.0.attn.norm.weight`.
fn has_parts(name: &str, wanted: &str) -> bool {
    let (name, wanted): (Vec<&str>, Vec<&str>) = (name.split('.').collect(), wanted.split('.').collect());
    let is_same = |(part, wanted): (&&str, &&str)| match wanted.strip_suffix('*') {
        Some(beginning) => part.starts_with(beginning),
        None => part == wanted,
    };
    name.windows(wanted.len()).any(|parts| parts.iter().zip(&wanted).all(is_same))
}

/// Refuses a tensor of a type that is not read, where the model would be another without it; whole numbers under other names
/// are counters and tables that no ViT computes with.
fn refuse_unread(checkpoint: &Checkpoint) -> Result<()> {
    let is_counter = |dtype: &str| dtype.starts_with(['I', 'U']) || dtype == "BOOL";
    let lost = |(name, tensor): &(&String, &SkippedTensor)| is_known(name) || !is_counter(&tensor.dtype);
    match checkpoint.skipped.iter().find(lost) {
        Some((name, _)) => checkpoint.get(name).map(drop),
        None => Ok(()),
    }
}

fn is_known(name: &str) -> bool {
    let is_layer_of = |layers: &[&str], name: &str| {
        name.rsplit_once('.').is_some_and(|(layer, kind)| matches!(kind, "weight" | "bias") && layers.contains(&layer))
    };
    let in_block = || {
        let (block, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
        Some(block_number(block).is_some() && is_layer_of(&LAYERS, rest))
    };
    TOKENS.contains(&name)
        || is_layer_of(&OUTER_LAYERS, name)
        || HARMLESS.iter().any(|start| name.starts_with(start))
        || in_block().unwrap_or(false)
}

/// A number as it is printed: `7`, not `07` or `+7`.
fn block_number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|number: &usize| number.to_string() == text)
}

/// (C, P).
fn patch_sizes(checkpoint: &Checkpoint) -> Result<(usize, usize)> {
    const NAME: &str = "patch_embed.proj.weight";
    match checkpoint.get(NAME)?.shape.as_slice() {
        &[width, 3, rows, columns] if rows == columns && rows > 0 && width > 0 => Ok((width, rows)),
        other => Err(parameter(NAME, format!("is {other:?}, expected [C, 3, P, P]"))),
    }
}

/// The rows of a weight `[rows, C]`.
fn matrix(checkpoint: &Checkpoint, name: &str, width: usize) -> Result<usize> {
    match checkpoint.get(name)?.shape.as_slice() {
        &[rows, columns] if columns == width => Ok(rows),
        other => Err(parameter(name, format!("is {other:?}, expected two sizes, the last {width}"))),
    }
}

/// L: blocks are numbered from 0 without a gap.
fn depth(checkpoint: &Checkpoint) -> Result<usize> {
    let is_there = |i: &usize| checkpoint.tensors.contains_key(&format!("blocks.{i}.norm1.weight"));
    let depth = (0..).take_while(is_there).count();
    let number = |name: &String| name.strip_prefix("blocks.")?.split_once('.').and_then(|(i, _)| block_number(i));
    match checkpoint.tensors.keys().find(|name| number(name).is_some_and(|i| i >= depth)) {
        Some(name) => {
            Err(parameter(name, format!("is there, but blocks.{depth}.norm1.weight is not in the checkpoint")))
        }
        None => Ok(depth),
    }
}

fn registers(checkpoint: &Checkpoint, width: usize) -> Result<usize> {
    match checkpoint.tensors.get("reg_token").map(|tensor| tensor.shape.as_slice()) {
        None => Ok(0),
        Some(&[1, count, columns]) if columns == width => Ok(count),
        Some(other) => Err(parameter("reg_token", format!("is {other:?}, expected [1, registers, {width}]"))),
    }
}

/// Told, or known of published models, or from the usual width of a head.
fn heads(width: usize, hints: &Hints) -> Result<usize> {
    if let Some(heads) = hints.heads {
        return Ok(heads);
    }
    let unusual = UNUSUAL_HEADS.iter().find(|(of, _)| *of == width).map(|(_, heads)| *heads);
    let Some(heads) = unusual.or_else(|| width.is_multiple_of(64).then_some(width / 64)) else {
        let what = format!(
            "is not told by the weights, and a width of {width} is none of published models: tell it (`heads`, --heads)"
        );
        return Err(parameter("num_heads", what));
    };
    if !hints.is_published {
        log::warn!(
            "nothing tells the number of heads: taken to be {heads}, each {} wide, as is usual; else tell it (`heads`, --heads)",
            width / heads
        );
    }
    Ok(heads)
}

/// The image size, and whether the prefix has no positions.
fn grid(checkpoint: &Checkpoint, config: &VitConfig, told: Option<(usize, usize)>) -> Result<((usize, usize), bool)> {
    const NAME: &str = "pos_embed";
    let &[1, positions, _] = checkpoint.get(NAME)?.shape.as_slice() else {
        return Err(parameter(NAME, format!("is {:?}, expected [1, T, C]", checkpoint.get(NAME)?.shape)));
    };
    let (prefix, patch) = (config.prefix_tokens(), config.patch_size);
    // With and without positions for the prefix.
    let counts = [positions.checked_sub(prefix), Some(positions).filter(|_| prefix > 0)];
    let fitting = |grid: &dyn Fn(usize) -> Option<(usize, usize)>| {
        let sizes = counts.iter().map(|count| count.filter(|&n| n > 0).and_then(grid));
        sizes.enumerate().find_map(|(i, size)| size.map(|size| (size, i == 1)))
    };
    if let Some((height, width)) = told {
        let patches = (height / patch).checked_mul(width / patch);
        return fitting(&|count| (patches == Some(count)).then_some((height, width))).ok_or_else(|| {
            parameter(NAME, format!("has {positions} positions, which are not those of {height} x {width} pictures"))
        });
    }
    let square = |count: usize| {
        let side = count.isqrt();
        (side * side == count).then_some(side.checked_mul(patch)).flatten().map(|size| (size, size))
    };
    let Some(found) = fitting(&square) else {
        let what = format!("has {positions} positions, not those of a square picture: tell its size (trained_on)");
        return Err(parameter(NAME, what));
    };
    let (height, width) = found.0;
    log::warn!(
        "nothing tells the size of pictures: taken to be square, {height} x {width}; else tell it (`trained_on`, --trained-on)"
    );
    Ok(found)
}

fn parameter(name: &str, what: impl Into<String>) -> Error {
    Error::Parameter { name: quoted(name), what: what.into() }
}
