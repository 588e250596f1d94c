//! Low-rank adapters (LoRA): against PEFT, from folders as it saves them (`tests/reference/README.md`; `WGRAD_REFERENCE` names
//! another folder with the same files), in and out of files, and what they save in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{assert_adam_close, assert_close, assert_loss_close, each_family, gpu, gpu_with_f16, values};
use crate::vision::reference::{ADAMW, Tensors, every_parameter, grad_norm, model, training};
use safetensors::SafeTensors;
use wgrad::autograd::{Parameter, Parameters};
use wgrad::checkpoint::{self, Checkpoint, HostTensor, download};
use wgrad::models::vit::{
    AdapterNames, ExportOptions, OpenOptions, Pretrained, Vit, VitConfig, VitFile, export_hf, export_timm, open,
    save_adapter,
};
use wgrad::nn::{AdaptedLinear, Init, LoraConfig, Mode, Precision, Span};
use wgrad::ops::{CrossEntropy, Gelu, RandomKey, TokenIndices, cross_entropy};
use wgrad::optim::{LrSchedule, Optimizer};
use wgrad::train::{Classify, MemoryEstimate, Task, TrainSettings, Trainer, Workload, estimate};
use wgrad::{Error, Gpu, Tensor};

const QUERY_VALUE: &str = "query_value";
const ALL_LINEAR: &str = "all_linear";

fn folder(name: &str) -> PathBuf {
    crate::vision::reference::folder("lora").join(name)
}

fn base() -> Pretrained {
    open(folder("base"), &OpenOptions::default()).unwrap()
}

/// The model with the adapters in a folder.
fn adapted(folder: impl AsRef<Path>) -> Pretrained {
    let mut pretrained = base();
    pretrained.load_adapter(folder).unwrap();
    pretrained
}

fn upload(gpu: &Gpu, tensor: &HostTensor) -> Tensor {
    Tensor::from_slice(gpu, &tensor.shape, &tensor.data).unwrap()
}

fn logits(gpu: &Gpu, pretrained: &Pretrained, images: &HostTensor) -> Vec<f32> {
    model(gpu, pretrained).forward(&upload(gpu, images), &[], &Mode::evaluation()).unwrap().to_vec().unwrap()
}

/// What PEFT computes with an adapter.
struct Reference {
    name: &'static str,
    floats: Checkpoint,
    labels: Vec<u32>,
    pretrained: Pretrained,
}

impl Reference {
    fn read(name: &'static str) -> Self {
        let bytes = fs::read(folder(name).join("expected.safetensors")).unwrap();
        let labels = SafeTensors::deserialize(&bytes).unwrap().tensor("labels").unwrap().data().to_vec();
        let labels: Vec<i64> = bytemuck::pod_collect_to_vec(&labels);
        Reference {
            name,
            floats: checkpoint::read_bytes(&bytes, name).unwrap(),
            labels: labels.into_iter().map(|label| label as u32).collect(),
            pretrained: adapted(folder(name)),
        }
    }

    fn get(&self, name: &str) -> &HostTensor {
        self.floats.get(name).unwrap()
    }

    /// The tensors below `prefix`, of whatever the adapter trains, by this crate's names: read as an adapter's file is.
    fn opened(&self, prefix: &str) -> Tensors {
        let own = self.floats.tensors.iter();
        let own = own.filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone())));
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder(self.name).join("adapter_config.json"), copy.path().join("adapter_config.json")).unwrap();
        checkpoint::write(copy.path().join("adapter_model.safetensors"), &own.collect(), &BTreeMap::new()).unwrap();
        let adapted = adapted(copy.path());
        let lora = adapted.config.lora.unwrap();
        adapted.checkpoint.tensors.into_iter().filter(|(name, _)| lora.trains(name)).collect()
    }

    fn forward(&self, model: &Vit, mode: &Mode) -> (Tensor, Tensor) {
        let gpu = model.gpu();
        let labels = Tensor::from_slice(gpu, &[self.labels.len()], &self.labels).unwrap();
        let logits = model.forward(&upload(gpu, self.get("images")), &[], mode).unwrap();
        let loss = cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap();
        (logits, loss)
    }
}

