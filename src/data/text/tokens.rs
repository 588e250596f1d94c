//! All token ids of texts, made once and kept on disk.

use std::fs::File;
use std::io::{self, Write};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use serde::Serialize;

use super::cache::{Header, Layout, VERSION, Writer};
use super::held_out::Rule;
use super::reader::Piece;
use super::{Special, Texts, Tokenizer};
use crate::error::{Error, Result};
use crate::files::{expect_regular, replace_file};
use crate::identity::json;

/// The folder beside the texts that caches are put into by default. It is hidden, and so no text of theirs.
const FOLDER: &str = ".wgrad-tokens";
/// Text that is tokenised together: so many pieces, or so many bytes.
const PIECES: usize = 32;
const BYTES: usize = 1 << 21;

/// Where the token ids of texts are kept from one run to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenCache {
    /// In the folder `.wgrad-tokens` in that of the texts, for all runs to find.
    #[default]
    Beside,
    /// In this folder, which is made if need be.
    Folder(PathBuf),
    /// Nowhere: they are held in memory.
    Memory,
}

/// The token ids of texts, one document behind the other, each with a separator at its end: the tokenizer's [`Special::Eos`], or
/// else its [`Special::Sep`]. They lie in a file that is mapped into memory, so there may be more of them than memory holds.
///
/// A file is used again if it is of the same texts (by names, sizes and a hash of all content), the same tokenizer and the same
/// settings. All of it is checked whenever it is opened; one that is damaged is made again. It is named by a hash of these things,
/// so that files of other texts stay beside it.
#[derive(Clone, Debug)]
pub struct Tokens {
    file: Arc<TokenFile>,
    /// Those of the file's tokens that are meant, in order.
    parts: Arc<[Part]>,
    /// How many they are.
    len: u64,
    /// How they were chosen.
    rules: Vec<Rule>,
}

/// A run of tokens in the file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The place of the first one among those that are meant.
    begin: u64,
    tokens: Range<u64>,
}

/// A checked file.
#[derive(Debug)]
pub(super) struct TokenFile {
    bytes: Bytes,
    layout: Layout,
    header: Header,
    /// For errors.
    path: PathBuf,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Held(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(bytes) => bytes,
            Bytes::Held(bytes) => bytes,
        }
    }
}

impl TokenFile {
    /// Maps and checks a file. `None` where there is none.
    ///
    /// # Errors
    /// [`Error::File`] if it is not as it should be, [`Error::Io`] if the system refuses.
    fn open(path: &Path, header: &Header) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|e| Error::io(path, e))?,
        };
        expect_regular(path, &file.metadata().map_err(|e| Error::io(path, e))?)?;
        // SAFETY: the map must not change while it is read. This crate never writes into such a file: it puts a new one in its
        // place, and the map keeps the old one. Another program that writes into it breaks that; every pattern of bits is a
        // number, and each id is checked when it is read, so what it writes is then another token or an error. If it cuts the file
        // short, the system ends the process at the next read beyond the end.
        let map = unsafe { Mmap::map(&file) };
        let bytes = Bytes::Mapped(map.map_err(|e| Error::io(path, e))?);
        Self::checked(bytes, header, path).map(Some)
    }

    fn checked(bytes: Bytes, header: &Header, path: &Path) -> Result<Self> {
        let layout = Layout::check(&bytes, header).map_err(|what| Error::file(path, what))?;
        Ok(TokenFile { bytes, layout, header: header.clone(), path: path.to_owned() })
    }

    /// The tokens of document number `document` of the file.
    fn document(&self, document: u64) -> Range<u64> {
        let begin = document.checked_sub(1).map_or(0, |before| self.layout.end(&self.bytes, before));
        begin..self.layout.end(&self.bytes, document)
    }

    /// The number of the document that a token is of.
    fn document_of(&self, token: u64) -> u64 {
        let (mut low, mut high) = (0, self.layout.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.layout.end(&self.bytes, middle) <= token { low = middle + 1 } else { high = middle }
        }
        low
    }
}

/// All that decides on token ids. A run's state is tied to it.
#[derive(Serialize)]
struct Identity<'a> {
    /// Of how texts are cut and become ids.
    version: u32,
    tokenizer: &'a str,
    texts: &'a str,
    settings: &'a str,
    separator: u32,
    parts: &'a [Rule],
}

