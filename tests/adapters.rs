//! Adapters beside weights in half precision, beside two heads, in PEFT's folders of models that are no plain ViTs
//! (`tests/reference/README.md`), and in runs that go on.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common::{assert_close, each_family, gpu, gpu_with_f16, host_device, values};
use crate::data::single;
use crate::vision::reference::{ADAMW, Tensors, model, training};
use wgrad::autograd::Parameters;
use wgrad::checkpoint::{self, Checkpoint, HostTensor, MatchOptions, download, load_parameters};
use wgrad::data::{LoaderOptions, TokenBatch, digits};
use wgrad::models::FolderOptions;
use wgrad::models::bert::{self, Bert};
use wgrad::models::gpt2::{self, Gpt2, Gpt2Config};
use wgrad::models::vit::{
    AdapterNames, ExportOptions, OpenOptions, Pool, Pretrained, Vit, VitConfig, VitFile, export_hf, open, save_adapter,
};
use wgrad::nn::{Headed, LanguageModel, LoraConfig, Mode, Model, Precision, Tokens};
use wgrad::ops::{CrossEntropy, cross_entropy};
use wgrad::optim::LrSchedule;
use wgrad::train::{
    CausalLm, Classify, EpochMetrics, FitData, FitOptions, Freeze, MaskedLm, MemoryEstimate, Observer, RunFolder,
    RunState, STATE_FILE, StepMetrics, Task, TrainSettings, Trainer, Workload, estimate, fit, write_weights,
};
use wgrad::{Gpu, Tensor, wgpu};

fn lora(targets: &[&str], base: Precision) -> LoraConfig {
    LoraConfig { modules_to_save: vec!["head".to_owned()], base, ..LoraConfig::new(3, 6.0, targets) }
}

fn tiny(lora: LoraConfig) -> VitConfig {
    let lora = Some(lora);
    VitConfig { img_size: (16, 16), patch_size: 4, num_classes: 10, lora, ..VitConfig::custom(32, 2, 2) }
}

/// A model with adapters that do something.
fn trained(gpu: &Gpu, config: &VitConfig) -> Vit {
    let model = Vit::new(gpu, config.clone(), 1).unwrap();
    for (i, parameter) in model.parameters().iter().enumerate().filter(|(_, p)| p.is_trainable()) {
        let values: Vec<f32> = values(i as u64, parameter.value().numel()).iter().map(|v| 0.3 * v).collect();
        parameter.set(&values).unwrap();
    }
    model
}

fn pictures(gpu: &Gpu) -> Tensor {
    Tensor::from_slice(gpu, &[3, 3, 16, 16], &values(9, 9 * 256)).unwrap()
}

/// Logits, and the gradients of what is trained.
fn step(model: &Vit, mode: &Mode) -> (Vec<f32>, Tensors) {
    let labels = Tensor::from_slice(model.gpu(), &[3], &[1u32, 4, 7]).unwrap();
    let logits = model.forward(&pictures(model.gpu()), &[], mode).unwrap();
    cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap().backward().unwrap();
    let gradient = |p: &wgrad::autograd::Parameter| {
        let gradient = p.grad()?;
        Some((p.path().to_owned(), HostTensor { shape: gradient.dims().to_vec(), data: gradient.to_vec().unwrap() }))
    };
    (logits.to_vec().unwrap(), model.parameters().iter().filter_map(gradient).collect())
}

// ---- weights in half precision ----

/// What is computed with them is what f32 weights of the same values give, bit for bit; and the adapters' gradients are those beside
/// the weights that were rounded, within that rounding.
#[test]
fn a_base_in_half_precision_is_a_rounded_one() {
    for gpu in each_family().into_iter().filter(Gpu::has_f16) {
        for (targets, init_values) in [(&["qkv", "fc1"][..], None), (&["query", "value", "proj", "fc2"], Some(0.5))] {
            let config = |base| VitConfig { init_values, ..tiny(lora(targets, base)) };
            let half = trained(&gpu, &config(Precision::F16));
            let rounded = Vit::new(&gpu, config(Precision::F32), 9).unwrap();
            let unrounded = trained(&gpu, &config(Precision::F32));
            let values = download(half.parameters()).unwrap();
            for parameter in rounded.parameters() {
                parameter.set(&values[parameter.path()].data).unwrap();
            }
            let whole = download(unrounded.parameters()).unwrap();
            for (name, tensor) in &values {
                let is_weight = name.starts_with("blocks.") && name.ends_with(".weight");
                let is_half = is_weight && !name.contains("norm") && !name.contains("lora");
                assert_eq!(*tensor != whole[name], is_half, "{name}");
                assert_close(name, &tensor.data, &whole[name].data, if is_half { 1e-3 } else { 0.0 });
            }
            for mode in [training(), training().recomputing(true), training().with_precision(Precision::F16)] {
                let [(logits, gradients), (same, alike)] = [&half, &rounded].map(|model| {
                    model.parameters().zero_grad();
                    step(model, &mode)
                });
                assert_eq!((logits, &gradients), (same, &alike), "{targets:?}, {mode:?}");
            }
            half.parameters().zero_grad();
            let [(_, gradients), (_, expected)] = [&half, &unrounded].map(|model| step(model, &training()));
            assert!(gradients.len() > 4 && gradients.keys().eq(expected.keys()));
            for (name, gradient) in &gradients {
                assert_close(name, &gradient.data, &expected[name].data, 5e-3);
            }
        }
    }
}

