//! Adapters in files, as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors` in a folder. PEFT names
//! layers as they are called in memory; which names those are, a model says.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::adapters::{Place, Tensors};
use super::extended::Extended;
use super::library::{of_pytorch, pretty_json};
use crate::checkpoint::{
    self, Folder, HostTensor, Pair, Settings, Storage, download, fault, in_block, json_text, parse_json, quoted,
};
use crate::error::{Error, Result};
use crate::nn::{LORA_A, LORA_B, LoraConfig, Precision};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What PEFT puts before a model's own names.
const PLACE: &str = "base_model.model.";

/// What of PEFT's settings is read, must be so, or does not matter where the tensors tell the rest.
const SETTINGS: Settings = Settings {
    read: &["r", "lora_alpha", "lora_dropout"],
    fixed: &[
        ("peft_type", "LORA"),
        ("bias", "none"),
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
        // How the weights lie in the layers beside them, which the adapters' own matrices do not follow.
        "fan_in_fan_out",
        // How the matrices began: see `expect_plain_base`.
        "init_lora_weights",
        "corda_config",
        "eva_config",
        "kasa_config",
        "loftq_config",
        "lora_ga_config",
    ],
};

/// Ways for an adapter to begin that leave the layer beside it as it is.
const PLAIN: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Whether an adapter was trained beside the published layers. With some ways to begin (`pissa`, `olora`, `corda`, `loftq`, …) PEFT takes
/// what the matrices begin with off the layer, so that what it has learnt is of no use beside the layer as it was.
///
/// # Errors
/// [`Error::File`] naming the way.
fn expect_plain_base(file: &Path, init: &serde_json::Value) -> Result<()> {
    match init.as_str().filter(|way| !PLAIN.contains(way)) {
        Some(way) => {
            let what = "changes the layers beside the adapter: in PEFT, convert it to a plain LoRA first";
            Err(Error::file(file, format!("init_lora_weights {} {what}", quoted(way))))
        }
        None => Ok(()),
    }
}

/// Names that layers have had, by which adapters are read.
pub(super) struct AdapterReading {
    /// What stands before a block's number.
    pub(super) blocks: &'static [Pair],
    /// Layers of a block.
    pub(super) layers: &'static [&'static [Pair]],
    pub(super) heads: &'static [Pair],
}

impl AdapterReading {
    /// The path of a layer, or of the part of one that its adapter is for here.
    fn place(&self, module: &str) -> Option<String> {
        if let Some((_, head)) = self.heads.iter().find(|(theirs, _)| *theirs == module) {
            return Some((*head).to_owned());
        }
        let found = self.blocks.iter().find_map(|(theirs, ours)| Some((module.strip_prefix(theirs)?, ours)));
        let (rest, blocks) = found?;
        let (block, layer) = rest.split_once('.')?;
        let block: usize = block.parse().ok()?;
        let (_, ours) = self.layers.iter().copied().flatten().find(|(theirs, _)| *theirs == layer)?;
        Some(format!("{blocks}{block}.{ours}"))
    }

    fn is_head(&self, path: &str) -> bool {
        self.heads.iter().any(|(_, ours)| *ours == path)
    }
}

/// How the layers of a written adapter are called.
pub(super) struct Spelling {
    /// What stands before a block's number.
    pub(super) blocks: Pair,
    /// Layers of a block: those that are packed here, part by part, where they are apart there.
    pub(super) layers: &'static [Pair],
    pub(super) heads: &'static [Pair],
    /// Whether the library's model has such heads, which PEFT can then replace.
    pub(super) has_heads: bool,
    /// Whether its layers keep their weights as `[in, out]`, which changes nothing of the adapters' own matrices.
    pub(super) fan_in_fan_out: bool,
}

impl Spelling {
    fn head(&self, ours: &str) -> Option<&'static str> {
        self.heads.iter().find(|(_, head)| *head == ours).map(|(theirs, _)| *theirs)
    }

    /// The layers of theirs that an adapter belongs to.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is of a part of a layer that they have in one; [`Error::Parameter`] if they have no such layer.
    pub(super) fn layers(&self, place: &Place) -> Result<Vec<String>> {
        let in_block = place.path.strip_prefix(self.blocks.1).and_then(|rest| rest.split_once('.'));
        let Some((block, layer)) = in_block else {
            let head = self.head(&place.path).filter(|_| self.has_heads);
            return head
                .map(|head| vec![head.to_owned()])
                .ok_or_else(|| fault(&place.path, "is no part of that library's model"));
        };
        let is_meant = |ours: &str| ours == layer || ours.strip_prefix(layer).is_some_and(|part| part.starts_with('.'));
        let theirs = self.layers.iter().filter(|(_, ours)| is_meant(ours));
        let theirs: Vec<String> = theirs.map(|(theirs, _)| format!("{}{block}.{theirs}", self.blocks.0)).collect();
        if theirs.is_empty() {
            let expected =
                "whole layers, where the adapter is written for a library that does not have their parts apart";
            return Err(Error::argument("save_adapter", "targets", expected, &place.path));
        }
        Ok(theirs)
    }
}