impl Tokens {
    /// The tokens of texts, from the cache if they are there, else made and put there. All texts are read to see whether the cache
    /// is theirs.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer has no separator, a text is broken or changes meanwhile, or there is no document with a
    /// token; [`Error::Io`] if the system refuses; [`Error::Argument`] if texts in memory are to be kept beside themselves.
    pub fn new(texts: &Texts, tokenizer: &Tokenizer, cache: &TokenCache) -> Result<Self> {
        let separator = tokenizer.special(Special::Eos).or_else(|| tokenizer.special(Special::Sep));
        let header = Header {
            tokenizer: tokenizer.identity(),
            texts: format!("{:016x}", texts.content()?.0),
            settings: texts.settings(),
            separator: separator.map_or_else(|| tokenizer.require(Special::Eos), Ok)?,
            vocab_size: tokenizer.vocab_size() as u32,
        };
        let folder = match cache {
            TokenCache::Memory => return Self::held(texts, tokenizer, &header),
            TokenCache::Folder(folder) => folder.clone(),
            TokenCache::Beside => texts.beside().map(|beside| beside.join(FOLDER)).ok_or_else(|| {
                Error::argument("data.tokens", "cache", "a folder, or memory, for texts in memory", "beside")
            })?,
        };
        let path = folder.join(header.file_name());
        match TokenFile::open(&path, &header) {
            Ok(Some(file)) => return Ok(Self::of_file(file)),
            Ok(None) => {}
            Err(error @ Error::File { .. }) => log::warn!("made again: {error}"),
            Err(error) => return Err(error),
        }
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let mut fault = None;
        let written = replace_file(&path, |writer| {
            let content = write(texts, tokenizer, &header, &path, writer);
            content.map_err(|error| {
                fault = Some(error);
                io::Error::other("the tokens could not be made")
            })
        });
        fault.map_or(written, Err)?;
        let gone = || Error::file(&path, "is gone as soon as it was written");
        TokenFile::open(&path, &header)?.ok_or_else(gone).map(Self::of_file)
    }

    fn held(texts: &Texts, tokenizer: &Tokenizer, header: &Header) -> Result<Self> {
        let (path, mut bytes) = (Path::new("tokens in memory"), Vec::new());
        write(texts, tokenizer, header, path, &mut bytes)?;
        TokenFile::checked(Bytes::Held(bytes), header, path).map(Self::of_file)
    }

    fn of_file(file: TokenFile) -> Self {
        let all = 0..file.layout.tokens;
        Tokens { file: Arc::new(file), parts: Arc::new([]), len: 0, rules: Vec::new() }.with_parts([all])
    }

    /// Those in these runs of the file, which are in order and not empty.
    pub(super) fn with_parts(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let (mut parts, mut len) = (Vec::<Part>::new(), 0);
        for tokens in ranges {
            let count = tokens.end - tokens.start;
            match parts.last_mut() {
                Some(last) if last.tokens.end == tokens.start => last.tokens.end = tokens.end,
                _ => parts.push(Part { begin: len, tokens }),
            }
            len += count;
        }
        Tokens { parts: parts.into(), len, ..self.clone() }
    }

    /// One more rule by which they were chosen.
    pub(super) fn chosen_by(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// How many there are, separators among them.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every id is below it: the tokenizer's [`Tokenizer::vocab_size`].
    pub fn vocab_size(&self) -> usize {
        self.file.header.vocab_size as usize
    }

    /// The identity of their tokenizer.
    pub(super) fn tokenizer(&self) -> &str {
        &self.file.header.tokenizer
    }

    /// What stands at each document's end.
    pub fn separator(&self) -> u32 {
        self.file.header.separator
    }

    /// Where the places of each document begin and end, its separator with it. Of documents of which only a part is meant, that
    /// part.
    pub fn documents(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.documents_in_file().map(|(place, tokens)| place..place + (tokens.end - tokens.start))
    }

    /// Each document, or the part of it that is meant: its first place, and its tokens in the file.
    pub(super) fn documents_in_file(&self) -> impl Iterator<Item = (u64, Range<u64>)> + '_ {
        self.parts.iter().flat_map(|Part { begin, tokens }| {
            let first = self.file.document_of(tokens.start);
            let documents = (first..self.file.layout.documents).map(|document| self.file.document(document));
            documents.take_while(|document| document.start < tokens.end).map(move |document| {
                let inside = document.start.max(tokens.start)..document.end.min(tokens.end);
                (begin + (inside.start - tokens.start), inside)
            })
        })
    }

