//! Where a tokenizer's files are, and what they make.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::beside::{Beside, Config, Text, has_id};
use super::check::{Described, MAX_ID};
use super::describe::{ModelConfig, byte_level_bpe, overridden, word_piece};
use super::{Special, Tokenizer};
use crate::error::{Error, Result};
use crate::files::{parse_json, quoted, read_json, read_text};

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
/// A model's file, which is none of a tokenizer's but may tell its class.
const MODEL_JSON: &str = "config.json";
/// The largest file that is read, in bytes. The largest vocabularies in use take about half of it.
const MAX_FILE: u64 = 64 << 20;

/// The files by which a folder is taken for one that holds a tokenizer; one that comes before others stands behind them.
pub(super) fn first_of_forms() -> impl Iterator<Item = &'static str> {
    FORMS.iter().rev().map(|form| form[0])
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
        let mut files = Files { place, texts };
        files.take_class()?;
        Ok(files)
    }

    /// Where only the model's config.json tells the class of a tokenizer.json and that changes what its tokens are, the tokenizer's
    /// own files say so from here on: they may go elsewhere without the model.
    fn take_class(&mut self) -> Result<()> {
        let mut said: Map<String, Value> = match self.text(CONFIG_JSON) {
            Some((path, text)) => parse_json(&path, text.as_bytes())?,
            None => Map::new(),
        };
        let is_told = said.get("tokenizer_class").is_some_and(|class| !class.is_null());
        let Some(text) = self.texts.get(TOKENIZER_JSON).filter(|_| !is_told) else { return Ok(()) };
        // It is another program's file, and need not be a model's.
        let model = read_json::<ModelConfig>(&self.place.join(MODEL_JSON)).unwrap_or_else(|error| {
            log::warn!("it is not asked for the tokenizer's class: {error}");
            None
        });
        let Some(class) = model.and_then(ModelConfig::class) else { return Ok(()) };
        said.insert("tokenizer_class".to_owned(), json!(class));
        let config = Value::Object(said).to_string();
        let settings: Config = parse_json(&self.place.join(CONFIG_JSON), config.as_bytes())?;
        if overridden(&settings, text).is_some() {
            self.texts.insert(CONFIG_JSON.to_owned(), config);
        }
        Ok(())
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

    fn text(&self, name: &'static str) -> Option<Text<'_>> {
        self.texts.get(name).map(|text| (self.place.join(name), text.as_str()))
    }

    /// The tokenizer.json: as it stands, or made of a vocabulary of another form. With the path of what it was made of.
    fn described(&self, config: &Config) -> Result<(PathBuf, String)> {
        if let Some((path, text)) = self.text(TOKENIZER_JSON) {
            let text = overridden(config, text).map_or_else(|| text.to_owned(), |whole| whole.to_string());
            return Ok((path, text));
        }
        let (file, made) = if let Some((vocab, merges)) = self.text(VOCAB_JSON).zip(self.text(MERGES_TXT)) {
            let made = byte_level_bpe(&vocab, &merges, config)?;
            (vocab, made)
        } else if let Some(vocab) = self.text(VOCAB_TXT) {
            let made = word_piece(&vocab, config)?;
            (vocab, made)
        } else {
            return Err(Error::file(&self.place, "holds no tokenizer"));
        };
        Ok((file.0, made.to_string()))
    }

    /// The tokenizer that they make.
    pub(super) fn build(self) -> Result<Tokenizer> {
        let beside = Beside::read(self.text(CONFIG_JSON), self.text(SPECIAL_JSON), self.text(ADDED_JSON))?;
        let (path, json) = self.described(&beside.config)?;
        let described: Described = parse_json(&path, json.as_bytes())?;
        let fault = |what: String| Error::file(&path, what);
        described.check(beside.contents()).map_err(fault)?;
        let mut inner: tokenizers::Tokenizer =
            json.parse().map_err(|e: tokenizers::Error| fault(format!("is refused: {}", quoted(&e.to_string()))))?;
        for added in &described.added_tokens {
            has_id(&inner, &added.content, added.id).map_err(fault)?;
        }
        beside.add_to(&mut inner).map_err(fault)?;
        // They would change what a text's tokens are.
        inner.with_truncation(None).map_err(|e| fault(e.to_string()))?;
        inner.with_padding(None);
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);

        let mut named = beside.named_in(&inner)?;
        for special in Special::ALL {
            if let Some(id) = special.usual().iter().find_map(|content| inner.token_to_id(content)) {
                named.entry(special).or_insert(id);
            }
        }
        let added = inner.get_added_tokens_decoder();
        let mut special: BTreeSet<u32> = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        special.extend(named.values().copied().chain(beside.further_in(&inner)));
        let size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if size == 0 || size > MAX_ID as usize {
            return Err(fault(format!("its ids go up to {size}, must be from 1 to {MAX_ID}")));
        }
        Ok(Tokenizer::from_parts(inner, self, named, special, size))
    }
}

/// The names of all files that a tokenizer may have in a folder.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FORMS.into_iter().flatten().copied().chain(BESIDE)
}
