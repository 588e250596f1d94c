//! Backward passes and updates on one device take turns.
//!
//! Whether a parameter's gradient is written or added to is settled by a flag, and done by a kernel that is recorded a little
//! later. Two threads in one such gap would lose a gradient; a thread that updates meanwhile would use half of one.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A device's, kept as an attachment.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<()>);

thread_local! {
    /// The devices whose turn this thread has: a rule may run a backward pass of its own, on this device or another.
    static TAKEN: RefCell<Vec<*const Turns>> = const { RefCell::new(Vec::new()) };
}

/// A turn, until it drops.
pub(crate) struct Turn<'a>(Option<(&'a Turns, MutexGuard<'a, ()>)>);

impl Turns {
    /// Waits for a turn.
    pub(super) fn take(&self) -> Turn<'_> {
        let own = std::ptr::from_ref(self);
        if TAKEN.with_borrow(|taken| taken.contains(&own)) {
            return Turn(None);
        }
        // A pass that panicked has let go of its rules; the flags that it had not settled are down.
        let turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        TAKEN.with_borrow_mut(|taken| taken.push(own));
        Turn(Some((self, turn)))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some((turns, _)) = &self.0 {
            let own = std::ptr::from_ref(*turns);
            TAKEN.with_borrow_mut(|taken| taken.retain(|other| *other != own));
        }
    }
}
