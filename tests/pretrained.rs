//! Published checkpoints in and out: layouts, what configurations come from, refusals, exports, hostile files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::allocation::peak;
use crate::common::gpu;
use wgrad::Error;
use wgrad::autograd::Parameter;
use wgrad::checkpoint::{HostTensor, Storage, download, read, write, write_as};
use wgrad::models::vit::{
    CropMode, ExportOptions, HeadFit, Interpolation, OpenOptions, Pool, Pretrained, Resampling, Vit, VitConfig,
    export_hf, export_timm, open, resample_pos_embed, save,
};
use wgrad::ops::{Gelu, Normalize};

type Tensors = BTreeMap<String, HostTensor>;

const NO_TEXTS: &BTreeMap<String, String> = &BTreeMap::new();

fn config() -> VitConfig {
    VitConfig { img_size: (8, 8), patch_size: 2, num_classes: 3, ..VitConfig::custom(64, 2, 1) }
}

fn model(config: VitConfig) -> Vit {
    let model = Vit::new(&gpu(), config, 5).unwrap();
    // Biases and norms too get values that a mistake would show up in.
    for (i, parameter) in model.parameters().iter().enumerate() {
        let values: Vec<f32> = parameter.value().to_vec().unwrap();
        let shifted: Vec<f32> = values.iter().enumerate().map(|(j, v)| v + (i * 100 + j) as f32 * 1e-4).collect();
        parameter.set(&shifted).unwrap();
    }
    model
}

fn named(shape: &[usize]) -> HostTensor {
    HostTensor { shape: shape.to_vec(), data: vec![0.25; shape.iter().product()] }
}

/// timm's tensors of a model of `config`, without a device.
fn tensors_of(config: &VitConfig) -> Tensors {
    let (c, f, p) = (config.embed_dim, config.hidden(), config.patch_size);
    let mut shapes = vec![
        ("cls_token".to_owned(), vec![1, 1, c]),
        ("pos_embed".to_owned(), vec![1, config.tokens(), c]),
        ("patch_embed.proj.weight".to_owned(), vec![c, 3, p, p]),
        ("patch_embed.proj.bias".to_owned(), vec![c]),
        ("norm.weight".to_owned(), vec![c]),
        ("norm.bias".to_owned(), vec![c]),
        ("head.weight".to_owned(), vec![config.num_classes, c]),
        ("head.bias".to_owned(), vec![config.num_classes]),
    ];
    for i in 0..config.depth {
        let layers = [
            ("norm1", vec![c]),
            ("attn.qkv", vec![3 * c, c]),
            ("attn.proj", vec![c, c]),
            ("norm2", vec![c]),
            ("mlp.fc1", vec![f, c]),
            ("mlp.fc2", vec![c, f]),
        ];
        for (layer, shape) in layers {
            shapes.push((format!("blocks.{i}.{layer}.bias"), vec![shape[0]]));
            shapes.push((format!("blocks.{i}.{layer}.weight"), shape));
        }
    }
    shapes.into_iter().map(|(name, shape)| (name, named(&shape))).collect()
}

/// Opens `tensors` as a folder with these further files.
fn open_with(tensors: &Tensors, files: &[(&str, &str)]) -> wgrad::Result<Pretrained> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("model.safetensors"), tensors, NO_TEXTS).unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    open(folder.path(), &OpenOptions::default())
}

