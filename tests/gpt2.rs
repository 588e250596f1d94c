//! GPT-2: against transformers, in files, and as a writer of text.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::common::{assert_close, each_family, gpu};
use crate::lm::{
    self, Case, Reference, Tensors, assert_refused, check_gradients, check_half_precision, check_steps, load,
    reference_path, states_of,
};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use wgrad::checkpoint::{self, Checkpoint, HostTensor, Storage, download};
use wgrad::models::FolderOptions;
use wgrad::models::gpt2::{self, Gpt2, Gpt2Config};
use wgrad::nn::{LanguageModel, Mode, Model, Sampling, Span, Tokens};
use wgrad::ops::{Mask, RandomKey, TokenIndices};
use wgrad::{Gpu, Tensor};

const PLAIN: &str = "gpt2";
const RANDOM_LTD: &str = "gpt2_random_ltd";

impl Case for Gpt2 {
    const FOLDER: &'static str = PLAIN;
    const IS_SHIFTED: bool = true;

    type Pretrained = gpt2::Pretrained;

    fn pretrained(path: &Path) -> wgrad::Result<gpt2::Pretrained> {
        gpt2::open(path)
    }

    fn open(gpu: &Gpu, path: &Path) -> Self {
        let pretrained = gpt2::open(path).unwrap();
        let model = Gpt2::new(gpu, pretrained.config, 0).unwrap();
        load(&model, &pretrained.checkpoint);
        model
    }

    fn write(&self, path: &Path, tensors: &Tensors) {
        gpt2::write(path, self.config(), tensors).unwrap();
    }

    fn states(&self, tokens: &Tokens<'_>, spans: &[Span<TokenIndices>]) -> Vec<Tensor> {
        let embedded = self.embed(tokens, &Mode::evaluation()).unwrap();
        states_of(embedded, self.encoder().blocks(), spans, &Mask::CAUSAL)
    }

    /// The middle third of the packed bias.
    fn key_biases(name: &str, length: usize) -> Range<usize> {
        if name.ends_with("attn.c_attn.bias") { length / 3..2 * length / 3 } else { 0..0 }
    }
}

#[test]
fn torch_gradients() {
    check_gradients::<Gpt2>(PLAIN);
}

#[test]
fn torch_gradients_with_random_ltd() {
    check_gradients::<Gpt2>(RANDOM_LTD);
}

#[test]
fn torch_gradients_in_half_precision() {
    check_half_precision::<Gpt2>(PLAIN);
    check_half_precision::<Gpt2>(RANDOM_LTD);
}

#[test]
fn torch_ten_steps() {
    check_steps::<Gpt2>(PLAIN);
}

#[test]
fn torch_ten_steps_with_random_ltd() {
    check_steps::<Gpt2>(RANDOM_LTD);
}

/// Greedy tokens, and the scores that they were chosen by, with the cache and without.
#[test]
fn torch_generation() {
    let reference = Reference::read("generation");
    for gpu in each_family() {
        let model = Gpt2::open(&gpu, &reference_path(PLAIN));
        for number in 0..2 {
            let (_, prompt) = reference.ids(&format!("prompt/{number}"));
            let (_, expected) = reference.ids(&format!("tokens/{number}"));
            let scores = reference.get(&format!("logits/{number}")).chunks(model.vocab_size());
            let made = model.generate(&prompt, Sampling::GREEDY).unwrap().take(expected.len());
            assert_eq!(made.collect::<wgrad::Result<Vec<u32>>>().unwrap(), expected);
            let mut generation = model.generate(&prompt, Sampling::GREEDY).unwrap();
            for (i, (scores, token)) in scores.zip(&expected).enumerate() {
                let what = format!("prompt {number}, token {i} ({:?})", gpu.family());
                let cached = generation.scores().unwrap().to_vec().unwrap();
                assert_close(&what, &cached, scores, 1e-5);
                let whole: Vec<u32> = prompt.iter().chain(&expected[..i]).copied().collect();
                assert_close(&what, &cached, &last_scores(&model, &whole), 1e-5);
                generation.push(*token).unwrap();
            }
        }
    }
}

