//! A folder of photos with one folder for each class.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::duplicates::{self, first_of_content, hash_bytes};
use super::listing::{Level, Unused, list_pictures};
use super::{Crop, DataSet, Normalization, Split};
use crate::error::{Error, Result};

/// The names of a split's folder, in small letters: those that timm and Ultralytics know.
const SPLITS: [&[&str]; 3] =
    [&["train", "training"], &["val", "valid", "validation", "eval", "evaluation"], &["test", "testing"]];
/// Splits in messages.
const CALLED: [&str; 3] = ["training", "validation", "test"];

/// How [`image_folder`] divides the photos and what may be done with them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FolderOptions {
    /// Share of the training photos that becomes the validation split where the folder has none.
    pub validation: f64,
    /// Share that becomes the test split where the folder has neither test nor validation photos.
    pub test: f64,
    /// Seed of that division.
    pub seed: u64,
    /// Whether a mirrored photo still belongs to its class: not so for signs and writing.
    pub flip: bool,
    /// The share of the resized photo's short side that the model sees, timm's `crop_pct`.
    pub crop_fraction: f64,
}

impl Default for FolderOptions {
    /// 10 % validation, 20 % test, seed 0, mirrored, 0.875.
    fn default() -> Self {
        FolderOptions { validation: 0.1, test: 0.2, seed: 0, flip: true, crop_fraction: 0.875 }
    }
}

/// Photos in folders: `dir/train/CLASS/**` with `dir/val/CLASS/**` and `dir/test/CLASS/**` where there are such, or plain
/// `dir/CLASS/**`. A split's folder may have any of the names that timm and Ultralytics know: `train`, `training`; `val`,
/// `valid`, `validation`, `eval`, `evaluation`; `test`, `testing`; in capitals too.
///
/// A class has the photos in its folder and in all folders below it, as [`list_pictures`] finds them. Photos are in the order
/// of their paths, and classes in the order of their names as text, as torchvision has it: `10` comes before `2`. Names are
/// brought to Unicode's form NFC, so that a folder has the same classes on every file system. Photos are decoded when a
/// loader needs them. What was found and is not used stands in [`DataSet::unused`].
///
/// Splits that have no folder are taken from the training photos, class by class, see [`FolderOptions`]; but a
/// data set that has validation photos of its own and no test photos gets an empty test split. A photo's part
/// follows from the seed, its class and its path within the class's folder: photos that are added or removed leave
/// nearly all others where they are. Photos of a class with the same content stay together; other copies are told in
/// [`DataSet::warnings`] (up to 131,072 photos, since it takes a look at each file).
///
/// # Errors
/// [`Error::Io`] if a folder cannot be read. [`Error::File`] if there is no class, a class has no photo to train on, a class is
/// missing from the training photos, or a split has two folders. [`Error::Argument`] for shares out of range.
pub fn image_folder(dir: impl AsRef<Path>, options: FolderOptions) -> Result<DataSet> {
    let dir = dir.as_ref();
    let mut unused = Unused::default();
    let [train, validation, test] = find_splits(dir, &mut unused)?;
    let class_names: Vec<String> = train.keys().cloned().collect();
    let mut photos = Photos::default();
    let [train_count, validation_count, test_count] =
        [photos.add(train, &class_names)?, photos.add(validation, &class_names)?, photos.add(test, &class_names)?];

    let first = first_of_content(&photos.files);
    let keys = photos.keys(options.seed, &first);
    let all = Split::from_files(photos.files, photos.labels)?;
    let rows = all.rows().to_vec();
    let (train_rows, rest) = rows.split_at(train_count);
    let (validation_rows, test_rows) = rest.split_at(validation_count);
    let validation_share = if validation_count > 0 { 0.0 } else { options.validation };
    let test_share = if validation_count + test_count > 0 { 0.0 } else { options.test };
    let [train, drawn_validation, drawn_test] =
        all.subset(train_rows)?.divide_by_keys(validation_share, test_share, &keys[..train_count])?;
    let validation = if validation_count > 0 { all.subset(validation_rows)? } else { drawn_validation };
    let test = if validation_count + test_count > 0 { all.subset(test_rows)? } else { drawn_test };
    let splits = [&train, &validation, &test];
    Ok(DataSet {
        name: dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned()),
        unused: unused.items(dir),
        warnings: warnings(&all, &splits, &first, dir),
        train,
        validation,
        test,
        class_names,
        normalization: Normalization::IMAGENET,
        train_crop: Crop::Random { fraction: options.crop_fraction },
        eval_crop: Crop::Centre { fraction: options.crop_fraction },
        flip: options.flip,
    })
}

