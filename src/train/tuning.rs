//! Kernels chosen by measurement before step 0, and kept on disk from one run to the next.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Task, Workload, rehearse};
use crate::error::{Error, Result};
use crate::files::replace_file;
use crate::gpu::Gpu;
use crate::hash::Fnv;
use crate::ops::{self, TuneReport, Tuning};

/// A budget that is short beside any run and long enough for most models' products.
pub const TUNING_BUDGET: Duration = Duration::from_secs(2);

/// No table is as large, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where tables of settled plans are kept from one run to the next: a file for each device, driver and version of the
/// kernels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TuningStore {
    /// Nowhere.
    #[default]
    Off,
    /// In this folder, which is made if need be.
    Folder(PathBuf),
}

impl TuningStore {
    /// The folder `wgrad` among the user's caches, as the system has them: `$XDG_CACHE_HOME` or `~/.cache`,
    /// `~/Library/Caches`, `%LOCALAPPDATA%`. Nowhere if the environment does not tell.
    pub fn user_cache() -> Self {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = if cfg!(target_os = "windows") {
            folder("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            folder("HOME").map(|home| home.join("Library/Caches"))
        } else {
            folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
        };
        caches.map_or(TuningStore::Off, |caches| TuningStore::Folder(caches.join("wgrad")))
    }
}

/// Settles the plans of the matrix products of a run ([`ops::tune`]) within `budget`: those of a training step at each kept
/// length that the schedule visits (of more than 32, at 32 spread evenly), as a dry run of the steps asks for them.
///
/// Begins with what `store` has kept of earlier runs on this device, and writes what is new there. So the same run,
/// later, begins at once and computes the same to the last bit. A file that cannot be read, written or believed is a
/// warning in the log. With [`TuningStore::Off`] no file is touched.
///
/// # Errors
/// As [`rehearse`], and [`Error::Device`] if the device fails.
pub fn tune<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, store: &TuningStore, budget: Duration) -> Result<TuneReport> {
    let demands = rehearse(gpu, work)?.products;
    let TuningStore::Folder(folder) = store else { return ops::tune(gpu, &demands, budget) };
    let device = Device::new(gpu);
    let path = folder.join(device.file_name());
    let warn = |error: Error| log::warn!("tuning results: {error}");
    if let Some(tuning) = read(&path, &device).unwrap_or_else(|error| {
        warn(error);
        None
    }) {
        load(gpu, tuning, &path);
    }
    let report = ops::tune(gpu, &demands, budget)?;
    if report.measured > 0 {
        write(&path, &Stored { device, tuning: gpu.tuning() }).unwrap_or_else(warn);
    }
    Ok(report)
}

/// What a file says of a device must all be true of this one.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Device {
    adapter: String,
    driver: String,
    backend: String,
    family: String,
    matrix_units: Option<u32>,
    /// A hash of the crate's version and every kernel of an operation.
    kernels: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    device: Device,
    tuning: Tuning,
}

impl Device {
    fn new(gpu: &Gpu) -> Self {
        let info = gpu.info();
        Device {
            adapter: info.name.clone(),
            driver: info.driver.clone(),
            backend: format!("{:?}", info.backend),
            family: format!("{:?}", gpu.family()),
            matrix_units: gpu.matrix_units(),
            kernels: format!("{:016x}", kernels_hash()),
        }
    }

    fn file_name(&self) -> String {
        format!("tuning-{:016x}.json", Fnv::of(format!("{self:?}").as_bytes()))
    }
}

fn kernels_hash() -> u64 {
    let mut hash = Fnv::default();
    hash.add(env!("CARGO_PKG_VERSION").as_bytes());
    for kernel in ops::kernels() {
        hash.add(format!("{} {:?}", kernel.name, kernel.constants).as_bytes());
        kernel.sources.iter().for_each(|source| hash.add(source.text.as_bytes()));
    }
    hash.value()
}

/// The table in the file, if it is there.
fn read(path: &Path, device: &Device) -> Result<Option<Tuning>> {
    let io = |error| Error::io(path, error);
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::file(path, format!("is larger than {MAX_FILE} bytes")));
    }
    let stored: Stored = serde_json::from_slice(&text).map_err(|e| Error::file(path, e.to_string()))?;
    if stored.device != *device {
        return Err(Error::file(path, "is of another device"));
    }
    Ok(Some(stored.tuning))
}

/// Adds what a file says to what is settled already, which comes first.
fn load(gpu: &Gpu, stored: Tuning, path: &Path) {
    let mut tuning = gpu.tuning();
    let known = tuning.products.len();
    tuning.products.extend(stored.products);
    let ignored = gpu.set_tuning(&tuning).ignored;
    // With plans settled before, the file's for the same products are of no use, and no fault.
    if ignored > known {
        log::warn!("{}: {ignored} entries do not fit this device and are ignored", path.display());
    }
}

fn write(path: &Path, stored: &Stored) -> Result<()> {
    let text = serde_json::to_vec_pretty(stored).map_err(|error| Error::io(path, error.into()))?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    }
    replace_file(path, |writer| writer.write_all(&text))
}
