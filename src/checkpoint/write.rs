//! Writing safetensors: a file that is replaced whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use super::encode::{encode, header};
use super::{HostTensor, Storage};
use crate::error::Result;
use crate::files::replace_file;

/// Writes tensors, as f32, and text entries to a safetensors file.
///
/// The content goes to a temporary file beside it, which is synced and then renamed over `path`, so that `path` holds the
/// old content or the new one, whatever stops the program or the machine. A killed process may leave the temporary file
/// (`.name.*.tmp`). A symbolic link is replaced, not followed. What is neither a file nor a folder, a pipe or `/dev/null`,
/// is written to as it is. The bytes depend on the arguments alone.
///
/// # Errors
/// [`crate::Error::Parameter`] if a tensor's shape and data disagree or its name is reserved, [`crate::Error::File`] if `path` names no
/// file or the names and texts exceed the format's 100 MB, [`crate::Error::Io`] if the system refuses. The old file is then
/// untouched.
pub fn write(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, HostTensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    write_as(path, tensors, metadata, Storage::F32)
}

/// As [`write()`], with elements of a chosen type.
///
/// # Errors
/// As [`write()`], and [`crate::Error::Parameter`] if a finite value is beyond the type's range.
pub fn write_as(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, HostTensor>,
    metadata: &BTreeMap<String, String>,
    storage: Storage,
) -> Result<()> {
    let path = path.as_ref();
    let header = header(path, tensors, metadata, storage)?;
    replace_file(path, |writer| encode(writer, &header, tensors, storage))
}
