//! What is to be trained, and how.

use std::path::{Path, PathBuf};

use crate::args::Args;

/// Where the pictures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    Digits,
    Folder,
}

/// What the weights are at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Embedded,
    Random,
    File,
}

/// All that is chosen before a lesson. Paths are as they were typed, and stay when something else is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub data: Data,
    pub folder: String,
    pub start: Start,
    pub weights: String,
    pub batch_size: usize,
    pub rate: f32,
    /// Of the tokens, the share that is kept at the first step, in percent.
    pub kept_at_first: usize,
    /// Steps until all tokens are kept.
    pub ltd_steps: u64,
}

impl Settings {
    pub fn new(args: &Args) -> Self {
        let typed = |path: &Option<PathBuf>| path.as_deref().map_or_else(String::new, |p| p.display().to_string());
        Settings {
            data: if args.data.is_some() { Data::Folder } else { Data::Digits },
            folder: typed(&args.data),
            start: if args.weights.is_some() { Start::File } else { Start::Embedded },
            weights: typed(&args.weights),
            batch_size: 16,
            rate: 1e-3,
            kept_at_first: 25,
            ltd_steps: 400,
        }
    }

    /// The photos' folder, where one is to be used.
    pub fn folder(&self) -> Option<&Path> {
        (self.data == Data::Folder).then(|| Path::new(self.folder.trim()))
    }
}
