//! Reading safetensors: header, checks, values.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{Checkpoint, HostTensor, MAX_HEADER, METADATA_KEY, SkippedTensor, foreign, quoted};
use crate::error::{Error, Result};
use crate::files::{expect_regular, position};

/// Bytes before the header: its length as a little-endian u64.
const PREFIX: u64 = 8;

/// Bytes read at a time: a multiple of every element's size.
const CHUNK: usize = 16 * 1024;

/// Reads a checkpoint from a file.
///
/// # Errors
/// [`Error::Io`] if the system refuses, [`Error::File`] if the content is wrong.
pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint> {
    let path = path.as_ref();
    // Asked before opening: opening a pipe would wait for its other end.
    expect_regular(path, &std::fs::metadata(path).map_err(|e| Error::io(path, e))?)?;
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
    Source { reader: file, size, path }.checkpoint()
}

/// Reads a checkpoint from memory, for one that is embedded in a program. `name` stands for the file in error messages.
///
/// # Errors
/// [`Error::File`] if the content is wrong.
pub fn read_bytes(bytes: &[u8], name: &str) -> Result<Checkpoint> {
    Source { reader: Cursor::new(bytes), size: bytes.len() as u64, path: Path::new(name) }.checkpoint()
}

/// A file or its bytes, with what errors say about it.
struct Source<'a, R> {
    reader: R,
    size: u64,
    path: &'a Path,
}

impl<R: Read + Seek> Source<'_, R> {
    fn checkpoint(mut self) -> Result<Checkpoint> {
        let (header_size, header) = self.header().map_err(|error| self.explained(error))?;
        let data_start = PREFIX + header_size;
        self.check_layout(&header.tensors, data_start)?;

        let mut checkpoint = Checkpoint { metadata: header.metadata, ..Checkpoint::default() };
        for (name, info) in header.tensors {
            let at = data_start + info.data_offsets.0 as u64;
            let bytes = info.data_offsets.1 - info.data_offsets.0;
            if let Some(convert) = converter(info.dtype) {
                let data = self.values(&name, at, bytes, convert)?;
                checkpoint.tensors.insert(name, HostTensor { shape: info.shape, data });
            } else {
                let skipped = SkippedTensor { dtype: info.dtype.to_string(), shape: info.shape };
                checkpoint.skipped.insert(name, skipped);
            }
        }
        Ok(checkpoint)
    }

    /// What the file is, if it is something else than safetensors; else the error as it stands.
    fn explained(&mut self, error: Error) -> Error {
        let mut start = Vec::new();
        let read =
            self.reader.rewind().and_then(|()| self.reader.by_ref().take(foreign::START).read_to_end(&mut start));
        match read.ok().and_then(|_| foreign::kind(&start)) {
            Some(kind) => self.fault(0, format!("is not a safetensors file but {kind}")),
            None => error,
        }
    }

    fn header_size(&mut self) -> Result<u64> {
        if self.size < PREFIX {
            let what = format!("is {} bytes long, too short for a safetensors file: fetch it again", self.size);
            return Err(self.fault(0, what));
        }
        let mut prefix = [0; PREFIX as usize];
        self.reader.read_exact(&mut prefix).map_err(|e| self.io(0, e))?;
        let header_size = u64::from_le_bytes(prefix);
        let available = self.size - PREFIX;
        if header_size > available {
            let what = format!(
                "the header is said to be {header_size} bytes long, but only {available} follow: \
                 not a safetensors file, or cut short"
            );
            return Err(self.fault(0, what));
        }
        if header_size > MAX_HEADER {
            let what =
                format!("the header is said to be {header_size} bytes long, the format allows at most {MAX_HEADER}");
            return Err(self.fault(0, what));
        }
        Ok(header_size)
    }

    /// Reads and parses the header: its size, and its content with the tensors in the order of their data.
    fn header(&mut self) -> Result<(u64, Header)> {
        let size = self.header_size()?;
        let mut json = vec![0; size as usize];
        self.reader.read_exact(&mut json).map_err(|e| self.io(PREFIX, e))?;
        let mut header: Header = serde_json::from_slice(&json).map_err(|e| {
            let what = format!("bad header: {}", quoted(&e.to_string()));
            self.fault(PREFIX + position(&json, &e) as u64, what)
        })?;
        header.tensors.sort_by_key(|(_, info)| info.data_offsets);
        Ok((size, header))
    }

    /// Checks that the tensors fill the file without gap or overlap, each with the bytes that its shape needs.
    fn check_layout(&self, tensors: &[(String, TensorInfo)], data_start: u64) -> Result<()> {
        let data_size = self.size - data_start;
        let mut expected = 0;
        for (name, info) in tensors {
            let (start, end) = info.data_offsets;
            let name = quoted(name);
            // Where the tensor ought to start, since its own claim may lie beyond the file.
            let at = data_start + expected;
            if end < start {
                return Err(self.fault(at, format!("tensor {name} ends at data byte {end}, before its start {start}")));
            }
            if end as u64 > data_size {
                let what =
                    format!("tensor {name} takes data bytes {start} to {end}, but the file holds only {data_size}");
                return Err(self.fault(at, what));
            }
            if start as u64 != expected {
                let fault = if (start as u64) < expected { "overlaps the tensor before it" } else { "leaves a gap" };
                let what = format!("tensor {name} {fault}: it starts at data byte {start}, expected {expected}");
                return Err(self.fault(at, what));
            }
            if byte_size(info) != Some(end - start) {
                let what = format!(
                    "tensor {name} is {}{}, which does not take the {} bytes given to it",
                    info.dtype,
                    quoted(&format!("{:?}", info.shape)),
                    end - start
                );
                return Err(self.fault(at, what));
            }
            expected = end as u64;
        }
        if expected != data_size {
            let what = format!("{} bytes follow the last tensor and belong to none", data_size - expected);
            return Err(self.fault(data_start + expected, what));
        }
        Ok(())
    }

    /// Reads `bytes` bytes at `at`, both already checked against the file's size.
    fn values(&mut self, name: &str, at: u64, bytes: usize, convert: Converter) -> Result<Vec<f32>> {
        let mut data = Vec::new();
        if data.try_reserve_exact(bytes / convert.width).is_err() {
            return Err(self.fault(at, format!("tensor {} of {bytes} bytes does not fit into memory", quoted(name))));
        }
        self.reader.seek(SeekFrom::Start(at)).map_err(|e| self.io(at, e))?;
        let mut chunk = [0; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK)];
            self.reader.read_exact(part).map_err(|e| self.io(at, e))?;
            if let Some(value) = (convert.append)(part, &mut data) {
                let what = format!("tensor {} has the value {value}, beyond what f32 can hold", quoted(name));
                return Err(self.fault(at, what));
            }
            left -= part.len();
        }
        Ok(data)
    }

    fn fault(&self, offset: u64, what: String) -> Error {
        Error::File { path: self.path.to_owned(), offset: Some(offset), what }
    }

    /// What a failed read means: the size was checked, so an early end is a file that shrank meanwhile.
    fn io(&self, offset: u64, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.fault(offset, "the file ended early: it became shorter while it was read".to_owned());
        }
        Error::io(self.path, error)
    }
}

