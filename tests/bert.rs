//! BERT: against transformers, in files, and as a classifier.

use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::common::{assert_close, gpu};
use crate::lm::{
    self, Case, Tensors, assert_refused, check_gradients, check_half_precision, check_steps, load, reference_path,
    states_of,
};
use serde_json::{Value, json};
use wgrad::checkpoint::{self, MatchOptions, download, load_parameters};
use wgrad::models::FolderOptions;
use wgrad::models::bert::{self, Bert, BertConfig};
use wgrad::nn::{LanguageModel, Mode, Model, Span, Tokens};
use wgrad::ops::{self, Mask, RandomKey, TokenIndices};
use wgrad::{Gpu, Tensor};

const PLAIN: &str = "bert";
const RANDOM_LTD: &str = "bert_random_ltd";

impl Case for Bert {
    const FOLDER: &'static str = PLAIN;
    const IS_SHIFTED: bool = false;

    type Pretrained = bert::Pretrained;

    fn pretrained(path: &Path) -> wgrad::Result<bert::Pretrained> {
        bert::open(path)
    }

    fn open(gpu: &Gpu, path: &Path) -> Self {
        let pretrained = bert::open(path).unwrap();
        let model = Bert::new(gpu, pretrained.config, 0).unwrap();
        load(&model, &pretrained.checkpoint);
        model
    }

    fn write(&self, path: &Path, tensors: &Tensors) {
        bert::write(path, self.config(), tensors).unwrap();
    }

    fn states(&self, tokens: &Tokens<'_>, spans: &[Span<TokenIndices>]) -> Vec<Tensor> {
        let embedded = self.embed(tokens, &Mode::evaluation()).unwrap();
        let mask = Mask::NONE.with_lengths(tokens.lengths.unwrap()).unwrap();
        states_of(embedded, self.encoder().blocks(), spans, &mask)
    }

    fn key_biases(name: &str, length: usize) -> Range<usize> {
        if name.ends_with("attention.self.key.bias") { 0..length } else { 0..0 }
    }
}

#[test]
fn torch_gradients() {
    check_gradients::<Bert>(PLAIN);
}

#[test]
fn torch_gradients_with_random_ltd() {
    check_gradients::<Bert>(RANDOM_LTD);
}

#[test]
fn torch_gradients_in_half_precision() {
    check_half_precision::<Bert>(PLAIN);
    check_half_precision::<Bert>(RANDOM_LTD);
}

#[test]
fn torch_ten_steps() {
    check_steps::<Bert>(PLAIN);
}

#[test]
fn torch_ten_steps_with_random_ltd() {
    check_steps::<Bert>(RANDOM_LTD);
}

fn small() -> BertConfig {
    BertConfig { vocab_size: 11, max_position_embeddings: 8, ..BertConfig::custom(16, 2, 2) }
}

/// Padding changes nothing of the real tokens, and segments that are not given are the first.
#[test]
fn padding_and_segments() {
    let gpu = gpu();
    let model = Bert::new(&gpu, small(), 1).unwrap();
    let on_device = |shape: &[usize], ids: &[u32]| Tensor::from_slice(&gpu, shape, ids).unwrap();
    let hidden =
        |tokens: &Tokens<'_>| -> Vec<f32> { model.hidden(tokens, &[], &Mode::evaluation()).unwrap().to_vec().unwrap() };
    let alone = on_device(&[1, 3], &[4, 9, 2]);
    let padded = on_device(&[2, 5], &[4, 9, 2, 0, 0, 1, 2, 3, 4, 5]);
    let lengths = on_device(&[2], &[3, 5]);
    let got = hidden(&Tokens { lengths: Some(&lengths), ..Tokens::new(&padded) });
    let expected = hidden(&Tokens::new(&alone));
    assert_close("real tokens", &got[..3 * 16], &expected, 1e-5);
    let zeros = on_device(&[2, 5], &[0; 10]);
    let typed = hidden(&Tokens { types: Some(&zeros), lengths: Some(&lengths), ..Tokens::new(&padded) });
    assert_close("first segment", &typed, &got, 1e-5);
    let ones = on_device(&[2, 5], &[1; 10]);
    let other = hidden(&Tokens { types: Some(&ones), lengths: Some(&lengths), ..Tokens::new(&padded) });
    assert!(other.iter().zip(&got).any(|(a, b)| (a - b).abs() > 1e-3));

    let run = |tokens: &Tokens<'_>| model.hidden(tokens, &[], &Mode::evaluation()).and_then(|y| y.to_vec::<f32>());
    assert_refused(run(&Tokens { types: Some(&alone), ..Tokens::new(&padded) }), &["a segment for each token"]);
    assert_refused(run(&Tokens { types: Some(&padded), ..Tokens::new(&padded) }), &["must be below 2"]);
    assert_refused(run(&Tokens::new(&on_device(&[1, 2], &[3, 11]))), &["11", "must be below 11"]);
    assert_refused(run(&Tokens::new(&on_device(&[1, 9], &[0; 9]))), &["BERT", "at most 8"]);
    assert_refused(run(&Tokens::new(&lengths)), &["u32[B, T]"]);
    assert_refused(run(&Tokens { lengths: Some(&on_device(&[3], &[1; 3])), ..Tokens::new(&padded) }), &["u32[3]"]);
}

