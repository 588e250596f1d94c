//! Adapters in files, as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors` in a folder.
//!
//! PEFT names layers as they are called in memory. transformers has had two spellings for a ViT's there, of which both are read and
//! the newer one, of its version 5, is written; timm's are this crate's own.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::adapted::{Place, adapted, places};
use super::names::Family;
use super::{Pretrained, export};
use crate::checkpoint::{self, Checkpoint, Folder, HostTensor, Settings, Storage, download, fault, read_json};
use crate::error::{Error, Result};
use crate::models::vit::{Pool, Vit, VitConfig};
use crate::nn::{LORA_A, LORA_B, LoraConfig, Precision};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What PEFT puts before a model's own names.
const PLACE: &str = "base_model.model.";

/// What stands before a block's number.
const BLOCKS: [&str; 5] =
    ["vit.layers.", "vit.encoder.layer.", "dinov2.encoder.layer.", "dinov2_with_registers.encoder.layer.", "blocks."];

/// Layers of a block, as transformers and timm call them, and the place of their adapters here.
const LAYERS: [(&str, &str); 14] = [
    ("attention.q_proj", "attn.qkv.query"),
    ("attention.k_proj", "attn.qkv.key"),
    ("attention.v_proj", "attn.qkv.value"),
    ("attention.o_proj", "attn.proj"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("attention.attention.query", "attn.qkv.query"),
    ("attention.attention.key", "attn.qkv.key"),
    ("attention.attention.value", "attn.qkv.value"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("attn.qkv", "attn.qkv"),
    ("attn.proj", "attn.proj"),
];

/// What the two libraries call the head.
const HEADS: [&str; 2] = ["classifier", "head"];

/// What of PEFT's settings is read, must be so, or does not matter where the tensors tell the rest.
const SETTINGS: Settings = Settings {
    read: &["r", "lora_alpha", "lora_dropout"],
    fixed: &[
        ("peft_type", "LORA"),
        ("bias", "none"),
        ("fan_in_fan_out", "false"),
        ("lora_bias", "false"),
        ("use_dora", "false"),
        ("use_rslora", "false"),
        ("use_qalora", "false"),
        ("use_bdlora", "false"),
        ("alpha_pattern", ""),
        ("rank_pattern", ""),
        ("layer_replication", ""),
        ("megatron_config", ""),
        ("target_parameters", ""),
        ("trainable_token_indices", ""),
        ("alora_invocation_tokens", ""),
        ("arrow_config", ""),
        ("monteclora_config", ""),
        ("velora_config", ""),
    ],
    ignored: &[
        "target_modules",
        "modules_to_save",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "task_type",
        "inference_mode",
        "peft_version",
        "runtime_config",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
        // How the matrices began.
        "init_lora_weights",
        "corda_config",
        "eva_config",
        "kasa_config",
        "loftq_config",
        "lora_ga_config",
    ],
};

/// Whose names the layers of a written adapter have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterNames {
    /// timm's, for a model that `timm.create_model` makes.
    Timm,
    /// transformers', for `ViTForImageClassification` and `Dinov2ForImageClassification`.
    Transformers,
}

impl AdapterNames {
    /// Those that a model's adapters can be written with: transformers' if it has such a model.
    pub fn of(config: &VitConfig) -> Self {
        if Spelling::new(config, AdapterNames::Transformers).is_ok() {
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
        let spelling = Spelling::new(config, self)?;
        let Some(lora) = &config.lora else {
            return Err(Error::argument("save_adapter", "lora", "a model with adapters", "none"));
        };
        adapted(config, lora).try_for_each(|place| spelling.layers(&place).map(drop))
    }
}

/// How a library spells the layers of a model.
struct Spelling {
    names: AdapterNames,
    blocks: &'static str,
    head: &'static str,
}

impl Spelling {
    fn new(config: &VitConfig, names: AdapterNames) -> Result<Self> {
        if names == AdapterNames::Timm {
            return Ok(Spelling { names, blocks: "blocks.", head: "head" });
        }
        let family = export::family(config)?;
        if family.is_dinov2() && config.global_pool != Pool::TokenAvg {
            let expected =
                "class token and mean, which transformers' Dinov2 reads: write the adapter with timm's names";
            return Err(Error::argument("save_adapter", "global_pool", expected, "another setting"));
        }
        let blocks = match family {
            Family::Vit => "vit.layers.",
            Family::Dinov2 => "dinov2.encoder.layer.",
            Family::Dinov2WithRegisters => "dinov2_with_registers.encoder.layer.",
            Family::Deit | Family::Dinov3 | Family::Clip | Family::Siglip | Family::SiglipTower => {
                let expected = "those of a ViT or a Dinov2: write the adapter with timm's names";
                return Err(Error::argument("save_adapter", "names", expected, "transformers' of another model"));
            }
        };
        Ok(Spelling { names, blocks, head: "classifier" })
    }

    /// The layers that an adapter belongs to: those that are packed here, where they are apart there.
    fn layers(&self, place: &Place) -> Result<Vec<String>> {
        let Some((block, layer)) = place.path.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) else {
            return Ok(vec![self.head.to_owned()]);
        };
        let named = |layer: &str| format!("{}{block}.{layer}", self.blocks);
        if self.names == AdapterNames::Timm {
            if place.path != place.layer {
                let expected = "qkv, which timm has in one layer, for a part of it";
                return Err(Error::argument("save_adapter", "targets", expected, &place.path));
            }
            return Ok(vec![named(layer)]);
        }
        if layer == "attn.qkv" {
            return Ok(["attention.q_proj", "attention.k_proj", "attention.v_proj"].map(named).to_vec());
        }
        let theirs = LAYERS.iter().find(|(_, ours)| *ours == layer);
        theirs.map(|(theirs, _)| vec![named(theirs)]).ok_or_else(|| fault(&place.path, "has no name in transformers"))
    }
}

/// The settings that are read.
#[derive(Deserialize)]
struct PeftConfig {
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
}

/// The settings that are written: the rest PEFT has as defaults.
#[derive(Serialize)]
struct Written<'a> {
    peft_type: &'static str,
    task_type: Option<()>,
    base_model_name_or_path: Option<&'a str>,
    inference_mode: bool,
    r: usize,
    lora_alpha: f32,
    lora_dropout: f32,
    bias: &'static str,
    fan_in_fan_out: bool,
    target_modules: Vec<String>,
    modules_to_save: Option<Vec<&'static str>>,
}

