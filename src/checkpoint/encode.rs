//! Safetensors as bytes: the same for the same content.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use half::f16;
use serde::Serialize;

use super::{HostTensor, MAX_HEADER, METADATA_KEY};
use crate::error::{Error, Result};
use crate::tensor::beyond_f16;

/// Values converted to bytes at a time.
const CHUNK: usize = 16 * 1024;

/// The element type of tensors in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// 32-bit floats: what comes back is equal bit for bit.
    #[default]
    F32,
    /// 16-bit floats, rounded to nearest: half the size.
    F16,
}

impl Storage {
    fn name(self) -> &'static str {
        match self {
            Storage::F32 => "F32",
            Storage::F16 => "F16",
        }
    }

    /// Bytes of an element.
    fn width(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::F16 => 2,
        }
    }

    fn append(self, values: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Storage::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Storage::F16 => bytes.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
        }
    }
}

/// Tensors, as f32, and text entries as the bytes of a safetensors file. They depend on the arguments alone.
///
/// # Errors
/// [`Error::Parameter`] if a tensor's shape and data disagree or its name is reserved, [`Error::File`] if the names and texts
/// exceed the format's 100 MB.
pub fn to_bytes(tensors: &BTreeMap<String, HostTensor>, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let memory = Path::new("checkpoint in memory");
    let mut bytes = Vec::new();
    let header = header(memory, tensors, metadata, Storage::F32)?;
    encode(&mut bytes, &header, tensors, Storage::F32).map_err(|e| Error::io(memory, e))?;
    Ok(bytes)
}

/// A header entry, in the format's words.
#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: (usize, usize),
}

/// The header's text, padded with spaces so that the data starts at a multiple of 8 bytes.
pub(super) fn header(
    path: &Path,
    tensors: &BTreeMap<String, HostTensor>,
    metadata: &BTreeMap<String, String>,
    storage: Storage,
) -> Result<String> {
    let mut fields = Vec::with_capacity(1 + tensors.len());
    if !metadata.is_empty() {
        fields.push(field(path, METADATA_KEY, metadata)?);
    }
    let mut offset = 0;
    for (name, tensor) in tensors {
        let end = offset + byte_size(name, tensor, storage)?;
        let entry = Entry { dtype: storage.name(), shape: &tensor.shape, data_offsets: (offset, end) };
        fields.push(field(path, name, &entry)?);
        offset = end;
    }
    let mut header = format!("{{{}}}", fields.join(","));
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    if header.len() as u64 > MAX_HEADER {
        let what = format!("names and texts take {} bytes, the format allows at most {MAX_HEADER}", header.len());
        return Err(Error::file(path, what));
    }
    Ok(header)
}

/// `"name":value` in JSON.
fn field(path: &Path, name: &str, value: &impl Serialize) -> Result<String> {
    let json = |e: serde_json::Error| Error::io(path, e.into());
    let name = serde_json::to_string(name).map_err(json)?;
    let value = serde_json::to_string(value).map_err(json)?;
    Ok(format!("{name}:{value}"))
}

fn byte_size(name: &str, tensor: &HostTensor, storage: Storage) -> Result<usize> {
    let fault = |what: String| Error::Parameter { name: name.to_owned(), what };
    if name == METADATA_KEY {
        return Err(fault("is a reserved name in a checkpoint".to_owned()));
    }
    let numel = tensor.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    if numel != Some(tensor.data.len()) {
        return Err(fault(format!("has shape {:?} but {} values", tensor.shape, tensor.data.len())));
    }
    if storage == Storage::F16
        && let Some(value) = beyond_f16(&tensor.data)
    {
        return Err(fault(format!("has the value {value}, beyond what f16 can hold")));
    }
    Ok(tensor.data.len() * storage.width())
}

/// Writes the bytes that follow from `header`.
pub(super) fn encode(
    writer: &mut impl Write,
    header: &str,
    tensors: &BTreeMap<String, HostTensor>,
    storage: Storage,
) -> io::Result<()> {
    writer.write_all(&(header.len() as u64).to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    let mut bytes = Vec::with_capacity(CHUNK * storage.width());
    for values in tensors.values().flat_map(|tensor| tensor.data.chunks(CHUNK)) {
        bytes.clear();
        storage.append(values, &mut bytes);
        writer.write_all(&bytes)?;
    }
    Ok(())
}