#[track_caller]
fn assert_refused(result: wgrad::Result<Pretrained>, parts: &[&str]) {
    let message = result.expect_err("an error").to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

fn bits(tensors: &Tensors) -> Vec<(&String, &Vec<usize>, Vec<u32>)> {
    tensors.iter().map(|(name, t)| (name, &t.shape, t.data.iter().map(|v| v.to_bits()).collect())).collect()
}

// In.

#[test]
fn sizes_come_from_shapes() {
    let config = VitConfig { mlp_ratio: 2.6, ..config() };
    let opened = open_with(&tensors_of(&config), &[]).unwrap();
    assert_eq!(opened.config.hidden(), config.hidden());
    assert_eq!(VitConfig { mlp_ratio: 2.6, ..opened.config }, config);
    assert_eq!((opened.class_names, opened.crop_fraction), (None, None));
}

#[test]
fn timms_config_tells_the_rest() {
    let json = r#"{"architecture": "vit_small_patch16_224", "num_classes": 3, "label_names": ["a", "b", "c"],
        "model_args": {"num_heads": 2}, "pretrained_cfg": {"input_size": [3, 4, 16], "crop_pct": 0.9,
        "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}}"#;
    let opened = open_with(&tensors_of(&config()), &[("config.json", json)]).unwrap();
    let normalize = Normalize { mean: [0.5, 0.4, 0.3], std: [0.1, 0.2, 0.3] };
    assert_eq!(opened.config, VitConfig { num_heads: 2, img_size: (4, 16), normalize, ..config() });
    assert_eq!(opened.class_names.unwrap(), ["a", "b", "c"]);
    assert_eq!(opened.crop_fraction, Some(0.9));

    // The older form, all at the top.
    let json = r#"{"architecture": "vit_small_patch16_224", "crop_pct": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1]}"#;
    let opened = open_with(&tensors_of(&config()), &[("config.json", json)]).unwrap();
    assert_eq!(opened.config.normalize, Normalize { mean: [0.0; 3], std: [1.0; 3] });
    assert_eq!(opened.crop_fraction, Some(1.0));

    // Pixels that fill no patch are seen by nobody.
    let json = r#"{"architecture": "vit_small_patch16_224", "model_args": {"num_heads": 2, "img_size": [9, 8]}}"#;
    assert_eq!(open_with(&tensors_of(&config()), &[("config.json", json)]).unwrap().config.img_size, (8, 8));
}

/// What timm's architectures have and their config.json does not repeat, and what it says of a gate.
#[test]
fn timms_names_tell_of_norms_and_gates() {
    let named_as = |name: &str, args: &str| format!(r#"{{"architecture": "{name}", "model_args": {{{args}}}}}"#);
    let mut tensors = tensors_of(&config());
    tensors.retain(|name, _| !name.starts_with("norm."));
    let opened = open_with(&tensors, &[("config.json", &named_as("vit_intern300m_patch14_448", ""))]).unwrap();
    assert!(!opened.config.final_norm);
    assert_refused(open_with(&tensors, &[("config.json", &named_as("vit_base_patch14_224", ""))]), &["norm.weight"]);

    let mut gated = tensors_of(&config());
    for block in 0..2 {
        gated.insert(format!("blocks.{block}.mlp.fc2.weight"), named(&[64, 128]));
    }
    let with = |tensors: &Tensors, act: &str| {
        let args = format!(r#""act_layer": "{act}""#);
        open_with(tensors, &[("config.json", &named_as("vit_base_patch14_224", &args))])
    };
    assert!(with(&gated, "silu").unwrap().config.gated_mlp);
    assert_refused(with(&gated, "gelu"), &["act_layer", "SiLU"]);
    assert_refused(with(&tensors_of(&config()), "silu"), &["act_layer", "no gate"]);
    assert_eq!(with(&tensors_of(&config()), "gelu_tanh").unwrap().config.act_layer, Gelu::Tanh);
}

#[test]
fn contradictions_are_errors() {
    let tensors = tensors_of(&config());
    let with = |json: &str| open_with(&tensors, &[("config.json", json)]);
    let args = |args: &str| with(&format!(r#"{{"architecture": "vit", "model_args": {{{args}}}}}"#));
    assert_refused(args(r#""embed_dim": 32"#), &["config.json", "embed_dim 32", "the weights have 64"]);
    assert_refused(args(r#""depth": 3"#), &["depth 3", "the weights have 2"]);
    assert_refused(args(r#""num_heads": 3"#), &["num_heads", "divisor"]);
    assert_refused(args(r#""num_heads": 0"#), &["num_heads"]);
    assert_refused(args(r#""img_size": 64"#), &["pos_embed", "17 positions", "64 x 64"]);
    assert_refused(args(r#""img_size": [1, 2, 3]"#), &["config.json", "two sizes"]);
    assert_refused(args(r#""global_pool": "prr""#), &["pooling prr"]);
    assert_refused(args(r#""global_pool": "map""#), &["attn_pool.latent", "is not in the checkpoint"]);
    assert_refused(args(r#""act_layer": "relu""#), &["config.json", "activation \"relu\""]);
    assert_refused(args(r#""final_norm": false"#), &["norm.weight", "is there, though final_norm is false"]);
    // Tensors do not tell these from others.
    for (architecture, what) in [
        ("vit_pe_core_base_patch16_224", "Perception Encoder"),
        ("vit_small_patch16_rope_224", "rotary positions"),
        ("vit_base_patch16_rpn_224", "norms behind attention and MLP"),
    ] {
        assert_refused(with(&format!(r#"{{"architecture": "{architecture}"}}"#)), &[architecture, what]);
    }
    let crop = r#"{"architecture": "vit", "pretrained_cfg": {"crop_pct": 1.5}}"#;
    assert_refused(with(crop), &["crop", "1.5"]);
    let std = r#"{"architecture": "vit", "mean": [0, 0, 0], "std": [1, 0, 1]}"#;
    assert_refused(with(std), &["deviation"]);
    assert_refused(with("{\"architecture\": \n !"), &["config.json at byte"]);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    for (name, what) in [
        ("blocks.0.layer_scale1.lambda1", "layer scale of another model"),
        ("blocks.1.gamma_1", "layer scale"),
        ("blocks.0.attn.q_norm.weight", "normed queries"),
        ("blocks.0.mlp.w12.weight", "SwiGLU"),
        ("blocks.0.mlp.fc1_g.weight", "SwiGLU"),
        ("attn_pool.pos_embed", "attention pooling of another kind"),
        ("blocks.0.attns.0.qkv.weight", "parallel"),
        ("patch_embed.backbone.stem.weight", "convolutional"),
        ("something.else", "none of timm's"),
        ("blocks.00.norm1.weight", "none of timm's"),
        ("blocks.0.other.0.weight", "none of timm's"),
    ] {
        let mut tensors = tensors_of(&config());
        tensors.insert(name.to_owned(), named(&[4]));
        assert_refused(open_with(&tensors, &[]), &[name, what]);
    }
    // Harmless company.
    let mut tensors = tensors_of(&config());
    tensors.insert("pre_logits.fc.weight".to_owned(), named(&[64, 64]));
    assert_eq!(open_with(&tensors, &[]).unwrap().config, config());
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let without = |name: &str| {
        let mut tensors = tensors_of(&config());
        tensors.remove(name).unwrap();
        open_with(&tensors, &[])
    };
    assert_refused(without("patch_embed.proj.weight"), &["patch_embed.proj.weight"]);
    assert_refused(without("blocks.0.norm1.weight"), &["blocks.0", "blocks.0.norm1.weight is not in the checkpoint"]);
    assert_refused(without("blocks.1.attn.qkv.weight"), &["blocks.1.attn.qkv.weight"]);
    assert_refused(without("norm.weight"), &["norm.weight", "nor is fc_norm"]);
    let with = |name: &str, shape: &[usize]| {
        let mut tensors = tensors_of(&config());
        tensors.insert(name.to_owned(), named(shape));
        open_with(&tensors, &[])
    };
    assert_refused(with("patch_embed.proj.weight", &[64, 1, 2, 2]), &["[C, 3, P, P]"]);
    assert_refused(with("patch_embed.proj.weight", &[0, 3, 2, 2]), &["[C, 3, P, P]"]);
    assert_refused(with("pos_embed", &[1, 19, 64]), &["19 positions"]);
    assert_refused(with("pos_embed", &[0, 64]), &["pos_embed"]);
    // A small block after a large one: the model would take more memory than the file.
    assert_refused(with("blocks.1.mlp.fc1.weight", &[1, 1]), &["blocks.1.mlp.fc1.weight", "[256, 64]"]);
    assert_refused(with("reg_token", &[1, 2, 3]), &["reg_token"]);
    // Layer scale in one half of a block.
    assert_refused(with("blocks.0.ls1.gamma", &[64]), &["blocks.0.ls2.gamma", "is not in the checkpoint"]);
    // Half as wide as the first layer gives, as of a gated MLP, but in one block alone.
    assert_refused(with("blocks.0.mlp.fc2.weight", &[64, 128]), &["blocks.1.mlp.fc2.weight", "[64, 128]"]);
    // A model without a head can be finetuned.
    let mut headless = tensors_of(&config());
    headless.retain(|name, _| !name.starts_with("head."));
    assert_eq!(open_with(&headless, &[]).unwrap().config, VitConfig { num_classes: 1, ..config() });
}

/// A few bytes of a configuration make no table for billions of patches.
#[test]
fn pictures_have_a_largest_size() {
    for img_size in [(1 << 20, 1 << 20), (2, 1 << 52), (1 << 21, 2)] {
        let message =
            VitConfig { img_size, rope_temperature: Some(100.0), ..config() }.check().unwrap_err().to_string();
        assert!(message.contains("img_size"), "{message}");
    }
}

#[test]
fn heads_are_guessed_told_or_asked_for() {
    let wide = |width| tensors_of(&VitConfig { embed_dim: width, ..config() });
    assert_eq!(open_with(&wide(192), &[]).unwrap().config.num_heads, 3);
    assert_eq!(open_with(&wide(1280), &[]).unwrap().config.num_heads, 16);
    // SigLIP 2's; DINOv2 giant, as wide and gated, has 24.
    assert_eq!(open_with(&wide(1536), &[]).unwrap().config.num_heads, 16);
    assert_refused(open_with(&wide(48), &[]), &["num_heads", "width of 48"]);
    // Virchow's: gated, of timm's ViT-H/14; DINOv3's H+, as wide and gated, has 20.
    let mut gated = wide(1280);
    for block in 0..2 {
        let half = VitConfig { embed_dim: 1280, ..config() }.hidden() / 2;
        gated.insert(format!("blocks.{block}.mlp.fc2.weight"), named(&[1280, half]));
    }
    let json = r#"{"architecture": "vit_huge_patch14_224", "pretrained_cfg": {"input_size": [3, 8, 8]}}"#;
    let opened = open_with(&gated, &[("config.json", json)]).unwrap().config;
    assert_eq!((opened.num_heads, opened.gated_mlp), (16, true));
    assert_eq!(open_with(&gated, &[]).unwrap().config.num_heads, 20);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.safetensors");
    write(&file, &wide(48), NO_TEXTS).unwrap();
    let told = OpenOptions { heads: Some(4), ..OpenOptions::default() };
    assert_eq!(open(&file, &told).unwrap().config.num_heads, 4);
}

/// A file of this crate says itself what model it is of, and is right about it.
#[test]
fn own_files_are_not_contradicted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.safetensors");
    save(&file, &model(config()), &[]).unwrap();
    let with = |heads, trained_on| open(&file, &OpenOptions { heads, trained_on });
    assert_eq!(with(None, None).unwrap().config, config());
    assert_eq!(with(Some(1), Some((8, 8))).unwrap().config, config());
    assert_refused(with(Some(2), None), &["own.safetensors", "heads is 1 there, not 2"]);
    assert_refused(with(None, Some((4, 16))), &["own.safetensors", "trained_on is 8 x 8 there, not 4 x 16"]);
}

/// Nor is the config.json beside another; what that has by a name, or of a published model's pictures, may be told better.
#[test]
fn what_a_config_says_is_not_contradicted() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("model.safetensors"), &tensors_of(&config()), NO_TEXTS).unwrap();
    let with = |json: &str, heads, trained_on| {
        fs::write(folder.path().join("config.json"), json).unwrap();
        open(folder.path(), &OpenOptions { heads, trained_on })
    };
    let own = r#"{"architecture": "vit_small_patch16_224", "model_args": {"num_heads": 2, "img_size": 8}}"#;
    let opened = with(own, Some(2), Some((8, 8))).unwrap().config;
    assert_eq!((opened.num_heads, opened.img_size), (2, (8, 8)));
    assert_refused(with(own, Some(4), None), &["config.json", "heads is 2 there, not 4"]);
    assert_refused(with(own, None, Some((4, 16))), &["config.json", "trained_on is 8 x 8 there, not 4 x 16"]);
    let weak = r#"{"architecture": "vit_base_patch16_gap_224", "pretrained_cfg": {"input_size": [3, 8, 8]}}"#;
    let opened = with(weak, Some(4), Some((4, 16))).unwrap().config;
    assert_eq!((opened.num_heads, opened.img_size), (4, (4, 16)));

    let theirs = read(hf_reference().join("model.safetensors")).unwrap().tensors;
    write(folder.path().join("model.safetensors"), &theirs, NO_TEXTS).unwrap();
    let own = r#"{"model_type": "vit", "num_attention_heads": 4}"#;
    assert_eq!(with(own, Some(4), None).unwrap().config.num_heads, 4);
    assert_refused(with(own, Some(2), None), &["config.json", "heads is 4 there, not 2"]);
}

/// Positions are only counted: 2 x 8 patches may be told from 4 x 4.
#[test]
fn picture_sizes_are_guessed_or_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rect.safetensors");
    write(&file, &tensors_of(&config()), NO_TEXTS).unwrap();
    let with = |trained_on| open(&file, &OpenOptions { trained_on, ..OpenOptions::default() });
    assert_eq!(with(None).unwrap().config.img_size, (8, 8));
    assert_eq!(with(Some((4, 16))).unwrap().config.img_size, (4, 16));
    assert_refused(with(Some((8, 16))), &["pos_embed", "17 positions", "8 x 16"]);
    let mut other = tensors_of(&config());
    other.insert("pos_embed".to_owned(), named(&[1, 11, 64]));
    write(&file, &other, NO_TEXTS).unwrap();
    assert_refused(with(None), &["11 positions", "trained_on"]);
    assert_eq!(with(Some((10, 4))).unwrap().config.img_size, (10, 4));
}

fn renamed(tensors: &Tensors, rename: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

/// What training programs put around a model changes nothing.
#[test]
fn wrappers_are_taken_off() {
    let plain = tensors_of(&config());
    let theirs = read(hf_reference().join("model.safetensors")).unwrap().tensors;
    let json = &[("config.json", r#"{"model_type": "vit", "num_attention_heads": 4}"#)];
    let expected = open_with(&theirs, json).unwrap();
    for prefix in [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.model.",
        "model.",
        "backbone.",
        "encoder.",
        "state_dict.model.",
        "state_dict_ema.",
        "_forward_module.net.",
        "timm_model.",
        "any.other.place.",
    ] {
        let opened = open_with(&renamed(&plain, |name| format!("{prefix}{name}")), &[]).unwrap();
        assert!(opened.config == config() && opened.checkpoint.tensors == plain, "{prefix}");
        let opened = open_with(&renamed(&theirs, |name| format!("{prefix}{name}")), json).unwrap();
        assert!(opened.checkpoint.tensors == expected.checkpoint.tensors, "{prefix} of transformers");
    }
    // Within a name, and a head beside the backbone.
    const WITHIN: &str = "blocks.1._checkpoint_wrapped_module._fsdp_wrapped_module.";
    let inside = renamed(&plain, |name| name.replace("blocks.1.", WITHIN));
    assert_eq!(open_with(&inside, &[]).unwrap().checkpoint.tensors, plain);
    let beside =
        renamed(&plain, |name| if name.starts_with("head") { name.to_owned() } else { format!("backbone.{name}") });
    assert_eq!(open_with(&beside, &[]).unwrap().checkpoint.tensors, plain);

    let mut twice = plain.clone();
    twice.insert("module.norm.bias".to_owned(), named(&[64]));
    assert_refused(open_with(&twice, &[]), &["norm.bias", "twice"]);
}

/// Of two models in a file the running average is taken; without one, nothing is guessed.
#[test]
fn of_several_models_the_average_is_taken() {
    let plain = tensors_of(&config());
    let halves = |value: f32| {
        plain.iter().map(move |(name, t)| (name, HostTensor { data: vec![value; t.data.len()], ..t.clone() }))
    };
    let two = |first: &str, second: &str| -> Tensors {
        let first = halves(1.0).map(|(name, tensor)| (format!("{first}{name}"), tensor));
        first.chain(halves(2.0).map(|(name, tensor)| (format!("{second}{name}"), tensor))).collect()
    };
    for (first, second) in [("model.", "model_ema."), ("state_dict.", "state_dict_ema."), ("", "ema.module.")] {
        let opened = open_with(&two(first, second), &[]).unwrap();
        assert!(opened.checkpoint.tensors.values().all(|tensor| tensor.data.iter().all(|v| *v == 2.0)), "{second}");
    }
    for (first, second) in [("student.", "teacher."), ("a.", "b.c.")] {
        let parts = [first, second].map(|place| place.trim_end_matches('.'));
        assert_refused(open_with(&two(first, second), &[]), &["several models", parts[0], parts[1]]);
    }
}

/// A tensor of a type that is not read is an error where the model has it, whatever may be done without it; counters of whole
/// numbers are none of the model.
#[test]
fn types_that_are_not_read_are_told() {
    use safetensors::tensor::{Dtype, TensorView};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    // The model in zeros, with some tensors of another type, or more than it has.
    let open_as = |changes: &[(&str, Dtype)]| {
        let mut tensors: BTreeMap<String, (Dtype, Vec<usize>)> =
            tensors_of(&config()).into_iter().map(|(name, tensor)| (name, (Dtype::F32, tensor.shape))).collect();
        for &(name, dtype) in changes {
            tensors.entry(name.to_owned()).or_insert((dtype, vec![1])).0 = dtype;
        }
        let size = |(dtype, shape): &(Dtype, Vec<usize>)| shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let zeros = vec![0; tensors.values().map(size).max().unwrap()];
        let views = tensors
            .iter()
            .map(|(name, tensor)| (name, TensorView::new(tensor.0, tensor.1.clone(), &zeros[..size(tensor)]).unwrap()));
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        open(&path, &OpenOptions::default())
    };
    for name in
        ["head.weight", "cls_token", "blocks.0.attn.qkv.bias", "blocks.1.mlp.fc1.weight", "patch_embed.proj.bias"]
    {
        assert_refused(open_as(&[(name, Dtype::I8)]), &[name, "I8[", "F32, F64, F16 and BF16"]);
    }
    assert_refused(open_as(&[("scales", Dtype::F8_E4M3)]), &["scales", "F8_E4M3"]);
    assert_eq!(open_as(&[("steps", Dtype::I64), ("embeddings.position_ids", Dtype::I32)]).unwrap().config, config());
}

#[test]
fn models_of_other_kinds_are_named() {
    // transformers' folders say what they are.
    for kind in ["beit", "siglip2", "vit_mae", "dinov3_convnext", "bert"] {
        let config = format!(r#"{{"model_type": "{kind}", "hidden_size": 64}}"#);
        let tensors = Tensors::from([("embeddings.patch_embeddings.projection.weight".to_owned(), named(&[4]))]);
        let known = "not supported yet, only vit, deit, dinov2, dinov2_with_registers, clip, ";
        let parts = ["config.json", &format!("model_type {kind} "), known];
        assert_refused(open_with(&tensors, &[("config.json", &config)]), &parts);
    }
    // Of a file by itself, names tell.
    for (name, what) in [
        ("visual.transformer.resblocks.0.ln_1.weight", "a CLIP model of OpenAI"),
        ("encoder.layers.encoder_layer_0.ln_1.weight", "torchvision's"),
        ("layer1.0.conv1.weight", "a ResNet"),
        ("bert.embeddings.word_embeddings.weight", "a language model"),
        ("base_model.model.blocks.0.attn.qkv.lora_A.weight", "an adapter"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", "relative positions"),
    ] {
        assert_refused(open_with(&Tensors::from([(name.to_owned(), named(&[4]))]), &[]), &[name, what]);
    }
    // timm's folders say it too.
    let mut tensors = tensors_of(&config());
    tensors.insert("blocks.0.other.weight".to_owned(), named(&[4]));
    let json = r#"{"architecture": "eva_giant_patch14_224"}"#;
    let parts = ["blocks.0.other.weight", "none of timm's plain", "eva_giant_patch14_224"];
    assert_refused(open_with(&tensors, &[("config.json", json)]), &parts);
}

#[test]
fn folders_without_weights_say_what_they_hold() {
    for (files, parts) in [
        (&[][..], &["holds neither model.safetensors nor model.safetensors.index.json"][..]),
        (
            &["config.json", "optimizer.pt", "pytorch_model.bin"],
            &["but pytorch_model.bin", "a PyTorch pickle", "save_file"],
        ),
        (&["tf_model.h5"], &["but tf_model.h5", "Keras"]),
        (&["flax_model.msgpack"], &["but flax_model.msgpack", "Flax"]),
        (&["model.onnx"], &["but model.onnx", "ONNX"]),
        (&["vit.safetensors", "vit.pth"], &["but vit.safetensors", "give that file"]),
        (&["adapter_model.safetensors"], &["but adapter_model.safetensors", "an adapter: merge"]),
        (&["model-00001-of-00002.safetensors"], &["one of several parts", "index"]),
        (&["state.safetensors", "args.json"], &["a run's folder without best.safetensors", "go on with the run"]),
        (&["blobs", "refs", "snapshots"], &["the Hub's cache", "snapshots/"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_refused(open(folder.path(), &OpenOptions::default()), parts);
    }
}

#[test]
fn this_crates_files_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("best.safetensors");
    let names = ["x", "y", "z"].map(str::to_owned);
    save(&path, &model(config()), &names).unwrap();
    let opened = open(&path, &OpenOptions::default()).unwrap();
    assert_eq!((opened.config, opened.class_names), (config(), Some(names.to_vec())));
    // Written before some of the settings existed.
    let embedded = Pretrained::embedded().unwrap();
    assert_eq!((embedded.config.eps, embedded.config.patch_bias, embedded.config.reg_tokens), (1e-6, true, 0));
    // A description that the tensors do not bear out.
    let mut lying = read(&path).unwrap();
    let big = serde_json::to_string(&VitConfig { embed_dim: 1 << 20, ..config() }).unwrap();
    lying.metadata.insert("config".to_owned(), big);
    write(&path, &lying.tensors, &lying.metadata).unwrap();
    assert_refused(open(&path, &OpenOptions::default()), &["patch_embed.proj.weight", "1048576"]);
}

fn hf_reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/vit_hf")
}

/// Rows of the head belong to names, not to places.
#[test]
fn a_head_follows_the_names_of_its_classes() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let embedded = Pretrained::embedded().unwrap();
    let own = embedded.class_names.clone().unwrap();
    let fit = |wanted: &[String]| {
        let mut pretrained = embedded.clone();
        let fit = pretrained.set_classes(wanted);
        assert_eq!((pretrained.config.num_classes, pretrained.class_names.as_deref()), (wanted.len(), Some(wanted)));
        (fit, pretrained.checkpoint.tensors)
    };
    let (same, tensors) = fit(&own);
    assert!(same == HeadFit::Same && tensors == embedded.checkpoint.tensors);
    let (picked, tensors) = fit(&names(&[&own[7], &own[2]]));
    assert_eq!(picked, HeadFit::ByName { of: 100 });
    for name in ["head.weight", "head.bias"] {
        let [of_all, of_two] = [&embedded.checkpoint.tensors, &tensors].map(|tensors| &tensors[name]);
        let width = of_all.data.len() / 100;
        assert_eq!(of_two.shape, [&[2], &of_all.shape[1..]].concat());
        let rows = [7, 2].map(|row| &of_all.data[row * width..(row + 1) * width]).concat();
        assert_eq!(of_two.data, rows);
    }
    // So do those of adapters beside it.
    let mut adapted = embedded.clone();
    let b = HostTensor { shape: vec![100, 2], data: (0..200).map(|i| i as f32).collect() };
    adapted.checkpoint.tensors.insert("head.lora_B.weight".to_owned(), b);
    adapted.set_classes(&names(&[&own[7], &own[2]]));
    assert_eq!(adapted.checkpoint.tensors["head.lora_B.weight"].data, [14.0, 15.0, 4.0, 5.0]);

    let (other, tensors) = fit(&names(&[&own[7], "caf\u{e9}"]));
    assert_eq!(other, HeadFit::Other { unknown: "caf\u{e9}".to_owned() });
    assert!(tensors == embedded.checkpoint.tensors, "of 100 classes, it does not fit two");
    let mut others = own.clone();
    others[3] = "caf\u{e9}".to_owned();
    let (_, tensors) = fit(&others);
    assert!(!tensors.contains_key("head.weight") && !tensors.contains_key("head.bias"));

    // The other form of é is the same name; of two classes of one name neither is picked; unnamed ones are known by their number.
    let called = |own: &[&str], wanted: &[&str]| {
        let mut pretrained = embedded.clone();
        pretrained.set_classes(&embedded.class_names.as_ref().unwrap()[..own.len()]);
        pretrained.class_names = Some(names(own));
        pretrained.set_classes(&names(wanted))
    };
    assert_eq!(called(&["bar", "cafe\u{301}"], &["bar", "caf\u{e9}"]), HeadFit::Same);
    assert_eq!(called(&["a", "b", "a"], &["a", "b", "a"]), HeadFit::Same);
    assert_eq!(called(&["a", "b", "a"], &["a", "b"]), HeadFit::Other { unknown: "a".to_owned() });
    assert_eq!(called(&["LABEL_0", "LABEL_1"], &["a", "b"]), HeadFit::Unnamed);
    assert_eq!(called(&["LABEL_0", "LABEL_1"], &["a", "b", "c"]), HeadFit::None);
}

#[test]
fn a_folder_of_transformers_is_opened() {
    let opened = open(hf_reference(), &OpenOptions::default()).unwrap();
    let expected = VitConfig { img_size: (32, 32), patch_size: 8, num_classes: 5, ..VitConfig::custom(48, 2, 4) };
    // No file tells how pictures are shown: as in transformers, where a ViT's are squashed.
    let shown = VitConfig { interpolation: Interpolation::Bilinear, crop_mode: CropMode::Squash, ..expected };
    assert_eq!(opened.config, VitConfig { eps: 1e-12, ..shown });
    assert_eq!(opened.crop_fraction, Some(1.0));
    assert_eq!(opened.class_names.unwrap(), ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"]);
}

#[test]
fn transformers_names_come_in_several_forms() {
    let theirs = read(hf_reference().join("model.safetensors")).unwrap().tensors;
    let json = r#"{"model_type": "vit", "num_attention_heads": 4}"#;
    let whole = open_with(&theirs, &[("config.json", json)]).unwrap();
    // A model without head has no prefix, but a pooler; deit's prefix is its own.
    let renamed = |rename: &dyn Fn(&str) -> String| -> Tensors {
        theirs.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
    };
    let mut bare = renamed(&|name| name.trim_start_matches("vit.").to_owned());
    bare.retain(|name, _| !name.starts_with("classifier"));
    bare.insert("pooler.dense.weight".to_owned(), named(&[48, 48]));
    let bare = open_with(&bare, &[("config.json", json)]).unwrap();
    assert_eq!(bare.config, VitConfig { num_classes: 1, ..whole.config.clone() });
    let deit = renamed(&|name| name.replacen("vit.", "deit.", 1));
    let deit_json = r#"{"model_type": "deit", "num_attention_heads": 4}"#;
    let opened = open_with(&deit, &[("config.json", deit_json)]).unwrap();
    assert_eq!(bits(&opened.checkpoint.tensors), bits(&whole.checkpoint.tensors));

    let mut distilled = deit;
    distilled.insert("deit.embeddings.distillation_token".to_owned(), named(&[1, 1, 48]));
    assert_refused(open_with(&distilled, &[("config.json", deit_json)]), &["pos_embed", "17 positions"]);
    let mut twice = theirs.clone();
    twice.insert("layernorm.weight".to_owned(), named(&[48]));
    assert_refused(open_with(&twice, &[("config.json", json)]), &["layernorm.weight", "twice"]);
    let mut no_key = theirs.clone();
    no_key.remove("vit.encoder.layer.1.attention.attention.key.weight").unwrap();
    assert_refused(open_with(&no_key, &[("config.json", json)]), &["blocks.1.attn.qkv.weight", "missing"]);
    let mae = r#"{"model_type": "vit_mae"}"#;
    assert_refused(open_with(&theirs, &[("config.json", mae)]), &["model_type vit_mae"]);
    let relu = r#"{"hidden_act": "relu"}"#;
    assert_refused(open_with(&theirs, &[("config.json", relu)]), &["config.json", "activation \"relu\""]);
    // Where their file does not tell the heads, transformers has 12, whatever the width.
    let untold = open_with(&theirs, &[("config.json", r#"{"hidden_size": 48}"#)]).unwrap();
    assert_eq!(untold.config.num_heads, 12);
    let hidden = r#"{"hidden_size": 768, "num_attention_heads": 4}"#;
    assert_refused(open_with(&theirs, &[("config.json", hidden)]), &["hidden_size 768", "have 48"]);
}

#[test]
fn labels_are_in_the_order_of_their_numbers() {
    let tensors = tensors_of(&VitConfig { num_classes: 11, ..config() });
    let names: Vec<String> = (0..11).map(|i| format!("class {i}")).collect();
    let list: Vec<String> = names.iter().enumerate().map(|(i, name)| format!(r#""{i}": "{name}""#)).collect();
    let json = format!(r#"{{"architecture": "vit", "label_names": {{{}}}}}"#, list.join(","));
    assert_eq!(open_with(&tensors, &[("config.json", &json)]).unwrap().class_names.unwrap(), names);
    for bad in [r#"{"0": "a", "12": "b"}"#, r#"["too", "few"]"#, r#""imagenet-1k""#, r#"{"x": "y"}"#] {
        let json = format!(r#"{{"architecture": "vit", "label_names": {bad}}}"#);
        assert_eq!(open_with(&tensors, &[("config.json", &json)]).unwrap().class_names, None, "{bad}");
    }
}

/// transformers takes any value as a label.
#[test]
fn labels_may_be_numbers() {
    let theirs = read(hf_reference().join("model.safetensors")).unwrap().tensors;
    let labels = r#"{"num_attention_heads": 4, "id2label": {"0": 7, "1": -1, "2": "c", "3": 0.5, "4": true}}"#;
    let opened = open_with(&theirs, &[("config.json", labels)]).unwrap();
    assert_eq!(opened.class_names.unwrap(), ["7", "-1", "c", "0.5", "true"]);
    let json = r#"{"architecture": "vit", "label_names": [1, 2, 3]}"#;
    let opened = open_with(&tensors_of(&config()), &[("config.json", json)]).unwrap();
    assert_eq!(opened.class_names.unwrap(), ["1", "2", "3"]);
    let nested = r#"{"num_attention_heads": 4, "id2label": {"0": {}}}"#;
    assert_refused(open_with(&theirs, &[("config.json", nested)]), &["config.json", "a name"]);
}

#[test]
fn the_preprocessor_tells_normalisation_and_crop() {
    let theirs = read(hf_reference().join("model.safetensors")).unwrap().tensors;
    let config = r#"{"num_attention_heads": 4}"#;
    let with = |json: &str| open_with(&theirs, &[("config.json", config), ("preprocessor_config.json", json)]).unwrap();
    let whole = with(r#"{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "size": {"height": 32, "width": 32}}"#);
    assert_eq!(whole.config.normalize, Normalize { mean: [0.1, 0.2, 0.3], std: [1.0, 2.0, 3.0] });
    assert_eq!((whole.crop_fraction, whole.config.crop_mode), (Some(1.0), CropMode::Squash));
    let crop = r#""do_center_crop": true, "crop_size": {"height": 28, "width": 28}"#;
    for (size, mode) in [
        ("32", CropMode::Center),
        (r#"{"shortest_edge": 32}"#, CropMode::Center),
        (r#"{"height": 32, "width": 40, "other": []}"#, CropMode::Squash),
    ] {
        let opened = with(&format!(r#"{{{crop}, "size": {size}}}"#));
        assert_eq!((opened.crop_fraction, opened.config.crop_mode), (Some(0.875), mode), "{size}");
    }
    // transformers' DeiT takes a number for both sides, under the old name of its processor too.
    for (processor, mode) in [
        (r#""feature_extractor_type": "DeiTFeatureExtractor""#, CropMode::Squash),
        (r#""image_processor_type": "DeiTImageProcessor", "feature_extractor_type": "X""#, CropMode::Squash),
        (r#""image_processor_type": "BitImageProcessor""#, CropMode::Center),
    ] {
        assert_eq!(with(&format!(r#"{{{crop}, "size": 32, {processor}}}"#)).config.crop_mode, mode, "{processor}");
    }
    let edge = with(r#"{"size": {"shortest_edge": 32}}"#);
    assert_eq!((edge.crop_fraction, edge.config.crop_mode), (Some(1.0), CropMode::Center));
    assert_eq!(with(r#"{"do_normalize": false}"#).config.normalize.std, [1.0; 3]);
    let usual = with(r#"{"do_rescale": true, "rescale_factor": 0.00392156862745098}"#);
    assert_eq!(usual.resampling, Resampling::Plain, "as transformers' ViT");
    for json in [r#"{"do_rescale": false}"#, r#"{"do_rescale": true, "rescale_factor": 0.00784313725490196}"#] {
        let files = [("config.json", config), ("preprocessor_config.json", json)];
        assert_refused(open_with(&theirs, &files), &["preprocessor_config.json", "1/255"]);
    }
}

/// transformers 5 keeps an image processor's settings there where a tokenizer has some too, and reads that file first.
#[test]
fn the_processor_of_pictures_and_texts_goes_first() {
    let theirs = read(hf_reference().join("model.safetensors")).unwrap().tensors;
    let squashed = r#"{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "size": {"height": 32, "width": 32}}"#;
    let cropped = r#"{"do_center_crop": true, "crop_size": 28, "size": {"shortest_edge": 32}}"#;
    let nested =
        format!(r#"{{"image_processor": {squashed}, "processor_class": "SiglipProcessor", "tokenizer": {{}}}}"#);
    let config = ("config.json", r#"{"num_attention_heads": 4}"#);
    let processor = ("processor_config.json", nested.as_str());
    for files in [&[config, processor][..], &[config, ("preprocessor_config.json", cropped), processor]] {
        let opened = open_with(&theirs, files).unwrap();
        assert_eq!(opened.config.normalize.std, [1.0, 2.0, 3.0]);
        assert_eq!((opened.crop_fraction, opened.config.crop_mode), (Some(1.0), CropMode::Squash));
    }
    let other = ("processor_config.json", r#"{"processor_class": "X"}"#);
    let opened = open_with(&theirs, &[config, ("preprocessor_config.json", cropped), other]).unwrap();
    assert_eq!((opened.crop_fraction, opened.config.crop_mode), (Some(0.875), CropMode::Center));
}

/// By PyTorch's `interpolate(mode="bilinear")`, without antialiasing.
#[test]
fn bilinear_positions_are_pytorchs() {
    let grid = |data: &[f32]| HostTensor { shape: vec![1, 1 + data.len(), 1], data: [&[7.0][..], data].concat() };
    let from = grid(&[0.0, 1.0, 4.0, 9.0, 16.0, 25.0]);
    let larger = [0.0, 0.4, 1.0, 2.8, 4.0, 4.5, 6.1, 8.5, 12.1, 14.5, 9.0, 11.8, 16.0, 21.4, 25.0];
    let aligned = [0.0, 0.5, 1.0, 2.5, 4.0, 4.5, 6.5, 8.5, 11.5, 14.5, 9.0, 12.5, 16.0, 20.5, 25.0];
    for (resampling, to, expected) in [
        (Resampling::Bilinear, (3, 5), &larger[..]),
        (Resampling::Bilinear, (1, 2), &[5.5, 13.0]),
        (Resampling::BilinearAligned, (3, 5), &aligned),
        (Resampling::BilinearAligned, (1, 2), &[0.0, 4.0]),
    ] {
        let got = resample_pos_embed(&from, 1, (2, 3), to, resampling).unwrap();
        let expected = grid(expected);
        assert_eq!(got.shape, expected.shape);
        let worst = got.data.iter().zip(&expected.data).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 2e-6, "{resampling:?} to {to:?}: {:?}", got.data);
    }
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let all = tensors_of(&config());
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let in_shard = |shard: usize| -> Tensors {
        all.iter().enumerate().filter(|(i, _)| i % 2 == shard).map(|(_, (n, t))| (n.clone(), t.clone())).collect()
    };
    for (shard, name) in names.iter().enumerate() {
        write_as(folder.path().join(name), &in_shard(shard), NO_TEXTS, Storage::F16).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    let map: Vec<String> = all.keys().enumerate().map(|(i, n)| format!(r#""{n}": "{}""#, names[i % 2])).collect();
    let write_index = |map: &[String]| fs::write(&index, format!(r#"{{"weight_map": {{{}}}}}"#, map.join(",")));
    write_index(&map).unwrap();
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!((opened.config, opened.checkpoint.tensors), (config(), all.clone()));
    // The index stands for the folder; one part does not, nor do some.
    assert_eq!(open(&index, &OpenOptions::default()).unwrap().config, config());
    assert_refused(
        open(folder.path().join(names[1]), &OpenOptions::default()),
        &[names[1], "is one of 2 parts", "give their folder"],
    );
    let away = folder.path().join("away");
    fs::rename(folder.path().join(names[1]), &away).unwrap();
    assert_refused(open(folder.path(), &OpenOptions::default()), &["names 2 files, of which 1 are not", names[1]]);
    fs::rename(&away, folder.path().join(names[1])).unwrap();

    let missing = [map.clone(), vec![format!(r#""more": "{}""#, names[0])]].concat();
    write_index(&missing).unwrap();
    assert_refused(open(folder.path(), &OpenOptions::default()), &["tensor more is not in its file"]);
    write_index(&map[1..]).unwrap();
    assert_refused(open(folder.path(), &OpenOptions::default()), &["is here, but not by the index"]);
    for path in ["../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "..", "C:\\\\x.safetensors", "passwd", ""]
    {
        write_index(&[format!(r#""x": "{path}""#)]).unwrap();
        assert_refused(open(folder.path(), &OpenOptions::default()), &["not a safetensors file in this folder"]);
    }
    fs::remove_file(&index).unwrap();
    assert_refused(open(folder.path(), &OpenOptions::default()), &["holds neither"]);
}

#[test]
fn another_image_size_takes_other_positions() {
    let mut opened = open_with(&tensors_of(&config()), &[]).unwrap();
    opened.resize((12, 6)).unwrap();
    assert_eq!(opened.config, VitConfig { img_size: (12, 6), ..config() });
    let pos = opened.checkpoint.get("pos_embed").unwrap();
    assert_eq!(pos.shape, [1, 19, 64]);
    // A constant stays one.
    assert!(pos.data.iter().all(|value| (value - 0.25).abs() < 1e-6));
    assert!(matches!(opened.resize((13, 6)), Err(Error::Argument { name: "img_size", .. })));
    let pos = named(&[1, 17, 4]);
    for (from, to) in [((4, 5), (2, 2)), ((4, 4), (0, 2)), ((4, 4), (5000, 2)), ((usize::MAX, 2), (2, 2))] {
        assert!(resample_pos_embed(&pos, 1, from, to, Resampling::default()).is_err());
    }
    assert!(resample_pos_embed(&named(&[1, 17, 0]), 1, (4, 4), (2, 2), Resampling::Plain).is_err());
    assert_eq!(resample_pos_embed(&pos, 1, (4, 4), (4, 4), Resampling::Plain).unwrap(), pos);
}

// Out.

fn names(classes: usize) -> Vec<String> {
    (0..classes).map(|i| format!("class {i} \"ü\"")).collect()
}

/// A round trip through either export: configuration, names and weights, these bit for bit.
#[test]
fn exports_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let normalize = Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    let config = VitConfig { img_size: (8, 4), num_classes: 12, eps: 1e-12, qkv_bias: false, normalize, ..config() };
    let model = model(VitConfig { mlp_ratio: 2.5, ..config });
    let class_names = names(12);
    let options = ExportOptions { class_names: &class_names, crop_fraction: Some(0.9), storage: Storage::F32 };
    let ours = download(model.parameters()).unwrap();
    let hf = folder.path().join("hf");
    export_hf(&hf, &model, &options).unwrap();
    let timm = folder.path().join("timm");
    export_timm(&timm, &model, &options).unwrap();
    for (path, crop) in [(&hf, 1.0), (&timm, 0.9)] {
        let opened = open(path, &OpenOptions::default()).unwrap();
        assert_eq!(&opened.config, model.config());
        assert_eq!(opened.class_names.as_ref(), Some(&class_names));
        assert_eq!(opened.crop_fraction, Some(crop));
        assert_eq!(bits(&opened.checkpoint.tensors), bits(&ours));
    }
    // As timm and transformers see them: no word of this crate's.
    let metadata = read(hf.join("model.safetensors")).unwrap().metadata;
    assert_eq!(metadata, BTreeMap::from([("format".to_owned(), "pt".to_owned())]));
    let mut foreign = read(timm.join("model.safetensors")).unwrap();
    foreign.metadata.clear();
    write(timm.join("model.safetensors"), &foreign.tensors, &foreign.metadata).unwrap();
    let opened = open(&timm, &OpenOptions::default()).unwrap();
    assert_eq!(opened.config, VitConfig { eps: 1e-6, ..model.config().clone() });
    assert_eq!((opened.class_names, opened.crop_fraction), (Some(class_names), Some(0.9)));
}

/// Whatever part of a picture a model sees, and however that is resized, it is told to either library.
#[test]
fn exports_tell_how_pictures_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    for crop_mode in [CropMode::Center, CropMode::Squash] {
        for interpolation in [Interpolation::Bicubic, Interpolation::Bilinear] {
            let model = model(VitConfig { img_size: (28, 28), eps: 1e-6, crop_mode, interpolation, ..config() });
            // 28 / 0.9 is 31.1, 28 / 0.78 35.9: of which evaluation shows 28.
            for (fraction, told) in [(0.875, 0.875), (1.0, 1.0), (0.9, 28.0 / 31.0), (0.78, 28.0 / 35.0)] {
                let options = ExportOptions { crop_fraction: Some(fraction), ..Default::default() };
                let [hf, timm] = ["hf", "timm"].map(|name| folder.path().join(name));
                export_hf(&hf, &model, &options).unwrap();
                export_timm(&timm, &model, &options).unwrap();
                for (path, fraction) in [(hf, told), (timm, fraction)] {
                    let opened = open(&path, &OpenOptions::default()).unwrap();
                    assert_eq!((&opened.config, opened.crop_fraction), (model.config(), Some(fraction)), "{path:?}");
                }
            }
        }
    }
}

#[test]
fn half_precision_is_rounded_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(config());
    let path = folder.path().join("half");
    let options = ExportOptions { storage: Storage::F16, ..Default::default() };
    export_hf(&path, &model, &options).unwrap();
    let opened = open(&path, &OpenOptions::default()).unwrap();
    for (name, tensor) in download(model.parameters()).unwrap() {
        let rounded: Vec<f32> = tensor.data.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
        assert_eq!(opened.checkpoint.get(&name).unwrap().data, rounded, "{name}");
    }
    let wide = 4 * fs::metadata(path.join("model.safetensors")).unwrap().len() / 2;
    export_hf(&path, &model, &ExportOptions::default()).unwrap();
    assert!(fs::metadata(path.join("model.safetensors")).unwrap().len() > wide * 9 / 10);

    let head: &Parameter = model.parameters().get("head.bias").unwrap();
    head.set(&[1.0, 7e4, 0.0]).unwrap();
    let message = export_hf(&path, &model, &options).unwrap_err().to_string();
    assert!(message.contains("classifier.bias") && message.contains("70000"), "{message}");
    // The folder of before is as it was.
    assert_eq!(open(&path, &OpenOptions::default()).unwrap().config, config());
}

#[test]
fn what_transformers_cannot_express_goes_to_timm() {
    let folder = tempfile::tempdir().unwrap();
    let base = config();
    let variants = [
        ("global_pool", VitConfig { global_pool: Pool::Avg, ..base.clone() }),
        ("reg_tokens", VitConfig { reg_tokens: 2, ..base.clone() }),
        ("no_embed_class", VitConfig { no_embed_class: true, ..base.clone() }),
        ("global_pool", VitConfig { pre_norm: true, patch_bias: false, eps: 1e-5, ..base.clone() }),
        ("fc_norm", VitConfig { fc_norm: Some(true), ..base.clone() }),
        ("patch_bias", VitConfig { patch_bias: false, ..base.clone() }),
        ("fc_norm", VitConfig { class_token: false, global_pool: Pool::Avg, ..base }),
    ];
    for (setting, config) in variants {
        let model = model(config);
        let (hf, timm) = (folder.path().join("hf"), folder.path().join("timm"));
        let message = export_hf(&hf, &model, &ExportOptions::default()).unwrap_err().to_string();
        assert!(message.contains(setting) && message.contains("export it for timm"), "{message}");
        assert!(!hf.exists());
        export_timm(&timm, &model, &ExportOptions::default()).unwrap();
        // Also by timm's own words, without this crate's.
        let file = timm.join("model.safetensors");
        let tensors = read(&file).unwrap().tensors;
        write(&file, &tensors, NO_TEXTS).unwrap();
        // There patches without a norm have a bias, of 0 here.
        let patch_bias = !model.config().pre_norm;
        let expected = VitConfig { patch_bias, ..model.config().clone() };
        assert_eq!(open(&timm, &OpenOptions::default()).unwrap().config, expected);
    }
    // timm's architecture of gated MLPs has layer scale and SiLU, where nothing else is said.
    let gated = VitConfig { gated_mlp: true, act_layer: Gelu::Tanh, ..config() };
    let timm = folder.path().join("timm");
    let written = |config: VitConfig| {
        export_timm(&timm, &model(config), &ExportOptions::default()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&fs::read(timm.join("config.json")).unwrap()).unwrap();
        json["model_args"].clone()
    };
    let args = written(gated);
    assert!(args["init_values"].is_null() && args.get("init_values").is_some() && args.get("act_layer").is_none());
    // 0 would be none to it.
    assert_eq!(written(VitConfig { init_values: Some(0.0), ..config() })["init_values"], 1e-5);
    for share in [0.0, 1.5, f64::NAN] {
        let options = ExportOptions { crop_fraction: Some(share), ..Default::default() };
        for export in [export_hf, export_timm] {
            let error = export(&folder.path().join("x"), &model(config()), &options).unwrap_err();
            assert!(matches!(error, Error::Argument { name: "crop_fraction", .. }), "{error}");
        }
    }
    let neither = model(VitConfig { pre_norm: true, ..config() });
    let message =
        export_timm(&folder.path().join("timm"), &neither, &ExportOptions::default()).unwrap_err().to_string();
    assert!(message.contains("patch_bias"), "{message}");
    let three = names(3);
    let options = ExportOptions { class_names: &three[..2], ..Default::default() };
    let error = export_hf(&folder.path().join("x"), &model(config()), &options).unwrap_err();
    assert!(matches!(error, Error::Argument { name: "class_names", .. }));
}

#[test]
fn exports_replace_exports_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("export");
    let model = model(config());
    let export = || export_hf(&path, &model, &ExportOptions::default());
    export().unwrap();
    // What an export that was killed may leave behind.
    let beside = |name: &str| folder.path().join(name);
    fs::create_dir(beside(".export.new")).unwrap();
    fs::write(beside(".export.new").join(".model.safetensors.abc.tmp"), "half").unwrap();
    fs::create_dir(beside(".export.old")).unwrap();
    fs::write(beside(".export.old").join("config.json"), "{}").unwrap();
    export().unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["export"]);

    // Hidden files stay, those too that were in a folder which a crash has left under the other name.
    fs::write(path.join(".DS_Store"), "view").unwrap();
    fs::create_dir(beside(".export.old")).unwrap();
    fs::write(beside(".export.old").join(".gitattributes"), "rules").unwrap();
    export().unwrap();
    assert!(!beside(".export.old").exists());
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
    assert_eq!([read(".DS_Store"), read(".gitattributes")], ["view", "rules"]);
    // What would be lost keeps its place, and hidden folders are not taken for such files.
    fs::create_dir(beside(".export.old")).unwrap();
    fs::write(beside(".export.old").join(".DS_Store"), "older").unwrap();
    assert!(export().unwrap_err().to_string().contains(".DS_Store"));
    assert_eq!((read(".DS_Store").as_str(), beside(".export.old").join(".DS_Store").exists()), ("view", true));
    assert!(!beside(".export.new").exists(), "nothing is written in vain");
    fs::remove_dir_all(beside(".export.old")).unwrap();
    fs::create_dir(path.join(".git")).unwrap();
    assert!(export().unwrap_err().to_string().contains(".git"));
    fs::remove_dir(path.join(".git")).unwrap();

    fs::write(path.join("thesis.txt"), "unrelated").unwrap();
    let message = export().unwrap_err().to_string();
    assert!(message.contains("thesis.txt"), "{message}");
    assert!(open(&path, &OpenOptions::default()).is_ok() && path.join("thesis.txt").exists());
    assert!(matches!(export_timm(Path::new(".."), &model, &ExportOptions::default()), Err(Error::File { .. })));
}

// Hostile files.

/// Long files of what is shortest to write and longest to hold.
#[test]
fn long_descriptions_take_memory_in_proportion() {
    let folder = tempfile::tempdir().unwrap();
    let config = VitConfig { img_size: (4, 4), mlp_ratio: 2.0, ..VitConfig::custom(4, 1, 2) };
    let tensors = tensors_of(&VitConfig { patch_size: 2, num_classes: 3, ..config });
    write(folder.path().join("model.safetensors"), &tensors, NO_TEXTS).unwrap();
    let config = folder.path().join("config.json");
    let many = |item: &str| vec![item; 200_000].join(",");
    let numbered: Vec<String> = (0..200_000).map(|i| format!("\"{i}\":\"\"")).collect();
    for text in [
        format!(r#"{{"architecture": "vit", "label_names": [{}]}}"#, many("\"\"")),
        format!(r#"{{"architecture": "vit", "label_names": {{{}}}}}"#, numbered.join(",")),
        format!(r#"{{"architecture": "vit", "other": [{}]}}"#, many("0")),
        format!(r#"{{"architecture": "vit", "model_args": {{"num_heads": 2, "img_size": [{}]}}}}"#, many("0")),
        format!(r#"{{"architecture": "{}"}}"#, "a".repeat(1_000_000)),
        format!(r#"{{"pretrained_cfg": {}"#, r#"{"pretrained_cfg":"#.repeat(50_000)),
    ] {
        fs::write(&config, &text).unwrap();
        let (result, held) = peak(|| open(folder.path(), &OpenOptions { heads: Some(2), ..OpenOptions::default() }));
        assert!(held <= 256 * 1024 + 32 * text.len(), "{held} bytes for {} of {}", text.len(), &text[..60]);
        if let Err(error) = result {
            assert!(error.to_string().len() < 2000);
        }
    }
    let file = fs::File::create(&config).unwrap();
    file.set_len(40 << 20).unwrap();
    assert_refused(open(folder.path(), &OpenOptions::default()), &["config.json", "larger than"]);
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    assert_refused(open(folder.path(), &OpenOptions::default()), &["config.json", "not a regular file"]);
    assert!(matches!(open("missing", &OpenOptions::default()), Err(Error::Io { .. })));
}