/// A model's own file has the rounded values, and says how they were held; exports merge them.
#[test]
fn a_base_in_half_precision_goes_through_files() {
    let Some(gpu) = gpu_with_f16() else { return };
    let config = tiny(lora(&["qkv"], Precision::F16));
    let model = trained(&gpu, &config);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.safetensors");
    let file = VitFile { config: model.config(), class_names: &[], crop_fraction: None };
    file.write(&path, &download(model.parameters()).unwrap()).unwrap();
    let opened = open(&path, &OpenOptions::default()).unwrap();
    assert_eq!(opened.config, config);
    assert_eq!(opened.checkpoint.tensors, download(model.parameters()).unwrap());
    let again = self::model(&gpu, &opened);
    let evaluated = |model: &Vit| model.forward(&pictures(&gpu), &[], &Mode::evaluation()).unwrap().to_vec::<f32>();
    assert_eq!(evaluated(&again).unwrap(), evaluated(&model).unwrap());
    export_hf(&place.path().join("hf"), &model, &ExportOptions::default()).unwrap();
    let exported = open(place.path().join("hf"), &OpenOptions::default()).unwrap();
    let exported = self::model(&gpu, &exported);
    assert_close("merged", &evaluated(&exported).unwrap(), &evaluated(&model).unwrap(), 1e-5);
}

#[test]
fn what_half_precision_cannot_hold_is_said() {
    let Some(gpu) = gpu_with_f16() else { return };
    let model = Vit::new(&gpu, tiny(lora(&["qkv"], Precision::F16)), 0).unwrap();
    let weight = model.parameters().get("blocks.0.mlp.fc1.weight").unwrap();
    let mut values = vec![0.5; weight.value().numel()];
    values[7] = 1e6;
    let message = weight.set(&values).unwrap_err().to_string();
    assert!(message.contains("blocks.0.mlp.fc1.weight") && message.contains("1000000"), "{message}");
    weight.set_trainable(true);
    assert!(!weight.is_trainable());
    let expected = weight.value().to_vec::<half::f16>().unwrap().into_iter().map(half::f16::to_f32);
    assert!(weight.value().to_vec::<f32>().unwrap().into_iter().eq(expected));

    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    let without = Gpu::from_wgpu(device, queue, Some(&adapter)).unwrap();
    let message = Vit::new(&without, tiny(lora(&["qkv"], Precision::F16)), 0).unwrap_err().to_string();
    assert!(message.contains("half precision"), "{message}");
}

fn needs(gpu: &Gpu, base: Precision, recompute_blocks: bool) -> MemoryEstimate {
    let lora = Some(lora(&["qkv", "proj"], base));
    let config = VitConfig { num_classes: 10, lora, ..VitConfig::base() };
    let settings = TrainSettings { recompute_blocks, ..TrainSettings::new(ADAMW, LrSchedule::constant(1e-3).unwrap()) };
    let make = |gpu: &Gpu| Ok(Classify::new(Vit::new(gpu, config.clone(), 0)?));
    estimate(gpu, &Workload { make: &make, settings: &settings, batch: 4, steps: 2 }).unwrap()
}

/// Half of the weights' memory, less a copy of one layer; as estimated and as taken.
#[test]
fn a_base_in_half_precision_takes_half_the_memory() {
    for gpu in each_family().into_iter().filter(Gpu::has_f16) {
        for recompute in [false, true] {
            let [full, half] = [Precision::F32, Precision::F16].map(|base| needs(&gpu, base, recompute));
            println!("recompute {recompute}: f32 {full:?}, f16 {half:?}");
            // All but embeddings, biases, norms and head: 85 of 86 million.
            assert!(half.parameters * 100 < full.parameters * 53, "{half:?}");
            let layer = 4 * 768 * 3072;
            assert!(half.activations <= full.activations + 3 * layer / 2, "{half:?}, in full {full:?}");
            assert!(half.peak + 155_000_000 < full.peak, "{half:?}, in full {full:?}");
        }
        let [full, half] = [Precision::F32, Precision::F16].map(|base| taken(&gpu, base));
        println!("taken: f32 {full}, f16 {half}");
        assert!(half * 4 < full * 3, "{half}, in full {full}");
    }
}

