//! Whether the device has done all that it was given.
//!
//! A driver can drop a submission without a word: Metal does where memory runs out, and everything behind it goes on with what was there
//! before. So each submission ends by leaving its number in a small table, at the place that the number says, and each read-back brings the
//! table along, its own submission's number in it. What a submission that is missing would have computed is unknown, and so is everything
//! that depends on it: the device counts as lost.

use super::Gpu;
use crate::error::Result;

/// Numbers in the table: a submission that is missing is noticed if a read-back comes before so many others.
const PLACES: u64 = 64;
/// Bytes of the table.
pub(super) const WITNESS: u64 = PLACES * 4;

/// The table on the device.
#[derive(Debug)]
pub(super) struct Witness(wgpu::Buffer);

impl Witness {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        Witness(device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("witness"),
            size: WITNESS,
            usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        }))
    }

    /// Lets the commands so far leave the number of their submission, which stands at byte `at` of `numbers`.
    pub(super) fn sign(&self, encoder: &mut wgpu::CommandEncoder, ordinal: u64, (numbers, at): (&wgpu::Buffer, u64)) {
        encoder.copy_buffer_to_buffer(numbers, at, &self.0, ordinal % PLACES * 4, 4);
    }

    /// Copies the table to byte `at` of `staging`.
    pub(super) fn show(&self, encoder: &mut wgpu::CommandEncoder, staging: &wgpu::Buffer, at: u64) {
        encoder.copy_buffer_to_buffer(&self.0, 0, staging, at, WITNESS);
    }
}

/// The first of the submissions up to `last` that is not in a table that the last one has brought.
fn missing(table: &[u8], last: u64) -> Option<u64> {
    let number = |ordinal: u64| {
        let at = (ordinal % PLACES * 4) as usize;
        table.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
    };
    (last.saturating_sub(PLACES - 1).max(1)..=last).find(|&ordinal| number(ordinal) != Some(ordinal as u32))
}

impl Gpu {
    /// # Errors
    /// [`crate::Error::DeviceLost`] if a submission up to `last` is missing in the table.
    pub(super) fn check_witness(&self, table: &[u8], last: u64) -> Result<()> {
        if let Some(ordinal) = missing(table, last) {
            let what = format!("the driver has left out submission {ordinal} of {last} without a word");
            self.0.health.lose(format!("{what}, as some do where memory runs out: what came of it is wrong"));
        }
        self.expect_alive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::gpu::Fit;

    #[test]
    fn gaps_in_a_table() {
        let table = |last: u64, without: Option<u64>| {
            let mut table = vec![0; WITNESS as usize];
            for ordinal in (1..=last).filter(|ordinal| Some(*ordinal) != without) {
                let at = (ordinal % PLACES * 4) as usize;
                table[at..at + 4].copy_from_slice(&(ordinal as u32).to_ne_bytes());
            }
            table
        };
        for last in [1, 2, 63, 64, 65, 200] {
            assert_eq!(missing(&table(last, None), last), None);
            for gap in last.saturating_sub(PLACES - 1).max(1)..=last {
                assert_eq!(missing(&table(last, Some(gap)), last), Some(gap), "{last}");
            }
        }
        assert_eq!(missing(&[], 3), Some(1));
    }

    /// A submission that counts, and of which the device sees nothing.
    #[test]
    fn a_submission_that_is_left_out() {
        let gpu = Gpu::new().unwrap();
        let view = gpu.alloc(8, Fit::Exact, "a test").unwrap();
        let written = |bytes: [u8; 8]| {
            gpu.upload(&bytes, &view)?;
            gpu.read(&[&view])
        };
        assert_eq!(written([7; 8]).unwrap().wait().unwrap()[0][..8], [7; 8]);
        gpu.state().recorder.submissions += 1;
        let error = written([8; 8]).unwrap().wait().unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }) && error.to_string().contains("left out"), "{error}");
        // Nothing computed since can be relied on.
        assert!(matches!(written([9; 8]), Err(Error::DeviceLost { .. })));
    }
}
