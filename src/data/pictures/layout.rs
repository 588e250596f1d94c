//! Which of a data set's folders holds what: splits, and classes in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::listing::{Level, STRAY, Unused, list_pictures};
use crate::error::{Error, Result};

/// The names of a split's folder, in small letters: those that timm and Ultralytics know.
const SPLITS: [&[&str]; 3] =
    [&["train", "training"], &["val", "valid", "validation", "eval", "evaluation"], &["test", "testing"]];
/// The splits, in their order, as messages have them.
pub(super) const CALLED: [&str; 3] = ["training", "validation", "test"];

/// Photos by class, in order, each class with its folder.
pub(super) type Classes = BTreeMap<String, (PathBuf, Vec<PathBuf>)>;

/// The classes of each split; validation and test are empty if they have no folder.
pub(super) fn find_splits(dir: &Path, unused: &mut Unused) -> Result<[Classes; 3]> {
    let (named, others): (Vec<_>, Vec<_>) =
        folders(dir, unused)?.into_iter().partition(|path| split_of(path).is_some());
    let mut places: [Option<&PathBuf>; 3] = [None; 3];
    if named.iter().any(|path| !is_class(path, &others)) {
        for path in &named {
            let Some(split) = split_of(path) else { continue };
            if let Some(other) = places[split].replace(path) {
                let what =
                    format!("and {} are both {} folders: which is meant is not clear", path.display(), CALLED[split]);
                return Err(Error::file(other, what));
            }
        }
    }
    match places {
        [None, None, None] => {
            let all: Vec<PathBuf> = named.into_iter().chain(others).collect();
            let none = Classes::new;
            Ok([list_classes(dir, all, unused)?, none(), none()])
        }
        [None, ..] => {
            let names: Vec<_> = named.iter().filter_map(|path| path.file_name()).collect();
            Err(Error::file(dir, format!("has {names:?}, but no folder called train with the training pictures")))
        }
        [Some(train), validation, test] => {
            for path in &others {
                let what = match list_pictures(path).pictures.len() {
                    0 => "no split's name".to_owned(),
                    count => format!("{count} pictures, no split's name"),
                };
                unused.folder(path, what);
            }
            let mut list = |path: &PathBuf| {
                let folders = folders(path, unused)?;
                list_classes(path, folders, unused)
            };
            let train = list(train)?;
            let mut given = |path: Option<&PathBuf>| path.map_or_else(|| Ok(Classes::new()), &mut list);
            Ok([train, given(validation)?, given(test)?])
        }
    }
}

/// The split that a folder of this name holds.
fn split_of(path: &Path) -> Option<usize> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    SPLITS.iter().position(|names| names.contains(&name.as_str()))
}

/// Whether a folder with a split's name is a class beside the `others`, such as the trains beside cars and ships: it has pictures
/// of its own and no folders.
fn is_class(path: &Path, others: &[PathBuf]) -> bool {
    let level = Level::read(path, &mut Unused::default());
    let has_pictures = |path: &PathBuf| !list_pictures(path).pictures.is_empty();
    level.is_ok_and(|level| !level.pictures.is_empty() && level.folders.is_empty() && level.links.is_empty())
        && others.iter().any(has_pictures)
}

/// The folders directly in `dir`, which hold classes or splits. Pictures beside them belong to no class.
fn folders(dir: &Path, unused: &mut Unused) -> Result<Vec<PathBuf>> {
    let Level { pictures, mut folders, links } = Level::read(dir, unused)?;
    pictures.iter().for_each(|_| unused.file(dir, STRAY));
    folders.extend(links);
    Ok(folders)
}

/// The classes that have these folders in `dir`.
fn list_classes(dir: &Path, folders: Vec<PathBuf>, unused: &mut Unused) -> Result<Classes> {
    let mut classes = Classes::new();
    for folder in folders {
        let name = folder.file_name().and_then(|name| name.to_str());
        let name: String = name.ok_or_else(|| Error::file(&folder, "the class name is not Unicode"))?.nfc().collect();
        let mut listing = list_pictures(&folder);
        if !listing.errors.is_empty() {
            return Err(listing.errors.swap_remove(0));
        }
        if listing.pictures.is_empty() && !listing.unused.is_runs() {
            let found = match listing.unused.items(&folder).join(", ") {
                none if none.is_empty() => none,
                found => format!(" (but {found})"),
            };
            let what = format!("class {name} has no pictures{found}: add some, or remove the folder");
            return Err(Error::file(folder, what));
        }
        unused.extend(listing.unused);
        if listing.pictures.is_empty() {
            continue;
        }
        check_layout(&folder, &listing.pictures)?;
        if let Some((other, _)) = classes.insert(name, (folder.clone(), listing.pictures)) {
            return Err(Error::file(folder, format!("has the name of {} in another Unicode form", other.display())));
        }
    }
    if classes.is_empty() {
        return Err(Error::file(dir, "has no class folders: one for each class is expected, with its pictures in it"));
    }
    Ok(classes)
}

/// Splits inside a class would all be taken for its pictures, and tested on what was trained on.
fn check_layout(folder: &Path, pictures: &[PathBuf]) -> Result<()> {
    let inside = |picture: &PathBuf| {
        let mut components = picture.strip_prefix(folder).ok()?.components();
        let first = components.next()?;
        components.next().and_then(|_| split_of(Path::new(first.as_os_str())))
    };
    let splits: BTreeSet<usize> = pictures.iter().filter_map(inside).collect();
    if splits.len() < 2 {
        return Ok(());
    }
    let names: Vec<&str> = splits.into_iter().map(|split| CALLED[split]).collect();
    let what = format!("holds {} folders: expected are classes inside the splits, train/CLASS", names.join(" and "));
    Err(Error::file(folder, what))
}
