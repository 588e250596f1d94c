//! What the files beside a vocabulary say: settings, and tokens that are found in texts as they are written. Of settings like
//! `image_token`, beyond the seven usual ones, nothing is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::special::Special;
use crate::error::{Error, Result};
use crate::files::{parse_json, quoted};

/// Special tokens, in the order in which transformers adds what a vocabulary lacks.
const IN_ORDER: [Special; 7] =
    [Special::Bos, Special::Eos, Special::Unk, Special::Sep, Special::Pad, Special::Cls, Special::Mask];

/// A file's text, with its path.
pub(super) type Text<'a> = (PathBuf, &'a str);

/// A tokenizer_config.json, as far as it decides on tokens.
#[derive(Default, serde::Deserialize)]
pub(super) struct Config {
    pub(super) tokenizer_class: Option<String>,
    pub(super) do_lower_case: Option<bool>,
    pub(super) strip_accents: Option<bool>,
    pub(super) tokenize_chinese_chars: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    added_tokens_decoder: Option<BTreeMap<String, AddedToken>>,
}

/// A token that is found in texts.
#[derive(Clone, Default, serde::Deserialize)]
pub(super) struct AddedToken {
    pub(super) content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Whether it is looked for behind the normaliser. Where no file says so, what is no special token is.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl AddedToken {
    /// By its content alone, or with its properties; `None` for what is neither.
    fn of(value: &Value, is_special: bool) -> Option<Self> {
        match value {
            Value::String(content) => {
                Some(AddedToken { content: content.clone(), special: true, ..AddedToken::default() })
            }
            Value::Object(_) => {
                let token = AddedToken::deserialize(value).ok()?;
                Some(AddedToken { special: token.special || is_special, ..token })
            }
            _ => None,
        }
    }

    fn made(&self, is_special: bool) -> tokenizers::AddedToken {
        let special = self.special || is_special;
        tokenizers::AddedToken::from(self.content.clone(), special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!special))
    }
}

/// What lies beside a vocabulary.
pub(super) struct Beside {
    pub(super) config: Config,
    /// Tokens by the ids that they are said to have.
    added: BTreeMap<u32, AddedToken>,
    /// Whether their properties are said: an added_tokens.json has none.
    has_properties: bool,
    /// Special tokens, with the files that name them.
    named: BTreeMap<Special, (PathBuf, AddedToken)>,
    /// Special tokens without a name of their own.
    further: Vec<AddedToken>,
}

impl Beside {
    /// Of tokenizer_config.json, special_tokens_map.json and added_tokens.json, by transformers' order: the latter two are of older
    /// versions, and are not read where the first has `added_tokens_decoder`; else the map comes before the first.
    pub(super) fn read(config: Option<Text<'_>>, map: Option<Text<'_>>, older: Option<Text<'_>>) -> Result<Self> {
        let (mut settings, mut said) = (Config::default(), Said::default());
        if let Some(file) = &config {
            settings = parse_json(&file.0, file.1.as_bytes())?;
            said.take(file, false)?;
        }
        let decoder = settings.added_tokens_decoder.take();
        if decoder.is_none() {
            map.iter().try_for_each(|file| said.take(file, true))?;
        }
        let (named, further) = (said.named, said.listed.or(said.listed_by_map).unwrap_or_default());
        let has_properties = decoder.is_some();
        let mut beside = Beside { config: settings, added: BTreeMap::new(), has_properties, named, further };
        match (decoder, config, older) {
            (Some(tokens), Some((path, _)), _) => beside.added = by_id(&path, tokens)?,
            (_, _, Some(file)) => beside.added = beside.older(&file)?,
            _ => {}
        }
        Ok(beside)
    }

    /// An added_tokens.json does not say what is a special token: what another file calls one is.
    fn older(&self, (path, text): &Text<'_>) -> Result<BTreeMap<u32, AddedToken>> {
        let ids: BTreeMap<String, u32> = parse_json(path, text.as_bytes())?;
        let special: BTreeSet<&str> = self.special().map(|token| token.content.as_str()).collect();
        let token = |(content, id): (String, u32)| {
            let special = special.contains(content.as_str());
            (id, AddedToken { content, special, ..AddedToken::default() })
        };
        Ok(ids.into_iter().map(token).collect())
    }

    /// What is said to be a special token, in transformers' order.
    fn special(&self) -> impl Iterator<Item = &AddedToken> {
        let named = IN_ORDER.iter().filter_map(|special| self.named.get(special)).map(|(_, token)| token);
        named.chain(&self.further)
    }

    /// All that it has tokens of.
    pub(super) fn contents(&self) -> impl Iterator<Item = &str> {
        self.added.values().chain(self.special()).map(|token| token.content.as_str())
    }

    /// Has them be found in texts, as transformers does and in its order. A token that `inner` has keeps its id, and its properties
    /// where none are said.
    ///
    /// # Errors
    /// In words, what does not fit together.
    pub(super) fn add_to(&self, inner: &mut tokenizers::Tokenizer) -> Result<(), String> {
        let new: Vec<(u32, &str)> = (self.added.iter())
            .map(|(&id, token)| (id, token.content.as_str()))
            .filter(|(_, content)| inner.token_to_id(content).is_none())
            .collect();
        let named: BTreeSet<&str> = self.named.values().map(|(_, token)| token.content.as_str()).collect();
        let mut there: BTreeSet<&str> = self.added.values().map(|token| token.content.as_str()).collect();
        let own = inner.get_added_vocabulary().get_vocab();
        let lacking = self.special().filter(|token| !own.contains_key(&token.content) && there.insert(&token.content));
        let added = self.added.values().filter(|token| self.has_properties || !own.contains_key(&token.content));
        let added = added.map(|token| token.made(named.contains(token.content.as_str())));
        let tokens: Vec<_> = added.chain(lacking.map(|token| token.made(false))).collect();
        inner.add_tokens(tokens).map_err(|e| quoted(&e.to_string()))?;
        new.into_iter().try_for_each(|(id, content)| has_id(inner, content, id))
    }