/// The settings that are read.
#[derive(Deserialize)]
struct PeftConfig {
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    init_lora_weights: serde_json::Value,
}

/// The settings that are written: the rest PEFT has as defaults.
#[derive(Serialize)]
struct Written<'a> {
    peft_type: &'static str,
    task_type: Option<()>,
    base_model_name_or_path: Option<&'a str>,
    revision: Option<&'a str>,
    inference_mode: bool,
    r: usize,
    lora_alpha: f32,
    lora_dropout: f32,
    bias: &'static str,
    fan_in_fan_out: bool,
    target_modules: Vec<String>,
    modules_to_save: Option<Vec<&'static str>>,
}

/// A model's name on the Hub without the revision that may follow it, which PEFT has apart; what is a path stays one.
fn name_and_revision(base: &str) -> (&str, Option<&str>) {
    match base.split_once('@') {
        Some((name, revision)) if !Path::new(base).exists() => (name, Some(revision)),
        _ => (base, None),
    }
}

/// Writes the adapters of a model at those of `places` that have one, and the heads that are trained beside them. `base` is what PEFT
/// is to call the model.
///
/// # Errors
/// As [`expect_some`] and [`Spelling::layers`]; [`Error::Argument`] if more is trained as a whole than heads; as
/// [`Folder::write`]; and if the device fails.
pub(super) fn save(
    folder: &Path,
    parameters: &Extended,
    lora: Option<&LoraConfig>,
    places: impl Iterator<Item = Place>,
    spelling: &Spelling,
    base: Option<&str>,
) -> Result<()> {
    let lora = expect_some(lora)?;
    parameters.expect_plain("save_adapter")?;
    let mut ours = download(parameters.all())?;
    ours.retain(|name, _| lora.trains(name));
    let mut theirs = BTreeMap::new();
    let target_modules = put_layers(&mut ours, lora, places, spelling, &mut theirs)?;
    let heads = put_heads(ours, spelling, &mut theirs)?;
    let (base, revision) = base.map(name_and_revision).unzip();
    let written = Written {
        peft_type: "LORA",
        task_type: None,
        base_model_name_or_path: base,
        revision: revision.flatten(),
        inference_mode: true,
        r: lora.rank,
        lora_alpha: lora.alpha,
        lora_dropout: lora.dropout,
        bias: "none",
        fan_in_fan_out: spelling.fan_in_fan_out,
        target_modules,
        modules_to_save: Some(heads).filter(|heads| !heads.is_empty()),
    };
    let text = pretty_json(folder, &written)?;
    let contents = Folder {
        weights: WEIGHTS_FILE,
        tensors: theirs,
        metadata: of_pytorch(),
        storage: Storage::F32,
        files: &[(CONFIG_FILE, Some(text.as_bytes()))],
    };
    contents.write(folder)
}

/// Moves the adapters of layers from `ours` to `theirs`, and tells those layers.
fn put_layers(
    ours: &mut Tensors,
    lora: &LoraConfig,
    places: impl Iterator<Item = Place>,
    spelling: &Spelling,
    theirs: &mut Tensors,
) -> Result<Vec<String>> {
    let mut target_modules = Vec::new();
    for place in places.filter(|place| lora.targets(&place.path)) {
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
    Ok(target_modules)
}

/// Moves what is left, the heads, and tells those that PEFT can replace.
fn put_heads(ours: Tensors, spelling: &Spelling, theirs: &mut Tensors) -> Result<Vec<&'static str>> {
    let mut heads = Vec::new();
    for (name, tensor) in ours {
        let head = name.rsplit_once('.').and_then(|(ours, kind)| Some((spelling.head(ours)?, kind)));
        let Some((head, kind)) = head else {
            let expected = "heads alone, of what an adapter's file is written for here";
            return Err(Error::argument("save_adapter", "modules_to_save", expected, name));
        };
        theirs.insert(format!("{PLACE}{head}.{kind}"), tensor);
        if spelling.has_heads && !heads.contains(&head) {
            heads.push(head);
        }
    }
    Ok(heads)
}

/// What an adapter's folder holds, under our names.
pub(super) struct Adapter {
    settings: PeftConfig,
    /// A and B by the paths that they lie below.
    layers: BTreeMap<String, [Option<HostTensor>; 2]>,
    /// The heads that take the places of the model's.
    pub(super) heads: Tensors,
}

