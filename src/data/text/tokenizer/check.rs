//! What a tokenizer.json may hold. The crate that computes with it trusts it, and this is where it is not trusted.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::files::quoted;

/// No id is as large. Vocabularies in use have up to 2¹⁸ tokens, and tables have a row for each id.
pub(super) const MAX_ID: u32 = 1 << 22;
/// The longest word, in characters, that a WordPiece vocabulary may look for the parts of, which takes its square.
const MAX_WORD: u64 = 1000;

/// The parts of GPT-2's and BERT's tokenizers and those of their kin. Others, of SentencePiece's kind, are not read.
const NORMALIZERS: &[&str] = &["BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"];
const PRE_TOKENIZERS: &[&str] =
    &["BertPreTokenizer", "ByteLevel", "Digits", "Punctuation", "Split", "Whitespace", "WhitespaceSplit"];
const DECODERS: &[&str] = &["BPEDecoder", "ByteLevel", "WordPiece"];

/// A tokenizer.json, as far as it is looked at.
#[derive(Deserialize)]
pub(super) struct Described {
    pub(super) model: TokenModel,
    #[serde(default)]
    pub(super) added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
}

/// A token beside the model's.
#[derive(Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
}

#[derive(Deserialize)]
pub(super) struct TokenModel {
    r#type: Option<String>,
    /// Of another form in models that are not read.
    vocab: Value,
    merges: Option<Vec<Merge>>,
    unk_token: Option<Value>,
    continuing_subword_prefix: Option<String>,
    max_input_chars_per_word: Option<u64>,
    dropout: Option<f64>,
}

/// In one text, as older files have it, or two.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

type Vocabulary = BTreeMap<String, u32>;
type Checked<T = ()> = Result<T, String>;

impl Described {
    /// In words, the first thing that is not read or does not fit together, with tokens that other files add.
    pub(super) fn check<'a>(&'a self, beside: impl Iterator<Item = &'a str>) -> Checked {
        self.model.check()?;
        let parts = [
            ("normalizer", &self.normalizer, "normalizers", NORMALIZERS),
            ("pre_tokenizer", &self.pre_tokenizer, "pretokenizers", PRE_TOKENIZERS),
            ("decoder", &self.decoder, "decoders", DECODERS),
        ];
        for (name, part, inner, known) in parts {
            part.as_ref().map_or(Ok(()), |part| check_part(name, part, inner, known))?;
        }
        let added: Vec<&str> = self.added_tokens.iter().map(|added| added.content.as_str()).chain(beside).collect();
        self.decoder.as_ref().map_or(Ok(()), |decoder| self.check_suffixes(decoder, &added))
    }

    /// What ends words may stand at the end of tokens alone: a BPEDecoder makes spaces of it everywhere, but not in a text's last
    /// token, and what was decoded of a text would change with its next token.
    fn check_suffixes(&self, decoder: &Value, added: &[&str]) -> Checked {
        if let Some(parts) = decoder.get("decoders").and_then(Value::as_array) {
            return parts.iter().try_for_each(|part| self.check_suffixes(part, added));
        }
        if decoder.get("type").and_then(Value::as_str) != Some("BPEDecoder") {
            return Ok(());
        }
        let suffix = decoder.get("suffix").and_then(Value::as_str).unwrap_or("</w>");
        let vocabulary = self.model.vocabulary()?;
        let is_within = |token: &str| token.strip_suffix(suffix).unwrap_or(token).contains(suffix);
        match vocabulary.keys().map(String::as_str).chain(added.iter().copied()).find(|token| is_within(token)) {
            Some(token) => {
                Err(format!("its decoder's suffix {} stands within token {}", quoted(suffix), quoted(token)))
            }
            None => Ok(()),
        }
    }
}

/// One part of a tokenizer, which may be a sequence of parts.
fn check_part(name: &str, part: &Value, inner: &str, known: &[&str]) -> Checked {
    if part.is_null() {
        return Ok(());
    }
    let kind = part.get("type").and_then(Value::as_str).ok_or_else(|| format!("its {name} has no type"))?;
    if kind == "Sequence" {
        let parts = part.get(inner).and_then(Value::as_array);
        let parts = parts.ok_or_else(|| format!("its {name} is a sequence of no {inner}"))?;
        return parts.iter().try_for_each(|part| check_part(name, part, inner, known));
    }
    if !known.contains(&kind) {
        let known = known.join(", ");
        return Err(format!("its {name} {} is not read: {known} are", quoted(kind)));
    }
    Ok(())
}

impl TokenModel {
    fn check(&self) -> Checked {
        match self.r#type.as_deref() {
            Some("BPE") => self.check_bpe(),
            Some("WordPiece") => self.check_word_piece(),
            Some(other) => Err(format!("its model {} is not read: BPE and WordPiece are", quoted(other))),
            None => Err("its model has no type".to_owned()),
        }
    }

    /// Each id once, and none too large.
    fn vocabulary(&self) -> Checked<Vocabulary> {
        let vocabulary = Vocabulary::deserialize(&self.vocab).map_err(|e| format!("its vocabulary: {e}"))?;
        let mut ids = BTreeSet::new();
        for (token, &id) in &vocabulary {
            if id >= MAX_ID {
                return Err(format!("token {} has id {id}, must be below {MAX_ID}", quoted(token)));
            }
            if !ids.insert(id) {
                return Err(format!("token {} has id {id}, which another one has too", quoted(token)));
            }
        }
        Ok(vocabulary)
    }

    fn check_bpe(&self) -> Checked {
        let vocabulary = self.vocabulary()?;
        if self.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err("it drops merges at random (dropout), which is not done here".to_owned());
        }
        self.check_unknown(&vocabulary)?;
        let merges = self.merges.as_ref().ok_or("its model has no merges")?;
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or_default();
        // As in merges.txt, the first line may tell a version.
        let merges = merges.iter().filter(|merge| !matches!(merge, Merge::Line(line) if line.starts_with("#version")));
        for (number, merge) in (1..).zip(merges) {
            let found = merge.parts().and_then(|(a, b)| {
                let merged = format!("{a}{}", b.strip_prefix(prefix)?);
                [a, b, &merged].iter().all(|token| vocabulary.contains_key(*token)).then_some(())
            });
            found.ok_or_else(|| format!("merge {number}, {}, is not of tokens in the vocabulary", merge.quoted()))?;
        }
        Ok(())
    }

    fn check_word_piece(&self) -> Checked {
        let vocabulary = self.vocabulary()?;
        if self.unk_token.as_ref().is_none_or(Value::is_null) {
            return Err("its model names no unk_token".to_owned());
        }
        if self.max_input_chars_per_word.is_some_and(|most| most > MAX_WORD) {
            return Err(format!("its max_input_chars_per_word is above {MAX_WORD}"));
        }
        self.check_unknown(&vocabulary)
    }

    /// Without it, a text would be refused only when it has something unknown.
    fn check_unknown(&self, vocabulary: &Vocabulary) -> Checked {
        match &self.unk_token {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(token)) if vocabulary.contains_key(token) => Ok(()),
            Some(token) => Err(format!("its unk_token {} is not in the vocabulary", quoted(&token.to_string()))),
        }
    }
}

impl Merge {
    fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Pair(a, b) => Some((a, b)),
            Merge::Line(line) => line.split_once(' ').filter(|(_, b)| !b.contains(' ')),
        }
    }

    fn quoted(&self) -> String {
        match self {
            Merge::Pair(a, b) => quoted(&format!("{a} {b}")),
            Merge::Line(line) => quoted(line),
        }
    }
}
