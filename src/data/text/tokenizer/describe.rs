//! Vocabularies of other forms than tokenizer.json, brought into that form.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::beside::{Config, Text};
use super::special::SpecialTokens;
use crate::error::{Error, Result};
use crate::files::{parse_json, quoted};

/// Tokens beside a vocabulary's by id, as tokenizer.json has them.
pub(super) type AddedTokens = BTreeMap<u32, Value>;

/// A special token as tokenizer.json has it.
fn special(id: u32, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    })
}

/// The special tokens that a vocabulary has, of those that its kind usually has.
fn usual(vocabulary: &BTreeMap<impl Borrow<str> + Ord, u32>, contents: &[&str]) -> AddedTokens {
    let found = contents.iter().filter_map(|&content| Some((*vocabulary.get(content)?, content)));
    found.map(|(id, content)| (id, special(id, content))).collect()
}

/// Classes of transformers that make normaliser or pre-tokenizer anew.
#[derive(Clone, Copy)]
enum Class {
    Bert,
    Gpt2,
}

impl Class {
    fn of(name: &str) -> Option<Self> {
        match name.trim_end_matches("Fast") {
            "BertTokenizer"
            | "DistilBertTokenizer"
            | "ElectraTokenizer"
            | "FunnelTokenizer"
            | "LayoutLMTokenizer"
            | "LxmertTokenizer"
            | "MobileBertTokenizer"
            | "MPNetTokenizer"
            | "SqueezeBertTokenizer" => Some(Class::Bert),
            "GPT2Tokenizer"
            | "BartTokenizer"
            | "CodeGenTokenizer"
            | "DebertaTokenizer"
            | "GPTNeoXTokenizer"
            | "LEDTokenizer"
            | "LongformerTokenizer"
            | "MvpTokenizer"
            | "RobertaTokenizer" => Some(Class::Gpt2),
            _ => None,
        }
    }
}

/// A model's config.json, as far as it tells the class of a tokenizer whose own files do not.
#[derive(Deserialize)]
pub(super) struct ModelConfig {
    model_type: Option<String>,
    tokenizer_class: Option<String>,
}

impl ModelConfig {
    /// The class that it names, else that of such models, if it is one of those above.
    pub(super) fn class(self) -> Option<String> {
        if self.tokenizer_class.is_some() {
            return self.tokenizer_class;
        }
        let class = match self.model_type?.as_str() {
            "bert" | "convbert" | "distilbert" | "electra" | "ernie" | "funnel" | "layoutlm" | "lxmert"
            | "megatron-bert" | "mobilebert" | "mpnet" | "nomic_bert" | "squeezebert" => "BertTokenizer",
            "codegen" | "gpt2" | "gpt_neo" | "gptj" | "opt" => "GPT2Tokenizer",
            "deberta" => "DebertaTokenizer",
            "gpt_neox" | "mamba" | "mpt" | "olmo" => "GPTNeoXTokenizer",
            "bart" | "data2vec-text" | "ibert" | "led" | "longformer" | "mvp" | "roberta" | "roberta-prelayernorm" => {
                "RobertaTokenizer"
            }
            _ => return None,
        };
        Some(class.to_owned())
    }
}

/// What transformers changes of a tokenizer.json by the settings beside it: the classes of BERT and GPT-2, and of their kin, make
/// normaliser and pre-tokenizer anew, with defaults for what the settings leave out. `None` where that is what it says already.
pub(super) fn overridden(config: &Config, text: &str) -> Option<Value> {
    let (part, kind, settings) = match Class::of(config.tokenizer_class.as_deref()?)? {
        Class::Bert => (
            "normalizer",
            "BertNormalizer",
            json!({
                "lowercase": config.do_lower_case.unwrap_or(true), "strip_accents": config.strip_accents,
                "handle_chinese_chars": config.tokenize_chinese_chars.unwrap_or(true),
            }),
        ),
        Class::Gpt2 => {
            ("pre_tokenizer", "ByteLevel", json!({ "add_prefix_space": config.add_prefix_space.unwrap_or(false) }))
        }
    };
    // What is no JSON is told of where it is read.
    let mut whole: Value = serde_json::from_str(text).ok()?;
    let own = whole.get_mut(part)?.as_object_mut().filter(|own| own.get("type").is_some_and(|own| own == kind))?;
    let before = own.clone();
    own.extend(settings.as_object()?.clone());
    (*own != before).then_some(whole)
}

