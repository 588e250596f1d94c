//! Backward passes and updates on one device take turns.
//!
//! Whether a parameter's gradient is written or added to is settled by a flag, and done by a kernel that is recorded a little
//! later. Two threads in one such gap would lose a gradient; a thread that updates meanwhile would use half of one.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A device's, kept as an attachment.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<()>);

thread_local! {
    /// Whether this thread has a turn already: a rule may run a backward pass of its own.
    static HAS_TURN: Cell<bool> = const { Cell::new(false) };
}

/// A turn, until it drops.
pub(crate) struct Turn<'a>(Option<MutexGuard<'a, ()>>);

impl Turns {
    /// Waits for a turn.
    pub(super) fn take(&self) -> Turn<'_> {
        if HAS_TURN.get() {
            return Turn(None);
        }
        // A pass that panicked has let go of its rules; the flags that it had not settled are down.
        let turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        HAS_TURN.set(true);
        Turn(Some(turn))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.0.is_some() {
            HAS_TURN.set(false);
        }
    }
}