/// Photos by class, in order, each class with its folder.
type Classes = BTreeMap<String, (PathBuf, Vec<PathBuf>)>;

/// The classes of each split; validation and test are empty if they have no folder.
fn find_splits(dir: &Path, unused: &mut Unused) -> Result<[Classes; 3]> {
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
    pictures.iter().for_each(|_| unused.file(dir, "picture outside the class folders"));
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
            let what = format!("class {name} has no images{found}: add some, or remove the folder");
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
        return Err(Error::file(dir, "has no class folders: one for each class is expected, with its images in it"));
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

/// All photos of a data set, training first, then validation and test.
#[derive(Default)]
struct Photos {
    files: Vec<PathBuf>,
    labels: Vec<u32>,
    /// Each one's class and path within the folder of its class, hashed.
    paths: Vec<u64>,
}

impl Photos {
    /// Adds a split's photos and returns their number: a class's label is its place in `class_names`, which is sorted.
    fn add(&mut self, classes: Classes, class_names: &[String]) -> Result<usize> {
        let before = self.files.len();
        for (name, (folder, photos)) in classes {
            let Ok(label) = class_names.binary_search(&name) else {
                return Err(Error::file(folder, format!("class {name} is not among the training classes")));
            };
            self.labels.extend(std::iter::repeat_n(label as u32, photos.len()));
            let inside = |photo: &PathBuf| Path::new(&name).join(photo.strip_prefix(&folder).unwrap_or(photo));
            self.paths.extend(photos.iter().map(|photo| hash_path(&inside(photo))));
            self.files.extend(photos);
        }
        Ok(self.files.len() - before)
    }

    /// The key that decides on each photo's split. Photos of equal content, as `first` tells, have the smallest of theirs.
    fn keys(&self, seed: u64, first: &[u32]) -> Vec<u64> {
        let own = |&path: &u64| hash_bytes(seed, &path.to_le_bytes());
        let mut keys: Vec<u64> = self.paths.iter().map(own).collect();
        for (photo, &first) in first.iter().enumerate() {
            keys[first as usize] = keys[first as usize].min(keys[photo]);
        }
        first.iter().map(|&first| keys[first as usize]).collect()
    }
}

/// The same on every file system: names in Unicode's form NFC, each hashed after the folder's.
fn hash_path(path: &Path) -> u64 {
    let name = |name: &std::ffi::OsStr| name.to_string_lossy().nfc().collect::<String>();
    path.iter().fold(0, |hash, component| hash_bytes(hash, name(component).as_bytes()))
}

/// What of the photos' content is likely to mislead: copies in several classes, or in training and in what is measured.
fn warnings(all: &Split, splits: &[&Split; 3], first: &[u32], dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    if first.len() > duplicates::MOST {
        lines.push(format!("{} pictures are too many to look for copies among them", first.len()));
    }
    let example = |(a, b): (u32, u32)| {
        let inside = |row| all.file(row).map_or(Path::new(""), |file| file.strip_prefix(dir).unwrap_or(file));
        format!("{} and {}", inside(a).display(), inside(b).display())
    };
    let labels = all.labels();
    let in_two: Vec<(u32, u32)> = (0..)
        .zip(first)
        .map(|(row, &first)| (first, row))
        .filter(|&(a, b)| labels[a as usize] != labels[b as usize])
        .collect();
    if let Some(&pair) = in_two.first() {
        lines.push(format!("pictures that are in two classes: {}, such as {}", in_two.len(), example(pair)));
    }
    let trained: BTreeMap<u32, u32> = splits[0].rows().iter().map(|&row| (first[row as usize], row)).collect();
    for (name, split) in CALLED.iter().zip(splits).skip(1) {
        let copies = split.rows().iter().filter_map(|&row| Some((*trained.get(&first[row as usize])?, row)));
        let copies: Vec<(u32, u32)> = copies.collect();
        if let Some(&pair) = copies.first() {
            let (count, example) = (copies.len(), example(pair));
            lines.push(format!(
                "{name} pictures that are trained on too: {count}, such as {example}; their measure is too good"
            ));
        }
    }
    lines
}