/// GPT-2's byte-level BPE, of vocab.json and merges.txt.
pub(super) fn byte_level_bpe(vocab: &Text<'_>, merges: &Text<'_>, config: &Config) -> Result<Value> {
    let vocabulary: BTreeMap<String, u32> = parse_json(&vocab.0, vocab.1.as_bytes())?;
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(merges.1.lines()) {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let pair: Vec<&str> = line.split(' ').collect();
        if pair.len() != 2 {
            let what = format!("line {number}, {}, is not two tokens with a space between them", quoted(line));
            return Err(Error::file(&merges.0, what));
        }
        pairs.push(pair);
    }
    let added = usual(&vocabulary, &["<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>"]);
    let mut made = bpe(json!(vocabulary), json!(pairs), added);
    made["pre_tokenizer"]["add_prefix_space"] = json!(config.add_prefix_space.unwrap_or(false));
    Ok(made)
}

/// A byte-level BPE as tokenizer.json has it.
fn bpe(vocabulary: Value, merges: Value, added: AddedTokens) -> Value {
    let byte_level = |add_prefix_space: bool| json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.into_values().collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level(false),
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    })
}

/// BERT's WordPiece, of vocab.txt: a token a line, its id the line's number from 0.
pub(super) fn word_piece((path, text): &Text<'_>, config: &Config) -> Result<Value> {
    let mut vocabulary: BTreeMap<&str, u32> = BTreeMap::new();
    for (id, token) in (0..).zip(text.lines()).filter(|(_, token)| !token.is_empty()) {
        if let Some(before) = vocabulary.insert(token, id) {
            let what = format!("lines {} and {} are both {}", before + 1, id + 1, quoted(token));
            return Err(Error::file(path, what));
        }
    }
    let added = usual(&vocabulary, &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]);
    // A vocabulary with capitals has no use for them where text is brought to small letters.
    let is_bracketed = |token: &str| token.starts_with('[') && token.ends_with(']');
    // Those that have a small letter: BERT's has ℝ, which has none.
    let is_capital = |c: char| c.to_lowercase().ne([c]);
    let has_capitals = || vocabulary.keys().any(|token| !is_bracketed(token) && token.contains(is_capital));
    let lower_case = config.do_lower_case.unwrap_or_else(|| !has_capitals());
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.into_values().collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "strip_accents": config.strip_accents,
            "handle_chinese_chars": config.tokenize_chinese_chars.unwrap_or(true), "lowercase": lower_case,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": null,
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    }))
}

/// The 256 bytes, each with its value as its id, and the special tokens behind them.
pub(super) fn bytes(specials: SpecialTokens) -> Value {
    let contents = specials.contents();
    let mut vocabulary: BTreeMap<String, u32> =
        (0..=u8::MAX).map(|byte| (byte_char(byte).to_string(), byte.into())).collect();
    let added: AddedTokens = (256..).zip(contents).map(|(id, content)| (id, special(id, content))).collect();
    vocabulary.extend(added.iter().filter_map(|(&id, token)| Some((token["content"].as_str()?.to_owned(), id))));
    let mut made = bpe(json!(vocabulary), json!([]), added);
    // What is never merged need not be divided into words.
    made["pre_tokenizer"]["use_regex"] = json!(false);
    made
}

/// A byte-level BPE of a trained model, in which the special tokens are.
pub(super) fn trained(model: &Value, specials: SpecialTokens) -> Value {
    let id = |content: &str| model["vocab"][content].as_u64().and_then(|id| u32::try_from(id).ok());
    let added = specials.contents().into_iter().filter_map(|content| Some((id(content)?, content)));
    let added = added.map(|(id, content)| (id, special(id, content))).collect();
    bpe(model["vocab"].clone(), model["merges"].clone(), added)
}

/// The character that stands for a byte in byte-level vocabularies: itself if it is a visible one of Latin-1, else the next
/// one of those from U+0100 on (GPT-2's `bytes_to_unicode`).
pub(super) fn byte_char(byte: u8) -> char {
    let is_visible = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if is_visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !is_visible(byte)).count();
    char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The tokenizer_config.json with which transformers loads a vocabulary that is made here.
pub(super) fn config(specials: SpecialTokens) -> Value {
    let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false });
    for (special, content) in specials.named() {
        config[special.key()] = json!(content);
    }
    config
}