/// Without a cache.
fn last_scores(model: &Gpt2, ids: &[u32]) -> Vec<f32> {
    let ids = Tensor::from_slice(model.gpu(), &[1, ids.len()], ids).unwrap();
    let logits: Vec<f32> = model.forward(&Tokens::new(&ids), &[], &Mode::evaluation()).unwrap().to_vec().unwrap();
    logits[logits.len() - model.vocab_size()..].to_vec()
}

fn small() -> Gpt2Config {
    Gpt2Config { vocab_size: 11, n_positions: 8, ..Gpt2Config::custom(16, 2, 2) }
}

/// A model whose scores are those given, whatever it reads.
fn constant(gpu: &Gpu, scores: &[f32]) -> Gpt2 {
    let config = Gpt2Config { vocab_size: scores.len(), ..small() };
    let model = Gpt2::new(gpu, config, 0).unwrap();
    let set = |path: &str, values: &[f32]| model.parameters().get(path).unwrap().set(values).unwrap();
    let width = model.config().n_embd;
    let mut bias = vec![0.0; width];
    bias[0] = 1.0;
    set("ln_f.weight", &vec![0.0; width]);
    set("ln_f.bias", &bias);
    let rows = scores.iter().flat_map(|score| std::iter::once(*score).chain(vec![0.0; width - 1]));
    set("wte.weight", &rows.collect::<Vec<f32>>());
    model
}

/// How often each token came among so many.
fn frequencies(model: &Gpt2, sampling: Sampling, count: usize) -> Vec<f64> {
    let mut counts = vec![0.0; model.vocab_size()];
    for token in model.generate(&[0], sampling).unwrap().take(count) {
        counts[token.unwrap() as usize] += 1.0 / count as f64;
    }
    counts
}

