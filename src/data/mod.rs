//! From samples to batches. Nothing here knows of a GPU: a batch is numbers, labels and the numbers of its samples.
//!
//! | file | holds |
//! |---|---|
//! | `batch` | [`Batch`], [`Position`]: what training asks of a batch |
//! | `source`, `loader` | [`Source`]: what batches are made of; [`Loader`]: which, in what order, ahead of time |
//! | `random` | random numbers by key |
//! | `runs` | which folders are runs', and so no data |
//! | `image_batch` | [`ImageBatch`]: pictures with their classes |
//! | `features` | [`Features`]: what a frozen model has made of pictures, and batches of it |
//! | `digits` | `Digits`: the pictures that come with the crate |
//! | `token_batch` | [`TokenBatch`]: sequences of tokens |
//! | `pictures/` | pictures as one source: data sets, photos, augmentation |
//! | `text/` | text as another: tokenizers, texts of any size, batches for GPT and BERT |
//!
//! Everything random depends on a seed and on what it is for, never on timing: equal settings give equal batches, on any
//! number of threads, from any position.
//!
//! Loaders, which have a thread, come with the feature `files`, pictures with `pictures`, the embedded digits by themselves with
//! `digits`. Batches are always there.
//!
#![cfg_attr(feature = "pictures", doc = "```")]
#![cfg_attr(not(feature = "pictures"), doc = "```ignore")]
//! use wgrad::data::{ImageOptions, ImageSource, Loader, LoaderOptions, Position, digits};
//!
//! let data = digits()?;
//! let pictures = ImageSource::new(&data.train, data.train_transform(32), ImageOptions::default())?;
//! let loader = Loader::new(pictures, LoaderOptions::training(64, 7))?;
//! for batch in loader.batches_from(Position::default())?.take(3) {
//!     let batch = batch?;
//!     assert_eq!(batch.images.len(), 64 * 3 * 32 * 32);
//!     assert_eq!(batch.labels.len(), 64);
//! }
//! # Ok::<(), wgrad::Error>(())
//! ```

mod batch;
#[cfg(feature = "digits")]
mod digits;
mod features;
mod image_batch;
#[cfg(feature = "files")]
mod loader;
#[cfg(feature = "pictures")]
mod pictures;
#[cfg(feature = "files")]
mod random;
#[cfg(any(feature = "pictures", feature = "text"))]
mod runs;
#[cfg(feature = "files")]
mod source;
#[cfg(feature = "text")]
mod text;
mod token_batch;

pub use batch::{Batch, Position};
#[cfg(feature = "digits")]
pub use digits::Digits;
#[cfg(feature = "files")]
pub use features::FeatureSource;
pub use features::{FeatureBatch, Features};
pub use image_batch::{ImageBatch, Mixed};
#[cfg(feature = "files")]
pub use loader::{Batches, Loader, LoaderOptions};
#[cfg(feature = "pictures")]
pub use pictures::{
    AutoAugment, ColorJitter, Crop, DataSet, Edit, Fill, FolderOptions, Image, ImageOptions, ImageSource, Key, Listing,
    MAX_PIXELS, MAX_SIDE, Mix, Padding, Part, Probe, RandomErasing, Skipped, Split, Transform, Unused, Window, cifar10,
    cifar100, digits, image_folder, list_pictures,
};
#[cfg(feature = "files")]
pub use source::{Source, Wanted};
#[cfg(feature = "text")]
pub use text::{
    Documents, HeldOut, MaskedOptions, MaskedText, PackedText, Special, SpecialTokens, TextOptions, TextStream, Texts,
    TokenCache, Tokenizer, Tokens, TrainOptions,
};
pub use token_batch::TokenBatch;

pub use crate::normalize::Normalize;
pub use crate::preprocess::{CropMode, Interpolation};
