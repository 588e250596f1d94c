//! CIFAR-10 and CIFAR-100 in their official binary layout (Krizhevsky, "Learning Multiple Layers of Features from Tiny
//! Images", 2009): records of one label byte (two in CIFAR-100: coarse, fine) and 3,072 pixel bytes `u8[3, 32, 32]`.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Crop, DataSet, Padding, Split};
use crate::error::{Error, Result};
use crate::files::read_text;
use crate::normalize::Normalize;
use crate::preprocess::Interpolation;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
/// Share of the training files that becomes the validation split.
const VALIDATION: f64 = 0.1;
/// Most bytes in one file: ten times the largest official one.
const MAX_FILE: u64 = 10 * 50_000 * 3_074;

/// Reads CIFAR-10 from `dir`, which holds `batches.meta.txt`, any number of `data_batch_N.bin` and `test_batch.bin`
/// (`.bin` may be missing from the names), or has a folder `cifar-10-batches-bin` that does.
///
/// A tenth of the training records, drawn by class with a fixed seed, is the validation split; the test file is the test
/// split.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read; [`Error::File`] with the byte offset if one is cut short or has a label that
/// is out of range, or if a file is missing.
pub fn cifar10(dir: impl AsRef<Path>) -> Result<DataSet> {
    let dir = inner(dir.as_ref(), "cifar-10-batches-bin");
    let names = class_names(&dir.join("batches.meta.txt"), 10)?;
    let format = Format { classes: &[10] };
    let train = format.read(&batches(&dir)?)?;
    let test = format.read(&[existing(&dir, "test_batch")?])?;
    data_set("CIFAR-10", names, train, test)
}

/// Reads CIFAR-100 from `dir`, which holds `fine_label_names.txt`, `train.bin` and `test.bin` (`.bin` may be missing
/// from the names), or has a folder `cifar-100-binary` that does. The classes are the 100 fine ones.
///
/// Splits and errors are those of [`cifar10`].
///
/// # Errors
/// As [`cifar10`].
pub fn cifar100(dir: impl AsRef<Path>) -> Result<DataSet> {
    let dir = inner(dir.as_ref(), "cifar-100-binary");
    let names = class_names(&dir.join("fine_label_names.txt"), 100)?;
    let format = Format { classes: &[20, 100] };
    let train = format.read(&[existing(&dir, "train")?])?;
    let test = format.read(&[existing(&dir, "test")?])?;
    data_set("CIFAR-100", names, train, test)
}

fn data_set(name: &str, class_names: Vec<String>, train: Split, test: Split) -> Result<DataSet> {
    let [train, test] = [train, test].map(|split| split.with_class_names(&class_names));
    let [train, validation, _] = train.divide(VALIDATION, 0.0, 0)?;
    Ok(DataSet {
        name: name.to_owned(),
        class_names,
        train,
        validation,
        test,
        normalize: Normalize::CIFAR,
        train_crop: Crop::Pad { pixels: 4, padding: Padding::Reflect },
        eval_crop: Crop::Whole,
        interpolation: Interpolation::default(),
        flip: true,
        unused: Vec::new(),
        warnings: Vec::new(),
    })
}

/// The folder called `name` in `dir` if there is one, else `dir`.
fn inner(dir: &Path, name: &str) -> PathBuf {
    let inner = dir.join(name);
    if inner.is_dir() { inner } else { dir.to_owned() }
}

/// The file `name.bin` or `name` in `dir`.
fn existing(dir: &Path, name: &str) -> Result<PathBuf> {
    let candidates = [dir.join(format!("{name}.bin")), dir.join(name)];
    let found = candidates.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| Error::file(dir, format!("has neither {name}.bin nor {name}")))
}

/// The training batches of CIFAR-10 in order of their numbers.
fn batches(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let name = entry.map_err(|e| Error::io(dir, e))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("data_batch_"));
        let number = number.and_then(|number| number.strip_suffix(".bin").unwrap_or(number).parse::<u32>().ok());
        found.extend(number);
    }
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return Err(Error::file(dir, "has no data_batch_N.bin"));
    }
    found.iter().map(|number| existing(dir, &format!("data_batch_{number}"))).collect()
}

/// A file of class names has some hundred bytes.
const MAX_NAMES: u64 = 1 << 20;

/// The class names, one a line; blank lines do not count.
fn class_names(path: &Path, classes: usize) -> Result<Vec<String>> {
    let text = read_text(path, MAX_NAMES)?.ok_or_else(|| Error::file(path, "is not there"))?;
    let names: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() != classes {
        return Err(Error::file(path, format!("has {} class names, {classes} are expected", names.len())));
    }
    Ok(names)
}

/// The label bytes that start a record: how many classes each tells apart. The last one is the sample's label.
struct Format {
    classes: &'static [u8],
}

impl Format {
    fn record(&self) -> usize {
        self.classes.len() + 3 * PLANE
    }

    /// All records of `files`, in order.
    fn read(&self, files: &[PathBuf]) -> Result<Split> {
        let mut pixels = Vec::new();
        let mut labels = Vec::new();
        for path in files {
            let bytes = read_file(path)?;
            self.check_length(path, bytes.len())?;
            pixels.reserve_exact(bytes.len());
            for (number, record) in bytes.chunks_exact(self.record()).enumerate() {
                let (record_labels, planes) = record.split_at(self.classes.len());
                labels.push(self.label(path, number * self.record(), record_labels)?);
                channels_last(planes, &mut pixels);
            }
        }
        Split::from_pixels(SIDE as u32, SIDE as u32, pixels, labels)
    }

    fn check_length(&self, path: &Path, length: usize) -> Result<()> {
        let rest = length % self.record();
        if length > 0 && rest == 0 {
            return Ok(());
        }
        let (path, offset) = (path.to_owned(), Some((length - rest) as u64));
        let what = format!("the record that starts here has {rest} of {} bytes: the file is cut short", self.record());
        Err(Error::File { path, offset, what })
    }

    /// Checks the label bytes of the record at `offset` and returns the last.
    fn label(&self, path: &Path, offset: usize, bytes: &[u8]) -> Result<u32> {
        for (at, (&label, &classes)) in bytes.iter().zip(self.classes).enumerate() {
            if label >= classes {
                let (path, offset) = (path.to_owned(), Some((offset + at) as u64));
                return Err(Error::File { path, offset, what: format!("label {label} must be below {classes}") });
            }
        }
        Ok(bytes.last().copied().map_or(0, u32::from))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let length = fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    if length > MAX_FILE {
        return Err(Error::file(path, format!("{length} bytes are more than a CIFAR file may have ({MAX_FILE})")));
    }
    fs::read(path).map_err(|e| Error::io(path, e))
}

/// `u8[3, 32, 32]` to `u8[32, 32, 3]`.
fn channels_last(planes: &[u8], pixels: &mut Vec<u8>) {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    for ((&red, &green), &blue) in red.iter().zip(green).zip(blue) {
        pixels.extend([red, green, blue]);
    }
}
