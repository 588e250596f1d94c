//! Texts in pieces: files of any size, read block by block.

use std::io::Read;
use std::path::PathBuf;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{Documents, TextOptions};
use crate::error::{Error, Result};
use crate::files::{position, quoted};
use crate::hash::hash_bytes;

/// Bytes that are read at a time.
pub(super) const BLOCK: u64 = 1 << 16;
/// The longest piece of a document, in bytes.
const PIECE: usize = 1 << 18;

/// A document, or the next part of one.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    /// Whether the document ends with it.
    pub(super) is_last: bool,
}

/// A text that is handed out piece by piece. It is copied as it goes, since cutting it up at once would hold it many times over.
struct Ready {
    text: String,
    /// Where in it the next piece begins.
    start: usize,
    /// Whether the document ends with it.
    is_last: bool,
}

impl Ready {
    /// Its next piece, and what is left of it.
    fn next(mut self) -> (Piece, Option<Self>) {
        let rest = &self.text[self.start..];
        if rest.len() > PIECE {
            let text = rest[..cut(rest)].to_owned();
            self.start += text.len();
            return (Piece { text, is_last: false }, Some(self));
        }
        let text = if self.start == 0 { self.text } else { rest.to_owned() };
        (Piece { text, is_last: self.is_last }, None)
    }
}

/// One text's pieces, in order.
pub(super) struct Reader {
    bytes: Box<dyn Read + Send>,
    /// For errors.
    path: PathBuf,
    split: Split,
    /// What has been read, is valid, and has not been handed out from `start` on.
    pending: String,
    start: usize,
    /// Where in it the present line begins, and up to where its end has been looked for.
    line: usize,
    seen: usize,
    /// The first bytes of a character whose others are not read yet.
    partial: Vec<u8>,
    /// The byte in the file at which `pending` begins.
    at: u64,
    ended: bool,
    /// Whether a part of the present document has been handed out.
    is_open: bool,
    /// What is to be handed out before anything else.
    ready: Option<Ready>,
    documents: u64,
    /// What [`content_hash`] gives for what has been read, in the end the whole text.
    hash: u64,
}

/// Where documents end.
enum Split {
    Nowhere,
    Lines,
    BlankLines,
    /// Each line is JSON.
    Json {
        field: String,
        max_line: usize,
        /// Lines so far.
        line: u64,
    },
}

impl Reader {
    pub(super) fn new(bytes: Box<dyn Read + Send>, path: PathBuf, is_json: bool, options: &TextOptions) -> Self {
        let split = match options.documents {
            _ if is_json => Split::Json { field: options.field.clone(), max_line: options.max_line, line: 0 },
            Documents::Files => Split::Nowhere,
            Documents::Lines => Split::Lines,
            Documents::Paragraphs => Split::BlankLines,
        };
        let (pending, partial, ready) = (String::new(), Vec::new(), None);
        let (start, line, seen, at, documents, hash) = (0, 0, 0, 0, 0, 0);
        let (ended, is_open) = (false, false);
        Reader { bytes, path, split, pending, start, line, seen, partial, at, ended, is_open, ready, documents, hash }
    }

