//! Ctrl-C.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use super::console::complain;
use super::resume;

/// The first Ctrl-C asks the run in `folder` to end after its step; the second ends the program, with the `command`
/// that goes on.
pub fn stop(folder: PathBuf, command: String) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            complain!("\n{}", resume::offer(&folder, &command));
            std::process::exit(130);
        }
        complain!("\nending after this step and its evaluation; again to end at once");
    })
    .context("watching for Ctrl-C")?;
    Ok(stop)
}
