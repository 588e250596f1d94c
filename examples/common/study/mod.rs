//! What studies share: programs that run several arms with several seeds, keep what came of each in a file, and go on from it.

pub mod results;
pub mod spread;
pub mod step;