/// Of everything that is trained; what is frozen has none.
fn compare_gradients(model: &Vit, expected: &Tensors, what: &dyn Fn(&str) -> String, scale: f32, tolerance: f32) {
    let mut compared = 0;
    for parameter in model.parameters() {
        let (name, gradient) = (parameter.path(), parameter.grad());
        let Some(expected) = expected.get(name) else {
            assert!(gradient.is_none() && !parameter.is_trainable(), "{}", what(name));
            continue;
        };
        let gradient: Vec<f32> = gradient.unwrap_or_else(|| panic!("{}: none", what(name))).to_vec().unwrap();
        let gradient: Vec<f32> = gradient.iter().map(|g| g / scale).collect();
        assert_close(&what(name), &gradient, &expected.data, tolerance);
        compared += 1;
    }
    assert_eq!(compared, expected.len());
}

fn check_gradients(name: &'static str) {
    let reference = Reference::read(name);
    let expected = reference.opened("grad/");
    for gpu in each_family() {
        let without = logits(&gpu, &base(), reference.get("images"));
        assert_close("the base", &without, &reference.get("base/logits").data, 5e-6);
        for mode in [training(), training().recomputing(true)] {
            let model = model(&gpu, &reference.pretrained);
            let what = |part: &str| format!("{name} {part} ({:?}, {mode:?})", gpu.family());
            let (logits, loss) = reference.forward(&model, &mode);
            assert_close(&what("logits"), &logits.to_vec().unwrap(), &reference.get("logits").data, 5e-6);
            assert_close(&what("loss"), &loss.to_vec().unwrap(), &reference.get("loss").data, 1e-6);
            loss.backward().unwrap();
            compare_gradients(&model, &expected, &what, 1.0, 1e-5);
            assert_close(&what("grad_norm"), &[grad_norm(&model)], &reference.get("grad_norm").data, 1e-5);
        }
    }
}

/// Ten steps of what the adapter trains, which is then written and compared by PEFT's names; the rest stays bit for bit.
fn check_steps(name: &'static str) {
    const RATE: f32 = 1e-3;
    let reference = Reference::read(name);
    let trained = reference.opened("grad/");
    for gpu in each_family() {
        let model = model(&gpu, &reference.pretrained);
        let what = |part: &str| format!("{name} {part} ({:?})", gpu.family());
        let before = download(model.parameters()).unwrap();
        let mut optimizer = Optimizer::new(model.parameters(), ADAMW, Some(1.0), every_parameter).unwrap();
        for (step, expected) in reference.get("adamw/losses").data.iter().enumerate() {
            let (_, loss) = reference.forward(&model, &training());
            loss.backward().unwrap();
            optimizer.step(model.parameters(), RATE).unwrap();
            assert_loss_close(&what(&format!("loss {step}")), loss.item().unwrap(), *expected, 1e-5);
        }
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("adapter");
        save_adapter(&folder, &model, AdapterNames::Transformers, None).unwrap();
        let written = checkpoint::read(folder.join("adapter_model.safetensors")).unwrap().tensors;
        assert_eq!(written.len(), trained.len());
        for (parameter, value) in written {
            let [expected, gradient] =
                ["adamw/param", "grad"].map(|of| &reference.get(&format!("{of}/{parameter}")).data);
            assert_adam_close(&what(&parameter), &value.data, expected, gradient, RATE, 1e-4);
        }
        for (parameter, value) in download(model.parameters()).unwrap() {
            assert_eq!(before[&parameter] == value, !trained.contains_key(&parameter), "{parameter}");
        }
    }
}

