//! A ViT's adapters in PEFT's folders. transformers has had two spellings for some models' layers, of which both are read and the newer
//! one, of its version 5, is written; timm's are this crate's own.

use std::path::Path;

use super::adapted::places;
use super::names::{Family, GATED};
use super::{Pretrained, export, layouts};
use crate::checkpoint::{Pair, fault};
use crate::error::{Error, Result};
use crate::models::peft::{self, Adapter, AdapterReading, Spelling};
use crate::models::vit::{Pool, Vit, VitConfig};

/// By which adapters are read: as layers are called in memory now, were in transformers 4, and are in a tower by itself.
const KNOWN: AdapterReading = AdapterReading {
    blocks: &[
        ("vit.layers.", OURS),
        ("vit.encoder.layer.", OURS),
        ("deit.layers.", OURS),
        ("deit.encoder.layer.", OURS),
        ("dinov2.encoder.layer.", OURS),
        ("dinov2_with_registers.encoder.layer.", OURS),
        ("vision_model.encoder.layers.", OURS),
        ("encoder.layers.", OURS),
        ("model.layer.", OURS),
        ("layer.", OURS),
        (OURS, OURS),
    ],
    layers: &[&LAYERS, &LAYERS_OF_DINOV3, &LAYERS_OF_TOWERS, &OLD_LAYERS, &LAYERS_OF_TIMM, &LAYERS_OF_EVA],
    heads: &[HEAD, HEADS[0], HEADS[1], HEADS_OF_TIMM[0], HEADS_OF_TIMM[1]],
};

/// The same for models with gated MLPs, in which one of these names stands for another layer.
const KNOWN_GATED: AdapterReading = AdapterReading {
    layers: &[&LAYERS_OF_GATED, &GATED, &LAYERS_OF_GATED_TIMM, &LAYERS_OF_GATED_EVA, &LAYERS_OF_TIMM, &OLD_LAYERS],
    ..KNOWN
};

/// What stands before a block's number here.
const OURS: &str = "blocks.";