    /// Runs of the file's tokens that the places from `first` to the end are.
    pub(super) fn runs(&self, places: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.parts.partition_point(|part| part.begin <= places.start).saturating_sub(1);
        let of_part = move |part: &Part| {
            let at = |place: u64| part.tokens.start + place.saturating_sub(part.begin);
            let run = at(places.start)..at(places.end).min(part.tokens.end);
            (run.start < run.end).then_some(run)
        };
        self.parts[first..].iter().map_while(of_part)
    }

    /// The bytes of some of the file's tokens.
    pub(super) fn bytes_in_file(&self, tokens: Range<u64>) -> &[u8] {
        self.file.layout.bytes(&self.file.bytes, tokens)
    }

    /// The tokens at some places.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no such places; [`Error::File`] if the file has been changed since it was opened.
    pub fn read(&self, places: Range<u64>) -> Result<Vec<u32>> {
        if places.start > places.end || places.end > self.len {
            let got = format!("{places:?}");
            return Err(Error::argument("data.tokens", "places", format!("within 0..{}", self.len), got));
        }
        let mut ids = Vec::with_capacity((places.end - places.start) as usize);
        for run in self.runs(places) {
            ids.extend(self.file.layout.tokens(&self.file.bytes, run));
        }
        if ids.iter().any(|&id| id >= self.file.header.vocab_size) {
            return Err(Error::file(&self.file.path, "was changed while it was in use"));
        }
        Ok(ids)
    }

    /// As JSON, all that decides on them: tokenizer, texts by their content, how they were read, and which part of them.
    pub fn identity(&self) -> String {
        let Header { tokenizer, texts, settings, separator, .. } = &self.file.header;
        json(&Identity { version: VERSION, tokenizer, texts, settings, separator: *separator, parts: &self.rules })
    }
}

/// Tokenises texts into a file. `path` stands for it in errors.
fn write(texts: &Texts, tokenizer: &Tokenizer, header: &Header, path: &Path, writer: impl Write) -> Result<()> {
    let io = |e| Error::io(path, e);
    let mut writer = Writer::new(writer, header).map_err(io)?;
    let (mut pieces, mut batch, mut bytes) = (texts.pieces(), Vec::<Piece>::new(), 0);
    let (mut ended, mut goes_on) = (Ended::default(), false);
    loop {
        let piece = pieces.next().transpose()?;
        let is_over = piece.is_none();
        bytes += piece.as_ref().map_or(0, |piece| piece.text.len());
        batch.extend(piece);
        if is_over || batch.len() == PIECES || bytes >= BYTES {
            let ends: Vec<bool> = batch.iter().map(|piece| piece.is_last).collect();
            let with_start = |piece: Piece| (piece.text, std::mem::replace(&mut goes_on, !piece.is_last));
            let ids = tokenizer.encode_pieces(batch.drain(..).map(with_start).collect())?;
            for (ids, is_last) in ids.iter().zip(ends) {
                writer.tokens(ids).map_err(io)?;
                if ended.piece(ids.len(), is_last) {
                    writer.end_document().map_err(io)?;
                }
            }
            bytes = 0;
        }
        if is_over {
            break;
        }
    }
    if format!("{:016x}", pieces.content().0) != header.texts {
        return Err(Error::file(path, "is not made: the texts changed while they were read"));
    }
    ended.tell(path)?;
    writer.finish().map_err(io)
}

/// Counts documents as they end.
#[derive(Default)]
struct Ended {
    documents: u64,
    /// Those without a token.
    empty: u64,
    /// Tokens of the present one.
    tokens: usize,
}

impl Ended {
    /// Whether a document with tokens ends with this piece.
    fn piece(&mut self, tokens: usize, is_last: bool) -> bool {
        self.tokens += tokens;
        if !is_last {
            return false;
        }
        let is_empty = std::mem::take(&mut self.tokens) == 0;
        self.documents += u64::from(!is_empty);
        self.empty += u64::from(is_empty);
        !is_empty
    }

    fn tell(&self, path: &Path) -> Result<()> {
        if self.documents == 0 {
            return Err(Error::file(path, "is not made: the texts have no token"));
        }
        if self.empty > 0 {
            log::warn!(
                "documents without a token, which are left out: {} of {}",
                self.empty,
                self.empty + self.documents
            );
        }
        Ok(())
    }
}
