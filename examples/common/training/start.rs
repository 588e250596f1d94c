//! The weights that a run begins with: where they lie, and what tells them from others.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use wgrad::checkpoint::Checkpoint;

use super::console::printable;
use super::{files, folder};

const START: &str = "start.json";

/// What a run's folder keeps of its weights.
#[derive(Serialize, Deserialize)]
struct Start {
    /// The file or folder that they were read from; nothing of embedded ones.
    place: Option<PathBuf>,
    /// Of the tensors, as [`checksum`] has it.
    crc32c: u32,
}

/// Keeps what tells the weights of a new run, read from `place`, in its folder.
pub fn keep(run: &Path, place: Option<&Path>, weights: &Checkpoint) -> Result<()> {
    let start = Start { place: place.map(folder::absolute).transpose()?, crc32c: checksum(weights) };
    files::replace(&run.join(START), serde_json::to_string_pretty(&start)?.as_bytes())
}

/// Refuses weights that are others than the run in this folder began with: what of a comparison has not begun would
/// begin with these. Runs of earlier releases have kept nothing.
pub fn check(run: &Path, weights: &Checkpoint) -> Result<()> {
    let Some(Start { place, crc32c }) = kept(run)? else { return Ok(()) };
    let place = place.map_or_else(String::new, |place| format!(" in {}", printable(&place.display().to_string())));
    ensure!(
        checksum(weights) == crc32c,
        "--resume {}: the weights{place} are others than the run began with: put those back, or begin a new run",
        run.display()
    );
    Ok(())
}

/// Where the run in this folder found its weights, if they are still there. What was fetched from the Hub is found
/// again without a network.
pub fn place(run: &Path) -> Result<Option<PathBuf>> {
    Ok(kept(run)?.and_then(|start| start.place).filter(|place| place.exists()))
}

fn kept(run: &Path) -> Result<Option<Start>> {
    let path = run.join(START);
    if path.exists() { files::read_json(&path).map(Some) } else { Ok(None) }
}

/// CRC-32C of all tensors' names, shapes and values.
fn checksum(weights: &Checkpoint) -> u32 {
    weights.tensors.iter().fold(0, |sum, (name, tensor)| {
        let sum = crc32c::crc32c_append(sum, format!("{name} {:?}", tensor.shape).as_bytes());
        crc32c::crc32c_append(sum, bytemuck::cast_slice(&tensor.data))
    })
}