impl Adapter {
    /// # Errors
    /// [`Error::File`] if the settings are others than are computed here, which are named; [`Error::Parameter`] for a tensor whose
    /// name is not known; [`Error::Io`] if the system refuses.
    pub(super) fn read(folder: &Path, known: &AdapterReading) -> Result<Self> {
        let file = folder.join(CONFIG_FILE);
        let text = json_text(&file)?.ok_or_else(|| Error::file(&file, "is not there"))?;
        SETTINGS.check(&file, &text)?;
        let settings: PeftConfig = parse_json(&file, &text)?;
        expect_plain_base(&file, &settings.init_lora_weights)?;
        let mut adapter = Adapter { settings, layers: BTreeMap::new(), heads: BTreeMap::new() };
        let file = checkpoint::read(folder.join(WEIGHTS_FILE))?;
        if let Some((name, skipped)) = file.skipped.iter().next() {
            return Err(fault(name, format!("is {skipped}, which is not read")));
        }
        for (name, tensor) in file.tensors {
            let unknown = || fault(&name, "is not a part of an adapter of a model that is read here");
            let own = name.strip_prefix(PLACE).ok_or_else(unknown)?;
            let another = match [LORA_A, LORA_B].iter().position(|end| own.ends_with(end)) {
                Some(which) => {
                    let module = own.rsplitn(3, '.').nth(2).ok_or_else(unknown)?;
                    let pair = adapter.layers.entry(known.place(module).ok_or_else(unknown)?).or_default();
                    pair[which].replace(tensor)
                }
                None => {
                    let (module, kind) = own.rsplit_once('.').ok_or_else(unknown)?;
                    let head = known.place(module).filter(|place| known.is_head(place));
                    let head = head.filter(|_| matches!(kind, "weight" | "bias")).ok_or_else(unknown)?;
                    adapter.heads.insert(format!("{head}.{kind}"), tensor)
                }
            };
            if another.is_some() {
                return Err(fault(&name, "is there twice, under two of its names"));
            }
        }
        Ok(adapter)
    }

    /// The settings of a model with these adapters, whose layers `places` are. `blocks` stands before its blocks' numbers.
    ///
    /// # Errors
    /// [`Error::Parameter`] if a tensor is not of a layer of the model, or does not fit it.
    pub(super) fn config(&self, places: &[Place], blocks: &str) -> Result<LoraConfig> {
        let &PeftConfig { r: rank, lora_alpha: alpha, lora_dropout: dropout, .. } = &self.settings;
        for (path, pair) in &self.layers {
            let Some(place) = places.iter().find(|place| place.path == *path) else {
                return Err(fault(path, "is not a layer of the model that the adapter is loaded for"));
            };
            for ((name, shape), tensor) in place.tensors(rank).into_iter().zip(pair) {
                match tensor {
                    Some(tensor) if tensor.shape == shape => {}
                    Some(tensor) => return Err(fault(&name, format!("is {:?}, expected {shape:?}", tensor.shape))),
                    None => return Err(fault(&name, "is not in the adapter's file")),
                }
            }
        }
        let paths: Vec<&str> = self.layers.keys().map(String::as_str).collect();
        let mut saved: Vec<String> =
            self.heads.keys().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned())).collect();
        saved.dedup();
        let targets = ends(&paths, places, blocks);
        Ok(LoraConfig { rank, alpha, dropout, targets, modules_to_save: saved, base: Precision::F32 })
    }

    /// Its tensors, under our names.
    pub(super) fn into_tensors(self) -> Tensors {
        let named = |(path, pair): (String, [Option<HostTensor>; 2])| {
            let names = [LORA_A, LORA_B].map(|end| format!("{path}.{end}"));
            names.into_iter().zip(pair).filter_map(|(name, tensor)| Some((name, tensor?)))
        };
        self.layers.into_iter().flat_map(named).chain(self.heads).collect()
    }
}

/// The adapters in a folder for a model whose layers `places` are and that has none yet: their settings, and their tensors under our
/// names. `blocks` stands before its blocks' numbers.
///
/// # Errors
/// [`Error::Argument`] if it has some; as [`Adapter::read`] and [`Adapter::config`]; if the settings are impossible.
pub(super) fn load(
    folder: &Path,
    known: &AdapterReading,
    own: Option<&LoraConfig>,
    places: &[Place],
    blocks: &str,
) -> Result<(LoraConfig, Tensors)> {
    expect_none(own)?;
    let adapter = Adapter::read(folder, known)?;
    let lora = adapter.config(places, blocks)?;
    lora.check()?;
    Ok((lora, adapter.into_tensors()))
}

/// The adapters of a model that has some.
///
/// # Errors
/// [`Error::Argument`] if it has none.
pub(super) fn expect_some(own: Option<&LoraConfig>) -> Result<&LoraConfig> {
    own.ok_or_else(|| Error::argument("save_adapter", "lora", "a model with adapters", "none"))
}

/// Whether a model has no adapters yet.
pub(super) fn expect_none(own: Option<&LoraConfig>) -> Result<()> {
    match own {
        Some(_) => Err(Error::argument("load_adapter", "model", "one without adapters", "one that has some")),
        None => Ok(()),
    }
}

/// The shortest targets for these paths: ends of theirs that no other of `places` has, else the paths in full.
fn ends(paths: &[&str], places: &[Place], blocks: &str) -> Vec<String> {
    let is_exact = |end: &&str| {
        let target = LoraConfig::new(1, 1.0, &[*end]);
        places.iter().filter(|place| target.targets(&place.path)).all(|place| paths.contains(&place.path.as_str()))
    };
    let end = |path: &&str| in_block(blocks, path).map(|(_, end)| end).filter(is_exact).unwrap_or(path).to_owned();
    let mut targets: Vec<String> = paths.iter().map(end).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}
