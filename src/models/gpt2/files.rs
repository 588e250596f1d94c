//! GPT-2 in files: transformers' folders, which are this crate's own form too.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::{Gpt2, Gpt2Config};
use crate::checkpoint::{
    self, CONFIG_FILE, Checkpoint, HostTensor, Pair, Renaming, Settings, Storage, WEIGHTS_FILE, check_shapes, download,
    in_block,
};
use crate::error::Result;
use crate::models::adapters::{self, Place};
use crate::models::library::dtype;
use crate::models::peft::{self, AdapterReading, Spelling};
use crate::models::transformers::{
    FolderOptions, check_depth, check_rows, layer_shapes, parse_config, read_config, single_file_metadata, take_copy,
    write_folder,
};

/// transformers' `model_type`.
const MODEL_TYPE: &str = "gpt2";

const SETTINGS: Settings = Settings {
    read: &[
        "vocab_size",
        "n_positions",
        "n_embd",
        "n_layer",
        "n_head",
        "n_inner",
        "activation_function",
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
        "layer_norm_epsilon",
        "initializer_range",
    ],
    fixed: &[
        ("scale_attn_weights", "true"),
        ("scale_attn_by_inverse_layer_idx", "false"),
        ("reorder_and_upcast_attn", "false"),
        ("add_cross_attention", "false"),
        ("tie_word_embeddings", "true"),
    ],
    // The old name of n_positions, and a head that is not read.
    ignored: &[
        "n_ctx",
        "is_decoder",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
};

/// The names are ours already, but for what stands before them in a file with more than the bare model.
const NAMES: Renaming = Renaming {
    model: "transformers' GPT2LMHeadModel",
    place: "transformer.",
    outside: &[],
    outer: &[(WORDS, WORDS), (POSITIONS, POSITIONS), ("ln_f.weight", "ln_f.weight"), ("ln_f.bias", "ln_f.bias")],
    blocks: (BLOCKS, BLOCKS),
    layers: &[
        ("ln_1", "ln_1"),
        ("attn.c_attn", "attn.c_attn"),
        ("attn.c_proj", "attn.c_proj"),
        ("ln_2", "ln_2"),
        ("mlp.c_fc", "mlp.c_fc"),
        ("mlp.c_proj", "mlp.c_proj"),
    ],
    tensors: &[],
    packed: &[],
    ignored: &[],
    refused: &[
        ("score", "a head that classifies sequences or tokens"),
        ("classifier", "a head that classifies sequences or tokens"),
        ("multiple_choice_head", "a head for multiple choice"),
        ("qa_outputs", "a head that answers questions"),
        ("v_head", "a value head of reinforcement learning"),
        ("crossattention", "attention to an encoder"),
        ("ln_cross_attn", "attention to an encoder"),
    ],
};

const WORDS: &str = "wte.weight";
const POSITIONS: &str = "wpe.weight";
const BLOCKS: &str = "h.";

/// transformers' output layer, a second name of [`WORDS`].
const OUTPUT: &str = "lm_head.weight";

/// Masks of old versions, which are no weights.
const MASKS: [&str; 2] = ["attn.bias", "attn.masked_bias"];

/// Layers of a block whose matrices transformers stores as `[in, out]`.
const TURNED: [&str; 4] = ["attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"];

/// Layers that may have adapters, which transformers calls so too.
const ADAPTED: [Pair; 4] = [
    ("attn.c_attn", "attn.c_attn"),
    ("attn.c_proj", "attn.c_proj"),
    ("mlp.c_fc", "mlp.c_fc"),
    ("mlp.c_proj", "mlp.c_proj"),
];

/// By which adapters are read.
const KNOWN: AdapterReading =
    AdapterReading { blocks: &[("transformer.h.", BLOCKS), (BLOCKS, BLOCKS)], layers: &[&ADAPTED], heads: &[] };

/// As which they are written: beside `Conv1D`s.
const SPELLING: Spelling = Spelling {
    blocks: ("transformer.h.", BLOCKS),
    layers: &ADAPTED,
    heads: &[],
    has_heads: false,
    fan_in_fan_out: true,
};

/// A model to start from.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The tensors under the names and in the shapes of [`Gpt2`]'s parameters.
    pub checkpoint: Checkpoint,
    /// The model that they are of.
    pub config: Gpt2Config,
}

/// Opens a model of transformers' `GPT2LMHeadModel` or `GPT2Model`:
///
/// - a folder with `config.json` and `model.safetensors`, or `model.safetensors.index.json` and its shards;
/// - one of these files, with `config.json` beside it;
/// - a file that [`write()`] has written, or a run's folder with one.
///
/// Names may have a `transformer.` and training programs' wrappers before them or not. The output layer may be stored a second
/// time, and masks beside the weights. Weights may be f32, f16, bf16 or f64.
///
/// # Errors
/// [`crate::Error::Io`] if the system refuses, [`crate::Error::File`] if a file's content is wrong or of another kind, or
/// `config.json` has a setting that is not computed here, which is named; [`crate::Error::Parameter`] if a tensor is missing, of
/// another shape than the configuration says, or belongs to a part that GPT-2 does not have.
pub fn open(path: impl AsRef<Path>) -> Result<Pretrained> {
    checkpoint::open(path.as_ref(), Pretrained::from_parts)
}

