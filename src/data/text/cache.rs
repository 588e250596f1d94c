//! The file that holds the token ids of texts.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `wgradtok` |
//! | 4, 4 | the format's version; the header's length |
//! | … | the header, JSON ([`Header`]), filled up with spaces to a multiple of 8 |
//! | 2 or 4 each | the token ids, filled up with zeros to a multiple of 8 |
//! | 8 each | for each document, the number of tokens up to its end |
//! | 8, 8 | how many tokens; how many documents |
//! | 8 | the hash of all before, in blocks of 64 KiB |
//!
//! Numbers are little-endian. What is counted comes last, so that the file can be written as the texts are read.

use std::io::{self, Seek, Write};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use tempfile::SpooledTempFile;

use super::reader::BLOCK;
use crate::hash::hash_bytes;
use crate::identity::json;

const MAGIC: &[u8; 8] = b"wgradtok";
/// Of the file, and of how texts are cut and become ids.
pub(super) const VERSION: u32 = 2;
/// Bytes before the header, and behind the documents.
const PREFIX: usize = 16;
const FOOTER: usize = 24;
/// So many bytes of documents' ends are held in memory while a file is written, others on disk.
const MOST_ENDS: usize = 1 << 22;

/// What decides on the token ids. A file is used for these alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// [`super::Tokenizer::identity`].
    pub(super) tokenizer: String,
    /// A hash of the texts' names, sizes and contents.
    pub(super) texts: String,
    /// How the texts are read.
    pub(super) settings: String,
    /// What stands at the end of each document.
    pub(super) separator: u32,
    /// Every id is below it.
    pub(super) vocab_size: u32,
}

impl Header {
    fn to_json(&self) -> String {
        json(self)
    }

    /// What a file of it is called.
    pub(super) fn file_name(&self) -> String {
        format!("{:016x}.tokens", hash_bytes(VERSION.into(), self.to_json().as_bytes()))
    }

    /// Bytes of an id.
    fn width(&self) -> usize {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }
}

/// Writes a file as its tokens come.
pub(super) struct Writer<W: Write> {
    inner: Hashed<W>,
    width: usize,
    separator: u32,
    ends: SpooledTempFile,
    tokens: u64,
    documents: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(writer: W, header: &Header) -> io::Result<Self> {
        let mut inner = Hashed { inner: writer, block: Vec::new(), hash: 0 };
        let mut json = header.to_json();
        json.push_str(&" ".repeat(json.len().next_multiple_of(8) - json.len()));
        inner.write_all(MAGIC)?;
        inner.write_all(&VERSION.to_le_bytes())?;
        inner.write_all(&(json.len() as u32).to_le_bytes())?;
        inner.write_all(json.as_bytes())?;
        let ends = SpooledTempFile::new(MOST_ENDS);
        let (width, separator) = (header.width(), header.separator);
        Ok(Writer { inner, width, separator, ends, tokens: 0, documents: 0 })
    }

    /// More of the present document.
    pub(super) fn tokens(&mut self, ids: &[u32]) -> io::Result<()> {
        self.tokens += ids.len() as u64;
        ids.iter().try_for_each(|id| self.inner.write_all(&id.to_le_bytes()[..self.width]))
    }

    pub(super) fn end_document(&mut self) -> io::Result<()> {
        self.tokens(&[self.separator])?;
        self.documents += 1;
        self.ends.write_all(&self.tokens.to_le_bytes())
    }

    /// What stands behind the tokens.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let bytes = self.tokens as usize * self.width;
        self.inner.write_all(&[0; 8][..bytes.next_multiple_of(8) - bytes])?;
        self.ends.rewind()?;
        io::copy(&mut self.ends, &mut self.inner)?;
        self.inner.write_all(&self.tokens.to_le_bytes())?;
        self.inner.write_all(&self.documents.to_le_bytes())?;
        self.inner.finish()
    }
}

