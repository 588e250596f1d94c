//! BERT in files: transformers' folders, which are this crate's own form too.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::{Bert, BertConfig};
use crate::checkpoint::{
    self, CONFIG_FILE, Checkpoint, HostTensor, Pair, Renaming, Settings, Storage, WEIGHTS_FILE, check_shapes, download,
    fault,
};
use crate::error::{Error, Result};
use crate::models::adapters::{self, Place};
use crate::models::library::{dtype, label};
use crate::models::peft::{self, AdapterReading, Spelling};
use crate::models::transformers::{
    FolderOptions, check_depth, check_rows, is_of_class, layer_shapes, parse_config, read_config, says_class,
    single_file_metadata, take_copy, write_folder,
};

/// transformers' `model_type`.
const MODEL_TYPE: &str = "bert";

const SETTINGS: Settings = Settings {
    read: &[
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "max_position_embeddings",
        "type_vocab_size",
        "initializer_range",
        "layer_norm_eps",
        "classifier_dropout",
    ],
    fixed: &[
        ("position_embedding_type", "absolute"),
        ("is_decoder", "false"),
        ("add_cross_attention", "false"),
        ("tie_word_embeddings", "true"),
    ],
    // What the first files said of their pooler, whose shape says it too.
    ignored: &[
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        // What is done with a cross-encoder's logits.
        "sbert_ce_default_activation_function",
        "sentence_transformers",
    ],
};

/// The names are ours already, but for what stands before them, and q, k and v apart.
const NAMES: Renaming = Renaming {
    model: "transformers' BertForMaskedLM or BertForSequenceClassification",
    place: "bert.",
    outside: &["cls.", "classifier."],
    outer: &[
        (WORDS, WORDS),
        (POSITIONS, POSITIONS),
        (TYPES, TYPES),
        ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.weight"),
        ("embeddings.LayerNorm.bias", "embeddings.LayerNorm.bias"),
        ("cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.weight"),
        ("cls.predictions.transform.dense.bias", "cls.predictions.transform.dense.bias"),
        ("cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.weight"),
        ("cls.predictions.transform.LayerNorm.bias", "cls.predictions.transform.LayerNorm.bias"),
        (BIAS, BIAS),
        (POOLER, POOLER),
        ("pooler.dense.bias", "pooler.dense.bias"),
        (CLASSIFIER, CLASSIFIER),
        ("classifier.bias", "classifier.bias"),
    ],
    blocks: (BLOCKS, BLOCKS),
    layers: &[
        ("attention.output.dense", "attention.output.dense"),
        ("attention.output.LayerNorm", "attention.output.LayerNorm"),
        ("intermediate.dense", "intermediate.dense"),
        ("output.dense", "output.dense"),
        ("output.LayerNorm", "output.LayerNorm"),
    ],
    tensors: &[],
    packed: &[(&["attention.self.query", "attention.self.key", "attention.self.value"], "attention.self.qkv")],
    // Tables of numbers that follow from the sizes; the head for the next sentence, of which `to_ours` tells.
    ignored: &["embeddings.position_ids", "embeddings.token_type_ids", NEXT_SENTENCE],
    refused: &[
        ("qa_outputs", "a head that answers questions"),
        ("crossattention", "attention to an encoder"),
        ("distance_embedding", "relative positions"),
    ],
};

const WORDS: &str = "embeddings.word_embeddings.weight";
const POSITIONS: &str = "embeddings.position_embeddings.weight";
const TYPES: &str = "embeddings.token_type_embeddings.weight";
const BLOCKS: &str = "encoder.layer.";
const BIAS: &str = "cls.predictions.bias";
const POOLER: &str = "pooler.dense.weight";
const CLASSIFIER: &str = "classifier.weight";
/// transformers' class whose classifier has the names of the one here, and reads each token.
const OF_TOKENS: &str = "BertForTokenClassification";
const NEXT_SENTENCE: &str = "cls.seq_relationship.";

/// transformers' output layer, second names of [`WORDS`] and [`BIAS`].
const OUTPUT: [&str; 2] = ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"];

/// Ends of a norm's names in old files, and today's.
const OLD_ENDS: [(&str, &str); 2] = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];