/// Writes the adapters of `model`, and what else it trains, as a folder that PEFT loads beside the model they were trained on:
/// `PeftModel.from_pretrained(model, folder)`. `base` is what PEFT is to call that model, a path or a name on the Hub.
///
/// An adapter of the packed queries, keys and values is written for transformers as one of each, with the same A. The folder is
/// written as by [`super::export_hf`].
///
/// # Errors
/// As [`AdapterNames::check`]; [`Error::Argument`] if more is trained as a whole than the head; [`Error::File`] and [`Error::Io`] as
/// [`super::export_hf`]; and if the device fails.
pub fn save_adapter(folder: &Path, model: &Vit, names: AdapterNames, base: Option<&str>) -> Result<()> {
    let config = model.config();
    names.check(config)?;
    let (Some(lora), spelling) = (&config.lora, Spelling::new(config, names)?) else { return Ok(()) };
    let mut ours = download(model.parameters())?;
    ours.retain(|name, _| lora.trains(name));
    let mut theirs = BTreeMap::new();
    let mut target_modules = Vec::new();
    for place in adapted(config, lora) {
        let [a, b] = place.tensors(lora.rank).map(|(name, _)| ours.remove(&name));
        let (Some(a), Some(b)) = (a, b) else { return Err(fault(&place.path, "has no adapter")) };
        let layers = spelling.layers(&place)?;
        let rows = b.data.chunks((b.data.len() / layers.len()).max(1));
        for (layer, rows) in layers.iter().zip(rows) {
            theirs.insert(format!("{PLACE}{layer}.{LORA_A}"), a.clone());
            let shape = vec![rows.len() / lora.rank, lora.rank];
            theirs.insert(format!("{PLACE}{layer}.{LORA_B}"), HostTensor { shape, data: rows.to_vec() });
        }
        target_modules.extend(layers);
    }
    let has_head = !ours.is_empty();
    for (name, tensor) in ours {
        let Some(kind) = name.strip_prefix("head.") else {
            let expected = "the head alone, of what an adapter's file is written for here";
            return Err(Error::argument("save_adapter", "modules_to_save", expected, name));
        };
        theirs.insert(format!("{PLACE}{}.{kind}", spelling.head), tensor);
    }
    let written = Written {
        peft_type: "LORA",
        task_type: None,
        base_model_name_or_path: base,
        inference_mode: true,
        r: lora.rank,
        lora_alpha: lora.alpha,
        lora_dropout: lora.dropout,
        bias: "none",
        fan_in_fan_out: false,
        target_modules,
        modules_to_save: has_head.then(|| vec![spelling.head]),
    };
    let text = export::json(folder, &written)?;
    let contents = Folder {
        weights: WEIGHTS_FILE,
        tensors: theirs,
        metadata: BTreeMap::from([("format".to_owned(), "pt".to_owned())]),
        storage: Storage::F32,
        files: &[(CONFIG_FILE, Some(text.as_bytes()))],
    };
    contents.write(folder)
}

