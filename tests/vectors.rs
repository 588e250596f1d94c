//! What kernels are given in these tests, and make of it, as files, for a WebGPU that no native test runs on: `.ci/portability` has Dawn
//! compute them again.
//!
//! Where WGRAD_VECTORS names a folder, the first dispatches of each kernel go there, as `NAME.json` and `NAME.bin`. The latter holds the
//! `Params`, then each binding before the dispatch, then those that the kernel writes, after it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use wgrad::DType;
use wgrad::gpu::{Access, Bound, DispatchObserver, Dispatched, Gpu, Kernel, joined_source};

/// Of each kernel, with different `Params`.
const VECTORS: usize = 3;
/// Larger ones are left out.
const MOST_BYTES: u64 = 4 << 20;

/// The folder that is asked for, if any.
static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("WGRAD_VECTORS").map(PathBuf::from));

/// The `Params` that were seen, by kernel.
type Seen = HashMap<&'static str, Vec<Vec<u8>>>;

/// Of all devices: they write to one folder.
static SEEN: LazyLock<Mutex<Seen>> = LazyLock::new(Default::default);

/// Writes what is dispatched on this device, if that is asked for.
pub fn write(gpu: &Gpu) {
    if let Some(folder) = &*FOLDER {
        gpu.observe(Box::new(Writer { folder }));
    }
}

struct Writer {
    folder: &'static Path,
}

impl DispatchObserver for Writer {
    fn wants(&self, kernel: &'static Kernel, params: &[u8], bytes: u64) -> bool {
        if bytes > MOST_BYTES {
            return false;
        }
        let mut seen = SEEN.lock().unwrap();
        let seen = seen.entry(kernel.name).or_default();
        let is_new = seen.len() < VECTORS && !seen.iter().any(|known| known == params);
        if is_new {
            seen.push(params.to_vec());
        }
        is_new
    }

    fn see(&self, Dispatched { kernel, params, groups, bound }: Dispatched) {
        let number = SEEN.lock().unwrap()[kernel.name].iter().position(|known| *known == params).unwrap();
        let bindings: Vec<_> = bound.iter().map(binding).collect();
        let description = serde_json::json!({
            "kernel": kernel.name,
            "entry": kernel.entry,
            "source": joined_source(kernel.sources),
            "constants": kernel.constants.iter().copied().collect::<HashMap<&str, f64>>(),
            "params": params.len(),
            "groups": groups,
            "bindings": bindings,
        });
        let before = bound.iter().map(|bound| &bound.before);
        let after = bound.iter().filter(|bound| bound.access == Access::Write).map(|bound| &bound.after);
        let bytes: Vec<u8> = [&params].into_iter().chain(before).chain(after).flatten().copied().collect();
        let path = self.folder.join(format!("{}-{number}", kernel.name.replace('/', "-")));
        std::fs::create_dir_all(self.folder).unwrap();
        std::fs::write(path.with_added_extension("bin"), bytes).unwrap();
        std::fs::write(path.with_added_extension("json"), description.to_string()).unwrap();
    }
}

/// With how much of it is a tensor's elements, and of which type: padding behind them is nobody's.
fn binding(Bound { access, tensor, before, .. }: &Bound) -> serde_json::Value {
    let dtype = tensor.map(|info| match info.dtype {
        DType::F16 => "f16",
        DType::F32 => "f32",
        _ => "integer",
    });
    let elements = tensor.map_or(before.len() as u64, |info| info.shape.numel() as u64 * info.dtype.size());
    serde_json::json!({
        "writes": *access == Access::Write,
        "dtype": dtype,
        "bytes": before.len(),
        "elements": elements,
    })
}