#[test]
fn layers_heads_and_decay() {
    let gpu = gpu();
    let model = Bert::new(&gpu, BertConfig { pooler: true, num_labels: 3, ..small() }, 0).unwrap();
    for (path, layer, is_head) in [
        ("embeddings.word_embeddings.weight", 0, false),
        ("embeddings.LayerNorm.bias", 0, false),
        ("encoder.layer.0.attention.self.qkv.weight", 1, false),
        ("encoder.layer.1.output.LayerNorm.weight", 2, false),
        ("pooler.dense.weight", 3, false),
        ("cls.predictions.bias", 3, true),
        ("classifier.weight", 3, true),
    ] {
        assert!(model.parameters().get(path).is_some(), "{path}");
        assert_eq!((model.layer(path), model.is_head(path)), (layer, is_head), "{path}");
    }
    let extent = model.extent();
    assert_eq!((extent.depth, extent.tokens, extent.prefix), (2, 8, 0));
    for parameter in model.parameters() {
        let rank = parameter.value().shape().rank();
        let is_matrix = parameter.path().ends_with("weight") && !parameter.path().contains("LayerNorm");
        assert_eq!(model.decays(parameter.path(), rank), is_matrix, "{}", parameter.path());
    }
    assert_ne!(model.identity(), Bert::new(&gpu, small(), 0).unwrap().identity());
}

#[test]
fn presets_have_the_published_numbers_of_parameters() {
    let gpu = gpu().dry_run().unwrap();
    // BertForMaskedLM's.
    for (config, numel) in [(BertConfig::base(), 109_514_298), (BertConfig::large(), 335_174_458)] {
        assert_eq!(Bert::new(&gpu, config, 0).unwrap().parameters().numel(), numel);
    }
}

#[test]
fn dropout_draws_in_training_alone() {
    let gpu = gpu();
    let plain = BertConfig { hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0, ..small() };
    let ids = Tensor::from_slice(&gpu, &[1, 8], &[1u32, 4, 2, 8, 5, 7, 0, 3]).unwrap();
    let key = RandomKey { seed: 1, step: 0, layer: 0, first_sample: 0 };
    let run = |config: BertConfig, mode: Mode| {
        let model = Bert::new(&gpu, config, 5).unwrap();
        model.hidden(&Tokens::new(&ids), &[], &mode).unwrap().to_vec::<f32>().unwrap()
    };
    let expected = run(plain.clone(), Mode::evaluation());
    assert_eq!(run(plain.clone(), Mode::training(key)), expected);
    let each = [
        BertConfig { hidden_dropout_prob: 0.5, ..plain.clone() },
        BertConfig { attention_probs_dropout_prob: 0.5, ..plain },
    ];
    for config in each {
        assert_eq!(run(config.clone(), Mode::evaluation()), expected);
        let dropped = run(config.clone(), Mode::training(key));
        assert_ne!(dropped, expected, "{config:?}");
        assert_eq!(run(config, Mode::training(key).recomputing(true)), dropped);
    }
}

type Theirs = lm::Theirs<Bert>;

/// In front of what `BertModel` has.
const PLACE: &str = "bert.";

impl Theirs {
    /// With a tensor whose values rise from `value` on.
    fn and_rising(self, name: &str, shape: &[usize], value: f32) -> Self {
        let data = (0..shape.iter().product()).map(|i| value * (1.0 + i as f32 / 64.0)).collect();
        self.and(name, shape, data)
    }

    /// With a pooler and a classifier of three classes.
    fn with_classifier(self) -> Self {
        self.and_rising("bert.pooler.dense.weight", &[32, 32], 0.01)
            .and_rising("bert.pooler.dense.bias", &[32], 0.02)
            .and_rising("classifier.weight", &[3, 32], 0.03)
            .and_rising("classifier.bias", &[3], 0.04)
    }

    fn without_predictions(mut self) -> Self {
        self.tensors.retain(|name, _| !name.starts_with("cls."));
        self
    }
}

