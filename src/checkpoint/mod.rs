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
//! No model is known here. One that takes what others have published, such as [`crate::models::vit`], has a few tables and a
//! configuration of its own, and for the rest calls, in this order: `open` for file or folder, `unwrapped`, `check_model_type`
//! and `read_json` for what lies beside the weights, `Renaming` for names that are not its own, `Known` and the other questions
//! of `tensors` for its sizes, `check_claims`; or `Settings` where the file beside the weights tells all. `Folder` writes what
//! other libraries load.
//!
//! | file | holds |
//! |---|---|
//! | `read`, `write` | safetensors |
//! | `shards` | checkpoints in several files |
//! | `folder`, `foreign` | where in a folder the weights are; files and folders that are no checkpoints |
//! | `write_folder` | folders, written whole or not at all |
//! | `labels` | names of classes in JSON files |
//! | `claims`, `settings` | what a `config.json` says, against the weights and against what a model computes |
//! | `wrappers`, `renaming` | what others put around a model's names; names of others, to ours and back |
//! | `tensors` | sizes from shapes, and refusal of what belongs to another model |
//! | `matching`, `parameters` | a model's parameters beside a checkpoint's, in and out |
//! | `hub` | checkpoints by name, with the feature `hub` |

mod claims;
mod folder;
mod foreign;
#[cfg(feature = "hub")]
pub mod hub;
mod labels;
mod matching;
mod parameters;
mod read;
mod renaming;
mod settings;
mod shards;
mod tensors;
mod wrappers;
mod write;
mod write_folder;

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use claims::{Claim, check_claims, check_model_type, claims};
pub(crate) use folder::{CONFIG_FILE, PREPROCESSOR_FILE, TOKENIZER_FILES, open};
pub(crate) use labels::Labels;
pub use matching::{Deviation, Found, LoadReport, MatchOptions, match_parameters};
pub use parameters::{download, load_parameters};
pub use read::{read, read_bytes};
pub(crate) use renaming::Renaming;
pub(crate) use settings::Settings;
pub(crate) use tensors::{Known, check_shapes, depth, fault, in_block, is_of_layer, rows};
pub(crate) use wrappers::unwrapped;
pub use write::{Storage, to_bytes, write, write_as};
pub(crate) use write_folder::Folder;

use crate::error::{Error, Result};
pub(crate) use crate::files::{quoted, read_json};
pub use crate::tensor::HostTensor;

/// The key of the text entries in a safetensors header, which no tensor can have as its name.
const METADATA_KEY: &str = "__metadata__";

/// The key of the text entry that tells a run's state, which is no model, from a model's checkpoint.
pub(crate) const RUN_STATE: &str = "run_state";

/// The key of the text entry that holds the configuration of the model, as JSON.
pub(crate) const CONFIG: &str = "config";

/// The best checkpoint in a run's folder.
pub(crate) const BEST_FILE: &str = "best.safetensors";

/// A run's state in its folder.
pub(crate) const STATE_FILE: &str = "state.safetensors";

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
