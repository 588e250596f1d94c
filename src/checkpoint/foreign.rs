//! What people take for a checkpoint that holds no safetensors: what it is, and what to do about it.

/// So many bytes from its start tell a file's kind.
pub(super) const START: u64 = 512;

/// How much of a text a message repeats.
const SHOWN: usize = 60;

pub(super) const PICKLE: &str = "a PyTorch pickle, which may run any program and so is not read: in Python, write its state dict \
                      with safetensors.torch.save_file";
pub(super) const KERAS: &str =
    "a file of Keras, which is not read: PyTorch's version of the model, saved as safetensors, is";
pub(super) const FLAX: &str =
    "a file of Flax, which is not read: PyTorch's version of the model, saved as safetensors, is";
pub(super) const ONNX: &str =
    "an ONNX graph, which is not read: the model that it was exported from, saved as safetensors, is";
pub(super) const GGUF: &str =
    "a GGUF file, which is not read: the model that it was made from, saved as safetensors, is";
pub(super) const NUMPY: &str = "NumPy arrays, which are not read: write them with safetensors.numpy.save_file";
pub(super) const TFLITE: &str =
    "a TensorFlow Lite graph, which is not read: PyTorch's version of the model is, as safetensors";
pub(super) const PACKED: &str = "a packed file: unpack it";
const PICTURE: &str = "a picture";

/// Beginnings of files, and what such a file is.
const BEGINNINGS: [(&[u8], &str); 11] = [
    (b"version https://git-lfs", "a pointer of Git LFS, not the file that it stands for: `git lfs pull` fetches that"),
    (b"\x89HDF\r\n", KERAS),
    (b"GGUF", GGUF),
    (b"\x93NUMPY", NUMPY),
    (b"\x1f\x8b", PACKED),
    (b"\x28\xb5\x2f\xfd", PACKED),
    (b"\xfd7zXZ\0", PACKED),
    (b"7z\xbc\xaf\x27\x1c", PACKED),
    (b"BZh", PACKED),
    (b"\x89PNG", PICTURE),
    (b"\xff\xd8\xff", PICTURE),
];

/// What a file is that begins with these bytes, up to [`START`] of them, and is not safetensors; `None` if that is not known.
pub(super) fn kind(start: &[u8]) -> Option<String> {
    let known = BEGINNINGS.iter().find(|(beginning, _)| start.starts_with(beginning)).map(|(_, kind)| *kind);
    let begins_with_name = |bytes: &[u8], length: u8| {
        bytes.get(..usize::from(length)).is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_graphic))
    };
    match start {
        _ if known.is_some() => known.map(str::to_owned),
        [b'P', b'K', 3, 4, ..] => Some(zipped(start).to_owned()),
        // The protocol's number. Four zeros after it would make it the length of a header that is cut short.
        [0x80, 2..=5, _, _, rest @ ..] if !rest.starts_with(&[0; 4]) => Some(PICKLE.to_owned()),
        // A map of a few names.
        [0x81..=0x8f, length @ 0xa1..=0xbf, rest @ ..] if begins_with_name(rest, length - 0xa0) => {
            Some(FLAX.to_owned())
        }
        // The format's version, then who made it.
        [8, 1..=32, 0x12, length, rest @ ..] if begins_with_name(rest, *length) => Some(ONNX.to_owned()),
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => Some(TFLITE.to_owned()),
        _ if start.get(257..262) == Some(b"ustar") => Some(PACKED.to_owned()),
        [0, 0, 0, 0, 0, 0, 0, 0, ..] => {
            Some("zeros at its start, as of a download that did not finish: fetch it again".to_owned())
        }
        _ => text(start),
    }
}

/// A zip archive, by the name of the first file in it.
fn zipped(start: &[u8]) -> &'static str {
    let length = start.get(26..28).map_or(0, |bytes| usize::from(bytes[0]) + 256 * usize::from(bytes[1]));
    let name = start.get(30..).map_or(&[][..], |names| &names[..length.min(names.len())]);
    match name {
        _ if name.ends_with(b"/data.pkl") || name.ends_with(b"/version") => PICKLE,
        _ if name.ends_with(b".npy") => NUMPY,
        _ if name == b"metadata.json" => KERAS,
        _ => PACKED,
    }
}

/// A text, with how it begins.
fn text(start: &[u8]) -> Option<String> {
    // The last character may be cut.
    let valid = match std::str::from_utf8(start) {
        Err(error) if error.error_len().is_some() => return None,
        Err(error) => std::str::from_utf8(&start[..error.valid_up_to()]).ok()?,
        Ok(text) => text,
    };
    let text = valid.trim_start_matches('\u{feff}').trim();
    if text.is_empty() || text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let shown: String = text.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
    Some(match text.as_bytes() {
        [b'<', ..] => {
            format!("a web page, what a server answered in the file's place ({shown:?}): fetch the file itself")
        }
        [b'{' | b'[', ..] => format!("JSON text ({shown:?}): give the folder, or the file with the tensors"),
        _ => format!("text ({shown:?}): fetch the file itself"),
    })
}
