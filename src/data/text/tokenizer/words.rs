//! Which tokens go on with the word before them.

use std::collections::BTreeMap;

use super::Tokenizer;
use super::describe::byte_char;

/// How a vocabulary marks words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks<'a> {
    /// WordPiece: a token that goes on with a word begins with this, `##` in BERT's vocabularies.
    Continuing(&'a str),
    /// Byte-level: a token that begins with white space begins a word, and so does the one behind white space.
    Spaces,
    /// In a way that is not known here.
    Unknown,
}

/// What is known of a vocabulary's tokens by id.
#[derive(Debug)]
pub(in crate::data::text) struct Words {
    /// Whether it is known how words are marked.
    pub(in crate::data::text) are_marked: bool,
    /// Whether it goes on with the word before it, if that is open.
    continues: Vec<bool>,
    /// Whether the word may go on behind it.
    is_open: Vec<bool>,
    /// Whether it stands for text.
    is_text: Vec<bool>,
    /// Those that do, ascending.
    pub(in crate::data::text) ordinary: Vec<u32>,
}

impl Words {
    pub(in crate::data::text) fn new(tokenizer: &Tokenizer) -> Self {
        let bytes: BTreeMap<char, u8> = (0..=u8::MAX).map(|byte| (byte_char(byte), byte)).collect();
        let marks = match (tokenizer.inner.get_model(), tokenizer.inner.get_decoder()) {
            (tokenizers::ModelWrapper::WordPiece(model), _) => match model.continuing_subword_prefix.as_str() {
                "" => Marks::Unknown,
                prefix => Marks::Continuing(prefix),
            },
            (_, Some(tokenizers::DecoderWrapper::ByteLevel(_))) => Marks::Spaces,
            _ => Marks::Unknown,
        };
        let size = tokenizer.vocab_size();
        let mut words = Words {
            are_marked: marks != Marks::Unknown,
            continues: vec![false; size],
            is_open: vec![false; size],
            is_text: vec![false; size],
            ordinary: Vec::new(),
        };
        for id in (0..size as u32).filter(|&id| !tokenizer.is_special(id)) {
            let Some(token) = tokenizer.token(id) else { continue };
            words.ordinary.push(id);
            words.is_text[id as usize] = true;
            let (begins, ends) = match marks {
                Marks::Continuing(prefix) => (!token.starts_with(prefix), false),
                Marks::Spaces | Marks::Unknown => {
                    let is_space = |c: Option<char>| c.and_then(|c| bytes.get(&c)).is_some_and(u8::is_ascii_whitespace);
                    (is_space(token.chars().next()), is_space(token.chars().next_back()))
                }
            };
            words.continues[id as usize] = !begins;
            words.is_open[id as usize] = !ends;
        }
        words
    }

    pub(in crate::data::text) fn is_text(&self, id: u32) -> bool {
        of(&self.is_text, id)
    }

    /// Whether `id` belongs to the word of the token `before` it.
    pub(in crate::data::text) fn is_one_word(&self, before: u32, id: u32) -> bool {
        of(&self.is_open, before) && of(&self.continues, id)
    }
}

fn of(table: &[bool], id: u32) -> bool {
    table.get(id as usize).copied().unwrap_or(false)
}
