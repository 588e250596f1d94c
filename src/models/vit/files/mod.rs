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
//! | `infer` | a model's sizes from shapes |
//! | `described`, `timm_json`, `hf_json`, `forms` | what timm's and transformers' `config.json` tell |
//! | `architectures` | what timm's names of models stand for |
//! | `head` | a head for classes that may be others than its own |
//! | `positions` | position embeddings for another image size |
//! | `export`, `export_hf`, `export_timm` | folders for timm and transformers, and their `config.json` |
//! | `layouts` | positions and heads as those libraries have them |
//! | `adapted`, `peft` | weights with their adapters merged in, and adapters as PEFT has them |

mod adapted;
mod architectures;
mod described;
mod export;
mod export_hf;
mod export_timm;
mod forms;
mod head;
mod hf_json;
mod infer;
mod layouts;
mod metadata;
mod names;
mod open;
mod peft;
mod positions;
mod timm_json;

pub use export::{ExportOptions, check_export_hf, check_export_timm, export_hf, export_timm};
pub use head::HeadFit;
pub use metadata::{VitFile, save};
pub use open::{OpenOptions, Pretrained, open};
pub use peft::{AdapterNames, save_adapter};
pub use positions::{Resampling, resample_pos_embed};
