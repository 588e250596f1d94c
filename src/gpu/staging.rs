//! Memory of what is on its way between host and device: counted, and bounded for uploads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Gpu;
use crate::error::Result;

/// Bytes of uploads that may be under way. A host that is faster than its device waits here, before it fills up.
#[cfg(not(target_arch = "wasm32"))]
const MOST_STAGED: u64 = 64 << 20;

/// Bytes on their way in one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Staging(Arc<AtomicU64>);

/// Some of them, until it drops.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) bytes: u64,
    all: Staging,
}

impl Staging {
    pub(super) fn hold(&self, bytes: u64) -> Staged {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Staged { bytes, all: self.clone() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Gpu {
    /// Waits until an upload of `size` bytes may begin: until the device has taken the oldest ones. What is held ([`Gpu::hold`]) is to be
    /// submitted by nobody but its holder, and waited for by nobody: then it begins at once.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn await_room(&self, size: u64) -> Result<()> {
        while self.0.uploads.bytes() + size > MOST_STAGED {
            let mut state = self.state();
            if state.holds > 0 {
                break;
            }
            if state.recorder.oldest_upload().is_none() {
                self.submit(&mut state)?;
            }
            let Some((ordinal, index)) = state.recorder.oldest_upload() else { break };
            drop(state);
            self.await_submission(Some(index), ordinal, "upload")?;
        }
        Ok(())
    }

    /// A browser cannot wait.
    #[cfg(target_arch = "wasm32")]
    pub(super) fn await_room(&self, _size: u64) -> Result<()> {
        Ok(())
    }
}
