//! In the place of observe.rs where the feature `internals` is off: nobody looks on.

use super::{BufferView, Gpu, Kernel};
use crate::error::Result;

#[derive(Debug, Default)]
pub(super) struct Onlooker;

impl Gpu {
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn is_observed(&self) -> bool {
        false
    }

    pub(super) fn observed(
        &self,
        _: &'static Kernel,
        _: &[u8],
        _: [u32; 3],
        _: &[&BufferView],
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        // Nobody.
        let Onlooker = self.0.onlooker;
        work()
    }
}
