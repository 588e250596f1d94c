//! Event files that TensorBoard reads: a stream of length-framed records (TFRecord), each an `Event` in protobuf. The few
//! fields that scalars need, numbered as in TensorFlow's `event.proto` and `summary.proto`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// In the first record alone.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// An enumeration.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// What earlier files say of this step and later ones no longer holds: a run that is resumed does them again.
const START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    scalar: Option<f32>,
}

/// An event file that is being written.
pub struct Events {
    path: PathBuf,
    /// Not buffered: what was recorded is there after a kill too, and a step takes longer than a write.
    file: File,
    is_started: bool,
    /// What went wrong first; nothing is written after it.
    failed: Option<std::io::Error>,
}

impl Events {
    /// A new file; a run that is resumed has one more, which TensorBoard reads after the first.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        // TensorBoard takes files with `tfevents` in the name, in the order of the names.
        let path = folder.join(format!("events.out.tfevents.{:017.6}.wgrad", seconds()));
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let mut events = Events { path, file, is_started: false, failed: None };
        let file_version = Some("brain.Event:2".to_owned());
        events.record(&Event { wall_time: seconds(), file_version, ..Event::default() });
        Ok(events)
    }

    /// Numbers of a step, each with its tag.
    pub fn scalars(&mut self, step: u64, values: impl Iterator<Item = (String, f64)>) {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        if !self.is_started {
            self.is_started = true;
            let session_log = Some(SessionLog { status: START });
            self.record(&Event { wall_time: seconds(), step, session_log, ..Event::default() });
        }
        let value = |(tag, value)| Value { tag, scalar: Some(value as f32) };
        let summary = Summary { values: values.map(value).collect() };
        self.record(&Event { wall_time: seconds(), step, summary: Some(summary), ..Event::default() });
    }

    /// # Errors
    /// If the file could not be written.
    pub fn finish(self) -> Result<()> {
        self.failed.map_or(Ok(()), Err).with_context(|| format!("writing {}", self.path.display()))
    }

    fn record(&mut self, event: &Event) {
        if self.failed.is_none() {
            self.failed = self.file.write_all(&framed(&event.encode_to_vec())).err();
        }
    }
}

/// A TFRecord: the length as u64, its checksum, the bytes, their checksum; little-endian. As described in TensorFlow's
/// "TFRecord and tf.train.Example".
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), bytes, &checksum(bytes)].concat()
}

/// CRC-32C, turned and shifted, so that the checksum of data with checksums in them stays good.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