/// A model that a program brings along: what stands in a folder's `config.json` and `model.safetensors`.
///
/// # Errors
/// As [`open`].
pub fn from_bytes(config: &str, weights: &[u8]) -> Result<Pretrained> {
    let config = parse_config(Path::new(CONFIG_FILE), config.as_bytes(), MODEL_TYPE, &SETTINGS)?;
    Pretrained::from_tensors(checkpoint::read_bytes(weights, WEIGHTS_FILE)?, config)
}

impl Pretrained {
    /// From tensors and the file that they lay in.
    fn from_parts(checkpoint: Checkpoint, file: &Path) -> Result<Self> {
        let config = read_config(&checkpoint, file, MODEL_TYPE, &SETTINGS)?;
        Self::from_tensors(checkpoint, config)
    }

    fn from_tensors(mut checkpoint: Checkpoint, config: Gpt2Config) -> Result<Self> {
        config.check()?;
        let adapters = config.lora.as_ref().map(|_| adapters::take(&mut checkpoint.tensors)).unwrap_or_default();
        let mut theirs = checkpoint::unwrapped(with_words(checkpoint), &[WORDS])?;
        theirs.tensors.retain(|name, _| !is_mask(name));
        theirs.skipped.retain(|name, _| !is_mask(name));
        take_copy(&mut theirs, OUTPUT, WORDS)?;
        let mut checkpoint = NAMES.to_ours(theirs)?;
        for (_, tensor) in checkpoint.tensors.iter_mut().filter(|(name, _)| is_turned(name)) {
            *tensor = tensor.transposed();
        }
        checkpoint.tensors.extend(adapters);
        check_depth(&checkpoint, BLOCKS, "ln_1.weight", "n_layer", config.n_layer)?;
        check_rows(&checkpoint, POSITIONS, "n_positions", config.n_positions)?;
        check_rows(&checkpoint, WORDS, "vocab_size", config.vocab_size)?;
        check_shapes(&checkpoint, shapes(&config))?;
        check_shapes(&checkpoint, adapters::shapes(places(&config), config.lora.as_ref()))?;
        Ok(Pretrained { checkpoint, config })
    }

    /// Adds the adapters in a folder of PEFT's: the model then has them ([`Gpt2Config::lora`]). [`Pretrained::merge_adapters`] makes a
    /// plain model of it.
    ///
    /// # Errors
    /// [`crate::Error::File`] if the settings are others than are computed here, which are named,
    /// [`crate::Error::Parameter`] if a tensor is not of a layer of this model, or does not fit it;
    /// [`crate::Error::Argument`] if the model has adapters already; [`crate::Error::Io`] if the system refuses.
    pub fn load_adapter(&mut self, folder: impl AsRef<Path>) -> Result<()> {
        let places: Vec<Place> = places(&self.config).collect();
        let (lora, tensors) = peft::load(folder.as_ref(), &KNOWN, self.config.lora.as_ref(), &places, BLOCKS)?;
        self.checkpoint.tensors.extend(tensors);
        self.config.lora = Some(lora);
        Ok(())
    }

    /// Merges the model's adapters into its weights, W + α/r · B·A, if it has any: what is left computes the same within rounding.
    ///
    /// # Errors
    /// [`crate::Error::Parameter`] if a tensor is missing or of another shape.
    pub fn merge_adapters(&mut self) -> Result<()> {
        adapters::merge(&mut self.checkpoint.tensors, places(&self.config), self.config.lora.as_ref())?;
        self.config.lora = None;
        Ok(())
    }
}

/// The layers that may have adapters.
fn places(config: &Gpt2Config) -> impl Iterator<Item = Place> + use<> {
    let sizes = [config.n_embd, config.hidden(), config.hidden()];
    (0..config.n_layer).flat_map(move |block| Place::of_block(&format!("{BLOCKS}{block}."), &super::LAYER_NAMES, sizes))
}

/// Of the matrix that tokens and output layer share, programs that save each tensor once keep either name.
fn with_words(mut checkpoint: Checkpoint) -> Checkpoint {
    let is_words = |name: &String| name.ends_with(WORDS);
    let output = checkpoint.tensors.keys().find(|name| name.ends_with(OUTPUT)).cloned();
    if let Some(name) = output.filter(|_| !checkpoint.tensors.keys().any(is_words))
        && let Some(matrix) = checkpoint.tensors.remove(&name)
    {
        let place = name.strip_suffix(OUTPUT).unwrap_or_default();
        checkpoint.tensors.insert(format!("{place}{}{WORDS}", NAMES.place), matrix);
    }
    checkpoint
}