#[test]
fn torch_lora_gradients_of_query_and_value() {
    check_gradients(QUERY_VALUE);
}

#[test]
fn torch_lora_gradients_of_all_linear_layers() {
    check_gradients(ALL_LINEAR);
}

#[test]
fn torch_lora_ten_steps() {
    check_steps(QUERY_VALUE);
    check_steps(ALL_LINEAR);
}

#[test]
fn torch_lora_merged() {
    for name in [QUERY_VALUE, ALL_LINEAR] {
        let mut reference = Reference::read(name);
        reference.pretrained.merge_adapters().unwrap();
        assert_eq!(reference.pretrained.config, VitConfig { num_classes: 7, ..base().config });
        let gpu = gpu();
        let merged = logits(&gpu, &reference.pretrained, reference.get("images"));
        assert_close(name, &merged, &reference.get("merged/logits").data, 5e-6);
        // The merged weights in the places of the base's, opened as that is.
        let mut base = checkpoint::read(folder("base").join("model.safetensors")).unwrap().tensors;
        let theirs = reference.floats.tensors.iter();
        base.extend(theirs.filter_map(|(name, t)| Some((name.strip_prefix("merged/param/")?.to_owned(), t.clone()))));
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder("base").join("config.json"), copy.path().join("config.json")).unwrap();
        checkpoint::write(copy.path().join("model.safetensors"), &base, &BTreeMap::new()).unwrap();
        let theirs = open(copy.path(), &OpenOptions::default()).unwrap().checkpoint.tensors;
        let compared = theirs.iter().filter(|(name, _)| name.starts_with("blocks.0.") || name.starts_with("head."));
        for (tensor, expected) in compared {
            let ours = &reference.pretrained.checkpoint.tensors[tensor].data;
            assert_close(&format!("{name}: {tensor}"), ours, &expected.data, 1e-6);
        }
    }
}

#[test]
fn torch_lora_in_half_precision() {
    const SCALE: f32 = 1024.0;
    for name in [QUERY_VALUE, ALL_LINEAR] {
        let reference = Reference::read(name);
        let expected = reference.opened("grad/");
        for gpu in each_family().into_iter().filter(Gpu::has_f16) {
            let model = model(&gpu, &reference.pretrained);
            let what = |part: &str| format!("{name} {part} in f16 ({:?})", gpu.family());
            let (logits, loss) = reference.forward(&model, &training().with_precision(Precision::F16));
            assert_close(&what("logits"), &logits.to_vec().unwrap(), &reference.get("logits").data, 2e-2);
            loss.backward_from(&Tensor::from_slice(&gpu, &[], &[SCALE]).unwrap()).unwrap();
            compare_gradients(&model, &expected, &what, SCALE, 2e-2);
        }
    }
}

/// The names that transformers had in memory up to its version 4.
#[test]
fn adapters_are_opened_by_their_old_names() {
    let (new, old) = (adapted(folder(QUERY_VALUE)), adapted(folder(QUERY_VALUE).join("old_names")));
    assert_eq!(new.config, old.config);
    assert_eq!(new.checkpoint.tensors, old.checkpoint.tensors);
    let lora = new.config.lora.unwrap();
    assert_eq!(lora.targets, ["attn.qkv.query", "attn.qkv.value"]);
    assert_eq!((lora.rank, lora.alpha, lora.modules_to_save.as_slice()), (4, 8.0, &["head".to_owned()][..]));
    let all = adapted(folder(ALL_LINEAR)).config.lora.unwrap();
    let parts = ["attn.proj", "attn.qkv.key", "attn.qkv.query", "attn.qkv.value", "head", "mlp.fc1", "mlp.fc2"];
    assert_eq!(all.targets, parts);
    assert!(all.modules_to_save.is_empty());
}

fn tiny(lora: LoraConfig) -> VitConfig {
    let lora = Some(lora);
    VitConfig { img_size: (16, 16), patch_size: 4, num_classes: 5, lora, ..VitConfig::custom(32, 2, 2) }
}