#[test]
fn folders_of_many_forms_are_one_model() {
    let expected = Theirs::read().open().unwrap();
    let same = |theirs: Theirs| {
        let opened = theirs.open().unwrap();
        assert!(opened.checkpoint.tensors == expected.checkpoint.tensors && opened.config == expected.config);
    };
    same(Theirs::read().renamed(|name| name.strip_prefix(PLACE).unwrap_or(name).to_owned()));
    same(Theirs::read().renamed(|name| format!("module.{name}")));
    same(Theirs::read().renamed(|name| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    }));
    same(Theirs::read().and_rising("cls.seq_relationship.weight", &[2, 32], 1.0).and_rising(
        "cls.seq_relationship.bias",
        &[2],
        1.0,
    ));
    let mut doubled = Theirs::read();
    for (copy, of) in [
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ] {
        doubled.tensors.insert(copy.to_owned(), doubled.tensors[of].clone());
    }
    same(doubled);
    for (setting, value) in [
        ("position_embedding_type", json!("absolute")),
        ("gradient_checkpointing", json!(false)),
        ("pooler_type", json!("first_token_transform")),
        ("hidden_act", json!("gelu_python")),
        ("is_decoder", json!(null)),
        ("sbert_ce_default_activation_function", json!("torch.nn.modules.linear.Identity")),
        ("sentence_transformers", json!({"version": "4.1.0"})),
    ] {
        same(Theirs::with(setting, value));
    }
    let tanh = Theirs::with("hidden_act", json!("gelu_new")).open().unwrap();
    assert_ne!(tanh.config, expected.config);
}

#[test]
fn other_models_are_refused() {
    for (setting, value) in [
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("add_cross_attention", json!(true)),
        ("tie_word_embeddings", json!(false)),
        ("embedding_size", json!(16)),
        ("num_attention_heads", json!(3)),
        ("hidden_dropout_prob", json!(-0.1)),
        ("layer_norm_eps", json!(1.0)),
        ("num_hidden_layers", json!(3)),
        ("num_hidden_layers", json!(16_777_216)),
        ("max_position_embeddings", json!(512)),
        ("type_vocab_size", json!(1)),
        ("vocab_size", json!(198)),
    ] {
        assert_refused(Theirs::with(setting, value).open(), &[setting]);
    }
    assert_refused(Theirs::with("model_type", json!("roberta")).open(), &["roberta", "bert"]);
    assert_refused(Theirs::with("hidden_act", json!("relu")).open(), &["relu", "gelu"]);
    assert_refused(Theirs::with("intermediate_size", json!(64)).open(), &["intermediate.dense", "128", "64"]);
    for (name, reason) in [
        ("qa_outputs.weight", "questions"),
        ("bert.encoder.layer.0.attention.self.distance_embedding.weight", "relative positions"),
        ("bert.encoder.layer.0.crossattention.self.query.weight", "encoder"),
        ("lm_head.weight", "BertForMaskedLM"),
    ] {
        assert_refused(Theirs::read().and_rising(name, &[32, 32], 1.0).open(), &[reason]);
    }
    let untied = Theirs::read().and_rising("cls.predictions.decoder.weight", &[199, 32], 1.0);
    assert_refused(untied.open(), &["cls.predictions.decoder.weight", "not tied"]);
    let twice = Theirs::read().and_rising("bert.embeddings.LayerNorm.gamma", &[32], 1.0);
    assert_refused(twice.open(), &["LayerNorm", "twice"]);
    let mut theirs = Theirs::read();
    theirs.tensors.remove("bert.encoder.layer.2.attention.self.key.bias");
    assert_refused(theirs.open(), &["qkv.bias", "key", "missing"]);
    let mut theirs = Theirs::read();
    theirs.tensors.remove("cls.predictions.transform.dense.bias");
    assert_refused(theirs.open(), &["cls.predictions.transform.dense.bias"]);
    let mut theirs = Theirs::read().with_classifier();
    theirs.tensors.retain(|name, _| !name.contains("pooler"));
    assert_refused(theirs.open(), &["pooler", "classifier"]);
    // With a pooler beside it, which that model does not use.
    let mut theirs = Theirs::read().with_classifier();
    theirs.config["architectures"] = json!(["BertForTokenClassification"]);
    assert_refused(theirs.open(), &["classifier", "BertForTokenClassification"]);
    // Nor where a program brings the description along.
    let of = |theirs: &Theirs| {
        let weights = checkpoint::to_bytes(&theirs.tensors, &Default::default()).unwrap();
        bert::from_bytes(&theirs.config.to_string(), &weights)
    };
    assert_refused(of(&theirs), &["classifier", "BertForTokenClassification"]);
    assert_refused(of(&Theirs::with("model_type", json!("roberta"))), &["roberta", "bert"]);
    let (brought, opened) = (of(&Theirs::read()).unwrap(), Theirs::read().open().unwrap());
    assert_eq!((brought.config, brought.checkpoint.tensors), (opened.config, opened.checkpoint.tensors));
    let odd = Theirs::read().with_classifier().and_rising("classifier.weight", &[3, 31], 1.0);
    assert_refused(odd.open(), &["classifier.weight", "[3, 31]"]);
}