    /// The hash of the text, once all pieces were handed out.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The next piece; `None` after the last one.
    ///
    /// # Errors
    /// [`Error::File`] if the text is not UTF-8, holds a NUL, no document, or a line of JSON that is broken or too long;
    /// [`Error::Io`] if the system refuses.
    pub(super) fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(ready) = self.ready.take() {
                let (piece, left) = ready.next();
                self.ready = left;
                self.documents += u64::from(!self.is_open);
                self.is_open = !piece.is_last;
                return Ok(Some(piece));
            }
            self.split_pending()?;
            if self.ready.is_some() {
                continue;
            }
            if !self.ended {
                self.read_block()?;
            } else if self.documents == 0 {
                let what = if self.at == 0 && self.pending.is_empty() { "is empty" } else { "holds no document" };
                return Err(Error::file(&self.path, what));
            } else {
                return Ok(None);
            }
        }
    }

    fn fault(&self, offset: u64, what: impl Into<String>) -> Error {
        Error::File { path: self.path.clone(), offset: Some(offset), what: what.into() }
    }

    /// Reads on. Texts begin without the mark (U+FEFF) that some programs put before them.
    fn read_block(&mut self) -> Result<()> {
        self.at += self.start as u64;
        self.pending.drain(..self.start);
        (self.line, self.seen) = (self.line - self.start, self.seen - self.start);
        self.start = 0;
        let mut block = Vec::new();
        self.bytes.by_ref().take(BLOCK).read_to_end(&mut block).map_err(|e| Error::io(&self.path, e))?;
        self.ended = block.is_empty();
        if !self.ended {
            self.hash = hash_bytes(self.hash, &block);
        }
        let begins = self.at == 0 && self.pending.is_empty();
        let at = self.at + self.pending.len() as u64;
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend(block);
        if let Some(nul) = bytes.iter().position(|&byte| byte == 0) {
            return Err(self.fault(at + nul as u64, "is no text: there is a NUL"));
        }
        let valid = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            // Cut within a character, which the next block ends.
            Err(e) if e.error_len().is_none() && !self.ended => e.valid_up_to(),
            Err(e) => return Err(self.fault(at + e.valid_up_to() as u64, "is not UTF-8")),
        };
        self.partial = bytes.split_off(valid);
        let text = String::from_utf8(bytes).map_err(|_| self.fault(at, "is not UTF-8"))?;
        self.pending.push_str(&text);
        if begins && self.pending.starts_with('\u{feff}') {
            let text = '\u{feff}'.len_utf8();
            (self.start, self.line, self.seen) = (text, text, text);
        }
        Ok(())
    }

    /// Moves what is whole from `pending` to `ready`.
    fn split_pending(&mut self) -> Result<()> {
        while let Some(newline) = self.pending[self.seen..].find('\n') {
            let end = self.seen + newline;
            self.seen = end + 1;
            self.end_line(end)?;
            if self.ready.is_some() {
                return Ok(());
            }
        }
        let end = self.pending.len();
        self.seen = end;
        if self.ended && self.line < end {
            self.end_line(end)?;
        }
        if self.ended && self.start < end {
            self.end_document(end);
        }
        self.cut_long()
    }

    /// A line ends at `end`, and the next one begins where was looked up to.
    fn end_line(&mut self, end: usize) -> Result<()> {
        let begin = std::mem::replace(&mut self.line, self.seen);
        match self.split {
            Split::Nowhere => return Ok(()),
            Split::Lines => self.end_document(end),
            Split::BlankLines => {
                // Behind a cut, a line's rest says nothing about the line.
                let is_rest = self.is_open && begin == self.start;
                if is_rest || !self.pending[begin..end].trim().is_empty() {
                    return Ok(());
                }
                self.end_document(begin);
            }
            Split::Json { .. } => self.json(end)?,
        }
        self.start = self.seen;
        Ok(())
    }

    /// What is pending up to `end` is the rest of a document. Of lines, the last one's end is no part of it, and blank ones are
    /// no document.
    fn end_document(&mut self, end: usize) {
        let mut text = &self.pending[self.start..end];
        if !matches!(self.split, Split::Nowhere) {
            text = text.strip_suffix('\n').unwrap_or(text);
            text = text.strip_suffix('\r').unwrap_or(text);
            if !self.is_open && text.trim().is_empty() {
                text = "";
            }
        }
        if self.is_open || !text.is_empty() {
            self.hand_out(text.to_owned());
        }
        self.start = end;
    }

    /// Hands the rest of a document out, in pieces.
    fn hand_out(&mut self, text: String) {
        self.ready = Some(Ready { text, start: 0, is_last: true });
    }

    /// Hands out a part of what is pending, if that is long.
    fn cut_long(&mut self) -> Result<()> {
        if let Split::Json { max_line, line, .. } = self.split {
            if self.pending.len() - self.start > max_line {
                let what = format!("line {} is longer than {max_line} bytes (TextOptions::max_line)", line + 1);
                return Err(self.fault(self.at + self.start as u64, what));
            }
            return Ok(());
        }
        if self.pending.len() - self.start > PIECE {
            let end = self.start + cut(&self.pending[self.start..]);
            let text = self.pending[self.start..end].to_owned();
            self.ready = Some(Ready { text, start: 0, is_last: false });
            self.start = end;
            self.line = self.line.max(end);
        }
        Ok(())
    }

    /// The text of a line of JSON. Blank lines are none, and neither are empty texts.
    fn json(&mut self, end: usize) -> Result<()> {
        let Split::Json { field, max_line, line } = &mut self.split else { return Ok(()) };
        *line += 1;
        let (text, begin, number) = (&self.pending[self.start..end], self.at + self.start as u64, *line);
        if text.len() > *max_line {
            let what = format!("line {number} is longer than {max_line} bytes (TextOptions::max_line)");
            return Err(self.fault(begin, what));
        }
        if text.trim().is_empty() {
            return Ok(());
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let found = Field(field).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
        let found = found.map_err(|e| {
            let at = begin + position(text.as_bytes(), &e) as u64;
            self.fault(at, format!("line {number}: {}", quoted(&e.to_string())))
        })?;
        if found.contains('\0') {
            return Err(self.fault(begin, format!("line {number} is no text: there is a NUL")));
        }
        if !found.is_empty() {
            self.hand_out(found);
        }
        Ok(())
    }
}

