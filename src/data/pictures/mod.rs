//! Pictures: data sets, photos, augmentation, and what makes batches of them.
//!
//! | file | holds |
//! |---|---|
//! | `split`, `dataset` | [`Split`]: labelled samples, in memory or as photos on disk; [`DataSet`]: three of them |
//! | `digits`, `cifar`, `folder` | the data sets: [`digits`], [`cifar10`] and [`cifar100`], [`image_folder`] |
//! | `layout`, `listing` | which folders hold splits and classes; [`list_pictures`]: which pictures a folder holds, and what else |
//! | `duplicates`, `fingerprint` | pictures that are there twice; what tells a split's pictures from others |
//! | `probe` | [`Split::probe`]: whether pictures can be read |
//! | `image` | [`Image`]: decoding photos, with limits |
//! | `resize` | resizing, equal to Pillow's |
//! | `crop` | [`Crop`]: which part of a picture becomes the sample |
//! | `augment` | [`AutoAugment`], [`ColorJitter`], [`RandomErasing`], and the single [`Edit`]s |
//! | `transform` | [`Transform`]: from a picture to a sample `u8[3, S, S]`, all of this in order |
//! | `mixing`, `draw` | [`Mix`]: mixup and CutMix of a batch's samples; the distributions that is drawn from |
//! | `source`, `identity` | [`ImageSource`]: batches of a split; what a run's pictures are tied to |

mod augment;
mod cifar;
mod crop;
mod dataset;
mod digits;
mod draw;
mod duplicates;
mod fingerprint;
mod folder;
mod identity;
mod image;
mod layout;
mod listing;
mod mixing;
mod probe;
mod resize;
mod source;
mod split;
mod transform;

pub use augment::{AutoAugment, ColorJitter, Edit, Fill, RandomErasing};
pub use cifar::{cifar10, cifar100};
pub use crop::{Crop, Padding};
pub use dataset::DataSet;
pub use digits::digits;
pub use folder::{FolderOptions, image_folder};
pub use image::{Image, MAX_PIXELS, MAX_SIDE};
pub use listing::{Listing, Unused, list_pictures};
pub use mixing::Mix;
pub use probe::Probe;
pub use resize::{Part, Window};
pub use source::{ImageOptions, ImageSource, Skipped};
pub use split::Split;
pub use transform::{Key, Transform};