/// tanh(dense(first token)), then the classifier; and both in files.
#[test]
fn classifiers() {
    let gpu = gpu();
    let theirs = Theirs::read().with_classifier().without_predictions();
    let opened = theirs.open().unwrap();
    assert!(opened.config.pooler && opened.config.num_labels == 3);
    let model = Bert::new(&gpu, opened.config.clone(), 0).unwrap();
    let options = MatchOptions { head: &["cls"], ..Default::default() };
    let report = load_parameters(model.parameters(), &opened.checkpoint, &options).unwrap();
    assert_eq!((report.new.len(), report.unused.len()), (5, 0), "{report}");

    let ids = Tensor::from_slice(&gpu, &[2, 3], &[4u32, 9, 2, 0, 198, 7]).unwrap();
    let mode = Mode::evaluation();
    let hidden = model.hidden(&Tokens::new(&ids), &[], &mode).unwrap();
    let logits: Vec<f32> = model.classify(&hidden, &mode).unwrap().to_vec().unwrap();
    let linear = |name: &str, x: &[f32]| -> Vec<f32> {
        let (weight, bias) = (&opened.checkpoint.tensors[&format!("{name}.weight")], format!("{name}.bias"));
        let rows = weight.data.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>());
        rows.zip(&opened.checkpoint.tensors[&bias].data).map(|(y, b)| y + b).collect()
    };
    let hidden: Vec<f32> = hidden.to_vec().unwrap();
    for (sample, logits) in logits.chunks(3).enumerate() {
        let pooled: Vec<f32> = linear("pooler.dense", &hidden[sample * 96..][..32]).iter().map(|v| v.tanh()).collect();
        assert_close("logits", logits, &linear("classifier", &pooled), 1e-5);
    }

    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("exported");
    bert::save(&folder, &model, &FolderOptions::default()).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], json!(["BertForSequenceClassification"]));
    assert_eq!(config["id2label"]["2"], "LABEL_2");
    assert!(config.get("pooler").is_none() && config.get("num_labels").is_none());
    let again = bert::open(&folder).unwrap();
    assert_eq!(again.config, opened.config);
    assert_eq!(again.checkpoint.tensors, download(model.parameters()).unwrap());

    let plain = Bert::new(&gpu, small(), 0).unwrap();
    let hidden = plain.hidden(&Tokens::new(&Tensor::from_slice(&gpu, &[1, 1], &[1u32]).unwrap()), &[], &mode).unwrap();
    assert_refused(plain.classify(&hidden, &mode), &["BERT", "pooler"]);
    let pooled = Bert::new(&gpu, BertConfig { pooler: true, ..small() }, 0).unwrap();
    assert_eq!(pooled.pool(&hidden).unwrap().dims(), [1, 16]);
    let flat = ops::reshape(&hidden, &[hidden.numel() / 16, 16]).unwrap();
    assert_refused(pooled.pool(&flat), &["BERT", "f32[B, T, C]"]);
    assert_refused(pooled.classify(&hidden, &mode), &["BERT", "num_labels"]);
    assert_refused(Bert::new(&gpu, BertConfig { num_labels: 2, ..small() }, 0), &["pooler"]);
}

#[test]
fn saved_models_open_again() {
    let gpu = gpu();
    let model = Bert::open(&gpu, &reference_path(PLAIN));
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("exported");
    let options = FolderOptions { tokenizer: &[("vocab.txt", b"[PAD]\n")], ..Default::default() };
    bert::save(&folder, &model, &options).unwrap();
    let theirs = checkpoint::read(reference_path(PLAIN).join("model.safetensors")).unwrap();
    assert_eq!(checkpoint::read(folder.join("model.safetensors")).unwrap().tensors, theirs.tensors);
    let opened = bert::open(&folder).unwrap();
    assert_eq!(&opened.config, model.config());
    let file = place.path().join("best.safetensors");
    bert::write(&file, model.config(), &download(model.parameters()).unwrap()).unwrap();
    let opened = bert::open(place.path()).unwrap();
    assert_eq!(&opened.config, model.config());
    assert_eq!(opened.checkpoint.tensors, download(model.parameters()).unwrap());
}
