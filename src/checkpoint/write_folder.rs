//! Folders as other libraries load them, written whole or not at all.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{HostTensor, Storage, write_as};
use crate::error::{Error, Result};
use crate::files::{parent, replace_file, sync_folder};

/// A folder's files.
pub(crate) struct Folder<'a> {
    /// The name of the file with the tensors.
    pub(crate) weights: &'a str,
    /// What goes into it.
    pub(crate) tensors: BTreeMap<String, HostTensor>,
    /// Its text entries.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Its element type.
    pub(crate) storage: Storage,
    /// The other files that such a folder may have, by name, those that this one has with their content.
    pub(crate) files: &'a [(&'a str, Option<&'a [u8]>)],
}

impl Folder<'_> {
    /// Writes the folder beside its place, which it then takes. If there is such a folder already, that is first
    /// renamed to `.NAME.old`, and removed at the end: a crash in between leaves the old folder or the new one
    /// complete, at worst under that name. Hidden files that were in it, `.DS_Store` and the like, are in the new one
    /// then. A folder with any other content is not touched.
    ///
    /// # Errors
    /// [`Error::File`] if the folder holds other files, [`Error::Io`] if the system refuses, and as [`write_as`].
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let places = Places::new(folder)?;
        let new = &places.new;
        self.check(&places)?;
        self.remove(new, None)?;
        fs::create_dir(new).map_err(|e| Error::io(new, e))?;
        write_as(new.join(self.weights), &self.tensors, &self.metadata, self.storage)?;
        for (name, content) in self.files {
            if let Some(content) = content {
                replace_file(&new.join(name), |writer| writer.write_all(content))?;
            }
        }
        self.swap(&places)
    }

    /// Whether nothing of what is there would be lost, before anything is written.
    fn check(&self, Places { folder, old, .. }: &Places) -> Result<()> {
        let (here, left) = (self.hidden(folder)?, self.hidden(old)?);
        if let Some(name) = left.iter().find(|name| here.contains(name)) {
            return Err(foreign(old, name));
        }
        // What a link leads to may lie on another file system, from which no file can be moved.
        let refused = here.first().filter(|_| folder.is_symlink());
        refused.map_or(Ok(()), |name| Err(foreign(folder, name)))
    }

    fn swap(&self, Places { parent, folder, new, old }: &Places) -> Result<()> {
        if folder.exists() {
            self.remove(old, Some(folder))?;
            fs::rename(folder, old).map_err(|e| Error::io(folder, e))?;
        }
        fs::rename(new, folder).map_err(|e| Error::io(folder, e))?;
        sync_folder(parent).map_err(|e| Error::io(parent, e))?;
        self.remove(old, Some(folder))
    }

    /// Removes such a folder, if it is there. Hidden files in it go to the folder `heir` first; where that has such a
    /// file, or there is none, nothing is removed.
    fn remove(&self, folder: &Path, heir: Option<&Path>) -> Result<()> {
        for name in self.hidden(folder)? {
            let place = heir.map(|heir| heir.join(&name)).filter(|place| fs::symlink_metadata(place).is_err());
            let place = place.ok_or_else(|| foreign(folder, &name))?;
            fs::rename(folder.join(&name), &place).map_err(|e| Error::io(&place, e))?;
            let heir = parent(&place);
            sync_folder(heir).map_err(|e| Error::io(heir, e))?;
        }
        match fs::remove_dir_all(folder) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(folder, e)),
            _ => Ok(()),
        }
    }

    /// The hidden files in a folder that are no part of an export, nor what a killed write has left. None where there
    /// is no folder.
    ///
    /// # Errors
    /// [`Error::File`] if it holds anything else that is no part of an export.
    fn hidden(&self, folder: &Path) -> Result<Vec<OsString>> {
        let io = |e| Error::io(folder, e);
        let entries = match fs::read_dir(folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut hidden = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io)?;
            let file_name = entry.file_name();
            let name = file_name.to_string_lossy();
            let is_ours = name == self.weights || self.files.iter().any(|(ours, _)| *ours == name);
            // A killed write leaves its temporary file.
            let is_temporary = name.starts_with('.') && name.ends_with(".tmp");
            if is_ours || is_temporary {
                continue;
            }
            if !name.starts_with('.') || !entry.file_type().map_err(io)?.is_file() {
                return Err(foreign(folder, &file_name));
            }
            hidden.push(file_name);
        }
        Ok(hidden)
    }
}

fn foreign(folder: &Path, name: &OsStr) -> Error {
    let what = format!("is not replaced: it holds {}, which is no part of an export", name.to_string_lossy());
    Error::file(folder, what)
}

/// The folder, and the names beside it that it goes by while it is replaced.
struct Places {
    parent: PathBuf,
    folder: PathBuf,
    new: PathBuf,
    old: PathBuf,
}

impl Places {
    fn new(folder: &Path) -> Result<Self> {
        let Some(name) = folder.file_name() else {
            return Err(Error::file(folder, "is not the name of a folder"));
        };
        let parent = parent(folder).to_owned();
        let beside = |end: &str| parent.join(format!(".{}.{end}", name.to_string_lossy()));
        let (new, old) = (beside("new"), beside("old"));
        Ok(Places { folder: folder.to_owned(), parent, new, old })
    }
}
