//! Safetensors, and models' folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use wgrad::Result;
use wgrad::checkpoint::{self, HostTensor};
use wgrad::gpu::Gpu;
use wgrad::models::vit::{OpenOptions, Pretrained, Vit, open};
use wgrad::models::{bert, gpt2};

use super::{Reader, Set, gpu};

const MODEL: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER: &str = "adapter_config.json";
const ADAPTER_MODEL: &str = "adapter_model.safetensors";

fn reference(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(folder)
}

/// A file of the references.
fn seed(folder: &str, name: &str) -> (&'static str, Vec<u8>) {
    let names = [MODEL, CONFIG, PREPROCESSOR, ADAPTER, ADAPTER_MODEL];
    let name = *names.iter().find(|known| **known == name).unwrap();
    (name, fs::read(reference(folder).join(name)).unwrap())
}

/// A model's folder with its weights cut in two, and an index.
fn sharded(folder: &str) -> Set {
    let whole = checkpoint::read(reference(folder).join(MODEL)).unwrap();
    let mut shards = [BTreeMap::<String, HostTensor>::new(), BTreeMap::new()];
    let mut map = serde_json::Map::new();
    for (i, (name, tensor)) in whole.tensors.into_iter().enumerate() {
        map.insert(name.clone(), format!("{}.safetensors", i % 2).into());
        shards[i % 2].insert(name, tensor);
    }
    let [first, second] = shards.map(|tensors| checkpoint::to_bytes(&tensors, &BTreeMap::new()).unwrap());
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    let others = [("0.safetensors", first), ("1.safetensors", second), seed(folder, CONFIG)];
    Set::new([(INDEX, index.to_string().into_bytes())], &others)
}

/// Opens a folder of any kind, and makes its model, on a device that takes no memory.
fn open_any(gpu: &Gpu, folder: &Path, kind: Kind) -> Result<()> {
    match kind {
        Kind::Vit => {
            let mut opened = open(folder, &OpenOptions::default())?;
            Vit::new(gpu, opened.config.clone(), 0)?;
            // As a program does that finetunes on larger pictures.
            opened.resize((48, 48))?;
            Vit::new(gpu, opened.config, 0).map(drop)
        }
        Kind::Gpt2 => gpt2::open(folder).and_then(|opened| gpt2::Gpt2::new(gpu, opened.config, 0)).map(drop),
        Kind::Bert => bert::open(folder).and_then(|opened| bert::Bert::new(gpu, opened.config, 0)).map(drop),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Vit,
    Gpt2,
    Bert,
}

/// The weights are at most 350 KB, and held twice while they are renamed.
const WEIGHTS: usize = 4 << 20;
/// Rotary angles of the most patches take 32 MiB and more, which a configuration alone can ask for.
const ANGLES: usize = 96 << 20;

/// A reader of models' folders, in so many bytes beside some for each of the file.
fn models(name: &'static str, share: u64, memory: usize, sets: Vec<(Set, Kind)>) -> Reader {
    let (sets, kinds): (Vec<_>, Vec<_>) = sets.into_iter().unzip();
    let dry = gpu().dry_run().unwrap();
    let read = move |folder: &Path, set: usize| open_any(&dry, folder, kinds[set]);
    Reader { name, share, sets, read: Box::new(read), memory: [memory, 64] }
}

fn small() -> Vec<u8> {
    let tensor = |shape: &[usize]| HostTensor { shape: shape.to_vec(), data: vec![0.5; shape.iter().product()] };
    let tensors = [("a", tensor(&[2, 3])), ("b.weight", tensor(&[])), ("c", tensor(&[0, 4])), ("d", tensor(&[7]))];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into();
    let texts = [("config", "{}"), ("format", "pt")].map(|(key, text)| (key.to_owned(), text.to_owned())).into();
    checkpoint::to_bytes(&tensors, &texts).unwrap()
}

/// Of elements of three other types.
fn mixed() -> Vec<u8> {
    let header = r#"{"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},"d":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},"i":{"dtype":"I64","shape":[1],"data_offsets":[16,24]}}"#;
    [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), &[0x3c; 24]].concat()
}