/// What steps of a small, wide model take, as they were estimated.
fn taken(gpu: &Gpu, base: Precision) -> u64 {
    let sizes = VitConfig { img_size: (16, 16), patch_size: 8, num_classes: 10, ..VitConfig::custom(256, 4, 4) };
    let config = VitConfig { lora: Some(lora(&["qkv"], base)), ..sizes };
    let settings = TrainSettings::new(ADAMW, LrSchedule::constant(1e-3).unwrap());
    let make = |gpu: &Gpu| Ok(Classify::new(Vit::new(gpu, config.clone(), 0)?));
    let work = Workload { make: &make, settings: &settings, batch: 4, steps: 3 };
    let estimated = estimate(gpu, &work).unwrap().peak;
    gpu.trim();
    gpu.reset_peak_memory();
    let before = gpu.memory().allocated;
    let task = make(gpu).unwrap();
    let batch = task.blank(4).unwrap();
    let mut trainer = Trainer::new(task, settings.clone()).unwrap();
    for _ in 0..3 {
        trainer.step(&batch).unwrap();
    }
    trainer.finish().unwrap();
    let taken = gpu.memory().peak_allocated - before;
    let ratio = estimated as f64 / taken as f64;
    assert!((0.95..1.05).contains(&ratio), "{estimated} were estimated, {taken} taken");
    taken
}

// ---- folders of PEFT's ----

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

fn base_of(name: &str) -> Pretrained {
    open(shipped("vision").join(name), &OpenOptions::default()).unwrap()
}

fn images_of(name: &str) -> HostTensor {
    let file = shipped("vision").join(name).join("expected.safetensors");
    let bytes = fs::read(file).unwrap();
    let images = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let images = images.tensor("images").unwrap();
    HostTensor { shape: images.shape().to_vec(), data: bytemuck::pod_collect_to_vec(images.data()) }
}

/// With the adapters of another folder beside it.
fn adapted(name: &str, folder: &Path) -> Pretrained {
    let mut pretrained = base_of(name);
    pretrained.load_adapter(folder).unwrap();
    pretrained
}

/// Logits, and what the head reads.
fn computed(gpu: &Gpu, pretrained: &Pretrained, images: &HostTensor) -> [Vec<f32>; 2] {
    let model = Vit::new(gpu, pretrained.config.clone(), 3).unwrap();
    let options = MatchOptions { head: Vit::HEADS, allow_missing: false };
    load_parameters(model.parameters(), &pretrained.checkpoint, &options).unwrap();
    let images = Tensor::from_slice(gpu, &images.shape, &images.data).unwrap();
    let read = model.pre_logits(&images, &Mode::evaluation()).unwrap();
    [model.head(&read, &Mode::evaluation()).unwrap(), read].map(|tensor| tensor.to_vec().unwrap())
}

/// What PEFT computes with its own adapters of CLIP, SigLIP, DINOv3, gated MLPs and a DeiT with two heads: from its folder, and from those that
/// are written of that again, under transformers' names and timm's, and merged.
#[test]
fn adapters_of_other_families_are_those_of_peft() {
    for gpu in each_family() {
        for name in ["hf_clip", "hf_siglip", "hf_dinov3", "hf_dinov3_gated", "hf_dinov2_swiglu", "hf_deit_distilled"] {
            let folder = shipped("adapters").join(name);
            let expected = checkpoint::read(folder.join("expected.safetensors")).unwrap().tensors;
            let (images, first) = (images_of(name), adapted(name, &folder));
            let compare = |what: &str, pretrained: &Pretrained| {
                let [logits, read] = computed(&gpu, pretrained, &images);
                match (expected.get("logits"), expected.get("features")) {
                    (Some(theirs), _) => assert_close(&format!("{name}, {what}"), &logits, &theirs.data, 1e-5),
                    (None, features) => {
                        // Its head reads the class token.
                        let features = features.unwrap();
                        let (tokens, width) = (features.shape[1], features.shape[2]);
                        let theirs = features.data.chunks(tokens * width).flat_map(|sample| &sample[..width]);
                        let theirs: Vec<f32> = theirs.copied().collect();
                        assert_close(&format!("{name}, {what}"), &read, &theirs, 1e-5);
                    }
                }
            };
            compare("PEFT's", &first);
            let model = Vit::new(&gpu, first.config.clone(), 3).unwrap();
            let options = MatchOptions { head: Vit::HEADS, allow_missing: false };
            load_parameters(model.parameters(), &first.checkpoint, &options).unwrap();
            let place = tempfile::tempdir().unwrap();
            let own = place.path().join("own");
            save_adapter(&own, &model, AdapterNames::of(&first.config), Some(name)).unwrap();
            let [theirs, ours] = [&folder, &own]
                .map(|folder| checkpoint::read(folder.join("adapter_model.safetensors")).unwrap().tensors);
            if name.starts_with("hf_dinov3") {
                assert!(theirs.keys().all(|key| ours[key] == theirs[key]));
            } else {
                assert_eq!(ours, theirs, "{name}");
            }
            compare("ours", &adapted(name, &own));
            let mut merged = first;
            merged.merge_adapters().unwrap();
            compare("merged", &merged);
        }
    }
}

