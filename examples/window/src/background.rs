//! What takes longer than a frame, on a thread of its own.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

use anyhow::{Result, anyhow};
use eframe::egui;

/// Work whose result the window looks for in each frame. Dropped, it is left to end by itself.
pub struct Background<T>(Receiver<Result<T>>);

impl<T: Send + 'static> Background<T> {
    /// Starts the work. The window draws again when it is done.
    pub fn start(context: &egui::Context, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Self> {
        let (sender, receiver) = channel();
        let context = context.clone();
        thread::Builder::new().spawn(move || {
            // Nobody may want it any more.
            let _ = sender.send(work());
            context.request_repaint();
        })?;
        Ok(Background(receiver))
    }

    /// The result, once it is there.
    pub fn take(&self) -> Option<Result<T>> {
        match self.0.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(anyhow!("a thread of the program has failed"))),
        }
    }
}
