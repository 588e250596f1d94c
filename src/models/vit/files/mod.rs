//! ViTs in files: this crate's own, timm's and transformers'. Everything in between speaks timm's names.
//!
//! [`open`] takes what others have published, file or folder, and says what model it is of; [`export_timm`] and [`export_hf`]
//! write folders that those libraries load.
//!
//! | file | holds |
//! |---|---|
//! | `open` | [`open`], [`Pretrained`] |
//! | `metadata` | [`save`], [`VitFile`]: what our own files say |
//! | `names` | transformers' names, and timm's |
//! | `infer`, `config_json`, `forms` | a model's sizes from shapes, and from timm's and transformers' `config.json` |
//! | `head` | a head for classes that may be others than its own |
//! | `positions` | position embeddings for another image size |
//! | `export` | folders for timm and transformers |
//! | `layouts` | positions and heads as those libraries have them |
//! | `adapted`, `peft` | weights with their adapters merged in, and adapters as PEFT has them |

mod adapted;
mod config_json;
mod export;
mod forms;
mod head;
mod infer;
mod layouts;
mod metadata;
mod names;
mod open;
mod peft;
mod positions;

pub use export::{ExportOptions, export_hf, export_timm};
pub use head::HeadFit;
pub use metadata::{VitFile, save};
pub use open::{OpenOptions, Pretrained, open};
pub use peft::{AdapterNames, save_adapter};
pub use positions::{Resampling, resample_pos_embed};