fn with_head(targets: &[&str]) -> LoraConfig {
    LoraConfig { modules_to_save: vec!["head".to_owned()], ..LoraConfig::new(3, 6.0, targets) }
}

/// A model whose adapters are no longer where they begin.
fn trained(gpu: &Gpu, config: &VitConfig) -> Vit {
    let model = Vit::new(gpu, config.clone(), 1).unwrap();
    for (i, parameter) in model.parameters().iter().enumerate().filter(|(_, p)| p.is_trainable()) {
        let values: Vec<f32> = values(i as u64, parameter.value().numel()).iter().map(|v| 0.3 * v).collect();
        parameter.set(&values).unwrap();
    }
    model
}

fn pictures(gpu: &Gpu, config: &VitConfig) -> Tensor {
    let (height, width) = config.img_size;
    Tensor::from_slice(gpu, &[3, 3, height, width], &values(9, 9 * height * width)).unwrap()
}

fn evaluated(model: &Vit) -> Vec<f32> {
    model.forward(&pictures(model.gpu(), model.config()), &[], &Mode::evaluation()).unwrap().to_vec().unwrap()
}

fn pretrained_of(model: &Vit) -> Pretrained {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.safetensors");
    let file = VitFile { config: model.config(), class_names: &[], crop_fraction: None };
    file.write(&path, &download(model.parameters()).unwrap()).unwrap();
    open(&path, &OpenOptions::default()).unwrap()
}

/// A file of this crate's keeps the adapters; timm's and transformers' folders have them merged in, with layer scale too.
#[test]
fn models_with_adapters_go_through_files() {
    let gpu = gpu();
    for (targets, init_values) in [(&["qkv", "proj"][..], None), (&["query", "value", "fc1", "fc2"], Some(0.5))] {
        let config = VitConfig { init_values, ..tiny(with_head(targets)) };
        let model = trained(&gpu, &config);
        let expected = evaluated(&model);
        let opened = pretrained_of(&model);
        assert_eq!(opened.config, config);
        assert_eq!(opened.checkpoint.tensors, download(model.parameters()).unwrap());
        let place = tempfile::tempdir().unwrap();
        let [hf, timm] = ["hf", "timm"].map(|name| place.path().join(name));
        export_hf(&hf, &model, &ExportOptions::default()).unwrap();
        export_timm(&timm, &model, &ExportOptions::default()).unwrap();
        let mut merged = opened;
        merged.merge_adapters().unwrap();
        let exported = [hf, timm].map(|folder| open(folder, &OpenOptions { heads: Some(2), trained_on: None }));
        for pretrained in [Ok(merged)].into_iter().chain(exported) {
            let pretrained = pretrained.unwrap();
            assert_eq!(pretrained.config.lora, None);
            let model = self::model(&gpu, &pretrained);
            assert_close("merged", &evaluated(&model), &expected, 1e-5);
        }
    }
}

/// Rotary positions, biases that keys do not have, gated MLPs, another activation.
#[test]
fn adapters_of_other_families_merge() {
    let gpu = gpu();
    let lora = with_head(&["qkv", "proj", "fc1", "fc2"]);
    let rotary =
        VitConfig { rope_temperature: Some(100.0), key_bias: false, init_values: Some(0.5), ..tiny(lora.clone()) };
    let gated = VitConfig { gated_mlp: true, init_values: Some(0.5), ..tiny(lora.clone()) };
    let tower = VitConfig { pre_norm: true, act_layer: Gelu::Quick, ..tiny(lora) };
    for config in [rotary, gated, tower] {
        let model = trained(&gpu, &config);
        let expected = evaluated(&model);
        let (mut tensors, plain) = (download(model.parameters()).unwrap(), VitConfig { lora: None, ..config.clone() });
        let mut merged = Pretrained { config, ..pretrained_of(&trained(&gpu, &tiny(with_head(&["qkv"])))) };
        std::mem::swap(&mut merged.checkpoint.tensors, &mut tensors);
        merged.merge_adapters().unwrap();
        assert_eq!(merged.config, plain);
        assert_close("merged", &evaluated(&self::model(&gpu, &merged)), &expected, 1e-5);
    }
}

