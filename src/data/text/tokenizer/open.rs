//! Where a tokenizer's files are, and what they make.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::check::{Described, MAX_ID};
use super::describe::{AddedTokens, Config, byte_level_bpe, old_added, overridden, word_piece};
use super::{Special, Tokenizer};
use crate::error::{Error, Result};
use crate::files::{parse_json, quoted, read_text};

pub(super) const TOKENIZER_JSON: &str = "tokenizer.json";
pub(super) const CONFIG_JSON: &str = "tokenizer_config.json";
const VOCAB_JSON: &str = "vocab.json";
const MERGES_TXT: &str = "merges.txt";
const VOCAB_TXT: &str = "vocab.txt";
const SPECIAL_JSON: &str = "special_tokens_map.json";
const ADDED_JSON: &str = "added_tokens.json";
/// What may lie beside a vocabulary.
const BESIDE: [&str; 3] = [CONFIG_JSON, SPECIAL_JSON, ADDED_JSON];
/// The forms of a vocabulary, each with its files, the first one before the others where a folder has several.
const FORMS: [&[&str]; 3] = [&[TOKENIZER_JSON], &[VOCAB_JSON, MERGES_TXT], &[VOCAB_TXT]];
/// Special tokens, in the order in which transformers adds what a vocabulary lacks.
const IN_ORDER: [Special; 7] =
    [Special::Bos, Special::Eos, Special::Unk, Special::Sep, Special::Pad, Special::Cls, Special::Mask];
/// The largest file that is read, in bytes. The largest vocabularies in use take about half of it.
const MAX_FILE: u64 = 64 << 20;

/// Whether a folder with this file is taken for one that holds a tokenizer.
pub(super) fn is_first_of_form(name: &str) -> bool {
    FORMS.iter().any(|form| form[0] == name)
}

/// A tokenizer's files by name, with the place that errors name.
pub(super) struct Files {
    pub(super) place: PathBuf,
    pub(super) texts: BTreeMap<String, String>,
}

impl Files {
    /// Those in a folder, or those of one form that a path names.
    pub(super) fn read(path: &Path) -> Result<Self> {
        // A folder that is not there is the system's error.
        let about = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        let (place, mut texts) = if about.is_dir() {
            (path.to_owned(), Self::of_folder(path)?)
        } else {
            let place = path.parent().map(Path::to_owned).unwrap_or_default();
            let texts = Self::named(path, &place)?;
            (place, texts)
        };
        for name in BESIDE {
            texts.extend(read_text(&place.join(name), MAX_FILE)?.map(|text| (name.to_owned(), text)));
        }
        Ok(Files { place, texts })
    }

    fn of_folder(folder: &Path) -> Result<BTreeMap<String, String>> {
        for form in FORMS {
            let mut texts = BTreeMap::new();
            for &name in form {
                texts.extend(read_text(&folder.join(name), MAX_FILE)?.map(|text| (name.to_owned(), text)));
            }
            if texts.len() == form.len() {
                return Ok(texts);
            }
            if !texts.is_empty() {
                let missing: Vec<&str> = form.iter().copied().filter(|name| !texts.contains_key(*name)).collect();
                return Err(Error::file(
                    folder,
                    format!("has no {}, which belongs to {}", missing.join(" and "), form[0]),
                ));
            }
        }
        let what = "holds no tokenizer: no tokenizer.json, no vocab.json with merges.txt, no vocab.txt";
        Err(Error::file(folder, what))
    }

