//! What programs that train language models share, beyond what any program does ([`crate::training`]). A program brings its
//! arguments and what they begin with ([`program::Lesson`]); a kind of model, its task, its texts and its files ([`kind::Kind`]).
//!
//! | file | holds |
//! |---|---|
//! | `args`, `recipe`, `effects` | the command line; how a run trains; options that change nothing |
//! | `ways` | the ways to drop tokens, as every program lists them |
//! | `kind` | what tells one kind of language model from another |
//! | `program` | a whole program, from its arguments to its report |
//! | `setup`, `run` | what its runs share; one run |
//! | `texts`, `bytes` | texts as training, validation and test; how many bytes their tokens stand for |
//! | `report` | what a run leaves behind in report.json, and how that is shown |

pub mod args;
pub mod bytes;
mod effects;
pub mod kind;
pub mod program;
pub mod recipe;
pub mod report;
mod run;
pub mod setup;
pub mod texts;
#[path = "../ways.rs"]
mod ways;
