//! What a folder holds: one rule for training and for predictions, and no file passed over in silence.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use super::image::is_image_name;
use crate::data::runs::is_run;
use crate::error::{Error, Result};

/// Pictures of kinds that are not read, though other programs show them.
const CONVERTIBLE: [&str; 20] = [
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".exr", ".hdr", ".dds", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef",
];
/// A picture that belongs to no class.
pub(super) const STRAY: &str = "stray picture";
/// Why such a folder is not entered.
const RUN: &str = "a run's";
/// So many kinds and folders are named each; the others are counted.
const NAMED: usize = 8;

/// The pictures in a folder and in the folders below it, and what else is there.
#[derive(Debug, Default)]
pub struct Listing {
    /// Files named like pictures that are read, in the order of their paths.
    pub pictures: Vec<PathBuf>,
    /// What was found and is not used.
    pub unused: Unused,
    /// Folders that could not be read.
    pub errors: Vec<Error>,
}

/// What was found in a folder and is not used.
#[derive(Debug, Default)]
pub struct Unused {
    /// Kinds of files; of each, the folders that hold such files, and how many.
    files: BTreeMap<String, BTreeMap<PathBuf, usize>>,
    /// Folders that were not entered, and why.
    folders: BTreeMap<PathBuf, String>,
}

/// Lists the pictures in `dir` and in all folders below it.
///
/// Links to folders are followed, but no folder is entered twice, so links may lead in a circle. What is hidden (a name that
/// begins with a dot) is left out, and so are folders of runs, which hold pictures of their own; `dir` itself may be one.
/// Whether a picture can be read shows only when it is.
pub fn list_pictures(dir: impl AsRef<Path>) -> Listing {
    let mut listing = Listing::default();
    // Real folders first: if a link leads to one of them, it is the link that is left out.
    let mut folders = VecDeque::from([dir.as_ref().to_owned()]);
    let mut entered: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    while let Some(folder) = folders.pop_front() {
        let real = fs::canonicalize(&folder).unwrap_or_else(|_| folder.clone());
        if let Some(first) = entered.get(&real) {
            listing.unused.folder(&folder, format!("the same folder as {}", inside(Path::new(""), first)));
            continue;
        }
        entered.insert(real, folder.clone());
        match Level::read(&folder, &mut listing.unused) {
            Ok(level) => {
                listing.pictures.extend(level.pictures);
                level.folders.into_iter().rev().for_each(|path| folders.push_front(path));
                folders.extend(level.links);
            }
            Err(error) => listing.errors.push(error),
        }
    }
    listing.pictures.sort_unstable();
    listing
}

/// What lies directly in a folder, each in the order of the names.
pub(super) struct Level {
    pub(super) pictures: Vec<PathBuf>,
    pub(super) folders: Vec<PathBuf>,
    /// Links to folders.
    pub(super) links: Vec<PathBuf>,
}

impl Level {
    /// What is left out goes to `unused`.
    pub(super) fn read(dir: &Path, unused: &mut Unused) -> Result<Self> {
        let entries = fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(|e| Error::io(dir, e))?;
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        let mut level = Level { pictures: Vec::new(), folders: Vec::new(), links: Vec::new() };
        for entry in entries {
            let path = entry.path();
            let kind = entry.file_type().map_err(|e| Error::io(&path, e))?;
            let target = if kind.is_symlink() { fs::metadata(&path).map(|about| about.file_type()) } else { Ok(kind) };
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            match target {
                Err(_) => unused.file(dir, "broken link"),
                Ok(target) if target.is_dir() => {
                    if is_hidden {
                        unused.folder(&path, "hidden");
                    } else if is_run(&path) {
                        unused.folder(&path, RUN);
                    } else if kind.is_symlink() {
                        level.links.push(path);
                    } else {
                        level.folders.push(path);
                    }
                }
                Ok(_) if is_hidden => {
                    // What the system and editors keep there is no picture of the user's.
                    if is_image_name(&path) {
                        unused.file(dir, "hidden picture");
                    }
                }
                Ok(target) if !target.is_file() => unused.file(dir, "special file"),
                Ok(_) if is_image_name(&path) => level.pictures.push(path),
                Ok(_) => unused.file(dir, &kind_of(&path)),
            }
        }
        Ok(level)
    }
}

/// The ending of a file's name in small letters, with its dot. Names are anyone's: what would not do in a message is not shown.
fn kind_of(path: &Path) -> String {
    let Some(extension) = path.extension() else { return "extensionless file".to_owned() };
    let is_plain = |text: &&str| text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match extension.to_str().filter(is_plain) {
        Some(extension) => format!(".{}", extension.to_lowercase()),
        None => "other file".to_owned(),
    }
}

impl Unused {
    /// One more file of this kind in `folder`.
    pub(super) fn file(&mut self, folder: &Path, kind: &str) {
        *self.files.entry(kind.to_owned()).or_default().entry(folder.to_owned()).or_default() += 1;
    }

    pub(super) fn folder(&mut self, folder: &Path, why: impl Into<String>) {
        self.folders.insert(folder.to_owned(), why.into());
    }

    pub(super) fn extend(&mut self, other: Unused) {
        for (kind, folders) in other.files {
            let counts = self.files.entry(kind).or_default();
            folders.into_iter().for_each(|(folder, count)| *counts.entry(folder).or_default() += count);
        }
        self.folders.extend(other.folders);
    }

    /// Whether there is nothing but folders of runs: what remains where a run was written beside the pictures.
    pub(super) fn is_runs(&self) -> bool {
        self.files.is_empty() && !self.folders.is_empty() && self.folders.values().all(|why| why == RUN)
    }

    /// In words, an item for each kind of file and each folder, with paths as seen from `root`: `60 .heic in cat (convert
    /// them to JPEG or PNG)`. Empty where all was used.
    pub fn items(&self, root: &Path) -> Vec<String> {
        let mut items: Vec<String> =
            self.files.iter().take(NAMED).map(|(kind, folders)| files(root, kind, folders)).collect();
        let more = self.files.len().saturating_sub(NAMED);
        items.extend((more > 0).then(|| format!("files of {more} more kinds")));
        items.extend(
            self.folders.iter().take(NAMED).map(|(path, why)| format!("folder {} ({why})", inside(root, path))),
        );
        let more = self.folders.len().saturating_sub(NAMED);
        items.extend((more > 0).then(|| format!("{more} more folders")));
        items
    }
}

/// Files of one kind, in words.
fn files(root: &Path, kind: &str, folders: &BTreeMap<PathBuf, usize>) -> String {
    let count: usize = folders.values().sum();
    let plural = if kind.starts_with('.') || count == 1 { "" } else { "s" };
    let place = match folders.keys().next() {
        Some(folder) if folders.len() == 1 && folder == root => String::new(),
        Some(folder) if folders.len() == 1 => format!(" in {}", inside(root, folder)),
        _ => format!(" in {} folders", folders.len()),
    };
    let why = match kind {
        STRAY => " (outside the class folders)",
        _ if CONVERTIBLE.contains(&kind) => " (not read: convert them to JPEG or PNG)",
        _ => "",
    };
    format!("{count} {kind}{plural}{place}{why}")
}

/// A path as seen from `root`, without control characters, which might command a terminal.
pub(super) fn inside(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path).display().to_string();
    path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
