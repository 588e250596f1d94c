//! Where texts come from: files, folders, memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::reader::{BLOCK, Piece, Reader, content_hash};
use crate::data::runs::is_run;
use crate::error::{Error, Result};
use crate::files::expect_regular;
use crate::hash::{absorb, hash_bytes};

/// What in a folder is text, by the ending of its name.
const ENDINGS: [&str; 5] = ["txt", "text", "md", "jsonl", "ndjson"];
/// Of these, lines are JSON.
const JSON_LINES: [&str; 2] = ["jsonl", "ndjson"];
/// Lines of JSON, or one document, or in spite of its name a text: its content tells.
const JSON: &str = "json";
/// Folders within folders that are entered.
const MAX_DEPTH: usize = 64;

/// What of a text is a document. Separators stand between documents, and parts of a held-out text may be whole ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Documents {
    /// Each file.
    #[default]
    Files,
    /// Each line that is not blank, without its end: a sentence, where a file has one a line.
    Lines,
    /// What stands between blank lines.
    Paragraphs,
}

/// How [`Texts`] are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// What of a file is a document; of .jsonl and .ndjson, each line is one.
    pub documents: Documents,
    /// The field of a .jsonl's or .ndjson's lines that holds the text.
    pub field: String,
    /// The longest line of a .jsonl or .ndjson, in bytes. A line is held in memory; other texts are not, however long
    /// their lines are.
    pub max_line: usize,
}

impl Default for TextOptions {
    /// A document is a file, or a line's `text`, and such a line has at most 64 MiB.
    fn default() -> Self {
        TextOptions { documents: Documents::Files, field: "text".to_owned(), max_line: 64 << 20 }
    }
}

/// Texts, of which none is held in memory: UTF-8, read block by block whenever they are needed.
///
/// What cannot be read is an error that names the file and the byte, and of lines of JSON the line: bytes that are not
/// UTF-8, a NUL, broken JSON, a line without the field, a file without a document. Of lines, paragraphs and fields of
/// JSON, blank or empty ones are no documents. A byte-order mark at a file's beginning is no part of its text;
/// everything else is, line ends as they are.
#[derive(Clone, Debug)]
pub struct Texts {
    items: Vec<Item>,
    options: TextOptions,
    /// Where a cache is put by default.
    beside: Option<PathBuf>,
    unused: Vec<String>,
}

/// One text.
#[derive(Clone, Debug)]
struct Item {
    /// What it is called in the folder that was named, the same on all systems.
    name: String,
    place: Place,
    bytes: u64,
}

#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Memory(Arc<[u8]>),
}

impl Item {
    fn path(&self) -> PathBuf {
        match &self.place {
            Place::File(path) => path.clone(),
            Place::Memory(_) => PathBuf::from(&self.name),
        }
    }

    fn bytes(&self) -> Result<Box<dyn Read + Send>> {
        Ok(match &self.place {
            Place::File(path) => Box::new(File::open(path).map_err(|e| Error::io(path, e))?),
            Place::Memory(text) => Box::new(Cursor::new(Arc::clone(text))),
        })
    }

    /// Whether its lines are JSON.
    fn is_json(&self) -> bool {
        JSON_LINES.contains(&ending(Path::new(&self.name)).as_str())
    }

    /// As text, a .json would be learnt with its braces and escapes: one that begins as JSON does is none.
    fn refuse_json(&self) -> Result<()> {
        if ending(Path::new(&self.name)) != JSON {
            return Ok(());
        }
        let mut begin = Vec::new();
        self.bytes()?.take(BLOCK).read_to_end(&mut begin).map_err(|e| Error::io(self.path(), e))?;
        let begin = begin.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&begin);
        if matches!(begin.trim_ascii_start(), [b'{' | b'[', ..]) {
            let what = "is JSON and no text: call it .jsonl if each of its lines is an object with a text field; a \
                        document of JSON is not read";
            return Err(Error::file(self.path(), what));
        }
        Ok(())
    }
}

impl Texts {
    /// The text in a file, or those in a folder and in the folders below it, in the order of their paths: .txt, .text, .md, and
    /// .jsonl and .ndjson, whose lines are JSON. What else is there is told in [`Texts::unused`]; hidden files and
    /// folders, links to folders and folders of runs, which hold texts of their own, are left out; `path` itself may be
    /// one.
    ///
    /// A file that is named is read whatever its ending is, but for a .json that begins, behind white space, with `{`
    /// or `[`.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses, [`Error::File`] if there is no text, or it is such a .json or no regular
    /// file.
    pub fn open(path: impl AsRef<Path>, options: TextOptions) -> Result<Self> {
        Self::open_all(&[path.as_ref().to_owned()], options)
    }

    /// Several files and folders, in this order.
    ///
    /// # Errors
    /// As [`Texts::open`], and [`Error::Argument`] if there is none.
    pub fn open_all(paths: &[PathBuf], options: TextOptions) -> Result<Self> {
        let Some(first) = paths.first() else {
            return Err(Error::argument("data.text", "paths", "at least one", "none"));
        };
        let beside = if first.is_dir() { Some(first.clone()) } else { first.parent().map(Path::to_owned) };
        let mut texts = Texts { items: Vec::new(), options, beside, unused: Vec::new() };
        paths.iter().try_for_each(|path| texts.add(path))?;
        Ok(texts)
    }

