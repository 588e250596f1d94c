//! Pictures that are there twice. Where one copy is trained on and the other measured, the measure is too good.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use rayon::prelude::*;

use super::Split;
use super::layout::CALLED;
use super::listing::inside;
use crate::hash::hash_bytes;

/// Of more pictures, looking at each file could take minutes on a slow disk.
pub(super) const MOST: usize = 1 << 17;
/// Bytes at the end of a file that tell most pictures of equal size apart.
pub(super) const TAIL: u64 = 4096;
/// Bytes that are read at a time.
const BLOCK: u64 = 1 << 16;

/// What equal files have in common.
type Key = fn(&Path) -> Option<u64>;
/// The cheapest first.
const KEYS: [Key; 3] = [size, |path| digest(path, TAIL), |path| digest(path, u64::MAX)];

/// For each of a split's files, the number of the first one with the same content: its own, if there is no other, or it cannot be
/// read. Files are asked for their size; only those of equal size are opened, and only those with equal ends read as a whole.
/// Of more than [`MOST`] files none is looked at.
pub(super) fn first_of_content(split: &Split) -> Vec<u32> {
    let mut first: Vec<u32> = (0..).take(split.len()).collect();
    if split.len() > MOST {
        return first;
    }
    let mut groups = vec![first.clone()];
    for key in KEYS {
        groups = groups.into_iter().flat_map(|group| divide(split, &group, key)).collect();
    }
    for group in groups {
        group[1..].iter().for_each(|&member| first[member as usize] = group[0]);
    }
    first
}

/// The members of a group in groups of equal keys, those of one member left out.
fn divide(split: &Split, group: &[u32], key: Key) -> Vec<Vec<u32>> {
    let keys: Vec<_> = group.par_iter().map(|&member| split.file(member).and_then(key)).collect();
    let mut groups: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (&member, key) in group.iter().zip(keys) {
        if let Some(key) = key {
            groups.entry(key).or_default().push(member);
        }
    }
    groups.into_values().filter(|group| group.len() > 1).collect()
}

/// In words, the copies among a data set's pictures that mislead: those in several classes, and those in training and in
/// what is measured. `first` is of [`first_of_content`].
pub(super) fn tell_copies(all: &Split, splits: &[&Split; 3], first: &[u32], dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    if first.len() > MOST {
        lines.push(format!("{} pictures are too many to look for copies among them", first.len()));
    }
    let example = |(a, b): (u32, u32)| {
        let name = |row| all.file(row).map(|file| inside(dir, file)).unwrap_or_default();
        format!("{} and {}", name(a), name(b))
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

/// Empty files are equal in nothing.
fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|about| about.len()).filter(|&size| size > 0)
}

/// A hash of at most the last `bytes` bytes of a file; `None` if it cannot be read.
pub(super) fn digest(path: &Path, bytes: u64) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(bytes))).ok()?;
    let (mut hash, mut block) = (size, Vec::new());
    loop {
        block.clear();
        match file.by_ref().take(BLOCK).read_to_end(&mut block).ok()? {
            0 => return Some(hash),
            _ => hash = hash_bytes(hash, &block),
        }
    }
}
