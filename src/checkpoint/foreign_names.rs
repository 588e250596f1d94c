//! Files and folders that people take for checkpoints, by their names.

use std::path::Path;

use super::folder::{BEST_FILE, INDEX_FILE, STATE_FILE, WEIGHTS_FILE};
use super::foreign::{FLAX, GGUF, KERAS, NUMPY, ONNX, PACKED, PICKLE, TFLITE};
use super::quoted;

/// Endings of files' names, and what such a file is.
const ENDINGS: [(&str, &str); 14] = [
    (".bin", PICKLE),
    (".pth", PICKLE),
    (".pt", PICKLE),
    (".ckpt", PICKLE),
    (".pkl", PICKLE),
    (".h5", KERAS),
    (".keras", KERAS),
    (".msgpack", FLAX),
    (".onnx", ONNX),
    (".gguf", GGUF),
    (".npz", NUMPY),
    (".npy", NUMPY),
    (".tflite", TFLITE),
    (".zip", PACKED),
];

/// What there is in a folder of these `names` that has no weights where they are expected.
pub(super) fn in_place_of_weights(names: &[String]) -> String {
    let expected = format!("neither {WEIGHTS_FILE} nor {INDEX_FILE}");
    let has = |name: &str| names.iter().any(|other| other == name);
    if has(STATE_FILE) {
        return format!("is a run's folder without {BEST_FILE}: go on with the run until it has been measured once");
    }
    if has("snapshots") && has("blobs") {
        return format!("holds {expected}, but the Hub's cache: give one of the folders in its snapshots/");
    }
    if let Some(name) = names.iter().find(|name| name.ends_with(".safetensors")) {
        let what = match parts(Path::new(name)) {
            Some(_) => "one of several parts: fetch their index too",
            None if name.starts_with("adapter_") => "an adapter: merge it into its model",
            None => "safetensors under another name: give that file",
        };
        return format!("holds {expected}, but {}, {what}", quoted(name));
    }
    let with = |(ending, kind): &(&str, &'static str)| {
        names.iter().find(|name| name.ends_with(ending)).map(|name| (name, *kind))
    };
    match ENDINGS.iter().find_map(with) {
        Some((name, kind)) => format!("holds {expected}, but {}, {kind}", quoted(name)),
        None => format!("holds {expected}"),
    }
}

/// `N` where a file's name says that it is one of N > 1 parts, as `model-00001-of-00004.safetensors`.
pub(super) fn parts(path: &Path) -> Option<usize> {
    let (first, count) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let is_numbered = first.rsplit_once('-').is_some_and(|(_, number)| number.parse::<usize>().is_ok());
    count.parse().ok().filter(|&count| is_numbered && count > 1)
}
