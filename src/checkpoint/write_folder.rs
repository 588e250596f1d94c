//! Folders as other libraries load them, written whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{HostTensor, Storage, write_as};
use crate::error::{Error, Result};
use crate::files::{replace_file, sync_folder};

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
    /// Writes the folder beside its place, which it then takes. If there is such a folder already, that is first renamed to
    /// `.NAME.old`, and removed at the end: a crash in between leaves the old folder or the new one complete, at worst under
    /// that name. A folder with any other content is not touched.
    ///
    /// # Errors
    /// [`Error::File`] if the folder holds other files, [`Error::Io`] if the system refuses, and as [`write_as`].
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let places = Places::new(folder)?;
        let new = &places.new;
        [&places.folder, new, &places.old].into_iter().try_for_each(|folder| self.check_replaceable(folder))?;
        self.remove(new)?;
        fs::create_dir(new).map_err(|e| Error::io(new, e))?;
        write_as(new.join(self.weights), &self.tensors, &self.metadata, self.storage)?;
        for (name, content) in self.files {
            if let Some(content) = content {
                replace_file(&new.join(name), |writer| writer.write_all(content))?;
            }
        }
        self.swap(&places)
    }

    fn swap(&self, Places { parent, folder, new, old }: &Places) -> Result<()> {
        if folder.exists() {
            self.remove(old)?;
            fs::rename(folder, old).map_err(|e| Error::io(folder, e))?;
        }
        fs::rename(new, folder).map_err(|e| Error::io(folder, e))?;
        sync_folder(parent).map_err(|e| Error::io(parent, e))?;
        self.remove(old)
    }

    /// Removes such a folder, if it is there.
    fn remove(&self, folder: &Path) -> Result<()> {
        self.check_replaceable(folder)?;
        match fs::remove_dir_all(folder) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(folder, e)),
            _ => Ok(()),
        }
    }

    /// That there is nothing, or a folder with files of an export alone.
    fn check_replaceable(&self, folder: &Path) -> Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|e| Error::io(folder, e))?,
        };
        for entry in entries {
            let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
            let name = name.to_string_lossy();
            let is_ours = name == self.weights || self.files.iter().any(|(ours, _)| *ours == name);
            // A killed write leaves its temporary file.
            let is_temporary = name.starts_with('.') && name.ends_with(".tmp");
            if !is_ours && !is_temporary {
                return Err(Error::file(
                    folder,
                    format!("is not replaced: it holds {name}, which is no part of an export"),
                ));
            }
        }
        Ok(())
    }
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
        let parent = match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let beside = |end: &str| parent.join(format!(".{}.{end}", name.to_string_lossy()));
        let (new, old) = (beside("new"), beside("old"));
        Ok(Places { folder: folder.to_owned(), parent, new, old })
    }
}
