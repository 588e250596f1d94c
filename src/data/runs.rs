//! Folders of runs among data: what lies there is a run's own, and no data of the user's.

use std::path::Path;

/// What only a run writes. Pictures beside it are its curves and findings, texts beside it the files of its tokenizer.
const OF_A_RUN: [&str; 3] = ["state.safetensors", "best.safetensors", "last.safetensors"];
/// What a run writes before its first step.
const OF_A_NEW_RUN: [&str; 2] = ["args.json", "recipe.json"];

/// Whether a run of ours lies in this folder.
pub(super) fn is_run(dir: &Path) -> bool {
    let has = |name: &&str| dir.join(name).is_file();
    OF_A_RUN.iter().any(has) || OF_A_NEW_RUN.iter().all(has)
}