    /// The form's files are told by their names; of another name is a tokenizer.json or, by its ending, a vocab.txt.
    fn named(path: &Path, folder: &Path) -> Result<BTreeMap<String, String>> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let read = |path: &Path| read_text(path, MAX_FILE)?.ok_or_else(|| Error::file(path, "is not there"));
        if name == VOCAB_JSON || name == MERGES_TXT {
            let texts = FORMS[1].iter().map(|&name| Ok((name.to_owned(), read(&folder.join(name))?)));
            return texts.collect();
        }
        let called = if name.ends_with(".txt") { VOCAB_TXT } else { TOKENIZER_JSON };
        Ok(BTreeMap::from([(called.to_owned(), read(path)?)]))
    }

    fn json<T: for<'de> Deserialize<'de> + Default>(&self, name: &str) -> Result<T> {
        let text = self.texts.get(name);
        text.map_or_else(|| Ok(T::default()), |text| parse_json(&self.place.join(name), text.as_bytes()))
    }

    fn text(&self, name: &'static str) -> Option<(PathBuf, &str)> {
        self.texts.get(name).map(|text| (self.place.join(name), text.as_str()))
    }

    /// The tokenizer.json: as it stands, or made of a vocabulary of another form. With the path of what it was made of.
    fn described(&self) -> Result<(PathBuf, String)> {
        let config: Config = self.json(CONFIG_JSON)?;
        if let Some((path, text)) = self.text(TOKENIZER_JSON) {
            let text = overridden(&config, text).map_or_else(|| text.to_owned(), |whole| whole.to_string());
            return Ok((path, text));
        }
        let mut added = match self.text(ADDED_JSON) {
            Some((path, text)) => {
                let named = self.named_specials()?;
                let further = self.further_specials()?;
                let is_named = |content: &str| named.values().any(|(_, token)| token == content);
                old_added(&path, text, |content| is_named(content) || further.contains(content))?
            }
            None => AddedTokens::new(),
        };
        added.extend(config.added(&self.place.join(CONFIG_JSON))?);
        let (path, made) = if let Some((vocab, merges)) = self.text(VOCAB_JSON).zip(self.text(MERGES_TXT)) {
            let made = byte_level_bpe((&vocab.0, vocab.1), (&merges.0, merges.1), &config, added)?;
            (vocab.0, made)
        } else if let Some((path, text)) = self.text(VOCAB_TXT) {
            let made = word_piece(&path, text, &config, added)?;
            (path, made)
        } else {
            return Err(Error::file(&self.place, "holds no tokenizer"));
        };
        Ok((path, made.to_string()))
    }

    /// How each special token is written, by the files that say so, with the file's path.
    fn named_specials(&self) -> Result<BTreeMap<Special, (PathBuf, String)>> {
        let mut named = BTreeMap::new();
        for name in [CONFIG_JSON, SPECIAL_JSON] {
            let says: serde_json::Map<String, Value> = self.json(name)?;
            for special in Special::ALL {
                let token = match says.get(special.key()) {
                    None | Some(Value::Null) => continue,
                    Some(Value::String(token)) => Some(token),
                    Some(Value::Object(token)) => match token.get("content") {
                        Some(Value::String(token)) => Some(token),
                        _ => None,
                    },
                    Some(_) => None,
                };
                let path = self.place.join(name);
                let Some(token) = token.filter(|token| !token.is_empty()) else {
                    return Err(Error::file(path, format!("its {} is no token", special.key())));
                };
                named.entry(special).or_insert((path, token.clone()));
            }
        }
        Ok(named)
    }

    /// Special tokens without a name of their own: `additional_special_tokens`.
    fn further_specials(&self) -> Result<BTreeSet<String>> {
        let mut further = BTreeSet::new();
        for name in [CONFIG_JSON, SPECIAL_JSON] {
            let says: serde_json::Map<String, Value> = self.json(name)?;
            let tokens = says.get("additional_special_tokens").and_then(Value::as_array).into_iter().flatten();
            let contents = tokens.filter_map(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
            further.extend(contents.map(str::to_owned));
        }
        Ok(further)
    }

    /// The tokenizer that they make.
    pub(super) fn build(self) -> Result<Tokenizer> {
        let (path, json) = self.described()?;
        let described: Described = parse_json(&path, json.as_bytes())?;
        let fault = |what: String| Error::file(&path, what);
        described.check().map_err(fault)?;
        let mut inner: tokenizers::Tokenizer =
            json.parse().map_err(|e: tokenizers::Error| fault(format!("is refused: {}", quoted(&e.to_string()))))?;
        for added in &described.added_tokens {
            // Tokens beside the vocabulary are numbered in their order, whatever a file says.
            let (content, said) = (&added.content, added.id);
            let id = inner.token_to_id(content);
            if id != Some(said) {
                let got = id.map_or_else(|| "none".to_owned(), |id| id.to_string());
                return Err(fault(format!(
                    "added token {} is said to have id {said}, but gets {got}",
                    quoted(content)
                )));
            }
        }
        // They would change what a text's tokens are.
        inner.with_truncation(None).map_err(|e| fault(e.to_string()))?;
        inner.with_padding(None);
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);

        let mut special: BTreeSet<u32> = described.added_tokens.iter().filter(|a| a.special).map(|a| a.id).collect();
        let named = self.find_specials(&mut inner)?;
        special.extend(named.values());
        special.extend(self.further_specials()?.iter().filter_map(|content| inner.token_to_id(content)));
        let size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if size == 0 || size > MAX_ID as usize {
            return Err(fault(format!("its ids go up to {size}, must be from 1 to {MAX_ID}")));
        }
        Ok(Tokenizer::from_parts(inner, self, named, special, size))
    }

    /// The ids of the special tokens. One that a file names becomes one that is found in texts, and is added where the vocabulary lacks it, as
    /// transformers does and in its order.
    fn find_specials(&self, inner: &mut tokenizers::Tokenizer) -> Result<BTreeMap<Special, u32>> {
        let mut ids = BTreeMap::new();
        let mut named = self.named_specials()?;
        for special in IN_ORDER {
            let Some((path, content)) = named.remove(&special) else { continue };
            add_special(inner, &path, &content)?;
            let missing = || Error::file(&path, format!("its {} is not in the vocabulary", special.key()));
            ids.insert(special, inner.token_to_id(&content).ok_or_else(missing)?);
        }
        for content in self.further_specials()? {
            if inner.token_to_id(&content).is_some() {
                add_special(inner, &self.place, &content)?;
            }
        }
        for special in Special::ALL {
            if let Some(id) = special.usual().iter().find_map(|content| inner.token_to_id(content)) {
                ids.entry(special).or_insert(id);
            }
        }
        Ok(ids)
    }
}

/// Has a token be found in texts as it is written; it keeps its id, if it has one.
fn add_special(inner: &mut tokenizers::Tokenizer, path: &Path, content: &str) -> Result<()> {
    if !inner.get_added_vocabulary().get_vocab().contains_key(content) {
        let token = tokenizers::AddedToken::from(content.to_owned(), true);
        inner.add_special_tokens([token]).map_err(|e| Error::file(path, quoted(&e.to_string())))?;
    }
    Ok(())
}

/// The names of all files that a tokenizer may have in a folder.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FORMS.into_iter().flatten().copied().chain(BESIDE)
}
