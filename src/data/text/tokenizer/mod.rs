//! From text to token ids and back.
//!
//! | file | holds |
//! |---|---|
//! | `open` | where a tokenizer's files are, and what they make |
//! | `beside` | what the files beside a vocabulary say |
//! | `describe` | vocabularies of other forms than tokenizer.json, brought into that form |
//! | `check` | what a tokenizer.json may hold |
//! | `rest` | what a text's next part is encoded with, where a tokenizer puts a space before a text |
//! | `special` | [`Special`]: tokens with a meaning of their own |
//! | `train` | vocabularies made here |
//! | `stream` | [`TextStream`]: text from tokens that come one by one |
//! | `words` | which tokens go on with a word |

mod beside;
mod check;
mod describe;
mod open;
mod rest;
mod special;
mod stream;
mod train;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use describe::byte_char;
use open::{CONFIG_JSON, Files, TOKENIZER_JSON};
use rest::Rest;
pub use special::{Special, SpecialTokens};
pub use stream::TextStream;
pub use train::TrainOptions;
pub(super) use words::Words;

use crate::error::{Error, Result};
use crate::files::{quoted, replace_file};
use crate::hash::hash_bytes;

const OP: &str = "data.tokenizer";

/// Turns text into token ids and back, as transformers does with the same files: GPT-2's byte-level BPE and BERT's WordPiece,
/// and what is made of the same parts. A text gets no special tokens around it; one that is written out in it (`<|endoftext|>`)
/// becomes that token, as in transformers.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// For what goes on with a text, where `inner` would put a space before it.
    rest: Option<Box<Rest>>,
    place: PathBuf,
    files: BTreeMap<String, String>,
    named: BTreeMap<Special, u32>,
    special: BTreeSet<u32>,
    vocab_size: usize,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tokenizer { place, named, vocab_size, .. } = self;
        f.debug_struct("Tokenizer")
            .field("place", place)
            .field("vocab_size", vocab_size)
            .field("named", named)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// A tokenizer from a folder with `tokenizer.json`, `vocab.json` and `merges.txt` (byte-level BPE), or `vocab.txt` (WordPiece);
    /// or from one of these files. What lies beside it is read too: `tokenizer_config.json`, `special_tokens_map.json`,
    /// `added_tokens.json`; and where these do not name a tokenizer.json's class, a model's `config.json`. Of a `vocab.txt`, text is
    /// brought to small letters if `do_lower_case` says so, or nothing does and no token has capitals.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses; [`Error::File`] if there is no such file, one contradicts itself, or it is of a kind
    /// that is not read (SentencePiece's).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Files::read(path.as_ref())?.build()
    }

    /// A tokenizer from files in memory by their names, such as [`Tokenizer::files`] gives.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn from_files(files: BTreeMap<String, String>) -> Result<Self> {
        Files { place: PathBuf::new(), texts: files }.build()
    }

    /// Bytes as tokens, which needs no file: a byte is its own id, and the special tokens follow from 256 on.
    ///
    /// # Errors
    /// None in practice.
    pub fn byte_level(specials: SpecialTokens) -> Result<Self> {
        Self::made(&describe::bytes(specials).to_string(), specials)
    }

    /// One that is made here, of its tokenizer.json.
    fn made(tokenizer_json: &str, specials: SpecialTokens) -> Result<Self> {
        let config = describe::config(specials).to_string();
        let files = [(TOKENIZER_JSON, tokenizer_json.to_owned()), (CONFIG_JSON, config)];
        Self::from_files(files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect())
    }

    fn from_parts(
        inner: tokenizers::Tokenizer,
        files: Files,
        named: BTreeMap<Special, u32>,
        special: BTreeSet<u32>,
        vocab_size: usize,
    ) -> Self {
        let rest = Rest::of(&inner).map(Box::new);
        Tokenizer { inner, rest, place: files.place, files: files.texts, named, special, vocab_size }
    }

    /// Its files by name, as they were read or made: what a model's folder carries on, and transformers loads.
    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// Writes [`Tokenizer::files`] into a folder, each as a whole or not at all. Files of a tokenizer that was there before go. The one
    /// by which a folder is told to hold a tokenizer goes first and comes last: where this is cut off, there is none. A folder that holds
    /// these very files is left as it is.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        if open::names().all(|name| std::fs::read_to_string(folder.join(name)).ok().as_ref() == self.files.get(name)) {
            return Ok(());
        }
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let write = |(name, text): (&String, &String)| {
            replace_file(&folder.join(name), |writer| writer.write_all(text.as_bytes()))
        };
        for name in open::first_of_forms().chain(open::names().filter(|name| !self.files.contains_key(*name))) {
            let path = folder.join(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, e)),
                _ => {}
            }
        }
        let (last, first): (Vec<_>, Vec<_>) =
            self.files.iter().partition(|(name, _)| open::first_of_forms().any(|first| first == *name));
        first.into_iter().chain(last).try_for_each(write)
    }

    /// A hash of its files: equal tokenizers have equal ones, wherever they lie.
    pub fn identity(&self) -> String {
        let add =
            |hash, (name, text): (&String, &String)| hash_bytes(hash_bytes(hash, name.as_bytes()), text.as_bytes());
        format!("{:016x}", self.files.iter().fold(0, add))
    }

    /// V: every id is below it. There may be ids below it that are no token.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// A token as the vocabulary writes it, or `None` if there is none with this id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The id of a special token, if there is one: as the files say, else by how such tokens are usually written.
    pub fn special(&self, special: Special) -> Option<u32> {
        self.named.get(&special).copied()
    }

    /// The id of a special token that is needed.
    ///
    /// # Errors
    /// [`Error::File`] if there is none.
    pub fn require(&self, special: Special) -> Result<u32> {
        self.special(special).ok_or_else(|| {
            let what = format!(
                "the tokenizer has no {}: tokenizer_config.json does not name one, and its vocabulary has none of {}",
                special.key(),
                special.usual().join(", ")
            );
            Error::file(&self.place, what)
        })
    }

    /// Whether a token stands for no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Bytes of text that a token stands for, where the vocabulary is one of bytes; a character may be cut among several tokens.
    pub fn byte_count(&self, id: u32) -> Option<usize> {
        let is_of_bytes = matches!(self.inner.get_decoder(), Some(tokenizers::DecoderWrapper::ByteLevel(_)));
        let token = self.token(id).filter(|_| is_of_bytes)?;
        let is_spelt = token.chars().all(|c| (0..=u8::MAX).any(|byte| byte_char(byte) == c));
        // Tokens that were added stand as they are.
        Some(if is_spelt { token.chars().count() } else { token.len() })
    }

    /// A text's token ids. The text is taken as a whole, in memory.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer fails on it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = self.inner.encode_fast(text, false).map_err(|e| self.failed(&e))?;
        Ok(encoded.get_ids().to_vec())
    }

    /// The token ids of pieces of texts, on all cores; with each, whether it goes on with a text.
    pub(super) fn encode_pieces(&self, pieces: Vec<(String, bool)>) -> Result<Vec<Vec<u32>>> {
        let Some(rest) = self.rest.as_deref() else {
            return self.encode_batch(&self.inner, pieces.into_iter().map(|(text, _)| text).collect());
        };
        // The space comes before what follows a token that is written out in the text, and before each split of those ahead, too: `rest`
        // is for what is before the first alone.
        let added: Vec<&String> = self.inner.get_added_vocabulary().get_vocab().keys().collect();
        let cut = |(text, goes_on): (String, bool)| {
            let first_added = || added.iter().filter_map(|token| text.find(token.as_str())).min().unwrap_or(text.len());
            let end = if goes_on { first_added().min(rest.first_split(&text)) } else { 0 };
            [text[..end].to_owned(), text[end..].to_owned()]
        };
        let (heads, tails) = pieces.into_iter().map(cut).map(|[head, tail]| (head, tail)).unzip();
        let (mut heads, tails) = (self.encode_batch(&rest.tokenizer, heads)?, self.encode_batch(&self.inner, tails)?);
        heads.iter_mut().zip(tails).for_each(|(head, tail)| head.extend(tail));
        Ok(heads)
    }

    fn encode_batch(&self, inner: &tokenizers::Tokenizer, texts: Vec<String>) -> Result<Vec<Vec<u32>>> {
        let encoded = inner.encode_batch_fast(texts, false).map_err(|e| self.failed(&e))?;
        Ok(encoded.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
    }

    /// The text of token ids, special tokens as they are written. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no token with such an id.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(Error::argument(OP, "ids", "the vocabulary's", id));
        }
        self.inner.decode(ids, false).map_err(|e| self.failed(&e))
    }

    /// Decodes tokens that come one by one, as in generation.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    fn failed(&self, error: &tokenizers::Error) -> Error {
        Error::file(&self.place, format!("the tokenizer failed: {}", quoted(&error.to_string())))
    }
}