impl Pretrained {
    /// Adds the adapters in a folder of PEFT's, of a ViT or a DINOv2 by transformers' names or timm's: the model then has them
    /// ([`VitConfig::lora`]), and the head that was saved with them, if there is one. [`Pretrained::merge_adapters`] makes a plain
    /// model of it.
    ///
    /// # Errors
    /// [`Error::File`] if the settings are others than are computed here, which are named, [`Error::Parameter`] if a tensor is not
    /// of a layer of this model, or does not fit it; [`Error::Argument`] if the model has adapters already; [`Error::Io`] if the
    /// system refuses.
    pub fn load_adapter(&mut self, folder: impl AsRef<Path>) -> Result<()> {
        if self.config.lora.is_some() {
            return Err(Error::argument("load_adapter", "model", "one without adapters", "one that has some"));
        }
        let folder = folder.as_ref();
        let settings = folder.join(CONFIG_FILE);
        SETTINGS.check(&settings)?;
        let Some(peft) = read_json::<PeftConfig>(&settings)? else {
            return Err(Error::file(&settings, "is not there"));
        };
        let adapter = Adapter::read(checkpoint::read(folder.join(WEIGHTS_FILE))?)?;
        self.add(adapter, &peft)
    }

    fn add(&mut self, adapter: Adapter, peft: &PeftConfig) -> Result<()> {
        let mut config = self.config.clone();
        if let Some(head) = adapter.head.get("head.weight") {
            let fits = matches!(head.shape.as_slice(), &[_, inputs] if inputs == config.head_inputs());
            let misfit =
                || fault("head.weight", format!("is {:?}, expected [V, {}]", head.shape, config.head_inputs()));
            config.num_classes = *head.shape.first().filter(|_| fits).ok_or_else(misfit)?;
        }
        let all: Vec<Place> = places(&config).collect();
        let mut found = Vec::new();
        for (path, pair) in &adapter.layers {
            let Some(place) = all.iter().find(|place| place.path == *path) else {
                return Err(fault(path, "is not a layer of the model that the adapter is loaded for"));
            };
            for ((name, shape), tensor) in place.tensors(peft.r).into_iter().zip(pair) {
                match tensor {
                    Some(tensor) if tensor.shape == shape => {}
                    Some(tensor) => return Err(fault(&name, format!("is {:?}, expected {shape:?}", tensor.shape))),
                    None => return Err(fault(&name, "is not in the adapter's file")),
                }
            }
            found.push(path.as_str());
        }
        let saved = if adapter.head.is_empty() { vec![] } else { vec!["head".to_owned()] };
        let targets = ends(&found, config.depth);
        let (rank, alpha, dropout) = (peft.r, peft.lora_alpha, peft.lora_dropout);
        config.lora = Some(LoraConfig { rank, alpha, dropout, targets, modules_to_save: saved, base: Precision::F32 });
        config.check()?;
        if config.num_classes != self.config.num_classes {
            self.class_names = None;
        }
        for (path, [a, b]) in adapter.layers {
            let named = [LORA_A, LORA_B].map(|end| format!("{path}.{end}"));
            self.checkpoint.tensors.extend(named.into_iter().zip([a, b]).filter_map(|(name, t)| Some((name, t?))));
        }
        self.checkpoint.tensors.extend(adapter.head);
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

/// What an adapter's file holds, under our names.
struct Adapter {
    /// A and B by the paths that they lie below.
    layers: BTreeMap<String, [Option<HostTensor>; 2]>,
    /// The head that takes the place of the model's.
    head: BTreeMap<String, HostTensor>,
}

impl Adapter {
    fn read(file: Checkpoint) -> Result<Self> {
        let mut adapter = Adapter { layers: BTreeMap::new(), head: BTreeMap::new() };
        if let Some((name, skipped)) = file.skipped.iter().next() {
            return Err(fault(name, format!("is {skipped}, which is not read")));
        }
        for (name, tensor) in file.tensors {
            let unknown = || fault(&name, "is not a part of an adapter of a ViT or a DINOv2");
            let own = name.strip_prefix(PLACE).ok_or_else(unknown)?;
            let another = match [LORA_A, LORA_B].iter().position(|end| own.ends_with(end)) {
                Some(which) => {
                    let module = own.rsplitn(3, '.').nth(2).ok_or_else(unknown)?;
                    let pair = adapter.layers.entry(place(module).ok_or_else(unknown)?).or_default();
                    pair[which].replace(tensor)
                }
                None => {
                    let (module, kind) = own.rsplit_once('.').ok_or_else(unknown)?;
                    let is_head = HEADS.contains(&module) && matches!(kind, "weight" | "bias");
                    let to = is_head.then(|| format!("head.{kind}")).ok_or_else(unknown)?;
                    adapter.head.insert(to, tensor)
                }
            };
            if another.is_some() {
                return Err(fault(&name, "is there twice, under two of its names"));
            }
        }
        Ok(adapter)
    }
}

/// The place of a layer's adapter here.
fn place(module: &str) -> Option<String> {
    if HEADS.contains(&module) {
        return Some("head".to_owned());
    }
    let (block, layer) = BLOCKS.iter().find_map(|blocks| module.strip_prefix(blocks))?.split_once('.')?;
    let block: usize = block.parse().ok()?;
    let (_, ours) = LAYERS.iter().find(|(theirs, _)| *theirs == layer)?;
    Some(format!("blocks.{block}.{ours}"))
}

/// The shortest targets for these paths: a layer that every block has by its end, others in full.
fn ends(paths: &[&str], depth: usize) -> Vec<String> {
    let end = |path: &&str| path.splitn(3, '.').nth(2).map(str::to_owned);
    let mut blocks: BTreeMap<String, usize> = BTreeMap::new();
    paths.iter().filter_map(end).for_each(|end| *blocks.entry(end).or_default() += 1);
    let target =
        |path: &&str| end(path).filter(|end| blocks.get(end) == Some(&depth)).unwrap_or_else(|| (*path).to_owned());
    let mut targets: Vec<String> = paths.iter().map(target).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}
