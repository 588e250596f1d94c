//! A page that trains a micro Vision Transformer on handwritten digits in a tab, on WebGPU, with random-LTD.
//!
//! | file | holds |
//! |---|---|
//! | `samples` | the embedded digits as batches: to learn from, and held out |
//! | `pad` | a drawing as a picture like theirs |
//! | `lesson` | the model and its training, in slices of time |
//! | `page` | what JavaScript sees of it |
//!
//! Only `page` knows of a browser: the rest is tested, and timed, natively (`src/bin/native.rs`).

pub mod lesson;
pub mod pad;
pub mod page;
pub mod samples;
