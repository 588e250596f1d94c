//! Runs that nobody watches: how long, and what is left of them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use eframe::egui::{self, ColorImage};

use crate::args::Args;
use crate::report::{Report, write_screenshot};

/// The picture of a frame, once it has been drawn.
type Frame = Arc<Mutex<Option<Arc<ColorImage>>>>;

/// When the window closes by itself, and what it saves before.
pub struct Unattended {
    length: Option<Duration>,
    screenshot: Option<PathBuf>,
    report: Option<PathBuf>,
    begun: Option<Instant>,
    /// The last frame, if it has been asked for.
    last: Option<Frame>,
}

impl Unattended {
    pub fn new(args: &Args) -> Self {
        Unattended {
            length: args.seconds.map(Duration::from_secs_f64),
            screenshot: args.screenshot.clone(),
            report: args.report.clone(),
            begun: None,
            last: None,
        }
    }

    /// Whether the window closes by itself.
    pub fn is(&self) -> bool {
        self.length.is_some()
    }

    /// Looks at the clock, which begins when the model is there. `true` when all is saved and the window is to close.
    pub fn advance(&mut self, context: &egui::Context, report: impl FnOnce() -> Report) -> Result<bool> {
        let Some(length) = self.length else { return Ok(false) };
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let left = length.saturating_sub(begun.elapsed());
        if !left.is_zero() {
            context.request_repaint_after(left);
            return Ok(false);
        }
        if let Some(file) = &self.screenshot {
            let Some(last) = &self.last else {
                let frame = Frame::default();
                self.last = Some(Arc::clone(&frame));
                context.request_screenshot(move |picture| {
                    *frame.lock().unwrap_or_else(PoisonError::into_inner) = Some(picture);
                });
                return Ok(false);
            };
            context.request_repaint();
            let Some(picture) = last.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(false) };
            write_screenshot(file, &picture)?;
        }
        if let Some(file) = &self.report {
            report().write(file)?;
        }
        Ok(true)
    }
}
