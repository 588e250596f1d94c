//! Checkpoints: named f32 tensors and text, in safetensors files.
//!
//! Files are not trusted. A header is checked against the file's size before anything of its claims is believed, no more
//! memory is asked for than the file's size warrants, and a file that is cut short, lies or contradicts itself is an
//! [`Error::File`] that names the file, the byte and the fault. Writing replaces a file as a whole or
//! not at all.
//!
//! [`match_parameters`] then says which of a model's parameters a checkpoint holds.
//! Format: <https://huggingface.co/docs/safetensors>.
//!
//! No model is known here. One of another crate calls [`read`], [`match_parameters`] or [`load_parameters`], and [`write()`]. One of this
//! crate that takes what others have published, such as [`crate::models::vit`], has a few tables and a
//! configuration of its own, and for the rest calls, in this order: `open` for file or folder, `unwrapped`, `check_model_type`
//! and `read_json` for what lies beside the weights, `Renaming` for names that are not its own, `Known` and the other questions
//! of `tensors` for its sizes, `check_claims`; or `Settings` where the file beside the weights tells all. `Folder` writes what
//! other libraries load.
//!
//! | file | holds |
//! |---|---|
//! | `read`, `encode`, `write` | safetensors: in, as bytes, out |
//! | `shards` | checkpoints in several files |
//! | `folder` | where in a folder the weights are |
//! | `foreign`, `foreign_names` | what is no checkpoint, by its bytes; files and folders, by their names |
//! | `write_folder` | folders, written whole or not at all |
//! | `labels` | names of classes in JSON files |
//! | `claims`, `settings` | what a `config.json` says, against the weights and against what a model computes |
//! | `wrappers`, `renaming` | what others put around a model's names; names of others, to ours and back |
//! | `tensors` | sizes from shapes, and refusal of what belongs to another model |
//! | `matching`, `parameters` | a model's parameters beside a checkpoint's, in and out |
//! | `hub` | checkpoints by name, with the feature `hub` |
//!
//! Without the feature `files` nothing is written to disk: [`read`], [`read_bytes`], [`to_bytes`], and a model's parameters in and out.

#[cfg(feature = "files")]
mod claims;
mod encode;
#[cfg(feature = "files")]
mod folder;
mod foreign;
#[cfg(feature = "files")]
mod foreign_names;
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(feature = "files")]
mod labels;
mod matching;
mod parameters;
mod read;
#[cfg(feature = "files")]
mod renaming;
#[cfg(feature = "files")]
mod settings;
#[cfg(feature = "files")]
mod shards;
#[cfg(feature = "files")]
mod tensors;
#[cfg(feature = "files")]
mod wrappers;
#[cfg(feature = "files")]
mod write;
#[cfg(feature = "files")]
mod write_folder;

use std::collections::BTreeMap;
use std::fmt;

#[cfg(feature = "files")]
pub(crate) use claims::{Claim, check_claims, check_kind, check_model_type, claims};
pub use encode::{Storage, to_bytes};
#[cfg(feature = "files")]
pub use folder::TOKENIZER_FILES;
#[cfg(feature = "files")]
pub(crate) use folder::{
    BEST_FILE, CONFIG_FILE, PREPROCESSOR_FILE, PROCESSOR_FILE, RUN_STATE, STATE_FILE, WEIGHTS_FILE, open,
};
#[cfg(feature = "files")]
pub(crate) use labels::Labels;
pub use matching::{Deviation, Found, LoadReport, MatchOptions, match_parameters};
#[cfg(not(target_arch = "wasm32"))]
pub use parameters::download;
pub(crate) use parameters::read_named;
pub use parameters::{download_async, load_parameters};
pub use read::{read, read_bytes};
#[cfg(feature = "files")]
pub(crate) use renaming::{Packing, Pair, Renaming, cut};
#[cfg(feature = "files")]
pub(crate) use settings::Settings;
#[cfg(feature = "files")]
pub(crate) use tensors::{Known, check_shapes, depth, fault, in_block, is_of_layer, rows};
#[cfg(feature = "files")]
pub(crate) use wrappers::unwrapped;
#[cfg(feature = "files")]
pub use write::{write, write_as};
#[cfg(feature = "files")]
pub(crate) use write_folder::Folder;

use crate::error::{Error, Result};
pub(crate) use crate::files::quoted;
#[cfg(feature = "files")]
pub(crate) use crate::files::{json_text, parse_json, read_json};
pub use crate::tensor::HostTensor;

/// The key of the text entries in a safetensors header, which no tensor can have as its name.
const METADATA_KEY: &str = "__metadata__";

/// The key of the text entry that holds the configuration of the model, as JSON.
pub const CONFIG: &str = "config";

/// The longest header that the format allows, in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// The element types that are read.
const READ: &str = "F32, F64, F16 and BF16";

/// A tensor that was not read, because its elements are of a type that no weight is read from: none of F64, F32, F16 and BF16.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedTensor {
    /// The element type, as safetensors names it: "I64".
    pub dtype: String,
    /// The sizes.
    pub shape: Vec<usize>,
}

impl fmt::Display for SkippedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// What a checkpoint file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// The tensors by name. f16 and bf16 are widened to f32, which is exact; f64 is rounded to it.
    pub tensors: BTreeMap<String, HostTensor>,
    /// The file's text entries.
    pub metadata: BTreeMap<String, String>,
    /// Tensors of other types, such as the step counters that other frameworks save beside the weights. They are an error
    /// only where one is asked for.
    pub skipped: BTreeMap<String, SkippedTensor>,
}

impl Checkpoint {
    /// The tensor of that name.
    ///
    /// # Errors
    /// [`Error::Parameter`] if there is none, or it is of a type that is not read.
    pub fn get(&self, name: &str) -> Result<&HostTensor> {
        if let Some(tensor) = self.tensors.get(name) {
            return Ok(tensor);
        }
        let what = match self.skipped.get(name) {
            Some(skipped) => format!("is {skipped} in the checkpoint, which is not read: {READ} are"),
            None => "is not in the checkpoint".to_owned(),
        };
        Err(Error::Parameter { name: name.to_owned(), what })
    }
}
