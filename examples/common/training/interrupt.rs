//! Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use super::console::complain;

/// The first Ctrl-C asks the run to end after its step; the second ends the program, with the command that goes on.
pub fn stop(command: String) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            complain!("\nto go on from what was saved last: {command}");
            std::process::exit(130);
        }
        complain!("\nending after this step; again to end at once");
    })
    .context("watching for Ctrl-C")?;
    Ok(stop)
}
