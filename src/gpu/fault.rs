//! The sticky flag that kernels raise when a value on the device is out of range.
//!
//! Labels and token indices are data: the host cannot check them. Kernels that index by data check the bound, skip the
//! access, and leave the first offence here (see `shaders/lib/fault.wgsl`); every read-back looks at it.

use crate::error::Error;

/// Bytes of the flag: count, code, value, bound.
pub(crate) const SIZE: u64 = 16;

/// What was out of range; the number is what the kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Fault {
    Label = 1,
    GatherIndex = 2,
    ScatterIndex = 3,
}

impl Fault {
    const ALL: [Fault; 3] = [Fault::Label, Fault::GatherIndex, Fault::ScatterIndex];

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Fault::Label => ("cross_entropy", "label"),
            Fault::GatherIndex => ("token_gather", "token index"),
            Fault::ScatterIndex => ("token_scatter", "token index"),
        }
    }
}

/// The error that a read flag stands for, if it was raised.
pub(crate) fn decode(bytes: &[u8]) -> Option<Error> {
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
    let &[count, code, value, bound] = words.as_slice() else { return None };
    if count == 0 {
        return None;
    }
    let (op, what) = Fault::ALL.iter().find(|f| **f as u32 == code).map_or(("kernel", "value"), |f| f.words());
    Some(Error::OutOfRange { op, what, value, bound })
}
