//! Text from tokens that come one by one.

use super::Tokenizer;
use crate::error::Result;

/// So many tokens are decoded together, before older ones are forgotten.
const WINDOW: usize = 64;
/// What stands for bytes that are no character, or not yet.
const REPLACEMENT: char = '\u{fffd}';

/// Decodes as tokens come: what [`Tokenizer::decode`] gives for all of them, in parts. A character whose bytes are spread over
/// several tokens comes with the last of these.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last tokens: those that are not written out yet, and some before them.
    ids: Vec<u32>,
    /// Bytes of their text that are written out.
    written: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        TextStream { tokenizer, ids: Vec::new(), written: 0 }
    }

    /// The text that is certain with one more token; may be empty.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids).inspect_err(|_| _ = self.ids.pop())?;
        // An incomplete character shows as one replacement at the end, and nothing else of the text can change any more.
        let certain = text.strip_suffix(REPLACEMENT).unwrap_or(&text).len();
        let new = text.get(self.written..certain).unwrap_or_default().to_owned();
        self.written = self.written.max(certain);
        if certain == text.len() && self.ids.len() >= WINDOW {
            // The last one stays, since a word's place in the text decides on its spaces.
            self.ids.drain(..self.ids.len() - 1);
            self.written = self.tokenizer.decode(&self.ids)?.len();
        }
        Ok(new)
    }

    /// The rest: a replacement character where the last token ended within a character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(self.written..).unwrap_or_default().to_owned())
    }
}
