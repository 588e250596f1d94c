//! Augmentation of a sample after it is cropped: random changes that leave its class what it is.
//!
//! | file | holds |
//! |---|---|
//! | `edit` | [`Edit`]: one change of a picture, equal to Pillow's |
//! | `shape` | the edits that move pixels |
//! | `colour` | the edits that change their values |
//! | `policy` | [`AutoAugment`] and [`ColorJitter`]: which edits a sample gets |
//! | `erasing` | [`RandomErasing`] |

mod colour;
mod edit;
mod erasing;
mod policy;
mod shape;

pub use edit::Edit;
pub use erasing::{Fill, RandomErasing};
pub use policy::{AutoAugment, ColorJitter};
