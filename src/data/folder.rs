//! A folder of photos with one folder for each class.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::image::is_image_name;
use super::{Crop, DataSet, Normalization, Split};
use crate::error::{Error, Result};

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

/// Photos in folders: `dir/train/CLASS/*` with `dir/val/CLASS/*` (or `validation/`) and `dir/test/CLASS/*` where there
/// are such, or plain `dir/CLASS/*`.
///
/// Classes and photos are in the order of their names. Hidden files and those whose names do not end like an image's are
/// left out, and so are folders inside a class. Photos are decoded when a loader needs them.
///
/// Splits that have no folder are taken from the training photos, class by class, see [`FolderOptions`]; but a
/// data set that has validation photos of its own and no test photos gets an empty test split.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be read. [`Error::File`] if there is no class, a class has no photo, a class is
/// missing from `train`, or `val` and `validation` are both there. [`Error::Argument`] for shares out of range.
pub fn image_folder(dir: impl AsRef<Path>, options: FolderOptions) -> Result<DataSet> {
    let dir = dir.as_ref();
    let train_dir = Some(dir.join("train")).filter(|path| path.is_dir());
    let classes = list_classes(train_dir.as_deref().unwrap_or(dir))?;
    let class_names: Vec<String> = classes.keys().cloned().collect();
    let given = |names: &[&str]| match &train_dir {
        Some(_) => given_split(dir, names, &class_names),
        None => Ok(None),
    };
    let (validation, test) = (given(&["val", "validation"])?, given(&["test"])?);

    let validation_share = if validation.is_some() { 0.0 } else { options.validation };
    let test_share = if validation.is_some() || test.is_some() { 0.0 } else { options.test };
    let all = split(classes, &class_names)?;
    let [train, validation_part, test_part] = all.divide(validation_share, test_share, options.seed)?;
    Ok(DataSet {
        name: dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned()),
        train,
        validation: validation.unwrap_or(validation_part),
        test: test.unwrap_or(test_part),
        class_names,
        normalization: Normalization::IMAGENET,
        train_crop: Crop::Random { fraction: options.crop_fraction },
        eval_crop: Crop::Centre { fraction: options.crop_fraction },
        flip: options.flip,
    })
}

/// Photos by class.
type Classes = BTreeMap<String, Vec<PathBuf>>;

/// The split in the one folder of `names` that exists, if any; its classes must be among `class_names`.
fn given_split(dir: &Path, names: &[&str], class_names: &[String]) -> Result<Option<Split>> {
    let found: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).filter(|path| path.is_dir()).collect();
    match found.as_slice() {
        [] => Ok(None),
        [path] => split(list_classes(path)?, class_names).map(Some),
        _ => Err(Error::file(dir, format!("has more than one of {names:?}: which is meant is not clear"))),
    }
}

/// The photos with their labels: a class's label is its place in `class_names`, which is sorted.
fn split(classes: Classes, class_names: &[String]) -> Result<Split> {
    let mut files = Vec::new();
    let mut labels = Vec::new();
    for (name, photos) in classes {
        let Ok(label) = class_names.binary_search(&name) else {
            let place = photos.first().and_then(|photo| photo.parent()).map(Path::to_owned).unwrap_or_default();
            return Err(Error::file(place, format!("class {name} is not among the training classes")));
        };
        labels.extend(std::iter::repeat_n(label as u32, photos.len()));
        files.extend(photos);
    }
    Split::from_files(files, labels)
}

/// The class folders in `dir`, each with its photos in order.
fn list_classes(dir: &Path) -> Result<Classes> {
    let mut classes = Classes::new();
    for path in visible(dir)? {
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::file(&path, "the class name is not Unicode"))?.to_owned();
        let photos: Vec<_> = visible(&path)?.into_iter().filter(|path| is_image_name(path) && path.is_file()).collect();
        if photos.is_empty() {
            return Err(Error::file(&path, format!("class {name} has no images: add some, or remove the folder")));
        }
        classes.insert(name, photos);
    }
    if classes.is_empty() {
        return Err(Error::file(dir, "has no class folders: one for each class is expected, with its images in it"));
    }
    Ok(classes)
}

/// What is in `dir`, in the order of the names, without hidden entries.
fn visible(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort_unstable();
    Ok(entries)
}