#[test]
fn tokens_are_drawn_by_their_probabilities() {
    let probabilities = [0.1f32, 0.4, 0.05, 0.25, 0.2];
    let gpu = gpu();
    let model = constant(&gpu, &probabilities.map(f32::ln));
    let near = |sampling: Sampling, expected: [f64; 5]| {
        let found = frequencies(&model, sampling, 800);
        let is_near = found.iter().zip(&expected).all(|(f, e)| (f - e).abs() < 0.06 && (*e > 0.0 || *f == 0.0));
        assert!(is_near, "{sampling:?}: {found:?}, expected {expected:?}");
    };
    let all = Sampling { seed: 3, ..Default::default() };
    near(all, [0.1, 0.4, 0.05, 0.25, 0.2]);
    near(Sampling { top_k: Some(2), ..all }, [0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0]);
    // 0.4 alone does not reach a half, with 0.25 it does.
    near(Sampling { top_p: 0.5, ..all }, [0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0]);
    near(Sampling { top_p: 0.3, ..all }, [0.0, 1.0, 0.0, 0.0, 0.0]);
    // Squares.
    let sum = 0.01 + 0.16 + 0.0025 + 0.0625 + 0.04;
    near(Sampling { temperature: 0.5, ..all }, [0.01, 0.16, 0.0025, 0.0625, 0.04].map(|p| p / sum));
    near(Sampling { top_k: Some(1), ..all }, [0.0, 1.0, 0.0, 0.0, 0.0]);
    near(Sampling::GREEDY, [0.0, 1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn seeds_repeat_a_text() {
    let gpu = gpu();
    let model = Gpt2::new(&gpu, small(), 1).unwrap();
    let text = |seed: u64| {
        let sampling = Sampling { seed, temperature: 2.0, ..Default::default() };
        model.generate(&[1, 2], sampling).unwrap().take(12).collect::<wgrad::Result<Vec<u32>>>().unwrap()
    };
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
    // Awaited, and with scores of one's own choice.
    let sampling = Sampling { seed: 1, temperature: 2.0, ..Default::default() };
    let mut awaited = model.generate(&[1, 2], sampling).unwrap();
    let mut chosen = model.generate(&[1, 2], Sampling::GREEDY).unwrap();
    for (number, expected) in (0..).zip(text(1)) {
        assert_eq!(pollster::block_on(awaited.next_token()).unwrap(), expected);
        let scores: Vec<f32> = chosen.scores().unwrap().to_vec().unwrap();
        assert_eq!(sampling.choose(&scores, number).unwrap(), expected);
        chosen.push(expected).unwrap();
    }
}

/// A choice by scores from anywhere.
#[test]
fn scores_of_a_choice_are_checked() {
    let all = Sampling::default();
    assert_eq!(Sampling::GREEDY.choose(&[0.5, 2.0, 2.0, -1.0], 7).unwrap(), 1);
    assert_refused(all.choose(&[], 0), &["sampling", "number of scores"]);
    assert_refused(all.choose(&[0.0, f32::INFINITY], 0), &["scores", "finite"]);
    assert_refused(Sampling { top_k: Some(0), ..all }.choose(&[0.0], 0), &["top_k"]);
    assert_refused(Sampling { top_p: f32::NAN, ..all }.check(), &["top_p"]);
}

/// Behind the last position, the latter half is read again.
#[test]
fn texts_outgrow_the_positions() {
    for gpu in each_family() {
        let model = Gpt2::open(&gpu, &reference_path(PLAIN));
        let positions = model.config().n_positions;
        let text: Vec<u32> = model.generate(&[3], Sampling::GREEDY).unwrap().take(60).map(Result::unwrap).collect();
        let whole: Vec<u32> = std::iter::once(3).chain(text).collect();
        // Scores were asked for with up to 48 tokens; of 49 the last 24 are left.
        let rest = &whole[positions + 1 - positions / 2..=positions];
        let again = model.generate(rest, Sampling::GREEDY).unwrap().take(whole.len() - positions - 1);
        assert_eq!(again.map(Result::unwrap).collect::<Vec<u32>>(), whole[positions + 1..]);
    }
}

#[test]
fn scores_may_be_asked_for_twice() {
    let gpu = gpu();
    let model = Gpt2::new(&gpu, small(), 1).unwrap();
    let mut generation = model.generate(&[4, 2, 9], Sampling::GREEDY).unwrap();
    let scores: Vec<f32> = generation.scores().unwrap().to_vec().unwrap();
    assert_close("again", &generation.scores().unwrap().to_vec().unwrap(), &scores, 1e-6);
    generation.push(1).unwrap();
    let next: Vec<f32> = generation.scores().unwrap().to_vec().unwrap();
    assert_close("next", &next, &last_scores(&model, &[4, 2, 9, 1]), 1e-5);
}

#[test]
fn inputs_are_checked() {
    let gpu = gpu();
    let model = Gpt2::new(&gpu, small(), 1).unwrap();
    let run = |shape: &[usize], ids: &[u32]| {
        let ids = Tensor::from_slice(&gpu, shape, ids).unwrap();
        model.forward(&Tokens::new(&ids), &[], &Mode::evaluation()).and_then(|y| y.to_vec::<f32>())
    };
    assert_eq!(run(&[2, 4], &[0, 1, 2, 3, 10, 9, 8, 7]).unwrap().len(), 88);
    assert_refused(run(&[1, 4], &[0, 1, 2, 11]), &["11", "must be below 11"]);
    assert_refused(run(&[1, 9], &[0; 9]), &["GPT-2", "at most 8", "9"]);
    assert_refused(run(&[4], &[0; 4]), &["GPT-2", "u32[B, T]"]);
    let ids = Tensor::from_slice(&gpu, &[1, 4], &[0u32; 4]).unwrap();
    let typed = Tokens { types: Some(&ids), ..Tokens::new(&ids) };
    assert_refused(model.hidden(&typed, &[], &Mode::evaluation()), &["types", "no segments"]);

    assert_refused(model.generate(&[], Sampling::GREEDY), &["prompt", "1 to 8"]);
    assert_refused(model.generate(&[0; 9], Sampling::GREEDY), &["prompt", "1 to 8", "9"]);
    assert_refused(model.generate(&[11], Sampling::GREEDY), &["token", "below 11"]);
    let all = Sampling::default();
    assert_refused(model.generate(&[1], Sampling { temperature: -1.0, ..all }), &["temperature"]);
    assert_refused(model.generate(&[1], Sampling { temperature: f32::NAN, ..all }), &["temperature"]);
    assert_refused(model.generate(&[1], Sampling { top_k: Some(0), ..all }), &["top_k"]);
    assert_refused(model.generate(&[1], Sampling { top_p: 0.0, ..all }), &["top_p"]);
    let parameter = model.parameters().get("ln_f.bias").unwrap();
    parameter.set(&[f32::NAN; 16]).unwrap();
    let mut generation = model.generate(&[1], all).unwrap();
    assert_refused(generation.next().unwrap(), &["scores", "NaN"]);
    parameter.set(&[0.0; 16]).unwrap();
    assert!(generation.next().unwrap().is_ok());
}

#[test]
fn layers_heads_and_decay() {
    let gpu = gpu();
    let model = Gpt2::new(&gpu, small(), 0).unwrap();
    let layers =
        [("wte.weight", 0), ("wpe.weight", 0), ("h.0.ln_1.bias", 1), ("h.1.mlp.c_fc.weight", 2), ("ln_f.bias", 3)];
    for (path, layer) in layers {
        assert!(model.parameters().get(path).is_some(), "{path}");
        assert_eq!(model.layer(path), layer, "{path}");
        assert!(!model.is_head(path));
    }
    // 4 for the outer ones, 12 a block.
    assert_eq!(model.parameters().len(), 4 + 2 * 12);
    let extent = model.extent();
    assert_eq!((extent.depth, extent.tokens, extent.prefix), (2, 8, 0));
    for parameter in model.parameters() {
        let rank = parameter.value().shape().rank();
        let is_matrix = parameter.path().ends_with("weight") && !parameter.path().contains("ln_");
        assert_eq!(model.decays(parameter.path(), rank), is_matrix, "{}", parameter.path());
    }
}

/// Deviations as transformers': 0.02, and less for what is added to the residual stream.
#[test]
fn initial_values() {
    let gpu = gpu();
    let config =
        Gpt2Config { vocab_size: 500, n_positions: 64, initializer_range: 0.1, ..Gpt2Config::custom(64, 8, 4) };
    let model = Gpt2::new(&gpu, config, 3).unwrap();
    let deviation = |path: &str| {
        let values: Vec<f32> = model.parameters().get(path).unwrap().value().to_vec().unwrap();
        (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    };
    for (path, expected) in [
        ("wte.weight", 0.1),
        ("wpe.weight", 0.1),
        ("h.3.attn.c_attn.weight", 0.1),
        ("h.3.mlp.c_fc.weight", 0.1),
        ("h.3.attn.c_proj.weight", 0.025),
        ("h.3.mlp.c_proj.weight", 0.025),
        ("h.3.ln_1.weight", 1.0),
        ("h.3.attn.c_attn.bias", 0.0),
    ] {
        assert!((deviation(path) - expected).abs() <= 0.05 * expected, "{path}: {}", deviation(path));
    }
}

#[test]
fn presets_have_the_published_numbers_of_parameters() {
    // The largest have tensors beyond the default limits.
    let gpu = Gpu::new().unwrap().dry_run().unwrap();
    for (config, millions) in [
        (Gpt2Config::small(), 124.44),
        (Gpt2Config::medium(), 354.82),
        (Gpt2Config::large(), 774.03),
        (Gpt2Config::xl(), 1557.61),
    ] {
        let numel = Gpt2::new(&gpu, config, 0).unwrap().parameters().numel();
        assert!((numel as f64 / 1e6 - millions).abs() < 0.01, "{numel}");
    }
}

/// Dropout draws in training alone, and in each of its places.
#[test]
fn dropout_is_in_three_places() {
    let gpu = gpu();
    let plain = Gpt2Config { resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0, ..small() };
    let ids = Tensor::from_slice(&gpu, &[1, 8], &[1u32, 4, 2, 8, 5, 7, 0, 3]).unwrap();
    let key = RandomKey { seed: 1, step: 0, layer: 0, first_sample: 0 };
    let run = |config: Gpt2Config, mode: Mode| {
        let model = Gpt2::new(&gpu, config, 5).unwrap();
        model.hidden(&Tokens::new(&ids), &[], &mode).unwrap().to_vec::<f32>().unwrap()
    };
    let expected = run(plain.clone(), Mode::evaluation());
    assert_eq!(run(plain.clone(), Mode::training(key)), expected);
    let each = [
        Gpt2Config { resid_pdrop: 0.5, ..plain.clone() },
        Gpt2Config { embd_pdrop: 0.5, ..plain.clone() },
        Gpt2Config { attn_pdrop: 0.5, ..plain },
    ];
    for config in each {
        assert_eq!(run(config.clone(), Mode::evaluation()), expected);
        let dropped = run(config.clone(), Mode::training(key));
        assert_ne!(dropped, expected, "{config:?}");
        assert_eq!(run(config.clone(), Mode::training(key)), dropped);
        assert_eq!(run(config, Mode::training(key).recomputing(true)), dropped);
    }
}

type Theirs = lm::Theirs<Gpt2>;

#[test]
fn folders_of_many_forms_are_one_model() {
    let expected = Theirs::read().open().unwrap();
    let same = |theirs: Theirs| {
        let opened = theirs.open().unwrap();
        assert!(opened.checkpoint.tensors == expected.checkpoint.tensors && opened.config == expected.config);
    };
    same(Theirs::read().renamed(|name| name.strip_prefix("transformer.").unwrap().to_owned()));
    same(Theirs::read().renamed(|name| format!("module.{name}")));
    same(Theirs::read().and("transformer.h.2.attn.bias", &[1, 1, 48, 48], vec![1.0; 48 * 48]));
    same(Theirs::read().and("transformer.h.2.attn.masked_bias", &[], vec![-1e4]));
    let words = Theirs::read().tensors["transformer.wte.weight"].clone();
    same(Theirs::read().and("lm_head.weight", &words.shape, words.data));
    // Kept under its second name alone.
    let output = |name: &str| name.replace("transformer.wte.weight", "lm_head.weight");
    same(Theirs::read().renamed(output));
    same(Theirs::read().renamed(|name| format!("module.{}", output(name))));
    // Notes, old names, settings of generation.
    for (setting, value) in [
        ("_name_or_path", json!("gpt2")),
        ("n_ctx", json!(48)),
        ("task_specific_params", json!({"text-generation": {"do_sample": true}})),
        ("torch_dtype", json!("float32")),
        ("add_cross_attention", json!(null)),
        ("pruned_heads", json!({})),
    ] {
        same(Theirs::with(setting, value));
    }
    // What is not said is as in transformers.
    for setting in ["activation_function", "layer_norm_epsilon", "initializer_range", "scale_attn_weights"] {
        same(Theirs::without(setting));
    }
    let several = Theirs::with("eos_token_id", json!([210, 3])).open().unwrap();
    assert_eq!(several.config.eos_token_id, [210, 3]);
    let inner = Theirs::with("n_inner", json!(null));
    assert_refused(inner.open(), &["h.0.mlp.c_fc", "96", "192"]);
}

#[test]
fn shards_and_half_types() {
    let theirs = Theirs::read();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), theirs.config.to_string()).unwrap();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = serde_json::Map::new();
    for (shard, file) in names.iter().enumerate() {
        let part = theirs.tensors.iter().enumerate().filter(|(i, _)| i % 2 == shard);
        let part: Tensors = part.map(|(_, (name, tensor))| (name.clone(), tensor.clone())).collect();
        map.extend(part.keys().map(|name| (name.clone(), json!(file))));
        checkpoint::write_as(folder.path().join(file), &part, &BTreeMap::new(), Storage::F16).unwrap();
    }
    fs::write(folder.path().join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    let expected = theirs.open().unwrap().checkpoint.tensors;
    let near = |opened: Checkpoint, tolerance: f32| {
        assert!(opened.tensors.keys().eq(expected.keys()));
        for (name, tensor) in &opened.tensors {
            assert_close(name, &tensor.data, &expected[name].data, tolerance);
        }
    };
    near(gpt2::open(folder.path()).unwrap().checkpoint, 1e-3);

    let halves = |tensor: &HostTensor| -> Vec<u8> {
        tensor.data.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()
    };
    let bytes: Vec<(&String, Vec<usize>, Vec<u8>)> =
        theirs.tensors.iter().map(|(name, tensor)| (name, tensor.shape.clone(), halves(tensor))).collect();
    let views =
        bytes.iter().map(|(name, shape, data)| (name, TensorView::new(Dtype::BF16, shape.clone(), data).unwrap()));
    let file = safetensors::serialize(views, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), theirs.config.to_string()).unwrap();
    fs::write(folder.path().join("model.safetensors"), file).unwrap();
    near(gpt2::open(folder.path()).unwrap().checkpoint, 4e-3);
}

#[test]
fn settings_that_are_not_computed_are_named() {
    for (setting, value) in [
        ("scale_attn_by_inverse_layer_idx", json!(true)),
        ("reorder_and_upcast_attn", json!(true)),
        ("add_cross_attention", json!(true)),
        ("scale_attn_weights", json!(false)),
        ("tie_word_embeddings", json!(false)),
        ("is_encoder_decoder", json!(true)),
        ("pruned_heads", json!({"0": [1]})),
        ("rotary_pct", json!(0.25)),
        ("quantization_config", json!({"bits": 4})),
        ("n_head", json!(5)),
        ("n_head", json!(0)),
        ("n_embd", json!(-1)),
        ("n_embd", json!("48")),
        ("n_layer", json!(1u64 << 40)),
        ("n_positions", json!(0)),
        ("resid_pdrop", json!(1.0)),
        ("layer_norm_epsilon", json!(0.0)),
        ("initializer_range", json!(1e30)),
    ] {
        let message = Theirs::with(setting, value.clone()).open().unwrap_err().to_string();
        // A value of another kind is told by its place.
        assert!(message.contains(setting) || message.contains("byte"), "{setting} {value}: {message}");
    }
    assert_refused(Theirs::with("activation_function", json!("relu")).open(), &["activation", "relu", "gelu_new"]);
    assert_refused(Theirs::with("model_type", json!("gpt_neo")).open(), &["gpt_neo", "gpt2"]);
    assert_refused(Theirs::with("n_positions", json!(64)).open(), &["wpe.weight", "48", "n_positions 64"]);
    assert_refused(Theirs::with("n_positions", json!(40)).open(), &["wpe.weight", "48", "n_positions 40"]);
    assert_refused(Theirs::with("vocab_size", json!(212)).open(), &["wte.weight", "211", "vocab_size 212"]);
    for layers in [3, 5, 16_777_216] {
        let expected = format!("n_layer {layers}");
        assert_refused(Theirs::with("n_layer", json!(layers)).open(), &["4 blocks", &expected]);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    checkpoint::write(&file, &Theirs::read().tensors, &BTreeMap::new()).unwrap();
    // Nor where a program brings the description along.
    let weights = fs::read(file).unwrap();
    let of = |theirs: Theirs| gpt2::from_bytes(&theirs.config.to_string(), &weights);
    assert_eq!(of(Theirs::read()).unwrap().config, Theirs::read().open().unwrap().config);
    assert_refused(of(Theirs::with("scale_attn_by_inverse_layer_idx", json!(true))), &["scale_attn_by_inverse"]);
    assert_refused(of(Theirs::with("model_type", json!("gpt_neo"))), &["gpt_neo", "gpt2"]);
    assert_refused(gpt2::open(folder.path()), &["config.json", "is not there"]);
    for text in ["", "[]", "{", "{\"n_layer\": }", "null", "\u{feff}{}"] {
        fs::write(folder.path().join("config.json"), text).unwrap();
        assert_refused(gpt2::open(folder.path()), &["config.json"]);
    }
}

#[test]
fn tensors_of_other_models_are_named() {
    let other = Theirs::read().tensors["transformer.wpe.weight"].clone();
    assert_refused(
        Theirs::read().and("lm_head.weight", &[211, 48], vec![0.5; 211 * 48]).open(),
        &["lm_head.weight", "wte.weight", "not tied"],
    );
    let refused = [
        ("score.weight", "classifies"),
        ("v_head.summary.weight", "value head"),
        ("transformer.h.0.crossattention.c_attn.weight", "encoder"),
        ("transformer.h.0.attn.lora_a.weight", "adapter"),
        ("transformer.h.0.attn.extra.weight", "GPT2LMHeadModel"),
    ];
    for (name, reason) in refused {
        let theirs = Theirs::read().and(name, &other.shape, other.data.clone());
        assert_refused(theirs.open(), &[name.strip_prefix("transformer.").unwrap_or(name), reason]);
    }
    let mut theirs = Theirs::read();
    theirs.tensors.remove("transformer.h.1.ln_2.bias");
    assert_refused(theirs.open(), &["h.1.ln_2.bias", "not in the checkpoint"]);
    let theirs = Theirs::read().and("transformer.h.1.ln_2.bias", &[47], vec![0.0; 47]);
    assert_refused(theirs.open(), &["h.1.ln_2.bias", "[47]", "[48]"]);
    // [out, in] instead of [in, out].
    let theirs = Theirs::read().and("transformer.h.1.attn.c_attn.weight", &[144, 48], vec![0.0; 144 * 48]);
    assert_refused(theirs.open(), &["h.1.attn.c_attn.weight", "[48, 144]", "[144, 48]"]);
}

/// A folder that was saved is the model again, and so is a single file; both hold what transformers would write.
#[test]
fn saved_models_open_again() {
    let gpu = gpu();
    let model = Gpt2::open(&gpu, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/lm/gpt2"));
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("exported");
    let vocabulary = br#"{"a": 0}"#.as_slice();
    let options =
        FolderOptions { tokenizer: &[("vocab.json", vocabulary), ("merges.txt", b"a b")], ..Default::default() };
    gpt2::save(&folder, &model, &options).unwrap();
    // Over itself.
    gpt2::save(&folder, &model, &options).unwrap();
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "merges.txt", "model.safetensors", "vocab.json"]);
    assert_eq!(fs::read(folder.join("vocab.json")).unwrap(), vocabulary);
    let theirs = Theirs::read();
    assert_eq!(checkpoint::read(folder.join("model.safetensors")).unwrap().tensors, theirs.tensors);
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    for setting in
        ["vocab_size", "n_inner", "layer_norm_epsilon", "architectures", "dtype", "eos_token_id", "model_type"]
    {
        assert_eq!(config[setting], theirs.config[setting], "{setting}");
    }
    let opened = gpt2::open(&folder).unwrap();
    assert_eq!(&opened.config, model.config());
    assert_eq!(opened.checkpoint.tensors, download(model.parameters()).unwrap());

    // A run's folder, with no config.json.
    let file = place.path().join("best.safetensors");
    gpt2::write(&file, model.config(), &download(model.parameters()).unwrap()).unwrap();
    for path in [file.as_path(), place.path()] {
        let opened = gpt2::open(path).unwrap();
        assert_eq!(&opened.config, model.config());
        assert_eq!(opened.checkpoint.tensors, download(model.parameters()).unwrap());
    }

    let half = FolderOptions { storage: Storage::F16, ..Default::default() };
    gpt2::save(&folder, &model, &half).unwrap();
    assert!(!folder.join("vocab.json").exists());
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["dtype"], "float16");
    // Nothing of others is lost, nothing foreign written.
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    assert_refused(gpt2::save(&folder, &model, &half), &["notes.txt"]);
    let foreign = FolderOptions { tokenizer: &[("../evil", b"")], ..Default::default() };
    assert_refused(gpt2::save(&place.path().join("other"), &model, &foreign), &["tokenizer", "../evil"]);
}
