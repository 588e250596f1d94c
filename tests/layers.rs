//! The source against the table of layers: arrows point down only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each module with the modules that it may use besides itself. A module that is missing here fails the test.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &["shape"]),
    ("shape", &["error"]),
    ("hash", &[]),
    ("identity", &[]),
    ("normalize", &[]),
    ("resample", &[]),
    ("gpu", &["error", "shape"]),
    ("tensor", &["error", "shape", "gpu"]),
    ("autograd", &["error", "shape", "hash", "gpu", "tensor"]),
    ("ops", &["error", "shape", "hash", "normalize", "gpu", "tensor", "autograd"]),
    // Files of any model: each reads and writes its own through it.
    ("checkpoint", &["error", "tensor", "autograd"]),
    ("nn", &["error", "shape", "hash", "gpu", "tensor", "autograd", "ops"]),
    ("models", &["error", "shape", "resample", "gpu", "tensor", "autograd", "ops", "checkpoint", "nn"]),
    ("ltd", &["error", "shape", "hash", "gpu", "tensor", "autograd", "ops", "nn"]),
    ("optim", &["error", "shape", "gpu", "tensor", "autograd", "ops", "nn"]),
    // No GPU type: a data set is the host's business.
    ("data", &["error", "hash", "identity", "normalize", "resample"]),
    (
        "train",
        // No model: it trains any.
        &[
            "error",
            "shape",
            "hash",
            "identity",
            "gpu",
            "tensor",
            "autograd",
            "ops",
            "nn",
            "ltd",
            "optim",
            "checkpoint",
            "data",
        ],
    ),
];

/// What the crate's root re-exports, with the module that it comes from.
const AT_ROOT: &[(&str, &str)] = &[
    ("Error", "error"),
    ("Result", "error"),
    ("Gpu", "gpu"),
    ("Shape", "shape"),
    ("DType", "shape"),
    ("Tensor", "tensor"),
    // Macros for other crates stand at the root, wherever they are declared.
    ("params", "gpu"),
    ("rounds", "gpu"),
];

/// Modules that serve any model, and so name none.
const FOR_ANY_MODEL: &[&str] =
    &["gpu", "tensor", "autograd", "ops", "checkpoint", "nn", "ltd", "optim", "data", "train"];

/// How a model is named in code.
const MODELS: &[&str] = &["ViT", "Vit", "vit_", "vit::"];

/// The one thing of wgpu that others than `gpu` may name: bounds of types that are shared between threads.
const WGPU_BOUND: &str = "wgpu::WasmNotSendSync";

pub struct File {
    pub path: PathBuf,
    /// First component of its module path.
    pub module: String,
    /// Its lines without comments.
    pub code: Vec<String>,
}

/// Every source file but the crate's root.
pub fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    let file = |path: PathBuf| {
        let inside = path.strip_prefix(&root).unwrap().to_path_buf();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().map(|line| line.split("//").next().unwrap().to_owned()).collect();
        File { path: inside, module: first.trim_end_matches(".rs").to_owned(), code }
    };
    paths.into_iter().map(file).filter(|file| file.module != "lib").collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// The first components of the `crate::` paths in a line, also of `crate::{a::b, c}`.
fn crate_paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => found.push(identifier(rest)),
            Some(list) => found.extend(top_level(list).iter().map(|item| identifier(item.trim_start()))),
        }
    }
    found
}

pub fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The items of a list up to its closing brace, without splitting nested lists.
pub fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&list[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn arrows_point_down_only() {
    let mut wrong = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for file in files() {
        let Some((module, allowed)) = MAY_USE.iter().find(|(module, _)| *module == file.module) else {
            panic!("src/{}: module {} has no layer", file.path.display(), file.module);
        };
        seen.insert(*module);
        for used in crate_paths(&file.code.join("\n")) {
            let used = AT_ROOT.iter().find(|(name, _)| *name == used).map_or(used.as_str(), |(_, module)| module);
            if used != *module && !allowed.contains(&used) {
                wrong.insert(format!("src/{} uses crate::{used}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(seen.len(), MAY_USE.len(), "a layer without a file: the table is older than the source");
}

#[test]
fn only_the_device_layer_speaks_to_wgpu() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| file.module != "gpu") {
        for (i, line) in file.code.iter().enumerate() {
            if line.replace(WGPU_BOUND, "").contains("wgpu::") {
                wrong.push(format!("src/{}:{}: {}", file.path.display(), i + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_serves_any_model_names_none() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| FOR_ANY_MODEL.contains(&file.module.as_str())) {
        for (i, line) in file.code.iter().enumerate() {
            if MODELS.iter().any(|name| line.contains(name)) {
                wrong.push(format!("src/{}:{}: {}", file.path.display(), i + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The trainer and the loader serve any task: what is told apart, and that it is pictures, only the tasks and sources know.
#[test]
fn what_serves_any_task_names_none() {
    const WORDS: &[&str] = &["image", "picture", "class", "patch"];
    let loader = ["data/batch.rs", "data/loader.rs", "data/source.rs"].map(PathBuf::from);
    let serves = |file: &&File| {
        let is_task = file.path.starts_with("train/tasks") || file.path == Path::new("train/mod.rs");
        (file.module == "train" && !is_task) || loader.contains(&file.path)
    };
    let all = files();
    assert!(all.iter().filter(serves).count() > loader.len());
    for file in all.iter().filter(serves) {
        for (i, line) in file.code.iter().enumerate() {
            let line = line.to_lowercase().replace("patchdrop", "");
            assert!(!WORDS.iter().any(|word| line.contains(word)), "src/{}:{}: {line}", file.path.display(), i + 1);
        }
    }
}

#[test]
fn the_reader_of_paths_works() {
    assert_eq!(crate_paths("use crate::gpu::Gpu; let x = crate::shape::Shape;"), ["gpu", "shape"]);
    assert_eq!(crate_paths("use crate::{Error, gpu::{Gpu, Kernel},\n tensor::Tensor};"), ["Error", "gpu", "tensor"]);
    assert_eq!(crate_paths("pub(crate) fn f() {} // nothing"), Vec::<String>::new());
}