/// Layers that may have adapters. Queries, keys and values, which are one layer here, are apart there.
const ADAPTED: [Pair; 6] = [
    ("attention.self.query", "attention.self.qkv.query"),
    ("attention.self.key", "attention.self.qkv.key"),
    ("attention.self.value", "attention.self.qkv.value"),
    ("attention.output.dense", "attention.output.dense"),
    ("intermediate.dense", "intermediate.dense"),
    ("output.dense", "output.dense"),
];

/// By which adapters are read.
const KNOWN: AdapterReading =
    AdapterReading { blocks: &[("bert.encoder.layer.", BLOCKS), (BLOCKS, BLOCKS)], layers: &[&ADAPTED], heads: &[] };

/// As which they are written.
const SPELLING: Spelling = Spelling {
    blocks: ("bert.encoder.layer.", BLOCKS),
    layers: &ADAPTED,
    heads: &[],
    has_heads: false,
    fan_in_fan_out: false,
};

/// A model to start from.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The tensors under the names and in the shapes of [`Bert`]'s parameters. Those of the masked tokens' head
    /// (`cls.predictions`) are missing where the file has none.
    pub checkpoint: Checkpoint,
    /// The model that they are of.
    pub config: BertConfig,
}

/// Opens a model of transformers' `BertForMaskedLM`, `BertForPreTraining`, `BertForSequenceClassification` or `BertModel`:
///
/// - a folder with `config.json` and `model.safetensors`, or `model.safetensors.index.json` and its shards;
/// - one of these files, with `config.json` beside it;
/// - a file that [`write()`] has written, or a run's folder with one.
///
/// Names may have a `bert.` and training programs' wrappers before them or not, and the old endings `gamma` and `beta`. The output
/// layer may be stored a second time. A head for the next sentence is left out, which a note in the log says. Weights may be f32,
/// f16, bf16 or f64.
///
/// # Errors
/// [`crate::Error::Io`] if the system refuses, [`crate::Error::File`] if a file's content is wrong or of another kind, or
/// `config.json` has a setting that is not computed here, which is named; [`crate::Error::Parameter`] if a tensor is missing, of
/// another shape than the configuration says, or belongs to a part that is none of these models'.
pub fn open(path: impl AsRef<Path>) -> Result<Pretrained> {
    checkpoint::open(path.as_ref(), Pretrained::from_parts)
}

/// A model that a program brings along: what stands in a folder's `config.json` and `model.safetensors`.
///
/// # Errors
/// As [`open`].
pub fn from_bytes(config: &str, weights: &[u8]) -> Result<Pretrained> {
    let (path, text) = (Path::new(CONFIG_FILE), config.as_bytes());
    let config = parse_config(path, text, MODEL_TYPE, &SETTINGS)?;
    let of_tokens = says_class(path, text, OF_TOKENS)?;
    Pretrained::from_tensors(checkpoint::read_bytes(weights, WEIGHTS_FILE)?, config, of_tokens, Path::new(WEIGHTS_FILE))
}

impl Pretrained {
    /// From tensors and the file that they lay in.
    fn from_parts(checkpoint: Checkpoint, file: &Path) -> Result<Self> {
        let config = read_config(&checkpoint, file, MODEL_TYPE, &SETTINGS)?;
        let of_tokens = is_of_class(&checkpoint, file, OF_TOKENS)?;
        Self::from_tensors(checkpoint, config, of_tokens, file)
    }