/// An adapter of a gated MLP's first layer, or of a part of it, where the library has the two apart: to its folder and back.
#[test]
fn adapters_of_gated_layers_go_to_libraries_that_have_them_apart() {
    let gpu = gpu();
    let of = |name: &str, targets: &[&str]| {
        let mut pretrained = base_of(name);
        pretrained.config.lora = Some(LoraConfig::new(3, 6.0, targets));
        let model = trained(&gpu, &pretrained.config);
        let rest = MatchOptions { head: &["lora_A", "lora_B", "head", "fc1", "fc2"], allow_missing: true };
        load_parameters(model.parameters(), &pretrained.checkpoint, &rest).unwrap();
        pretrained.checkpoint.tensors = download(model.parameters()).unwrap();
        (pretrained, model)
    };
    let cases = [
        ("hf_dinov3_gated", AdapterNames::Transformers, ["model.layer.0.mlp.gate_proj", "model.layer.0.mlp.up_proj"]),
        (
            "hf_dinov2_swiglu",
            AdapterNames::Transformers,
            ["dinov2.encoder.layer.0.mlp.gate_proj", "dinov2.encoder.layer.0.mlp.up_proj"],
        ),
        ("timm_dinov3_plus", AdapterNames::Timm, ["blocks.0.mlp.fc1_g", "blocks.0.mlp.fc1_x"]),
        ("timm_eva02_clip", AdapterNames::Timm, ["blocks.0.mlp.fc1_g", "blocks.0.mlp.fc1_x"]),
    ];
    for (name, names, theirs) in cases {
        for targets in [&["fc1", "fc2"][..], &["gate"], &["up", "qkv"]] {
            let (mut pretrained, model) = of(name, targets);
            let place = tempfile::tempdir().unwrap();
            let folder = place.path().join("adapter");
            save_adapter(&folder, &model, names, None).unwrap();
            let file = checkpoint::read(folder.join("adapter_model.safetensors")).unwrap().tensors;
            let written = theirs.map(|layer| file.contains_key(&format!("base_model.model.{layer}.lora_A.weight")));
            let expected = [
                targets.iter().any(|t| ["fc1", "gate"].contains(t)),
                targets.iter().any(|t| ["fc1", "up"].contains(t)),
            ];
            assert_eq!(written, expected, "{name}, {targets:?}");
            let images = images_of(name);
            let [logits, _] = computed(&gpu, &pretrained, &images);
            let base: Tensors = pretrained
                .checkpoint
                .tensors
                .iter()
                .filter(|(name, _)| !LoraConfig::is_adapter(name))
                .map(|(n, t)| (n.clone(), t.clone()))
                .collect();
            let mut again =
                Pretrained { checkpoint: Checkpoint { tensors: base, ..Checkpoint::default() }, ..base_of(name) };
            again.load_adapter(&folder).unwrap();
            assert_close(
                &format!("{name}, {targets:?}, read again"),
                &computed(&gpu, &again, &images)[0],
                &logits,
                1e-5,
            );
            pretrained.merge_adapters().unwrap();
            assert_close(
                &format!("{name}, {targets:?}, merged"),
                &computed(&gpu, &pretrained, &images)[0],
                &logits,
                1e-5,
            );
        }
        let both = VitConfig { lora: Some(LoraConfig::new(3, 6.0, &["fc1", "up"])), ..base_of(name).config };
        let refused = Vit::new(&gpu, both, 0).err().unwrap().to_string();
        assert!(refused.contains("not both"), "{refused}");
    }
    // timm has that layer of its DINOv2 giant in one.
    let (_, model) = of("timm_swiglu", &["up"]);
    let place = tempfile::tempdir().unwrap();
    let refused = save_adapter(&place.path().join("x"), &model, AdapterNames::Timm, None).unwrap_err().to_string();
    assert!(refused.contains("whole layers"), "{refused}");
}

