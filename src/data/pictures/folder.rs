//! A folder of photos with one folder for each class.

use std::ops::Range;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::duplicates::{first_of_content, tell_copies};
use super::layout::{Classes, find_splits};
use super::listing::Unused;
use super::{Crop, DataSet, Split};
use crate::error::{Error, Result};
use crate::hash::hash_bytes;
use crate::normalize::Normalize;
use crate::preprocess::Interpolation;

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
/// A class has the photos in its folder and in all folders below it, as [`super::list_pictures`] finds them. Photos are in
/// the order of their paths, and classes in the order of their names as text, as torchvision has it: `10` comes before `2`.
/// Names are brought to Unicode's form NFC, so that a folder has the same classes on every file system. Photos are decoded
/// when a loader needs them. What was found and is not used stands in [`DataSet::unused`].
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
    let train_rows = photos.add(train, &class_names)?;
    let validation_rows = photos.add(validation, &class_names)?;
    let test_rows = photos.add(test, &class_names)?;
    let has_validation = !validation_rows.is_empty();
    let has_test = has_validation || !test_rows.is_empty();

    let Photos { files, labels, paths } = photos;
    // One store, so that a row is the same photo in all splits.
    let all = Split::from_files(files, labels)?.with_class_names(&class_names);
    let first = first_of_content(&all);
    let keys = keys(&paths[train_rows.clone()], options.seed, &first);
    let part = |rows: Range<usize>| all.subset(&all.rows()[rows]);
    let shares = [(has_validation, options.validation), (has_test, options.test)];
    let [validation_share, test_share] = shares.map(|(is_given, share)| if is_given { 0.0 } else { share });
    let [train, validation, test] = part(train_rows)?.divide_by_keys(validation_share, test_share, &keys)?;
    let validation = if has_validation { part(validation_rows)? } else { validation };
    let test = if has_test { part(test_rows)? } else { test };
    let splits = [&train, &validation, &test];
    Ok(DataSet {
        name: dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned()),
        unused: unused.items(dir),
        warnings: tell_copies(&all, &splits, &first, dir),
        train,
        validation,
        test,
        class_names,
        normalize: Normalize::IMAGENET,
        train_crop: Crop::Random { fraction: options.crop_fraction },
        eval_crop: Crop::Center { fraction: options.crop_fraction },
        interpolation: Interpolation::default(),
        flip: options.flip,
    })
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
    /// Adds a split's photos and returns their places: a class's label is its place in `class_names`, which is sorted.
    fn add(&mut self, classes: Classes, class_names: &[String]) -> Result<Range<usize>> {
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
        Ok(before..self.files.len())
    }
}

/// The keys that decide on the split of each training photo, which are the first ones, from their hashed paths. Photos of
/// equal content, as `first` tells, have the smallest of theirs.
fn keys(paths: &[u64], seed: u64, first: &[u32]) -> Vec<u64> {
    let own = |&path: &u64| hash_bytes(seed, &path.to_le_bytes());
    let mut keys: Vec<u64> = paths.iter().map(own).collect();
    let first = &first[..paths.len()];
    for (photo, &first) in first.iter().enumerate() {
        keys[first as usize] = keys[first as usize].min(keys[photo]);
    }
    first.iter().map(|&first| keys[first as usize]).collect()
}

/// The same on every file system: names in Unicode's form NFC, each hashed after the folder's.
fn hash_path(path: &Path) -> u64 {
    let name = |name: &std::ffi::OsStr| name.to_string_lossy().nfc().collect::<String>();
    path.iter().fold(0, |hash, component| hash_bytes(hash, name(component).as_bytes()))
}
