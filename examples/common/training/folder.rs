//! The folder of a run: where it is, who may write into it, and what it was asked for.

use std::fs::{DirEntry, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wgrad::checkpoint::TOKENIZER_FILES;
use wgrad::train::STATE_FILE;

use super::files;
use super::report::REPORT;

const ARGS: &str = "args.json";
/// How a run trains.
const RECIPE: &str = "recipe.json";
/// A model's tensors, as other libraries call their files.
const WEIGHTS: [&str; 3] = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];
/// What exports hold besides [`WEIGHTS`] and [`TOKENIZER_FILES`].
const EXPORTED: [&str; 5] = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
];

/// The folder that was asked for, or the next free number below `runs`.
pub fn create(output: Option<&Path>) -> Result<PathBuf> {
    let folder = match output {
        Some(folder) => folder.to_owned(),
        None => (1..).map(|i| Path::new("runs").join(i.to_string())).find(|p| !p.exists()).unwrap_or_default(),
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Of two runs in one folder, going on would mix the reports; and what one has learnt is lost where another begins. Nor
/// does a run begin among the files of a model, as in the folder of the weights that it begins with.
pub fn refuse_another(folder: &Path) -> Result<()> {
    let has = |file: &str| folder.join(file).exists();
    ensure!(!has(STATE_FILE), "--output {0}: holds a run already; --resume {0} goes on with it", folder.display());
    if let Some(file) = ["best.safetensors", "last.safetensors", REPORT].into_iter().find(|file| has(file)) {
        bail!("--output {}: holds {file} of a run already; name another folder", folder.display());
    }
    let of_model = WEIGHTS.into_iter().chain(TOKENIZER_FILES).find(|file| has(file));
    // A run that ended before it was saved may have left its tokenizer.
    if let Some(file) = of_model.filter(|_| !has(ARGS)) {
        bail!("--output {}: holds a model's {file}; a folder of the run's own is needed", folder.display());
    }
    Ok(())
}

/// What is exported at a run's end takes the place of nothing else, but where it `goes_on` of what it exported before:
/// that is found while nothing has been trained. `names` are the folders, in a run's own.
pub fn refuse_exports(folder: &Path, names: &[&str], goes_on: bool) -> Result<()> {
    let is_own = |entry: std::io::Result<DirEntry>| {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_file = || entry.file_type().is_ok_and(|kind| kind.is_file());
        // What a killed write has left, and .DS_Store and the like, which stay.
        let is_hidden = name.starts_with('.') && (name.ends_with(".tmp") || is_file());
        goes_on && (is_hidden || WEIGHTS.iter().chain(&TOKENIZER_FILES).chain(&EXPORTED).any(|own| *own == name))
    };
    for path in names.iter().map(|name| folder.join(name)) {
        let is_free = match path.read_dir() {
            Ok(mut entries) => entries.all(is_own),
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        let (option, fault) = if goes_on {
            ("--resume", "holds other files than an export's; move them")
        } else {
            ("--output", "is there already; move it, or name another folder")
        };
        let (run, path) = (folder.display(), path.display());
        ensure!(is_free, "{option} {run}: the run is to be exported to {path}, which {fault}");
    }
    Ok(())
}

/// Keeps other programs from writing into `folder` too, as long as the file is held; the system lets go of it when a program
/// ends, however that comes.
pub fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bail!("another program is writing into {}", folder.display()),
        // Not every file system has locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Writes what a run was asked for, for readers and for [`saved_args`]. The arguments' paths lead to the same files from any folder
/// ([`absolute`]).
pub fn save(folder: &Path, args: &impl Serialize, recipe: &impl Serialize) -> Result<()> {
    // The arguments last: where they are, there is all that a run goes on with.
    let texts = [(RECIPE, serde_json::to_string_pretty(recipe)?), (ARGS, serde_json::to_string_pretty(args)?)];
    for (name, text) in texts {
        files::replace(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// The arguments of the run in `folder`, which is to go on.
pub fn saved_args<A: DeserializeOwned>(folder: &Path) -> Result<A> {
    let path = folder.join(ARGS);
    ensure!(
        path.exists(),
        "--resume {}: holds no args.json, so it is no run's folder; give the one that is printed at a run's end (\"written to\")",
        folder.display()
    );
    files::read_json(&path).with_context(|| {
        format!("--resume {}: was begun by another release of this program, or has been changed", folder.display())
    })
}

/// Its recipe, or a part of it.
pub fn saved_recipe<C: DeserializeOwned>(folder: &Path) -> Result<C> {
    files::read_json(&folder.join(RECIPE))
}

/// The path from the root.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("finding out where {} is", path.display()))
}
