//! The source against the table of layers: arrows point down only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each module with the modules that it uses besides itself, all of them: one that is missing here fails the test, and so does one
/// that is not used.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &["shape"]),
    ("shape", &[]),
    ("hash", &[]),
    ("identity", &[]),
    ("files", &["error"]),
    ("normalize", &[]),
    ("preprocess", &[]),
    ("resample", &["preprocess"]),
    ("gpu", &["error", "shape"]),
    ("tensor", &["error", "shape", "gpu"]),
    ("autograd", &["error", "shape", "hash", "gpu", "tensor"]),
    ("ops", &["error", "shape", "hash", "normalize", "gpu", "tensor", "autograd"]),
    // Files of any model: each reads and writes its own through it.
    ("checkpoint", &["error", "files", "tensor", "autograd"]),
    ("nn", &["error", "shape", "hash", "gpu", "tensor", "autograd", "ops"]),
    (
        "models",
        &[
            "error",
            "shape",
            "identity",
            "preprocess",
            "resample",
            "gpu",
            "tensor",
            "autograd",
            "ops",
            "checkpoint",
            "nn",
        ],
    ),
    ("ltd", &["error", "hash", "nn"]),
    ("optim", &["error", "shape", "gpu", "tensor", "autograd"]),
    // No GPU type: a data set is the host's business.
    ("data", &["error", "hash", "identity", "files", "normalize", "preprocess", "resample"]),
    (
        "train",
        // No model: it trains any.
        &[
            "error",
            "shape",
            "hash",
            "identity",
            "files",
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

/// How a model is named in code, beside the path of its folder.
const MODELS: &[&str] = &["ViT", "Vit", "vit_", "vit::", "Gpt2Config", "BertConfig"];

/// How one kind of data and task is named in code, which training programs do not share.
const CLASSIFICATION: &[&str] = &["picture", "Picture", "images", "Image", "class", "Class"];

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
    files_in("src").into_iter().filter(|file| file.module != "lib").collect()
}

/// Those in a folder of the project and below.
fn files_in(folder: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    let file = |path: PathBuf| {
        let inside = path.strip_prefix(&root).unwrap().to_path_buf();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().map(|line| line.split("//").next().unwrap().to_owned()).collect();
        File { path: inside, module: first.trim_end_matches(".rs").to_owned(), code }
    };
    paths.into_iter().map(file).collect()
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
    // Whatever the features: the text is read, not what is compiled of it.
    let mut unused: BTreeSet<_> =
        MAY_USE.iter().flat_map(|(module, allowed)| allowed.iter().map(|used| (*module, *used))).collect();
    for file in files() {
        let Some((module, allowed)) = MAY_USE.iter().find(|(module, _)| *module == file.module) else {
            panic!("src/{}: module {} has no layer", file.path.display(), file.module);
        };
        seen.insert(*module);
        for used in crate_paths(&file.code.join("\n")) {
            let used = AT_ROOT.iter().find(|(name, _)| *name == used).map_or(used.as_str(), |(_, module)| module);
            unused.retain(|(by, allowed)| by != module || *allowed != used);
            if used != *module && !allowed.contains(&used) {
                wrong.insert(format!("src/{} uses crate::{used}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(unused.is_empty(), "allowed, and not used: {unused:?}");
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

/// [`MODELS`], and the path of each folder in src/models.
fn names_of_models() -> Vec<String> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/models");
    let entries = std::fs::read_dir(models).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().is_dir());
    let paths: Vec<_> = folders.map(|folder| format!("models::{}", folder.file_name().to_string_lossy())).collect();
    assert!(paths.len() > 2);
    [MODELS.iter().map(|name| (*name).to_owned()).collect(), paths].concat()
}

/// The lines that hold one of `names`.
fn lines_with<'a>(files: impl Iterator<Item = &'a File>, names: &[impl AsRef<str>]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (i, line) in file.code.iter().enumerate() {
            if names.iter().any(|name| line.contains(name.as_ref())) {
                found.push(format!("{}:{}: {}", file.path.display(), i + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn what_serves_any_model_names_none() {
    let files = files();
    let for_any = files.iter().filter(|file| FOR_ANY_MODEL.contains(&file.module.as_str()));
    let wrong = lines_with(for_any, &names_of_models());
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
fn what_training_programs_share_names_no_model() {
    let files = files_in("examples/common/training");
    assert!(files.len() > 20);
    let wrong = [lines_with(files.iter(), &names_of_models()), lines_with(files.iter(), CLASSIFICATION)].concat();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A function's name, and its lines up to the closing brace, without indentation.
fn functions(file: &File) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (i, line) in file.code.iter().enumerate() {
        let Some((before, after)) = line.split_once("fn ").filter(|(before, _)| !before.trim().ends_with('(')) else {
            continue;
        };
        // rustfmt sees to it that the brace stands below the line's beginning.
        let indentation = before.len() - before.trim_start().len();
        let end = format!("{}}}", " ".repeat(indentation));
        let body = file.code[i + 1..].iter().take_while(|line| **line != end && !line.is_empty());
        let body: Vec<&str> = body.map(|line| line.trim()).collect();
        found.push((identifier(after), body.join("\n")));
    }
    found
}

/// What one program has, another does not repeat.
#[test]
fn programs_share_what_is_alike() {
    const SHORT: usize = 5;
    let (examples, mut seen, mut wrong) = (files_in("examples"), BTreeMap::new(), Vec::new());
    for file in &examples {
        for (name, body) in functions(file).into_iter().filter(|(_, body)| body.lines().count() >= SHORT) {
            let place = format!("{}: {name}", file.path.display());
            if let Some(other) = seen.insert(body, place.clone()) {
                wrong.push(format!("{other} and {place}"));
            }
        }
    }
    assert!(seen.len() > 100 && wrong.is_empty(), "{} functions; alike are {wrong:#?}", seen.len());
    let main = examples.iter().find(|file| file.path.ends_with("vit_finetune/main.rs")).unwrap();
    assert!(main.code.iter().any(|line| line.contains("common/training/mod.rs")), "it uses what is shared");
}

#[test]
fn the_reader_of_paths_works() {
    assert_eq!(crate_paths("use crate::gpu::Gpu; let x = crate::shape::Shape;"), ["gpu", "shape"]);
    assert_eq!(crate_paths("use crate::{Error, gpu::{Gpu, Kernel},\n tensor::Tensor};"), ["Error", "gpu", "tensor"]);
    assert_eq!(crate_paths("pub(crate) fn f() {} // nothing"), Vec::<String>::new());
}