/// Adapters out and in again. That of a packed layer comes back as one of each part, which compute the same.
#[test]
fn adapters_go_through_files() {
    let gpu = gpu();
    let cases = [
        (AdapterNames::Transformers, &["query", "value", "proj", "fc2"][..], true),
        (AdapterNames::Transformers, &["qkv", "fc1", "head"], false),
        (AdapterNames::Timm, &["qkv", "blocks.1.mlp.fc1"], true),
    ];
    for (names, targets, is_same) in cases {
        let lora = if targets.contains(&"head") { LoraConfig::new(3, 6.0, targets) } else { with_head(targets) };
        let config = tiny(lora);
        let model = trained(&gpu, &config);
        let mut base = pretrained_of(&model);
        base.checkpoint.tensors.retain(|name, _| !name.contains(".lora_"));
        base.config.lora = None;
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("adapter");
        save_adapter(&folder, &model, names, Some("somebody/model@v2")).unwrap();
        save_adapter(&folder, &model, names, Some("somebody/model@v2")).unwrap();
        base.load_adapter(&folder).unwrap();
        let again = self::model(&gpu, &base);
        if is_same {
            assert_eq!(evaluated(&again), evaluated(&model), "{targets:?}");
        } else {
            assert_close("parts", &evaluated(&again), &evaluated(&model), 1e-5);
        }
        let text = fs::read_to_string(folder.join("adapter_config.json")).unwrap();
        for part in
            ["\"peft_type\": \"LORA\"", "\"r\": 3", "\"lora_alpha\": 6.0", "\"somebody/model\"", "\"revision\": \"v2\""]
        {
            assert!(text.contains(part), "{text}");
        }
    }
    let of_timm = AdapterNames::Timm.check(&tiny(with_head(&["query"]))).unwrap_err();
    assert!(of_timm.to_string().contains("blocks.0.attn.qkv.query"), "{of_timm}");
}

/// Before the first step the model computes what it did, bit for bit, with tokens dropped too.
#[test]
fn adapters_begin_as_nothing() {
    for gpu in each_family() {
        let plain = VitConfig { lora: None, ..tiny(with_head(&["qkv"])) };
        let expected = evaluated(&Vit::new(&gpu, plain.clone(), 1).unwrap());
        for targets in [&["qkv", "proj"][..], &["query", "key", "value"], &["fc1"], &["fc2", "head"]] {
            let config = tiny(LoraConfig::new(3, 6.0, targets));
            let model = Vit::new(&gpu, config, 1).unwrap();
            assert_close(&format!("{targets:?}"), &evaluated(&model), &expected, 1e-6);
        }
        let kept = || TokenIndices::new(&gpu, [3, 4], 17, &[0, 2, 5, 16].repeat(3)).unwrap();
        let spans = [Span::bypass(1..2, kept())];
        let run = |config: &VitConfig| {
            let model = Vit::new(&gpu, config.clone(), 1).unwrap();
            model.forward(&pictures(&gpu, config), &spans, &training()).unwrap().to_vec::<f32>().unwrap()
        };
        assert_close("tokens dropped", &run(&tiny(with_head(&["qkv", "fc1"]))), &run(&plain), 1e-6);
    }
}