    /// The ids of the special tokens that a file names, once `inner` has them.
    pub(super) fn named_in(&self, inner: &tokenizers::Tokenizer) -> Result<BTreeMap<Special, u32>> {
        let id = |(special, (path, token)): (&Special, &(PathBuf, AddedToken))| {
            let missing = || Error::file(path, format!("its {} is not in the vocabulary", special.key()));
            Ok((*special, inner.token_to_id(&token.content).ok_or_else(missing)?))
        };
        self.named.iter().map(id).collect()
    }

    /// The ids of the others.
    pub(super) fn further_in(&self, inner: &tokenizers::Tokenizer) -> impl Iterator<Item = u32> {
        self.further.iter().filter_map(move |token| inner.token_to_id(&token.content))
    }
}

/// Tokens beside a vocabulary are numbered in their order, whatever a file says.
///
/// # Errors
/// In words, if `inner` does not have the token by this id.
pub(super) fn has_id(inner: &tokenizers::Tokenizer, content: &str, said: u32) -> Result<(), String> {
    let id = inner.token_to_id(content);
    if id == Some(said) {
        return Ok(());
    }
    let got = id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    Err(format!("added token {} is said to have id {said}, but gets {got}", quoted(content)))
}

/// An `added_tokens_decoder`. `path` is its file's.
fn by_id(path: &Path, tokens: BTreeMap<String, AddedToken>) -> Result<BTreeMap<u32, AddedToken>> {
    let numbered = |(id, token): (String, AddedToken)| {
        let fault = |_| Error::file(path, format!("added_tokens_decoder: {} is no id", quoted(&id)));
        Ok((id.parse::<u32>().map_err(fault)?, token))
    };
    tokens.into_iter().map(numbered).collect()
}

/// Special tokens, as far as files were read.
#[derive(Default)]
struct Said {
    named: BTreeMap<Special, (PathBuf, AddedToken)>,
    /// Those that have no name of their own.
    listed: Option<Vec<AddedToken>>,
    /// Those that special_tokens_map.json lists by the older name, which count where nothing else lists any.
    listed_by_map: Option<Vec<AddedToken>>,
}

impl Said {
    fn take(&mut self, (path, text): &Text<'_>, is_map: bool) -> Result<()> {
        let says: Map<String, Value> = parse_json(path, text.as_bytes())?;
        let Lists { extra_special_tokens: extra, additional_special_tokens: additional } =
            parse_json(path, text.as_bytes())?;
        for special in Special::ALL {
            match says.get(special.key()) {
                None => {}
                Some(Value::Null) => _ = self.named.remove(&special),
                Some(token) => {
                    let token = AddedToken::of(token, true).filter(|token| !token.content.is_empty());
                    let fault = || Error::file(path, format!("its {} is no token", special.key()));
                    self.named.insert(special, (path.clone(), token.ok_or_else(fault)?));
                }
            }
        }
        let is_object = matches!(extra, Some(List::Object(_)));
        let extra = extra.map(|list| list.tokens(path, "extra_special_tokens", is_map)).transpose()?;
        let additional = additional.map(|list| list.tokens(path, "additional_special_tokens", is_map)).transpose()?;
        if is_map {
            if let Some(extra) = extra {
                self.listed.get_or_insert_default().extend(extra);
            }
            self.listed_by_map = additional;
        } else {
            self.listed = match (extra, additional) {
                (Some(extra), Some(additional)) if is_object || extra.is_empty() => Some([extra, additional].concat()),
                (extra, additional) => extra.or(additional),
            };
        }
        Ok(())
    }
}

/// Special tokens without names of their own, under the newer and the older key.
#[derive(serde::Deserialize)]
struct Lists {
    extra_special_tokens: Option<List>,
    additional_special_tokens: Option<List>,
}

/// A list of special tokens, or an object whose values they are.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum List {
    Array(Vec<Value>),
    Object(Values),
    Other(IgnoredAny),
}

impl List {
    /// Those under `key`.
    fn tokens(self, path: &Path, key: &str, is_special: bool) -> Result<Vec<AddedToken>> {
        let tokens: Option<Vec<AddedToken>> = match self {
            List::Array(tokens) => tokens.iter().map(|token| AddedToken::of(token, is_special)).collect(),
            List::Object(Values(tokens)) => tokens.iter().map(|token| AddedToken::of(token, true)).collect(),
            List::Other(IgnoredAny) => None,
        };
        tokens.ok_or_else(|| Error::file(path, format!("its {key} are no tokens")))
    }
}

/// An object's values in the file's order, which a `Map` does not keep.
struct Values(Vec<Value>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<Values, A::Error> {
        let mut values = Vec::new();
        while let Some((_, value)) = object.next_entry::<IgnoredAny, Value>()? {
            values.push(value);
        }
        Ok(Values(values))
    }
}