/// How bytes of one element type become f32.
#[derive(Clone, Copy)]
struct Converter {
    /// Bytes an element.
    width: usize,
    /// Returns a value that f32 cannot hold, if there is one.
    append: fn(&[u8], &mut Vec<f32>) -> Option<f64>,
}

/// The converter of an element type, or `None` for a type that is not read.
fn converter(dtype: Dtype) -> Option<Converter> {
    match dtype {
        Dtype::F32 => Some(Converter { width: 4, append: |bytes, out| widen(bytes, out, f32::from_le_bytes) }),
        Dtype::F16 => {
            Some(Converter { width: 2, append: |bytes, out| widen(bytes, out, |b| f16::from_le_bytes(b).to_f32()) })
        }
        Dtype::BF16 => {
            Some(Converter { width: 2, append: |bytes, out| widen(bytes, out, |b| bf16::from_le_bytes(b).to_f32()) })
        }
        Dtype::F64 => Some(Converter { width: 8, append: round }),
        _ => None,
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, value: impl Fn([u8; N]) -> f32) -> Option<f64> {
    out.extend(bytes.as_chunks().0.iter().map(|&b| value(b)));
    None
}

fn round(bytes: &[u8], out: &mut Vec<f32>) -> Option<f64> {
    let values = || bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b));
    out.extend(values().map(|value| value as f32));
    values().find(|value| value.is_finite() && !(*value as f32).is_finite())
}

/// Bytes that a tensor's shape takes, or `None` where that overflows or ends within a byte.
fn byte_size(info: &TensorInfo) -> Option<usize> {
    let elements = info.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// A parsed header. Unlike the safetensors crate's, it refuses a name that occurs twice.
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut metadata: Option<TextEntries> = None;
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA_KEY && metadata.is_none() {
                // A null is an absence, for other readers too.
                metadata = Some(map.next_value::<Option<TextEntries>>()?.unwrap_or_default());
            } else if name == METADATA_KEY || tensors.contains_key(&name) {
                return Err(occurs_twice(&name));
            } else {
                tensors.insert(name, map.next_value()?);
            }
        }
        Ok(Header { metadata: metadata.unwrap_or_default().0, tensors: tensors.into_iter().collect() })
    }
}

/// The text entries, each name once.
#[derive(Default)]
struct TextEntries(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for TextEntries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = TextEntries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextEntries, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((name, text)) = map.next_entry::<String, String>()? {
            if entries.contains_key(&name) {
                return Err(occurs_twice(&name));
            }
            entries.insert(name, text);
        }
        Ok(TextEntries(entries))
    }
}

fn occurs_twice<E: serde::de::Error>(name: &str) -> E {
    E::custom(format_args!("{} occurs twice", quoted(name)))
}