fn is_mask(name: &str) -> bool {
    in_block(BLOCKS, name).is_some_and(|(_, rest)| MASKS.contains(&rest))
}

fn is_turned(name: &str) -> bool {
    in_block(BLOCKS, name).is_some_and(|(_, rest)| TURNED.contains(&rest))
}

/// Every parameter's shape: a model takes no more memory than its file.
fn shapes(config: &Gpt2Config) -> impl Iterator<Item = (String, Vec<usize>)> {
    let &Gpt2Config { vocab_size, n_positions, n_embd: width, n_layer, .. } = config;
    let hidden = config.hidden();
    let outer = [(WORDS.to_owned(), vec![vocab_size, width]), (POSITIONS.to_owned(), vec![n_positions, width])];
    let block = move |i: usize| {
        [
            ("ln_1", vec![width]),
            ("attn.c_attn", vec![3 * width, width]),
            ("attn.c_proj", vec![width, width]),
            ("ln_2", vec![width]),
            ("mlp.c_fc", vec![hidden, width]),
            ("mlp.c_proj", vec![width, hidden]),
        ]
        .into_iter()
        .flat_map(move |(layer, shape)| layer_shapes(&format!("{BLOCKS}{i}.{layer}"), &shape))
    };
    outer.into_iter().chain(layer_shapes("ln_f", &[width])).chain((0..n_layer).flat_map(block))
}

/// Parameters as transformers has them, and adapters, which it has not, under their own names.
fn to_theirs(mut weights: BTreeMap<String, HostTensor>) -> Result<BTreeMap<String, HostTensor>> {
    let adapters = adapters::take(&mut weights);
    for (_, tensor) in weights.iter_mut().filter(|(name, _)| is_turned(name)) {
        *tensor = tensor.transposed();
    }
    let mut theirs = NAMES.to_theirs(weights)?;
    theirs.extend(adapters);
    Ok(theirs)
}

/// transformers' `config.json`.
#[derive(Serialize)]
struct ConfigJson<'a> {
    architectures: [&'static str; 1],
    model_type: &'static str,
    #[serde(flatten)]
    config: &'a Gpt2Config,
    tie_word_embeddings: bool,
    dtype: &'static str,
}

/// Writes `model` as a folder that transformers loads, `GPT2LMHeadModel.from_pretrained(folder)`, and that [`open`] does. Adapters are
/// merged into the weights beside them ([`save_adapter`] writes them by themselves).
///
/// The folder is written beside its place, and then takes it. If there is such a folder already, that is first renamed to
/// `.NAME.old`, and removed at the end: a crash in between leaves the old folder or the new one complete, at worst under that
/// name. Hidden files in it stay; a folder with any other content is not touched.
///
/// # Errors
/// [`crate::Error::Argument`] for a file that is none of a tokenizer's, or a model with parameters that were added to
/// it, [`crate::Error::File`] if the folder holds other files, [`crate::Error::Io`] if the system refuses,
/// [`crate::Error::Parameter`] if a weight is beyond the range of f16 where that is asked for; and if the device fails.
pub fn save(folder: &Path, model: &Gpt2, options: &FolderOptions<'_>) -> Result<()> {
    model.parameters.expect_plain("save")?;
    let (mut weights, config) = (download(model.parameters())?, model.config());
    adapters::merge(&mut weights, places(config), config.lora.as_ref())?;
    let config = ConfigJson {
        architectures: ["GPT2LMHeadModel"],
        model_type: MODEL_TYPE,
        config: &Gpt2Config { lora: None, ..config.clone() },
        tie_word_embeddings: true,
        dtype: dtype(options.storage),
    };
    write_folder(folder, to_theirs(weights)?, &config, options)
}

/// Writes the adapters of `model` as a folder that PEFT loads beside the model they were trained on:
/// `PeftModel.from_pretrained(model, folder)`. `base` is what PEFT is to call that model, a path or a name on the Hub,
/// perhaps with `@` and a revision.
///
/// # Errors
/// [`crate::Error::Argument`] if the model has none, or more is trained or was added; otherwise as [`save`].
pub fn save_adapter(folder: &Path, model: &Gpt2, base: Option<&str>) -> Result<()> {
    let config = model.config();
    peft::save(folder, &model.parameters, config.lora.as_ref(), places(config), &SPELLING, base)
}

/// Writes weights that have been read back as one file, under transformers' names and in its layout, which says itself what
/// model it is of: what a run's folder holds. The file appears whole or not at all.
///
/// # Errors
/// [`crate::Error::Parameter`] if they are not [`Gpt2`]'s, [`crate::Error::Io`] if the system refuses.
pub fn write(path: &Path, config: &Gpt2Config, weights: &BTreeMap<String, HostTensor>) -> Result<()> {
    checkpoint::write_as(path, &to_theirs(weights.clone())?, &single_file_metadata(config.identity()), Storage::F32)
}