    /// `of_tokens`: whether it is said to classify each token.
    fn from_tensors(mut checkpoint: Checkpoint, mut config: BertConfig, of_tokens: bool, file: &Path) -> Result<Self> {
        if of_tokens {
            return Err(fault(
                "classifier",
                format!("classifies each token ({OF_TOKENS}), which is not computed here"),
            ));
        }
        let adapters = config.lora.as_ref().map(|_| adapters::take(&mut checkpoint.tensors)).unwrap_or_default();
        let mut theirs = checkpoint::unwrapped(with_new_ends(checkpoint)?, &[WORDS])?;
        OUTPUT.iter().zip([WORDS, BIAS]).try_for_each(|(copy, of)| take_copy(&mut theirs, copy, of))?;
        if theirs.tensors.keys().any(|name| name.starts_with(NEXT_SENTENCE)) {
            log::warn!("{}: the head for the next sentence is left out", file.display());
        }
        let mut checkpoint = NAMES.to_ours(theirs)?;
        config.pooler = checkpoint.tensors.contains_key(POOLER);
        config.num_labels = match checkpoint.tensors.get(CLASSIFIER) {
            Some(weight) => weight.shape.first().copied().unwrap_or_default(),
            None => 0,
        };
        config.check()?;
        checkpoint.tensors.extend(adapters);
        check_depth(&checkpoint, BLOCKS, "output.LayerNorm.weight", "num_hidden_layers", config.num_hidden_layers)?;
        check_rows(&checkpoint, POSITIONS, "max_position_embeddings", config.max_position_embeddings)?;
        check_rows(&checkpoint, WORDS, "vocab_size", config.vocab_size)?;
        check_rows(&checkpoint, TYPES, "type_vocab_size", config.type_vocab_size)?;
        check_shapes(&checkpoint, shapes(&config))?;
        if checkpoint.tensors.contains_key(BIAS) {
            check_shapes(&checkpoint, shapes_of_predictions(&config))?;
        }
        check_shapes(&checkpoint, adapters::shapes(places(&config), config.lora.as_ref()))?;
        Ok(Pretrained { checkpoint, config })
    }

