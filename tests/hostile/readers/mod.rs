//! The readers of files that nobody should trust, each with small valid files to spoil. The tests give each some thousands of
//! spoilt ones, `benches/fuzz` as many as one wants: an input follows from reader, seed and number, so that any can be made
//! again.
//!
//! | file | readers |
//! |---|---|
//! | `weights` | safetensors, and models' folders: weights, index, configurations, adapters |
//! | `text` | tokenizers, texts, the cache of tokens |
//! | `pictures` | photos of every kind, folders of them, CIFAR |
//! | `runs` | a run's state and its folder, the tuning table, DeepSpeed's configurations |
//! | `mutate` | how files are spoilt |

pub mod mutate;
mod pictures;
mod runs;
mod text;
mod weights;

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use wgrad::gpu::{Gpu, GpuOptions};
use wgrad::{Error, Result};

use crate::allocation::peak;
use mutate::{Draws, mutated};

/// The longest that reading a small file may take, on a machine that is busy with other things.
const MOST_TIME: Duration = Duration::from_secs(2);
/// The longest message, in bytes.
const MOST_WORDS: usize = 2500;

/// All readers.
pub fn all() -> Vec<Reader> {
    let readers = [weights::readers(), text::readers(), pictures::readers(), runs::readers()];
    readers.into_iter().flatten().collect()
}

/// Reads a folder of which one file is hostile, and checks what came of it. The number is that of the [`Set`].
type Read = Box<dyn Fn(&Path, usize) -> Result<()>>;

/// One of the library's readers.
pub struct Reader {
    pub name: &'static str,
    /// Its part of all inputs, beside the others'.
    share: u64,
    sets: Vec<Set>,
    read: Read,
    /// Bytes that it may hold at once: so many, and so many for each byte of the hostile file.
    memory: [usize; 2],
}

/// Files that are read together.
struct Set {
    folder: tempfile::TempDir,
    /// Those that are spoilt, one at a time.
    files: Vec<(String, Vec<u8>)>,
}

impl Set {
    /// A folder with `files`, which are spoilt, and others that are not.
    fn new<N: Into<String>>(files: impl IntoIterator<Item = (N, Vec<u8>)>, others: &[(&str, Vec<u8>)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<_> = files.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect();
        let others = others.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone()));
        for (name, bytes) in files.iter().cloned().chain(others) {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        Set { folder, files }
    }
}

/// The device that readers have which need one.
fn gpu() -> Gpu {
    Gpu::with_options(&GpuOptions { default_limits: true, ..Default::default() }).expect("a GPU or CPU driver")
}

/// A hostile file.
pub struct Input {
    set: usize,
    file: usize,
    /// What the file is called.
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Reader {
    /// How many of the `inputs` of all readers are for this one.
    pub fn share_of(&self, inputs: u64, all: &[Reader]) -> u64 {
        inputs * self.share / all.iter().map(|reader| reader.share).sum::<u64>()
    }

    /// The input of that number.
    pub fn input(&self, seed: u64, number: u64) -> Input {
        let mut draws = Draws::new(self.name, seed, number);
        let [set, another] = [0; 2].map(|_| draws.below(self.sets.len()));
        let file = draws.below(self.sets[set].files.len());
        let (name, bytes) = &self.sets[set].files[file];
        let others = &self.sets[another].files;
        let bytes = mutated(&mut draws, name, bytes, &others[file % others.len()].1);
        Input { set, file, name: name.clone(), bytes }
    }

    /// Whether the input was read. The folder is put right again.
    ///
    /// # Errors
    /// In words, what no file may do: a panic, a wrong kind of error, too much memory or time.
    pub fn check(&self, input: &Input) -> std::result::Result<bool, String> {
        let set = &self.sets[input.set];
        let (name, right) = &set.files[input.file];
        let path = set.folder.path().join(name);
        fs::write(&path, &input.bytes).unwrap();
        let start = Instant::now();
        let read = AssertUnwindSafe(|| (self.read)(set.folder.path(), input.set));
        let (result, held) = peak(|| catch_unwind(read));
        let taken = start.elapsed();
        fs::write(&path, right).unwrap();

        let was_read = match result {
            Ok(Ok(())) => true,
            Ok(Err(error)) => judged(&error).map(|()| false)?,
            Err(panicked) => return Err(format!("panic: {}", words(panicked.as_ref()))),
        };
        let [some, each] = self.memory;
        if held > some + each * input.bytes.len() {
            return Err(format!("{held} bytes are held for a file of {}", input.bytes.len()));
        }
        if taken > MOST_TIME {
            return Err(format!("{taken:?} for a file of {} bytes", input.bytes.len()));
        }
        Ok(was_read)
    }
}

/// Whether an error is one that a file's content may be answered with, in words that a terminal can show.
fn judged(error: &Error) -> std::result::Result<(), String> {
    match error {
        Error::File { .. }
        | Error::Io { .. }
        | Error::Parameter { .. }
        | Error::Argument { .. }
        | Error::Limit { .. }
        | Error::DoesNotFit { .. }
        | Error::NonFinite { .. } => {}
        other => return Err(format!("a file's content is answered with {other}")),
    }
    let said = error.to_string();
    if let Some(c) = said.chars().find(|c| c.is_control() && *c != '\n') {
        return Err(format!("a control character, {c:?}, in the message {said:?}"));
    }
    if said.len() > MOST_WORDS {
        return Err(format!("a message of {} bytes: {}", said.len(), said.chars().take(200).collect::<String>()));
    }
    Ok(())
}

fn words(panicked: &(dyn Any + Send)) -> String {
    let text = panicked.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panicked.downcast_ref::<String>().cloned()).unwrap_or_default()
}
