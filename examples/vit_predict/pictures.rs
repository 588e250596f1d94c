//! Which files are meant.

use std::fs;
use std::path::{Path, PathBuf};

use image::ImageFormat;

/// Named files as they are, and all that look like pictures in named folders and the folders in them, in the order of their
/// paths. Folders that cannot be read, or hold no picture, are told in `unreadable`.
pub fn collect(named: &[PathBuf], unreadable: &mut Vec<String>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in named {
        if path.is_dir() {
            let before = files.len();
            search(path, &mut files, unreadable);
            files[before..].sort_unstable();
            if files.len() == before {
                unreadable.push(format!("{}: holds no pictures", path.display()));
            }
        } else {
            files.push(path.clone());
        }
    }
    files
}

/// Adds the pictures in `root` and below. Hidden entries and links to folders, which may lead in a circle, are left out.
fn search(root: &Path, files: &mut Vec<PathBuf>, unreadable: &mut Vec<String>) {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                unreadable.push(format!("{}: {error}", folder.display()));
                continue;
            }
        };
        for entry in entries {
            let Ok(entry) = entry.inspect_err(|error| unreadable.push(format!("{}: {error}", folder.display()))) else {
                continue;
            };
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if is_picture(&path) && path.is_file() {
                files.push(path);
            }
        }
    }
}

fn is_picture(path: &Path) -> bool {
    ImageFormat::from_path(path).is_ok_and(|format| format.reading_enabled())
}
