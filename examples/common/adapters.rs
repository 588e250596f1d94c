//! What `--list-adapters` prints.

use wgrad::gpu::{Gpu, Power};

use super::console::say;

/// The adapters with the numbers that choose one.
pub fn list() {
    for (i, adapter) in Gpu::adapters(Power::High).iter().enumerate() {
        say!("{i}: {adapter}");
    }
}
