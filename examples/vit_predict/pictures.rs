//! Which files are meant.

use std::path::PathBuf;

use wgrad::data::list_pictures;

/// Named files as they are, and all that look like pictures in named folders and the folders in them, in the order of their
/// paths. Folders that cannot be read, or hold no picture, are told in `unreadable`; what else was found in a folder and is
/// not used, in `unused`.
pub fn collect(named: &[PathBuf], unreadable: &mut Vec<String>, unused: &mut Vec<String>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let listing = list_pictures(path);
        if listing.pictures.is_empty() {
            unreadable.push(format!("{}: holds no pictures", path.display()));
        }
        unreadable.extend(listing.errors.iter().map(ToString::to_string));
        let items = listing.unused.items(path);
        if !items.is_empty() {
            unused.push(format!("{}: {}", path.display(), items.join(", ")));
        }
        files.extend(listing.pictures);
    }
    files
}
