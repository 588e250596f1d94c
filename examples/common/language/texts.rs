//! Texts as training, validation and test.

use std::fmt;

use anyhow::{Context, Result, ensure};
use wgrad::Error;
use wgrad::data::{HeldOut, TextOptions, TokenCache, Tokenizer, Tokens};

use super::args::Common;
use super::bytes;
use super::kind::Kind;
use crate::training::console::{printable, say};
use crate::training::given::Rule;

/// Of fewer documents none is held out whole, but the end of the text.
const FEW_DOCUMENTS: usize = 20;

/// The folder of [`TokenCache::Beside`].
const CACHE: &str = ".wgrad-tokens";

/// A text in three parts, which are read as a kind of model is trained.
pub struct Texts<K: Kind> {
    name: String,
    pub tokenizer: Tokenizer,
    reading: K::Reading,
    train: Tokens,
    validation: Tokens,
    test: Tokens,
    /// Of the test text, of the tokens that are predicted, where their losses add up to that of the text, and its bytes can be counted.
    pub bytes_per_token: Option<f64>,
    documents: usize,
    /// Whether some were fields of JSON.
    has_fields: bool,
}

/// The texts that the arguments name, as they are.
pub fn open(args: &Common) -> Result<wgrad::data::Texts> {
    let options = TextOptions { field: args.text_field.clone(), ..TextOptions::default() };
    let texts = wgrad::data::Texts::open_all(&args.text, options)?;
    if !texts.unused().is_empty() {
        say!("not used: {}", printable(&texts.unused().join(", ")));
    }
    Ok(texts)
}

impl<K: Kind> Texts<K> {
    /// As tokens, with the end or whole documents held out.
    pub fn new(
        args: &Common,
        name: String,
        texts: &wgrad::data::Texts,
        cache: &TokenCache,
        tokenizer: Tokenizer,
        reading: K::Reading,
    ) -> Result<Self> {
        let tokens = Tokens::new(texts, &tokenizer, cache).map_err(|error| about_cache(error, cache))?;
        let documents = tokens.documents().count();
        let share = args.held_out;
        let rule =
            if documents < FEW_DOCUMENTS { HeldOut::End { share } } else { HeldOut::Documents { share, seed: 0 } };
        let hold_out = |tokens: &Tokens| tokens.hold_out(rule).with_context(|| format!("--held-out {share}"));
        let [rest, test] = hold_out(&tokens)?;
        let [train, validation] = hold_out(&rest)?;
        let has_fields = texts.has_json_lines();
        let bytes_per_token = None;
        let mut texts =
            Texts { name, tokenizer, reading, train, validation, test, bytes_per_token, documents, has_fields };
        if K::IS_CAUSAL {
            texts.bytes_per_token = bytes::a_token(texts.test()?, &texts.tokenizer)?;
        }
        Ok(texts)
    }

    /// When the option that says how they are read counts.
    pub fn rule(&self) -> Rule {
        (&["text_field"], self.has_fields, "with --text of JSON lines (.jsonl or .ndjson)")
    }

    /// T.
    pub fn length(&self) -> usize {
        K::length(&self.reading)
    }

    /// Whether shorter sequences are padded.
    pub fn are_padded(&self) -> bool {
        K::is_padded(&self.reading)
    }

    /// What is asked of a model.
    pub fn objective(&self) -> K::Objective {
        K::objective(&self.reading)
    }

    pub fn train(&self) -> Result<K::Source> {
        self.source(&self.train, "the training text is too short for --length")
    }

    pub fn validation(&self) -> Result<K::Source> {
        self.source(&self.validation, "the validation text is too short: a larger --held-out, or a shorter --length")
    }

    pub fn test(&self) -> Result<K::Source> {
        self.source(&self.test, "the test text is too short: a larger --held-out, or a shorter --length")
    }

    /// Where a text is `too_short`, that is said.
    fn source(&self, tokens: &Tokens, too_short: &'static str) -> Result<K::Source> {
        let length = self.length();
        ensure!(length >= K::LEAST_LENGTH, "--length {length}: at least {}", K::LEAST_LENGTH);
        K::source(tokens.clone(), &self.tokenizer, &self.reading).map_err(|error| match error {
            Error::Argument { name: "length", .. } => anyhow::Error::from(error).context(too_short),
            error => error.into(),
        })
    }
}

/// Where the tokens cannot be kept beside the texts, they can be elsewhere.
fn about_cache(error: Error, cache: &TokenCache) -> anyhow::Error {
    let is_cache = match &error {
        Error::Io { path, .. } => *cache == TokenCache::Beside && path.iter().any(|part| part == CACHE),
        _ => false,
    };
    let error = anyhow::Error::from(error);
    if is_cache {
        error.context("the tokens cannot be kept beside the texts: --text-cache names another folder")
    } else {
        error
    }
}

impl<K: Kind> fmt::Display for Texts<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [train, validation, test] = [&self.train, &self.validation, &self.test].map(Tokens::len);
        let documents =
            if self.documents == 1 { "1 document".to_owned() } else { format!("{} documents", self.documents) };
        write!(
            f,
            "{}, {documents}, {train} training, {validation} validation, {test} test tokens of {}, in sequences of {}",
            printable(&self.name),
            self.tokenizer.vocab_size(),
            self.length()
        )
    }
}