/// The names that DINOv3 and DeiT had up to transformers 4.
#[test]
fn adapters_of_other_families_are_opened_by_their_old_names() {
    let new = ["model.layer.", "deit.layers.", "attention.q_proj", "attention.v_proj", "attention.o_proj"];
    let old = [
        "layer.",
        "deit.encoder.layer.",
        "attention.attention.query",
        "attention.attention.value",
        "attention.output.dense",
    ];
    for (name, renamed) in [("hf_dinov3", 0..1), ("hf_deit_distilled", 1..5)] {
        let folder = shipped("adapters").join(name);
        let file = checkpoint::read(folder.join("adapter_model.safetensors")).unwrap().tensors;
        let rename = |name: String| renamed.clone().fold(name, |name, i| name.replace(new[i], old[i]));
        let tensors: Tensors = file.into_iter().map(|(name, tensor)| (rename(name), tensor)).collect();
        assert!(tensors.keys().any(|name| name.contains(old[renamed.start])));
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder.join("adapter_config.json"), copy.path().join("adapter_config.json")).unwrap();
        checkpoint::write(copy.path().join("adapter_model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
        let [a, b] = [&folder, &copy.path().to_owned()].map(|folder| adapted(name, folder));
        assert_eq!((&a.config, &a.checkpoint.tensors), (&b.config, &b.checkpoint.tensors), "{name}");
    }
}

/// Heads that the model has not, or that do not agree.
#[test]
fn heads_of_adapters_are_checked() {
    let folder = shipped("adapters").join("hf_deit_distilled");
    let file = checkpoint::read(folder.join("adapter_model.safetensors")).unwrap().tensors;
    let message = |base: &str, change: &dyn Fn(&mut Tensors)| {
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder.join("adapter_config.json"), copy.path().join("adapter_config.json")).unwrap();
        let mut tensors = file.clone();
        change(&mut tensors);
        checkpoint::write(copy.path().join("adapter_model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
        base_of(base).load_adapter(copy.path()).unwrap_err().to_string()
    };
    const SECOND: &str = "base_model.model.distillation_classifier.weight";
    let resized = |rows: usize, columns: usize| {
        move |tensors: &mut Tensors| {
            let tensor = HostTensor { shape: vec![rows, columns], data: vec![0.0; rows * columns] };
            tensors.insert(SECOND.to_owned(), tensor);
        }
    };
    let other = message("hf_deit_distilled", &resized(5, 32));
    assert!(other.contains("head_dist.weight") && other.contains("5 classes"), "{other}");
    let narrow = message("hf_deit_distilled", &resized(7, 16));
    assert!(narrow.contains("[7, 16]"), "{narrow}");
    let none = message("hf_clip", &|_| {});
    assert!(none.contains("head"), "{none}");
}

/// Two heads with an adapter, without one, and trained as a whole, in this crate's own file and exported.
#[test]
fn adapters_beside_two_heads() {
    let gpu = gpu();
    let heads = ["head".to_owned(), "head_dist".to_owned()];
    for (targets, saved) in
        [(&["qkv", "head", "head_dist"][..], &heads[..0]), (&["fc1", "head"], &heads[1..]), (&["proj"], &heads)]
    {
        let lora = LoraConfig { modules_to_save: saved.to_vec(), ..LoraConfig::new(3, 6.0, targets) };
        let config = VitConfig { distilled: true, ..tiny(lora) };
        let model = trained(&gpu, &config);
        let (_, gradients) = step(&model, &training());
        assert_eq!(gradients.contains_key("head_dist.weight"), saved.contains(&heads[1]), "{targets:?}");
        let evaluated = |model: &Vit| {
            let logits = model.forward(&pictures(&gpu), &[], &Mode::evaluation()).unwrap();
            logits.to_vec::<f32>().unwrap()
        };
        let place = tempfile::tempdir().unwrap();
        export_hf(&place.path().join("hf"), &model, &ExportOptions::default()).unwrap();
        let exported = open(place.path().join("hf"), &OpenOptions::default()).unwrap();
        assert_close("merged", &evaluated(&self::model(&gpu, &exported)), &evaluated(&model), 1e-5);
        let folder = place.path().join("adapter");
        save_adapter(&folder, &model, AdapterNames::Timm, None).unwrap();
        let tensors = checkpoint::read(folder.join("adapter_model.safetensors")).unwrap().tensors;
        let of_second = |name: &&String| name.starts_with("base_model.model.head_dist.");
        assert_eq!(
            tensors.keys().any(|name| of_second(&name)),
            targets.contains(&"head_dist") || saved.contains(&heads[1])
        );
    }
}

// ---- runs that go on ----

/// Ends a run after two steps.
struct Two(u64);

impl Observer for Two {
    fn step(&mut self, _: &StepMetrics) -> ControlFlow<()> {
        self.0 += 1;
        if self.0 == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn epoch(&mut self, _: &EpochMetrics) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// A run goes on with the same adapters only, and the setting that differs is named.
#[test]
fn a_run_goes_on_with_its_own_adapters() {
    let (gpu, place, data) = (gpu(), tempfile::tempdir().unwrap(), digits().unwrap());
    let few = |n: u32| data.train.subset(&(0..n).collect::<Vec<_>>()).unwrap();
    let run = |lora: LoraConfig| {
        let model = Vit::new(&gpu, tiny(lora), 1).unwrap();
        let train = single(&few(40), data.eval_transform(16), LoaderOptions::training(8, 1));
        let validation = single(&few(8), data.eval_transform(16), LoaderOptions::evaluation(8));
        let folder = Some(RunFolder::new(place.path(), write_weights));
        let data = FitData { train: &train, validation: &validation, steps: 8, folder };
        let state = place.path().join(STATE_FILE);
        let resume = state.exists().then(|| RunState::read(state).unwrap());
        let options = FitOptions { save_state: true, resume, ..FitOptions::default() };
        let settings = TrainSettings::new(ADAMW, LrSchedule::constant(1e-3).unwrap());
        fit(Classify::new(&model), &data, settings, options, &mut Two(0))
    };
    let own = lora(&["qkv"], Precision::F32);
    let first = run(own.clone()).unwrap().steps;
    for (other, named) in [
        (LoraConfig { rank: 4, ..own.clone() }, "rank"),
        (LoraConfig { alpha: 7.0, ..own.clone() }, "alpha"),
        (LoraConfig { dropout: 0.1, ..own.clone() }, "dropout"),
        (lora(&["qkv", "proj"], Precision::F32), "targets"),
        (LoraConfig { modules_to_save: vec![], ..own.clone() }, "modules_to_save"),
    ] {
        let message = run(other).unwrap_err().to_string();
        assert!(message.contains("another model") && message.contains(named), "{named}: {message}");
    }
    if gpu.has_f16() {
        let message = run(lora(&["qkv"], Precision::F16)).unwrap_err().to_string();
        assert!(message.contains("another model") && message.contains("base"), "{message}");
    }
    assert!(run(own).unwrap().steps > first);
}

// ---- language models ----

/// Two samples of eleven tokens, as the reference has them.
fn ids(gpu: &Gpu, vocabulary: usize) -> Tensor {
    let token = |i: usize| ((7 * (i / 11) + 3 * (i % 11)) % vocabulary) as u32;
    Tensor::from_slice(gpu, &[2, 11], &(0..22).map(token).collect::<Vec<_>>()).unwrap()
}

fn scores(model: &dyn LanguageModel, mode: &Mode) -> Vec<f32> {
    let ids = ids(model.parameters().gpu(), model.vocab_size());
    let hidden = model.hidden(&Tokens::new(&ids), &[], mode).unwrap();
    model.logits(&hidden, mode).unwrap().to_vec().unwrap()
}

fn filled(parameters: &Parameters, weights: &Checkpoint) {
    load_parameters(parameters, weights, &MatchOptions::default()).unwrap();
}

/// What PEFT computes with adapters of a GPT-2, whose layers keep their weights as `[in, out]`: from its folder, from the one that is
/// written of that, from this crate's own file, merged, and exported; and what is trained is theirs alone.
#[test]
fn adapters_of_a_gpt_are_those_of_peft() {
    let folder = shipped("adapters/gpt2");
    let expected = checkpoint::read(folder.join("expected.safetensors")).unwrap();
    let expected = &expected.get("logits").unwrap().data;
    let opened = |adapter: &Path| {
        let mut pretrained = gpt2::open(shipped("lm/gpt2")).unwrap();
        pretrained.load_adapter(adapter).unwrap();
        pretrained
    };
    for gpu in each_family() {
        let loaded = |pretrained: &gpt2::Pretrained| {
            let model = Gpt2::new(&gpu, pretrained.config.clone(), 3).unwrap();
            filled(model.parameters(), &pretrained.checkpoint);
            model
        };
        let compare = |what: &str, pretrained: &gpt2::Pretrained| {
            assert_close(what, &scores(&loaded(pretrained), &Mode::evaluation()), expected, 1e-5);
        };
        let mut first = opened(&folder);
        assert_eq!(first.config.lora.as_ref().unwrap().targets, ["attn.c_attn", "attn.c_proj", "mlp.c_proj"]);
        compare("PEFT's", &first);
        let (model, place) = (loaded(&first), tempfile::tempdir().unwrap());
        let [own, file, exported] = ["own", "file.safetensors", "exported"].map(|name| place.path().join(name));
        gpt2::save_adapter(&own, &model, Some("gpt2")).unwrap();
        let [theirs, ours] =
            [&folder, &own].map(|folder| checkpoint::read(folder.join("adapter_model.safetensors")).unwrap().tensors);
        assert_eq!(ours, theirs);
        compare("ours", &opened(&own));
        gpt2::write(&file, &first.config, &download(model.parameters()).unwrap()).unwrap();
        let again = gpt2::open(&file).unwrap();
        assert_eq!((&again.config, &again.checkpoint.tensors), (&first.config, &first.checkpoint.tensors));
        gpt2::save(&exported, &model, &FolderOptions::default()).unwrap();
        compare("exported", &gpt2::open(&exported).unwrap());
        first.merge_adapters().unwrap();
        compare("merged", &first);
        assert_eq!(first.config, gpt2::open(shipped("lm/gpt2")).unwrap().config);
        check_training(&CausalLm::new(model, 11).unwrap());
    }
}

/// The same of a BERT, whose queries, keys and values are one layer here.
#[test]
fn adapters_of_a_bert_are_those_of_peft() {
    let folder = shipped("adapters/bert");
    let expected = checkpoint::read(folder.join("expected.safetensors")).unwrap();
    let expected = &expected.get("logits").unwrap().data;
    let opened = |adapter: &Path| {
        let mut pretrained = bert::open(shipped("lm/bert")).unwrap();
        pretrained.load_adapter(adapter).unwrap();
        pretrained
    };
    for gpu in each_family() {
        let loaded = |pretrained: &bert::Pretrained| {
            let model = Bert::new(&gpu, pretrained.config.clone(), 3).unwrap();
            filled(model.parameters(), &pretrained.checkpoint);
            model
        };
        let compare = |what: &str, pretrained: &bert::Pretrained| {
            assert_close(what, &scores(&loaded(pretrained), &Mode::evaluation()), expected, 1e-5);
        };
        let mut first = opened(&folder);
        compare("PEFT's", &first);
        let (model, place) = (loaded(&first), tempfile::tempdir().unwrap());
        let [own, file, exported] = ["own", "file.safetensors", "exported"].map(|name| place.path().join(name));
        bert::save_adapter(&own, &model, None).unwrap();
        let [theirs, ours] =
            [&folder, &own].map(|folder| checkpoint::read(folder.join("adapter_model.safetensors")).unwrap().tensors);
        assert_eq!(ours, theirs);
        compare("ours", &opened(&own));
        bert::write(&file, &first.config, &download(model.parameters()).unwrap()).unwrap();
        let again = bert::open(&file).unwrap();
        assert_eq!((&again.config, &again.checkpoint.tensors), (&first.config, &first.checkpoint.tensors));
        bert::save(&exported, &model, &FolderOptions::default()).unwrap();
        compare("exported", &bert::open(&exported).unwrap());
        first.merge_adapters().unwrap();
        compare("merged", &first);
        check_training(&MaskedLm::new(model, 11).unwrap());
    }
}

/// A step changes the adapters, and nothing else.
fn check_training<T: Task<Batch = TokenBatch>>(task: &T) {
    let batch = task.blank(2).unwrap();
    let parameters = task.model().parameters();
    let before = download(parameters).unwrap();
    let mut trainer = Trainer::new(task, TrainSettings::new(ADAMW, LrSchedule::constant(1e-2).unwrap())).unwrap();
    trainer.step(&batch).unwrap();
    trainer.finish().unwrap();
    for (name, tensor) in download(parameters).unwrap() {
        assert_eq!(before[&name] != tensor, LoraConfig::is_adapter(&name), "{name}");
    }
}

#[test]
fn adapters_of_language_models_are_checked() {
    let gpu = gpu();
    let config = |lora: LoraConfig| Gpt2Config { lora: Some(lora), ..gpt2::open(shipped("lm/gpt2")).unwrap().config };
    let unknown = Gpt2::new(&gpu, config(LoraConfig::new(2, 4.0, &["q_proj"])), 0).unwrap_err().to_string();
    assert!(unknown.contains("c_attn") && unknown.contains("q_proj"), "{unknown}");
    let zero = config(LoraConfig::new(0, 4.0, &["c_attn"])).check().unwrap_err().to_string();
    assert!(zero.contains("rank"), "{zero}");
    let part = config(LoraConfig::new(2, 4.0, &["c_attn.query"])).check().unwrap_err().to_string();
    assert!(part.contains("c_attn.query") && part.contains("whole layers"), "{part}");
    let place = tempfile::tempdir().unwrap();
    let plain = Gpt2::new(&gpu, gpt2::open(shipped("lm/gpt2")).unwrap().config, 0).unwrap();
    let none = gpt2::save_adapter(&place.path().join("none"), &plain, None).unwrap_err().to_string();
    assert!(none.contains("lora"), "{none}");
    let foreign = gpt2::open(shipped("lm/gpt2")).unwrap().load_adapter(shipped("adapters/bert")).unwrap_err();
    assert!(foreign.to_string().contains("is not a part of an adapter"), "{foreign}");
    // Of a layer whose name ends as another's does.
    let mut config = bert::open(shipped("lm/bert")).unwrap().config;
    config.lora = Some(LoraConfig::new(2, 4.0, &["encoder.layer.0.output.dense", "encoder.layer.1.output.dense"]));
    let model = Bert::new(&gpu, config, 0).unwrap();
    bert::save_adapter(&place.path().join("outputs"), &model, None).unwrap();
    let mut pretrained = bert::open(shipped("lm/bert")).unwrap();
    pretrained.load_adapter(place.path().join("outputs")).unwrap();
    filled(Bert::new(&gpu, pretrained.config.clone(), 0).unwrap().parameters(), &pretrained.checkpoint);
}

// ---- biases and norms alone ----

/// Every bias is caught, those of queries and values too that are no layer's own; layer scale is neither bias nor norm; and in models
/// with other names.
#[test]
fn every_bias_and_every_norm_is_caught() {
    let gpu = gpu();
    let rotary = VitConfig {
        rope_temperature: Some(100.0),
        key_bias: false,
        init_values: Some(0.5),
        lora: None,
        ..tiny(lora(&["qkv"], Precision::F32))
    };
    let map = VitConfig { global_pool: Pool::Map, lora: None, ..tiny(lora(&["qkv"], Precision::F32)) };
    let vits = [rotary, map].map(|config| Vit::new(&gpu, config, 0).unwrap());
    let gpt = Gpt2::new(&gpu, gpt2::open(shipped("lm/gpt2")).unwrap().config, 0).unwrap();
    let bert = Bert::new(&gpu, bert::open(shipped("lm/bert")).unwrap().config, 0).unwrap();
    let models: [&dyn Model; 4] = [&vits[0], &vits[1], &gpt, &bert];
    for model in models {
        let trained = |freeze: Freeze| {
            freeze.apply(model).unwrap();
            let trained = model.parameters().iter().filter(|p| p.is_trainable() && !model.is_head(p.path()));
            trained.map(|p| p.path().to_owned()).collect::<Vec<_>>()
        };
        let (biases, norms) = (trained(Freeze::AllButBiases), trained(Freeze::AllButNorms));
        Freeze::Nothing.apply(model).unwrap();
        for parameter in model.parameters().iter().filter(|p| !model.is_head(p.path())) {
            let path = parameter.path().to_owned();
            let name = path.rsplit('.').next().unwrap();
            assert_eq!(biases.contains(&path), ["bias", "q_bias", "v_bias"].contains(&name), "{path}");
            let is_norm = ["norm", "LayerNorm", "ln_"].iter().any(|norm| path.contains(norm));
            assert_eq!(norms.contains(&path), is_norm, "{path}");
        }
        assert!(!biases.is_empty() && !norms.is_empty());
    }
    Freeze::AllButBiases.apply(&vits[0]).unwrap();
    assert!(vits[0].parameters().get("blocks.0.attn.q_bias").unwrap().is_trainable());
}

// ---- names in memory ----

/// Weights as transformers 5 has them in memory, which a program may save by itself.
#[test]
fn vits_are_opened_by_their_names_in_memory() {
    let pairs = [
        ("encoder.layer.", "layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        (".output.dense", ".mlp.fc2"),
    ];
    for name in ["lora/base", "hf_deit_distilled"] {
        let folder = shipped("vision").join(name);
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder.join("config.json"), copy.path().join("config.json")).unwrap();
        let old = checkpoint::read(folder.join("model.safetensors")).unwrap().tensors;
        let renamed = |name: String| pairs.iter().fold(name, |name, (from, to)| name.replace(from, to));
        let new: Tensors = old.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect();
        assert!(new.keys().any(|name| name.contains(".layers.0.mlp.fc2")), "{name}");
        checkpoint::write(copy.path().join("model.safetensors"), &new, &BTreeMap::new()).unwrap();
        let opened = open(copy.path(), &OpenOptions::default()).unwrap();
        assert_eq!(opened.checkpoint.tensors, base_of(name).checkpoint.tensors, "{name}");
    }
}