/// Where a long text is cut: near the end of its first [`PIECE`] bytes, so that a tokenizer makes of the parts what it makes of
/// the whole. GPT-2's and BERT's patterns, and those of their kin, begin a token with one space between a word and another;
/// and a tokenizer that puts a space before a text (`add_prefix_space`) puts none before such a part. Where there is none such,
/// they end a token before a line's end that follows a letter or digit and has no more white space behind it; and where there is
/// none of these either, GPT-2 and BERT do before other white space.
fn cut(text: &str) -> usize {
    let limit = text.floor_char_boundary(PIECE);
    let head = &text[..limit];
    let before = |at: usize| text[..at].chars().next_back().unwrap_or(' ');
    let behind = |at: usize| text[at..].chars().nth(1).unwrap_or(' ');
    let follows_word = |at: usize| at > 0 && before(at).is_alphanumeric();
    let mut spaces = head.rmatch_indices(' ').map(|(at, _)| at);
    let mut line_ends = head.rmatch_indices('\n').map(|(at, _)| at);
    let mut others = head.rmatch_indices(char::is_whitespace).map(|(at, _)| at);
    (spaces.find(|&at| follows_word(at) && behind(at).is_alphabetic()))
        .or_else(|| line_ends.find(|&at| follows_word(at) && !behind(at).is_whitespace()))
        .or_else(|| others.find(|&at| at > 0 && !before(at).is_whitespace()))
        .unwrap_or(limit)
}

/// Reads one field's text of an object.
struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an object with the text field {:?}", self.0)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<String, M::Error> {
        let mut text = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != self.0 {
                map.next_value::<IgnoredAny>()?;
            } else if text.replace(map.next_value::<String>()?).is_some() {
                return Err(M::Error::custom(format!("the field {key:?} is there twice")));
            }
        }
        text.ok_or_else(|| M::Error::custom(format!("there is no field {:?}", self.0)))
    }
}

/// The hash of all bytes, however they come.
///
/// # Errors
/// The reader's.
pub(super) fn content_hash(mut bytes: impl Read) -> std::io::Result<u64> {
    let (mut hash, mut block) = (0, Vec::new());
    loop {
        block.clear();
        match bytes.by_ref().take(BLOCK).read_to_end(&mut block)? {
            0 => return Ok(hash),
            _ => hash = hash_bytes(hash, &block),
        }
    }
}