    /// Texts in memory, each with a name, whose ending says whether its lines are JSON.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is none, [`Error::File`] for a .json as in [`Texts::open`].
    pub fn from_memory<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>, options: TextOptions) -> Result<Self> {
        let item = |(name, text): (&str, &str)| {
            let (bytes, place) = (text.len() as u64, Place::Memory(text.as_bytes().into()));
            Item { name: name.to_owned(), place, bytes }
        };
        let items: Vec<Item> = texts.into_iter().map(item).collect();
        if items.is_empty() {
            return Err(Error::argument("data.text", "texts", "at least one", "none"));
        }
        items.iter().try_for_each(Item::refuse_json)?;
        Ok(Texts { items, options, beside: None, unused: Vec::new() })
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let about = fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !about.is_dir() {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            return self.add_file(path, name);
        }
        let mut found = Found::default();
        found.walk(path, MAX_DEPTH)?;
        if found.files.is_empty() {
            let known = ENDINGS.map(|ending| format!(".{ending}")).join(", ");
            return Err(Error::file(path, format!("holds no text: no file that ends in {known}")));
        }
        for (kind, count) in found.unused {
            let told = format!("{count} {kind} in {}", path.display());
            log::warn!("not read as text: {told}");
            self.unused.push(told);
        }
        // In the order of the names, which is the same on all systems.
        let name = |file: &Path| {
            let inside = file.strip_prefix(path).unwrap_or(file);
            inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
        };
        let mut files: Vec<(String, PathBuf)> = found.files.into_iter().map(|file| (name(&file), file)).collect();
        files.sort_unstable();
        files.into_iter().try_for_each(|(name, file)| self.add_file(&file, name))
    }

    fn add_file(&mut self, path: &Path, name: String) -> Result<()> {
        let about = fs::metadata(path).map_err(|e| Error::io(path, e))?;
        expect_regular(path, &about)?;
        if about.len() == 0 {
            return Err(Error::file(path, "is empty"));
        }
        let item = Item { name, place: Place::File(path.to_owned()), bytes: about.len() };
        item.refuse_json()?;
        self.items.push(item);
        Ok(())
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of all texts together.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }

    /// Whether lines of JSON are among them, and so [`TextOptions::field`] counts.
    pub fn has_json_lines(&self) -> bool {
        self.items.iter().any(Item::is_json)
    }

    /// In words, what was found and is not read.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// How they are read.
    pub fn options(&self) -> &TextOptions {
        &self.options
    }

    /// As JSON, what of the options decides on the documents.
    pub(super) fn settings(&self) -> String {
        let TextOptions { documents, field, .. } = &self.options;
        serde_json::json!({ "documents": documents, "field": field }).to_string()
    }

    /// The folder of the first one.
    pub(super) fn beside(&self) -> Option<&Path> {
        self.beside.as_deref()
    }

    /// A hash of the names, sizes and contents, for which all of them are read.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(super) fn content(&self) -> Result<Content> {
        let mut content = Content::default();
        for item in &self.items {
            let hash = content_hash(item.bytes()?).map_err(|e| Error::io(item.path(), e))?;
            content.add(&item.name, hash);
        }
        Ok(content)
    }

    /// All pieces of all texts.
    pub(super) fn pieces(&self) -> Pieces<'_> {
        Pieces { texts: self, items: self.items.iter(), reader: None, content: Content::default(), failed: false }
    }
}

/// A hash of texts with their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content(pub(super) u64);

impl Content {
    fn add(&mut self, name: &str, hash: u64) {
        self.0 = absorb(hash_bytes(self.0, name.as_bytes()), hash);
    }
}

/// The pieces of texts, in order. After an error there are no more.
pub(super) struct Pieces<'a> {
    texts: &'a Texts,
    /// Those that are not begun.
    items: std::slice::Iter<'a, Item>,
    reader: Option<(&'a Item, Reader)>,
    content: Content,
    failed: bool,
}

impl Pieces<'_> {
    /// What [`Texts::content`] gives for what was read: in the end, for what all pieces were made of.
    pub(super) fn content(&self) -> Content {
        self.content
    }

    fn advance(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some((item, reader)) = &mut self.reader {
                if let Some(piece) = reader.next()? {
                    return Ok(Some(piece));
                }
                self.content.add(&item.name, reader.hash());
            }
            let Some(item) = self.items.next() else { return Ok(None) };
            let reader = Reader::new(item.bytes()?, item.path(), item.is_json(), &self.texts.options);
            self.reader = Some((item, reader));
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let piece = self.advance().transpose();
        self.failed = piece.as_ref().is_none_or(Result::is_err);
        piece
    }
}

/// What a folder holds.
#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    /// Kinds of what is not read, and how many there are of each.
    unused: BTreeMap<String, usize>,
}

impl Found {
    fn walk(&mut self, folder: &Path, depth: usize) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
            let entry = entry.map_err(|e| Error::io(folder, e))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(|e| Error::io(&path, e))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() && is_run(&path) {
                self.unused("folders of runs".to_owned());
            } else if kind.is_dir() && depth == 0 {
                return Err(Error::file(path, format!("is deeper than {MAX_DEPTH} folders")));
            } else if kind.is_dir() {
                self.walk(&path, depth - 1)?;
            } else if kind.is_symlink() && path.is_dir() {
                self.unused("links to folders".to_owned());
            } else if ENDINGS.contains(&ending(&path).as_str()) {
                self.files.push(path);
            } else {
                self.unused(kind_of(&path));
            }
        }
        Ok(())
    }

    fn unused(&mut self, kind: String) {
        *self.unused.entry(kind).or_default() += 1;
    }
}

/// The ending of a file's name in small letters, without its dot.
fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn kind_of(path: &Path) -> String {
    let ending = ending(path);
    match ending.len() {
        1..=12 if ending.bytes().all(|byte| byte.is_ascii_alphanumeric()) => format!(".{ending}"),
        _ => "other files".to_owned(),
    }
}