/// Dropout of what adapters see: in training alone, other values at each step, the same where a block is computed twice.
#[test]
fn dropout_of_adapters() {
    let config = tiny(LoraConfig { dropout: 0.5, ..with_head(&["qkv", "fc2"]) });
    for gpu in each_family() {
        let model = trained(&gpu, &config);
        let run = |mode: &Mode| model.forward(&pictures(&gpu, &config), &[], mode).unwrap();
        let at = |step| Mode::training(RandomKey { seed: 3, step, layer: 0, first_sample: 0 });
        let read = |mode: &Mode| run(mode).to_vec::<f32>().unwrap();
        let plain = trained(&gpu, &tiny(with_head(&["qkv", "fc2"])));
        assert_eq!(read(&Mode::evaluation()), evaluated(&plain));
        assert_eq!(read(&at(1)), read(&at(1)));
        assert_ne!(read(&at(1)), read(&at(2)));
        assert_ne!(read(&at(1)), evaluated(&plain));
        let gradients = [false, true].map(|again| {
            model.parameters().zero_grad();
            wgrad::ops::mean(&run(&at(1).recomputing(again))).unwrap().backward().unwrap();
            let trained = model.parameters().iter().filter(|p| p.is_trainable());
            trained.map(|p| p.grad().unwrap().to_vec::<f32>().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(gradients[0], gradients[1]);
    }
}

/// Any model made of these layers may have adapters.
#[test]
fn a_layer_of_any_model_has_an_adapter() {
    let gpu = gpu();
    let lora = LoraConfig::new(2, 2.0, &["first"]);
    let mut parameters = Parameters::new(&gpu);
    let mut init = Init::new(&mut parameters, 1).with_lora(Some(&lora));
    let [first, second] =
        ["first", "second"].map(|name| AdaptedLinear::new(init.at(name), 6, 6, true, Init::STD).unwrap());
    lora.freeze(&parameters).unwrap();
    let trained: Vec<&str> = parameters.iter().filter(|p| p.is_trainable()).map(Parameter::path).collect();
    assert_eq!(trained, ["first.lora_A.weight", "first.lora_B.weight"]);
    let a: Vec<f32> = parameters.get("first.lora_A.weight").unwrap().value().to_vec().unwrap();
    let bound = 1.0 / 6f32.sqrt();
    assert!(a.iter().all(|v| v.abs() <= bound) && a.iter().any(|v| v.abs() > 0.5 * bound), "{a:?}");
    let x = Tensor::from_slice(&gpu, &[4, 6], &values(1, 24)).unwrap();
    let y = second.forward(&first.forward(&x, &training()).unwrap(), &training()).unwrap();
    wgrad::ops::mean(&y).unwrap().backward().unwrap();
    // A's gradient goes through B, which is zero.
    let b: Vec<f32> = parameters.get("first.lora_B.weight").unwrap().grad().unwrap().to_vec().unwrap();
    assert!(b.iter().any(|g| *g != 0.0));
    assert!(parameters.get("second.weight").unwrap().grad().is_none());
}

#[test]
fn what_adapters_cannot_be_is_said() {
    let gpu = gpu();
    let message = |lora: LoraConfig| Vit::new(&gpu, tiny(lora), 0).unwrap_err().to_string();
    let of = |targets: &[&str]| LoraConfig::new(2, 4.0, targets);
    let cases = [
        (LoraConfig { rank: 0, ..of(&["qkv"]) }, "LoRA: rank"),
        (LoraConfig { rank: usize::MAX, ..of(&["qkv"]) }, "LoRA: rank"),
        (LoraConfig { alpha: f32::NAN, ..of(&["qkv"]) }, "LoRA: alpha"),
        (LoraConfig { dropout: 1.0, ..of(&["qkv"]) }, "LoRA: dropout"),
        (of(&[]), "LoRA: targets"),
        (of(&["q_proj"]), "such as fc1, fc2, head, proj, qkv"),
        (of(&["qkv", "kv"]), "\"kv\""),
        (of(&["qkv", "query"]), "blocks.0.attn.qkv or parts of it, not both"),
        (LoraConfig { modules_to_save: vec!["classifier".to_owned()], ..of(&["qkv"]) }, "modules_to_save"),
    ];
    for (lora, part) in cases {
        let text = format!("{lora:?}");
        let message = message(lora);
        assert!(message.contains(part), "{text}: {message}");
    }
}

/// What an adapter says beside its tensors, and these themselves, when they are not what they should be.
#[test]
fn foreign_adapters_are_refused_by_name() {
    let original = fs::read_to_string(folder(QUERY_VALUE).join("adapter_config.json")).unwrap();
    let tensors = checkpoint::read(folder(QUERY_VALUE).join("adapter_model.safetensors")).unwrap().tensors;
    let message = |from: &str, to: &str, change: &dyn Fn(&mut Tensors)| {
        let copy = tempfile::tempdir().unwrap();
        assert!(original.contains(from), "{from}");
        fs::write(copy.path().join("adapter_config.json"), original.replacen(from, to, 1)).unwrap();
        let mut tensors = tensors.clone();
        change(&mut tensors);
        checkpoint::write(copy.path().join("adapter_model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
        let mut base = base();
        let before = base.checkpoint.tensors.clone();
        let error = base.load_adapter(copy.path()).unwrap_err();
        assert_eq!(base.checkpoint.tensors, before, "nothing is changed");
        error.to_string()
    };
    let nothing = |_: &mut Tensors| {};
    for (from, to, part) in [
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        ("\"use_rslora\": false", "\"use_rslora\": true", "use_rslora"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 8}", "rank_pattern"),
        ("\"peft_type\": \"LORA\"", "\"peft_type\": \"LOHA\"", "peft_type"),
        ("\"use_dora\": false", "\"use_dora\": false, \"use_something\": true", "use_something"),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", "changes the layers beside"),
        ("\"r\": 4", "\"r\": 8", "expected [8, 32]"),
        ("\"r\": 4", "\"r\": 0", "expected [0, 32]"),
    ] {
        let message = message(from, to, &nothing);
        assert!(message.contains(part), "{to}: {message}");
    }
    const LAYER: &str = "base_model.model.vit.layers.0.attention.q_proj";
    let renamed = |to: &'static str, ends: &'static [&'static str]| {
        move |tensors: &mut Tensors| {
            for end in ends {
                let tensor = tensors.remove(&format!("{LAYER}.{end}")).unwrap();
                tensors.insert(format!("{to}.{end}"), tensor);
            }
        }
    };
    let both = &["lora_A.weight", "lora_B.weight"][..];
    for (to, ends, part) in [
        ("base_model.model.vit.layers.9.attention.q_proj", both, "blocks.9.attn.qkv.query"),
        ("base_model.model.vit.layers.0.attention.k_proj", &both[..1], "is not in the adapter's file"),
        ("base_model.model.vit.layers.0.attention.gate", both, "is not a part of an adapter"),
        ("base_model.model.text_model.layers.0.attention.q_proj", both, "is not a part of an adapter"),
        ("vit.layers.0.attention.q_proj", both, "is not a part of an adapter"),
    ] {
        let message = message("\"r\": 4", "\"r\": 4", &renamed(to, ends));
        assert!(message.contains(part), "{to}: {message}");
    }
    let mut twice = adapted(folder(QUERY_VALUE));
    assert!(twice.load_adapter(folder(QUERY_VALUE)).unwrap_err().to_string().contains("without adapters"));
    assert!(base().load_adapter(folder("base")).unwrap_err().to_string().contains("adapter_config.json"));
}

/// A weight that half precision cannot hold is found before anything of a snapshot is put back.
#[test]
fn a_snapshot_beyond_half_precision_changes_nothing() {
    let Some(gpu) = gpu_with_f16() else { return };
    let after_a_step = |base, seed| {
        let model = Vit::new(&gpu, tiny(LoraConfig { base, ..with_head(&["qkv"]) }), seed).unwrap();
        let settings = TrainSettings::new(ADAMW, LrSchedule::constant(1e-3).unwrap());
        let mut trainer = Trainer::new(Classify::new(model), settings).unwrap();
        let batch = trainer.task().blank(2).unwrap();
        trainer.step(&batch).unwrap();
        trainer.finish().unwrap();
        trainer
    };
    let (full, mut half) = (after_a_step(Precision::F32, 1), after_a_step(Precision::F16, 2));
    let weight = full.task().model.parameters().get("blocks.0.mlp.fc1.weight").unwrap();
    let set = |value| {
        let mut values = weight.value().to_vec::<f32>().unwrap();
        values[7] = value;
        weight.set(&values).unwrap();
        full.snapshot().unwrap()
    };
    let before = half.snapshot().unwrap();
    let error = half.restore(&set(1e6)).unwrap_err();
    let is_named = matches!(&error, Error::Parameter { name, .. } if name == "weights.blocks.0.mlp.fc1.weight");
    assert!(is_named && error.to_string().contains("1000000"), "{error}");
    assert!(half.snapshot().unwrap() == before, "it has changed");
    half.restore(&set(0.5)).unwrap();
}

/// What a ViT-B takes at 224 pixels, batch 8, on a device of this kind.
fn needs(gpu: &Gpu, lora: Option<LoraConfig>, recompute_blocks: bool) -> MemoryEstimate {
    let config = VitConfig { num_classes: 10, lora, ..VitConfig::base() };
    let settings = TrainSettings { recompute_blocks, ..TrainSettings::new(ADAMW, LrSchedule::constant(1e-3).unwrap()) };
    let make = |gpu: &Gpu| Ok(Classify::new(Vit::new(gpu, config.clone(), 0)?));
    estimate(gpu, &Workload { make: &make, settings: &settings, batch: 8, steps: 2 }).unwrap()
}

/// What a dry run says beforehand is what steps then take.
#[test]
fn the_estimate_holds_with_adapters() {
    for gpu in each_family() {
        let config = tiny(LoraConfig { dropout: 0.1, ..with_head(&["qkv", "fc1"]) });
        let settings = TrainSettings::new(ADAMW, LrSchedule::constant(1e-3).unwrap());
        let make = |gpu: &Gpu| Ok(Classify::new(Vit::new(gpu, config.clone(), 0)?));
        let work = Workload { make: &make, settings: &settings, batch: 8, steps: 4 };
        let before = gpu.memory();
        let estimate = estimate(&gpu, &work).unwrap();
        let task = make(&gpu).unwrap();
        let batch = task.blank(8).unwrap();
        let mut trainer = Trainer::new(task, settings.clone()).unwrap();
        for _ in 0..4 {
            trainer.step(&batch).unwrap();
        }
        trainer.finish().unwrap();
        let taken = gpu.memory().peak_allocated - before.allocated;
        let ratio = estimate.peak as f64 / taken as f64;
        assert!((0.95..1.05).contains(&ratio), "{estimate:?}, {taken} were taken");
    }
}

/// Of the base there are neither gradients nor moments.
#[test]
fn adapters_save_what_gradients_and_moments_take() {
    for gpu in each_family() {
        for recompute in [false, true] {
            let full = needs(&gpu, None, recompute);
            let lora = needs(&gpu, Some(with_head(&["qkv", "proj"])), recompute);
            println!("recompute {recompute}: full {full:?}, LoRA {lora:?}");
            assert_eq!(full.gradients, full.parameters);
            assert!(lora.parameters < full.parameters + full.parameters / 100);
            let kept = lora.gradients + lora.moments;
            assert!(kept * 50 < full.gradients + full.moments, "{lora:?}");
            // Inputs that frozen weights' gradients alone would read are not kept.
            assert!(recompute || lora.activations * 10 < full.activations * 9, "{lora:?}, in full {full:?}");
            assert!(lora.peak + 2 * full.parameters < full.peak, "{lora:?}, in full {full:?}");
        }
    }
}
