//! Files that are replaced whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::parent;
use crate::error::{Error, Result};

/// Gives `path` new content, as a whole or not at all.
///
/// The content goes to a temporary file beside it, which is synced and then renamed over `path`, so that `path` holds the
/// old content or the new one, whatever stops the program or the machine. A killed process may leave the temporary file
/// (`.name.*.tmp`). A symbolic link is replaced, not followed. What is neither a file nor a folder, a pipe or `/dev/null`,
/// is written to as it is.
///
/// # Errors
/// [`Error::File`] if `path` names no file, [`Error::Io`] if the system refuses. The old file is then untouched.
pub(crate) fn replace_file(path: &Path, content: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::file(path, "is not the name of a file"));
    };
    let folder = parent(path);
    let io = |e| Error::io(path, e);
    if is_special(path) {
        let file = File::options().write(true).open(path).map_err(io)?;
        let mut writer = BufWriter::new(&file);
        return content(&mut writer).and_then(|()| writer.flush()).map_err(io);
    }

    let temporary = temporary_file(folder, &name.to_string_lossy()).map_err(io)?;
    let mut writer = BufWriter::new(temporary.as_file());
    content(&mut writer).map_err(io)?;
    writer.flush().map_err(io)?;
    drop(writer);
    // Without this, a crash after the rename could leave the new name with no content.
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(path).map_err(|e| io(e.error))?;
    sync_folder(folder).map_err(io)
}

/// Whether `path` is a device, a pipe or the like, which to replace by a file would be to destroy: whoever may write to
/// `/dev` would take `/dev/null` from the whole system.
fn is_special(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| {
        let kind = found.file_type();
        !kind.is_file() && !kind.is_dir() && !kind.is_symlink()
    })
}

/// A new file in `folder` that disappears unless it is renamed, with the permissions of an ordinary one.
pub(crate) fn temporary_file(folder: &Path, name: &str) -> io::Result<NamedTempFile> {
    let prefix = format!(".{name}.");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Less what the process's umask takes away. The default would keep the file from everyone but its owner.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// Makes a rename in `folder` last, where that can be done: some file systems cannot sync a folder, and one that may be written to
/// but not read cannot be opened for it. Neither is a reason to fail, since the rename is done.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(e) if matches!(e.kind(), InvalidInput | PermissionDenied | Unsupported) => Ok(()),
        result => result,
    }
}

/// Elsewhere a folder cannot be opened to sync it.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}