/// Hashes what is written, in blocks.
struct Hashed<W> {
    inner: W,
    block: Vec<u8>,
    hash: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = bytes.len().min(BLOCK as usize - self.block.len());
        self.block.extend_from_slice(&bytes[..now]);
        if self.block.len() == BLOCK as usize {
            self.end_block()?;
        }
        Ok(now)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Hashed<W> {
    fn end_block(&mut self) -> io::Result<()> {
        self.inner.write_all(&self.block)?;
        self.hash = hash_bytes(self.hash, &self.block);
        self.block.clear();
        Ok(())
    }

    /// The hash comes last.
    fn finish(mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        self.inner.write_all(&self.hash.to_le_bytes())
    }
}

/// Where in a file's bytes is what.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    first_token: usize,
    width: usize,
    pub(super) tokens: u64,
    first_end: usize,
    pub(super) documents: u64,
}

impl Layout {
    /// Looks through a whole file, which must be what `header` says.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub(super) fn check(bytes: &[u8], header: &Header) -> Result<Self, String> {
        let layout = Self::find(bytes, header)?;
        let (body, hash) = bytes.split_at(bytes.len() - 8);
        if body.chunks(BLOCK as usize).fold(0, hash_bytes) != number(hash) {
            return Err("its content is not what was written".to_owned());
        }
        layout.check_documents(bytes)?;
        let ids = &bytes[layout.first_token..][..layout.tokens as usize * layout.width];
        match ids.chunks_exact(layout.width).map(id).position(|id| id >= header.vocab_size) {
            Some(at) => Err(format!("token {at} is beyond the vocabulary of {}", header.vocab_size)),
            None => Ok(layout),
        }
    }

    /// Where things are, if the file is as long as it says.
    fn find(bytes: &[u8], header: &Header) -> Result<Self, String> {
        let cut = || "it is cut short".to_owned();
        let start = bytes.get(..PREFIX).ok_or_else(cut)?;
        if &start[..8] != MAGIC {
            return Err("it holds no tokens".to_owned());
        }
        let version = id(&start[8..12]);
        if version != VERSION {
            return Err(format!("it is of version {version}, not {VERSION}"));
        }
        let first_token = PREFIX + id(&start[12..]) as usize;
        let json = bytes.get(PREFIX..first_token).ok_or_else(cut)?;
        let saved: Header = serde_json::from_slice(json).map_err(|e| format!("its header: {e}"))?;
        if saved != *header {
            return Err("it is of other texts, another tokenizer or other settings".to_owned());
        }
        let footer = bytes.len().checked_sub(FOOTER).filter(|&at| at >= first_token).ok_or_else(cut)?;
        let [tokens, documents] = [0, 8].map(|at| number(&bytes[footer + at..][..8]));
        let width = header.width();
        let end_of = |first: usize, count: u64, width: usize| {
            usize::try_from(count).ok()?.checked_mul(width)?.checked_add(first)?.checked_next_multiple_of(8)
        };
        let first_end = end_of(first_token, tokens, width);
        let end = first_end.and_then(|first| end_of(first, documents, 8));
        match first_end.filter(|_| end == Some(footer)) {
            Some(first_end) => Ok(Layout { first_token, width, tokens, first_end, documents }),
            None => Err("its length is not what it says: it is cut short or damaged".to_owned()),
        }
    }

    /// Whether each document has tokens, and all of them together have all.
    fn check_documents(&self, bytes: &[u8]) -> Result<(), String> {
        let mut before = 0;
        for document in 0..self.documents {
            let end = self.end(bytes, document);
            if end <= before {
                return Err(format!("document {document} ends before it begins"));
            }
            before = end;
        }
        if before == self.tokens { Ok(()) } else { Err("its documents do not have all of its tokens".to_owned()) }
    }

    /// Up to where in the tokens a document goes, which is one of the file's.
    pub(super) fn end(&self, bytes: &[u8], document: u64) -> u64 {
        number(&bytes[self.first_end + document as usize * 8..][..8])
    }

    /// The bytes of tokens, of which the file has as many.
    pub(super) fn bytes<'a>(&self, bytes: &'a [u8], tokens: Range<u64>) -> &'a [u8] {
        let at = |token: u64| self.first_token + token as usize * self.width;
        &bytes[at(tokens.start)..at(tokens.end)]
    }

    /// Tokens, of which the file has as many.
    pub(super) fn tokens<'a>(&self, bytes: &'a [u8], tokens: Range<u64>) -> impl Iterator<Item = u32> + use<'a> {
        self.bytes(bytes, tokens).chunks_exact(self.width).map(id)
    }
}

/// A number of at most four bytes.
fn id(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte))
}

/// A number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
