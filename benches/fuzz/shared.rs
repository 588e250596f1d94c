//! The programs' part of a run's folder.

#[path = "../../examples/common/training/mod.rs"]
#[expect(dead_code, reason = "what is no reader")]
pub mod training;