    /// Adds the adapters in a folder of PEFT's: the model then has them ([`BertConfig::lora`]). [`Pretrained::merge_adapters`] makes a
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
fn places(config: &BertConfig) -> impl Iterator<Item = Place> + use<> {
    let sizes = [config.hidden_size, config.intermediate_size, config.intermediate_size];
    let block = move |block: usize| Place::of_block(&format!("{BLOCKS}{block}."), &super::LAYER_NAMES, sizes);
    (0..config.num_hidden_layers).flat_map(block)
}

/// Parameters as transformers has them, and adapters, which it has not, under their own names.
fn to_theirs(mut weights: BTreeMap<String, HostTensor>) -> Result<BTreeMap<String, HostTensor>> {
    let adapters = adapters::take(&mut weights);
    let mut theirs = NAMES.to_theirs(weights)?;
    theirs.extend(adapters);
    Ok(theirs)
}

/// With today's endings of a norm's names.
fn with_new_ends(checkpoint: Checkpoint) -> Result<Checkpoint> {
    let Checkpoint { tensors, metadata, skipped } = checkpoint;
    let mut renamed = BTreeMap::new();
    for (name, tensor) in tensors {
        let new = OLD_ENDS.iter().find_map(|(old, new)| Some(format!("{}{new}", name.strip_suffix(old)?)));
        if renamed.insert(new.unwrap_or_else(|| name.clone()), tensor).is_some() {
            return Err(fault(&name, "is there twice, under the old name and under the new one"));
        }
    }
    Ok(Checkpoint { tensors: renamed, metadata, skipped })
}

/// Every parameter's shape but those of the masked tokens' head: but for that, a model takes no more memory than its file.
fn shapes(config: &BertConfig) -> impl Iterator<Item = (String, Vec<usize>)> {
    let &BertConfig { hidden_size: width, intermediate_size: hidden, num_hidden_layers, num_labels, .. } = config;
    let tables =
        [(WORDS, config.vocab_size), (POSITIONS, config.max_position_embeddings), (TYPES, config.type_vocab_size)]
            .map(|(name, rows)| (name.to_owned(), vec![rows, width]));
    let block = move |i: usize| {
        [
            ("attention.self.qkv", vec![3 * width, width]),
            ("attention.output.dense", vec![width, width]),
            ("attention.output.LayerNorm", vec![width]),
            ("intermediate.dense", vec![hidden, width]),
            ("output.dense", vec![width, hidden]),
            ("output.LayerNorm", vec![width]),
        ]
        .into_iter()
        .flat_map(move |(layer, shape)| layer_shapes(&format!("{BLOCKS}{i}.{layer}"), &shape))
    };
    let pooler = config.pooler.then(|| layer_shapes("pooler.dense", &[width, width]));
    let classifier = (num_labels > 0).then(|| layer_shapes("classifier", &[num_labels, width]));
    let heads = pooler.into_iter().chain(classifier).flatten();
    tables
        .into_iter()
        .chain(layer_shapes("embeddings.LayerNorm", &[width]))
        .chain((0..num_hidden_layers).flat_map(block))
        .chain(heads)
}

fn shapes_of_predictions(config: &BertConfig) -> impl Iterator<Item = (String, Vec<usize>)> {
    let width = config.hidden_size;
    layer_shapes("cls.predictions.transform.dense", &[width, width])
        .into_iter()
        .chain(layer_shapes("cls.predictions.transform.LayerNorm", &[width]))
        .chain([(BIAS.to_owned(), vec![config.vocab_size])])
}

/// transformers' `config.json`.
#[derive(Serialize)]
struct ConfigJson<'a> {
    architectures: [&'static str; 1],
    model_type: &'static str,
    #[serde(flatten)]
    config: &'a BertConfig,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    id2label: BTreeMap<usize, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    label2id: BTreeMap<String, usize>,
    tie_word_embeddings: bool,
    dtype: &'static str,
}

/// Writes `model` as a folder that transformers loads, and that [`open`] does: as a `BertForSequenceClassification` if it has a
/// classifier, whose classes are then called `LABEL_0` and so on, else as a `BertForMaskedLM`. All its heads are in the file. Adapters
/// are merged into the weights beside them ([`save_adapter`] writes them by themselves).
///
/// The folder is written beside its place, and then takes it. If there is such a folder already, that is first renamed to
/// `.NAME.old`, and removed at the end: a crash in between leaves the old folder or the new one complete, at worst under that
/// name. Hidden files in it stay; a folder with any other content is not touched.
///
/// # Errors
/// [`crate::Error::Argument`] for a file that is none of a tokenizer's, or a model with parameters that were added to
/// it, [`crate::Error::File`] if the folder holds other files, [`crate::Error::Io`] if the system refuses,
/// [`crate::Error::Parameter`] if a weight is beyond the range of f16 where that is asked for; and if the device fails.
pub fn save(folder: &Path, model: &Bert, options: &FolderOptions<'_>) -> Result<()> {
    model.parameters.expect_plain("save")?;
    let (mut weights, config) = (download(model.parameters())?, model.config());
    adapters::merge(&mut weights, places(config), config.lora.as_ref())?;
    let config = &BertConfig { lora: None, ..config.clone() };
    let json = ConfigJson {
        architectures: [if config.num_labels > 0 { "BertForSequenceClassification" } else { "BertForMaskedLM" }],
        model_type: MODEL_TYPE,
        config,
        id2label: (0..config.num_labels).map(|i| (i, label(i))).collect(),
        label2id: (0..config.num_labels).map(|i| (label(i), i)).collect(),
        tie_word_embeddings: true,
        dtype: dtype(options.storage),
    };
    write_folder(folder, to_theirs(weights)?, &json, options)
}

/// Writes the adapters of `model` as a folder that PEFT loads beside the model they were trained on:
/// `PeftModel.from_pretrained(model, folder)`. `base` is what PEFT is to call that model, a path or a name on the Hub,
/// perhaps with `@` and a revision.
///
/// # Errors
/// [`crate::Error::Argument`] if the model has none, or more is trained or was added; otherwise as [`save`].
pub fn save_adapter(folder: &Path, model: &Bert, base: Option<&str>) -> Result<()> {
    let config = model.config();
    peft::save(folder, &model.parameters, config.lora.as_ref(), places(config), &SPELLING, base)
}

/// Writes weights that have been read back as one file, under transformers' names, which says itself what model it is of: what a
/// run's folder holds. The file appears whole or not at all.
///
/// # Errors
/// [`crate::Error::Parameter`] if they are not those of a [`Bert`] of this configuration, [`crate::Error::Io`] if the system refuses.
pub fn write(path: &Path, config: &BertConfig, weights: &BTreeMap<String, HostTensor>) -> Result<()> {
    // Layers of a program's own by these names would be read as the model's.
    for (name, is_own) in [(POOLER, config.pooler), (CLASSIFIER, config.num_labels > 0)] {
        if weights.contains_key(name) && !is_own {
            let what = "is no part of a model of this configuration, and would be read as one".to_owned();
            return Err(Error::Parameter { name: name.to_owned(), what });
        }
    }
    checkpoint::write_as(path, &to_theirs(weights.clone())?, &single_file_metadata(config.identity()), Storage::F32)
}
