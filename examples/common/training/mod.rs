//! What training programs share, whatever they train: what a run shows, what it writes, and how it goes on. No model and no kind
//! of data is known here. A program brings its words ([`words::Words`]), its results ([`report::Run`]), its runs
//! ([`session::Program`]) and its part of the page ([`html::Page`]).
//!
//! | file | holds |
//! |---|---|
//! | `words` | how a program calls what it measures, and shows it |
//! | `recipe`, `kinds`, `values` | settings: one list for the options, what is printed and what is saved; their types |
//! | `optimisation`, `ltd`, `ltd_drop`, `patch_drop` | the settings that every recipe has; how tokens are dropped |
//! | `lora` | the settings of adapters |
//! | `given`, `output` | which options stand on the command line; those about the output |
//! | `device`, `adapters`, `memory`, `tuning`, `trial` | the options about this machine; whether a run fits; its kernels; the time of a step |
//! | `deepspeed` | a DeepSpeed configuration: where it is kept, how it drops tokens, what is printed of it |
//! | `comparison`, `session` | the kinds of runs that are set side by side; all of them, one after the other |
//! | `fit`, `progress`, `interrupt` | one run, followed on the console; Ctrl-C |
//! | `files`, `folder`, `start` | the run's folder, its lock and arguments; the weights that it began with |
//! | `resume`, `command` | where it stands; the command that goes on |
//! | `history`, `events`, `tensorboard` | metrics.csv; TensorBoard's files |
//! | `report`, `table` | report.json; the table at the end |
//! | `html`, `columns`, `curves`, `canvas` | report.html; curves.png; what drawings share |

#[path = "../adapters.rs"]
pub mod adapters;
pub mod canvas;
pub mod columns;
pub mod command;
pub mod comparison;
#[path = "../console.rs"]
pub mod console;
pub mod curves;
pub mod deepspeed;
pub mod device;
mod events;
pub mod files;
pub mod fit;
pub mod folder;
#[path = "../font.rs"]
mod font;
pub mod given;
pub mod history;
pub mod html;
pub mod interrupt;
pub mod kinds;
pub mod lora;
pub mod ltd;
#[path = "../ltd_drop.rs"]
pub mod ltd_drop;
pub mod memory;
pub mod optimisation;
pub mod output;
#[path = "../patch_drop.rs"]
pub mod patch_drop;
mod progress;
pub mod recipe;
pub mod report;
pub mod resume;
#[path = "../same_adapter.rs"]
pub mod same_adapter;
pub mod session;
pub mod start;
pub mod table;
mod tensorboard;
pub mod trial;
pub mod tuning;
pub mod values;
pub mod words;
