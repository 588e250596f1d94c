//! Pictures that are there twice. Where one copy is trained on and the other measured, the measure is too good.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::mix::absorb;

/// Of more pictures, looking at each file could take minutes on a slow disk.
pub(super) const MOST: usize = 1 << 17;
/// Bytes at the end of a file that tell most pictures of equal size apart.
pub(super) const TAIL: u64 = 4096;
/// Bytes that are read at a time.
const BLOCK: u64 = 1 << 16;

/// For each file, the place in `files` of the first one with the same content: its own, if there is no other, or it cannot be
/// read. Files are asked for their size; only those of equal size are opened, and only those with equal ends read as a whole.
/// Of more than [`MOST`] files none is looked at.
pub(super) fn first_of_content(files: &[PathBuf]) -> Vec<u32> {
    let mut first: Vec<u32> = (0..files.len() as u32).collect();
    if files.len() > MOST {
        return first;
    }
    let size = |path: &Path| fs::metadata(path).ok().map(|about| about.len()).filter(|&size| size > 0);
    let mut groups = vec![first.clone()];
    for key in
        [&size as &(dyn Fn(&Path) -> Option<u64> + Sync), &|path| digest(path, TAIL), &|path| digest(path, u64::MAX)]
    {
        groups = groups.into_iter().flat_map(|group| divide(files, &group, key)).collect();
    }
    for group in groups {
        group[1..].iter().for_each(|&member| first[member as usize] = group[0]);
    }
    first
}

/// The members of a group in groups of equal keys, those of one member left out.
fn divide(files: &[PathBuf], group: &[u32], key: &(dyn Fn(&Path) -> Option<u64> + Sync)) -> Vec<Vec<u32>> {
    let keys: Vec<_> = group.par_iter().map(|&member| key(&files[member as usize])).collect();
    let mut groups: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (&member, key) in group.iter().zip(keys) {
        if let Some(key) = key {
            groups.entry(key).or_default().push(member);
        }
    }
    groups.into_values().filter(|group| group.len() > 1).collect()
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

/// The hash of what `hash` stands for, followed by `bytes`: their length, then words of eight bytes, the last one filled up
/// with zeros.
pub(super) fn hash_bytes(hash: u64, bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    };
    bytes.chunks(8).map(word).fold(absorb(hash, bytes.len() as u64), absorb)
}