/// Folders of timm's and transformers' ViTs, whose `files` are spoilt.
fn vits(files: &[&str]) -> Vec<Set> {
    let families = [
        "timm_deit3",
        "timm_dinov2_reg4",
        "timm_clip",
        "timm_siglip_gap",
        "timm_siglip_map",
        "timm_deit_distilled",
        "timm_dinov3",
        "timm_dinov3_plus",
        "timm_eva02",
        "timm_eva02_clip",
        "timm_eva_giant",
        "timm_beit3",
        "timm_swiglu",
        "hf_dinov2",
        "hf_dinov2_with_registers",
        "hf_clip",
        "hf_siglip",
        "hf_deit_distilled",
        "hf_dinov3",
        "hf_dinov3_gated",
        "hf_dinov2_swiglu",
        "lora/base",
    ];
    let set = |family| {
        let folder = format!("vision/{family}");
        let all = [CONFIG, PREPROCESSOR, MODEL].into_iter().filter(|name| reference(&folder).join(name).exists());
        let (spoilt, others): (Vec<_>, Vec<_>) = all.partition(|name| files.contains(name));
        let read = |names: Vec<&str>| names.into_iter().map(|name| seed(&folder, name)).collect::<Vec<_>>();
        Set::new(read(spoilt), &read(others))
    };
    families.into_iter().map(set).collect()
}

/// The folder of a language model, whose file `spoilt` is spoilt.
fn language(model: &str, spoilt: &str) -> Set {
    let folder = format!("lm/{model}");
    let other = if spoilt == MODEL { CONFIG } else { MODEL };
    Set::new([seed(&folder, spoilt)], &[seed(&folder, other)])
}

fn adapters(spoilt: &'static str) -> Reader {
    let sets = ["vision/lora/query_value", "vision/lora/all_linear", "vision/lora/query_value/old_names"];
    let set = |folder| {
        let other = if spoilt == ADAPTER { ADAPTER_MODEL } else { ADAPTER };
        Set::new([seed(folder, spoilt)], &[seed(folder, other)])
    };
    let base: Pretrained = open(reference("vision/lora/base"), &OpenOptions::default()).unwrap();
    let read = move |folder: &Path, _| {
        let mut opened = base.clone();
        opened.load_adapter(folder)?;
        opened.config.check()?;
        opened.merge_adapters()
    };
    let name = if spoilt == ADAPTER { "PEFT's adapter_config.json" } else { "PEFT's weights" };
    let sets = sets.map(set).into();
    Reader { name, share: 30, sets, read: Box::new(read), memory: [2 << 20, 64] }
}

pub fn readers() -> Vec<Reader> {
    let read = |folder: &Path, _| checkpoint::read(folder.join(MODEL)).map(drop);
    let files = [small(), mixed()].map(|bytes| Set::new([(MODEL, bytes)], &[])).into();
    let safetensors =
        Reader { name: "safetensors", share: 120, sets: files, read: Box::new(read), memory: [1 << 17, 64] };

    let of_language =
        |spoilt| [("gpt2", Kind::Gpt2), ("bert", Kind::Bert)].map(|(name, kind)| (language(name, spoilt), kind));
    let of_vits = |spoilt: &[&str]| vits(spoilt).into_iter().map(|set| (set, Kind::Vit)).collect::<Vec<_>>();
    let shards = ["vision/hf_dinov2", "vision/timm_deit3", "vision/lora/base"].map(|name| (sharded(name), Kind::Vit));
    vec![
        safetensors,
        models("weights of models", 60, WEIGHTS, of_language(MODEL).into_iter().chain(of_vits(&[MODEL])).collect()),
        models("safetensors' index", 40, WEIGHTS, shards.into()),
        models("config.json of ViTs, with preprocessor", 110, ANGLES, of_vits(&[CONFIG, PREPROCESSOR])),
        models("config.json of GPT-2 and BERT", 60, WEIGHTS, of_language(CONFIG).into()),
        adapters(ADAPTER),
        adapters(ADAPTER_MODEL),
    ]
}