/// Layers of a block in transformers' ViT, DeiT and Dinov2, as they are called in memory.
const LAYERS: [Pair; 6] = [
    ("attention.q_proj", "attn.qkv.query"),
    ("attention.k_proj", "attn.qkv.key"),
    ("attention.v_proj", "attn.qkv.value"),
    ("attention.o_proj", "attn.proj"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
];

/// The same of a DINOv3.
const LAYERS_OF_DINOV3: [Pair; 6] =
    [LAYERS[0], LAYERS[1], LAYERS[2], LAYERS[3], ("mlp.up_proj", "mlp.fc1"), ("mlp.down_proj", "mlp.fc2")];

/// The same of a Dinov2 or DINOv3 with gated MLPs.
const LAYERS_OF_GATED: [Pair; 7] = [
    LAYERS[0],
    LAYERS[1],
    LAYERS[2],
    LAYERS[3],
    ("mlp.gate_proj", "mlp.fc1.gate"),
    ("mlp.up_proj", "mlp.fc1.up"),
    ("mlp.down_proj", "mlp.fc2"),
];

/// The same of the towers of CLIP and SigLIP.
const LAYERS_OF_TOWERS: [Pair; 6] = [
    ("self_attn.q_proj", "attn.qkv.query"),
    ("self_attn.k_proj", "attn.qkv.key"),
    ("self_attn.v_proj", "attn.qkv.value"),
    ("self_attn.out_proj", "attn.proj"),
    LAYERS[4],
    LAYERS[5],
];

/// As transformers 4 called them in ViT, DeiT and Dinov2.
const OLD_LAYERS: [Pair; 6] = [
    ("attention.attention.query", "attn.qkv.query"),
    ("attention.attention.key", "attn.qkv.key"),
    ("attention.attention.value", "attn.qkv.value"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];

/// timm's.
const LAYERS_OF_TIMM: [Pair; 4] =
    [("attn.qkv", "attn.qkv"), ("attn.proj", "attn.proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")];

/// The same of its DINOv3s with gated MLPs.
const LAYERS_OF_GATED_TIMM: [Pair; 5] = [
    LAYERS_OF_TIMM[0],
    LAYERS_OF_TIMM[1],
    ("mlp.fc1_g", "mlp.fc1.gate"),
    ("mlp.fc1_x", "mlp.fc1.up"),
    LAYERS_OF_TIMM[3],
];

/// The same of EVA-02's larger models.
const LAYERS_OF_EVA: [Pair; 6] = [
    ("attn.q_proj", "attn.qkv.query"),
    ("attn.k_proj", "attn.qkv.key"),
    ("attn.v_proj", "attn.qkv.value"),
    LAYERS_OF_TIMM[1],
    LAYERS_OF_TIMM[2],
    LAYERS_OF_TIMM[3],
];

/// With gated MLPs.
const LAYERS_OF_GATED_EVA: [Pair; 7] = [
    LAYERS_OF_EVA[0],
    LAYERS_OF_EVA[1],
    LAYERS_OF_EVA[2],
    LAYERS_OF_TIMM[1],
    LAYERS_OF_GATED_TIMM[2],
    LAYERS_OF_GATED_TIMM[3],
    LAYERS_OF_TIMM[3],
];

/// The head, and here.
const HEAD: Pair = ("classifier", "head");

/// Two of them.
const HEADS: [Pair; 2] = [("cls_classifier", "head"), ("distillation_classifier", "head_dist")];

/// timm's.
const HEADS_OF_TIMM: [Pair; 2] = [("head", "head"), ("head_dist", "head_dist")];

/// Whose names the layers of a written adapter have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterNames {
    /// timm's, for a model that `timm.create_model` makes.
    Timm,
    /// Those that transformers has in memory, for the class that [`super::export_hf`] would write the model for.
    Transformers,
}

impl AdapterNames {
    /// Those that a model's adapters can be written with: transformers' if it has such a model.
    pub fn of(config: &VitConfig) -> Self {
        if spelling(config, AdapterNames::Transformers).is_ok() {
            AdapterNames::Transformers
        } else {
            AdapterNames::Timm
        }
    }

    /// Whether a model's adapters can be written with these names.
    ///
    /// # Errors
    /// [`Error::Argument`] if transformers has no such model, or timm no layer of an adapter's own.
    pub fn check(self, config: &VitConfig) -> Result<()> {
        let spelling = spelling(config, self)?;
        let lora = peft::expect_some(config.lora.as_ref())?;
        let mut adapted = places(config).filter(|place| lora.targets(&place.path));
        adapted.try_for_each(|place| spelling.layers(&place).map(drop))
    }
}

/// How a library spells the layers of a model.
fn spelling(config: &VitConfig, names: AdapterNames) -> Result<Spelling> {
    let new = |blocks, layers, heads| Spelling {
        blocks: (blocks, OURS),
        layers,
        heads,
        has_heads: true,
        fan_in_fan_out: false,
    };
    if names == AdapterNames::Timm {
        let layers: &[Pair] = match (layouts::is_apart(config), layouts::is_gate_apart(config)) {
            (true, false) => &LAYERS_OF_EVA,
            (true, true) => &LAYERS_OF_GATED_EVA,
            (false, true) => &LAYERS_OF_GATED_TIMM,
            (false, false) => &LAYERS_OF_TIMM,
        };
        return Ok(new(OURS, layers, &HEADS_OF_TIMM));
    }
    let family = export::family(config)?;
    if family.is_dinov2() && config.global_pool != Pool::TokenAvg {
        let expected = "class token and mean, which transformers' Dinov2 reads: write the adapter with timm's names";
        return Err(Error::argument("save_adapter", "global_pool", expected, "another setting"));
    }
    let of_dinov2: &[Pair] = if config.gated_mlp { &LAYERS_OF_GATED } else { &LAYERS };
    Ok(match family {
        Family::Vit => new("vit.layers.", &LAYERS, &[HEAD]),
        Family::Deit => new("deit.layers.", &LAYERS, &HEADS),
        Family::Dinov2 => new("dinov2.encoder.layer.", of_dinov2, &[HEAD]),
        Family::Dinov2WithRegisters => new("dinov2_with_registers.encoder.layer.", of_dinov2, &[HEAD]),
        Family::Clip | Family::Siglip => new("vision_model.encoder.layers.", &LAYERS_OF_TOWERS, &[HEAD]),
        Family::SiglipTower => Spelling { has_heads: false, ..new("encoder.layers.", &LAYERS_OF_TOWERS, &[HEAD]) },
        Family::Dinov3 { gated } => {
            let layers: &[Pair] = if gated { &LAYERS_OF_GATED } else { &LAYERS_OF_DINOV3 };
            Spelling { has_heads: false, ..new("model.layer.", layers, &[HEAD]) }
        }
    })
}

/// Writes the adapters of `model`, and what else it trains, as a folder that PEFT loads beside the model they were trained on:
/// `PeftModel.from_pretrained(model, folder)`. `base` is what PEFT is to call that model, a path or a name on the Hub,
/// perhaps with `@` and a revision.
///
/// An adapter of the packed queries, keys and values, or of a gated MLP's first layer, is written for transformers as one of each, with
/// the same A. A head that
/// transformers' model has not, as its DINOv3, lies beside the adapters, where PEFT passes over it. The folder is written as by
/// [`super::export_hf`].
///
/// # Errors
/// As [`AdapterNames::check`]; [`Error::Argument`] if more is trained as a whole than heads, or was added to the model;
/// [`Error::File`] and [`Error::Io`] as [`super::export_hf`]; and if the device fails.
pub fn save_adapter(folder: &Path, model: &Vit, names: AdapterNames, base: Option<&str>) -> Result<()> {
    let config = model.config();
    names.check(config)?;
    peft::save(folder, &model.parameters, config.lora.as_ref(), places(config), &spelling(config, names)?, base)
}

impl Pretrained {
    /// Adds the adapters in a folder of PEFT's, by transformers' names for any of the models that are read here, or timm's: the model
    /// then has them ([`VitConfig::lora`]), and the heads that were saved with them, if there are any.
    /// [`Pretrained::merge_adapters`] makes a plain model of it.
    ///
    /// # Errors
    /// [`Error::File`] if the settings are others than are computed here, which are named, [`Error::Parameter`] if a tensor is not
    /// of a layer of this model, or does not fit it; [`Error::Argument`] if the model has adapters already; [`Error::Io`] if the
    /// system refuses.
    pub fn load_adapter(&mut self, folder: impl AsRef<Path>) -> Result<()> {
        peft::expect_none(self.config.lora.as_ref())?;
        let known = if self.config.gated_mlp { &KNOWN_GATED } else { &KNOWN };
        let adapter = Adapter::read(folder.as_ref(), known)?;
        let mut config = self.config.clone();
        config.num_classes = classes(&adapter, &config)?;
        let places: Vec<_> = places(&config).collect();
        config.lora = Some(adapter.config(&places, OURS)?);
        config.check()?;
        if config.num_classes != self.config.num_classes {
            self.class_names = None;
        }
        self.checkpoint.tensors.extend(adapter.into_tensors());
        self.config = config;
        Ok(())
    }

    /// Merges the model's adapters into its weights, W + α/r · B·A, if it has any: what is left computes the same within rounding.
    ///
    /// # Errors
    /// [`Error::Parameter`] if a tensor is missing or of another shape.
    pub fn merge_adapters(&mut self) -> Result<()> {
        self.config = super::adapted::merge(&mut self.checkpoint.tensors, &self.config)?;
        Ok(())
    }
}

/// The classes of a model with an adapter's heads, which must be such as it has.
fn classes(adapter: &Adapter, config: &VitConfig) -> Result<usize> {
    let inputs = config.head_inputs();
    let mut classes = None;
    for (name, tensor) in &adapter.heads {
        let (head, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        if !config.heads().contains(&head) {
            return Err(fault(name, "is not a head of the model that the adapter is loaded for"));
        }
        let of = match (tensor.shape.as_slice(), kind) {
            (&[of, width], "weight") if width == inputs => of,
            (&[of], "bias") => of,
            (shape, _) => return Err(fault(name, format!("is {shape:?}, expected a head of {inputs} numbers"))),
        };
        if *classes.get_or_insert(of) != of {
            return Err(fault(name, format!("is of {of} classes, another head of others")));
        }
    }
    let own = config.num_classes;
    let is_whole = config.heads().iter().all(|head| adapter.heads.contains_key(&format!("{head}.weight")));
    match classes.filter(|&of| of != own) {
        Some(of) if !is_whole => {
            Err(fault("head", format!("is of {of} classes in the adapter, and of {own} beside it")))
        }
        of => Ok(of.unwrap_or(own)),
    }
}
