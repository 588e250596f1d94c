//! DeepSpeed's configurations: the shipped recipes' values, and files that are wrong.

use proptest::prelude::*;
use serde_json::{Value, json};
use wgrad::Error;
use wgrad::ltd::{LayerTokens, PatchDrop, RandomLtd, Schedule, TokenDrop};
use wgrad::nn::Precision;
use wgrad::optim::{AdamW, AfterWarmup, At, DeepSpeedRate, LayerTokenRate, LossScale, LrSchedule, LrShape, Rule, Sgd};
use wgrad::train::{DeepSpeedConfig, ModelType, TrainSettings, parse_deepspeed, read_deepspeed};

/// The CIFAR-10 ViT recipe's values: 32 to 197 tokens over 3,910 steps.
fn cifar() -> Value {
    json!({
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": 32,
        "gradient_clipping": 1.0,
        "optimizer": { "type": "SGD", "params": { "lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4 } },
        "data_efficiency": {
            "enabled": true,
            "data_routing": {
                "enabled": true,
                "random_ltd": {
                    "enabled": true,
                    "total_layer_num": 12,
                    "random_ltd_layer_num": 10,
                    "random_ltd_layer_id": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
                    "model_mask_name": "attention_mask",
                    "model_type": "encoder",
                    "hidden_state_order": "batch_seq_dim",
                    "random_ltd_schedule": {
                        "min_value": 32,
                        "max_value": 197,
                        "schedule_type": "fixed_linear",
                        "schedule_config": { "require_steps": 3910, "seq_per_step": 8 }
                    }
                }
            }
        }
    })
}

const LTD: &str = "/data_efficiency/data_routing/random_ltd";

/// What is said of the recipe's weight decay.
const DECAY: &str =
    "optimizer.params.weight_decay spares biases and norms, as the model has it, where DeepSpeed decays all";

fn read(value: &Value) -> wgrad::Result<DeepSpeedConfig> {
    parse_deepspeed("ds_config.json", &value.to_string())
}

/// `value` with the members of `object` at a JSON pointer put in its place, or taken out where they are null.
fn with(mut value: Value, at: &str, object: Value) -> Value {
    let (Some(place), Value::Object(members)) = (value.pointer_mut(at).and_then(Value::as_object_mut), object) else {
        panic!("no object at {at}")
    };
    for (key, member) in members {
        if member.is_null() {
            place.remove(&key)
        } else {
            place.insert(key, member)
        };
    }
    value
}

/// What is said of a file that is refused.
#[track_caller]
fn refused(value: &Value) -> String {
    match read(value) {
        Err(error @ Error::File { .. }) => error.to_string(),
        other => panic!("expected a refused file, got {other:?}"),
    }
}

fn consumed(ltd: &RandomLtd, tokens: usize, batch: u64, steps: u64) -> u64 {
    let mut sum = LayerTokens::default();
    (0..steps).for_each(|step| sum += ltd.plan(step, tokens).layer_tokens(batch));
    sum.consumed
}

/// First steps of some lengths, and the layer tokens that DeepSpeed counts.
#[test]
fn shipped_cifar_recipe() {
    let config = read(&cifar()).unwrap();
    let ltd = config.random_ltd.clone().unwrap();
    let expected = RandomLtd::new(12, Schedule::fixed_linear(32, 197, 3910, 8).unwrap()).unwrap().with_seed(1234);
    assert_eq!(ltd, expected);
    assert_eq!((config.batch_size, config.accumulate, config.max_norm), (32, 1, Some(1.0)));
    let sgd = Sgd { momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 5e-4 };
    assert_eq!((config.rule, config.rate), (Some(Rule::Sgd(sgd)), Some(LrSchedule::constant(1e-4).unwrap())));
    assert_eq!(config.loss_scale, None);
    assert_eq!(config.warnings, [DECAY]);
    for (step, kept) in [(0, 32), (190, 40), (380, 48), (1896, 112), (3791, 184), (3792, 192), (3981, 192), (3982, 197)]
    {
        assert_eq!(ltd.schedule().kept_length(step), kept, "step {step}");
    }
    assert_eq!(consumed(&ltd, 197, 32, 5474), 305_784_192);
}

#[test]
fn language_models_count_as_deepspeed_does() {
    for (layers, min, expected) in [(12u64, 256, 19_534_848), (24, 128, 35_567_104)] {
        let ids: Vec<u64> = (1..layers - 1).collect();
        let schedule = json!({ "min_value": min, "max_value": 1024, "schedule_type": "fixed_linear",
            "schedule_config": { "require_steps": 400, "seq_per_step": 8 } });
        let ltd = json!({ "total_layer_num": layers, "random_ltd_layer_num": layers - 2, "random_ltd_layer_id": ids,
            "model_type": "decoder", "hidden_state_order": "seq_batch_dim", "random_ltd_schedule": schedule });
        let config = read(&with(
            with(cifar(), LTD, ltd),
            "",
            json!({ "train_batch_size": 4,
            "train_micro_batch_size_per_gpu": null }),
        ))
        .unwrap();
        assert_eq!(consumed(&config.random_ltd.unwrap(), 1024, 4, 524), expected);
        assert_eq!(config.model_type, Some(ModelType::Decoder));
        assert_eq!(config.warnings, [DECAY]);
    }
}

/// What a pretraining of GPT by Megatron-DeepSpeed has, but for the numbers.
fn pretraining() -> Value {
    json!({
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "steps_per_print": 10,
        "zero_optimization": { "stage": 0 },
        "gradient_clipping": 1.0,
        "prescale_gradients": false,
        "wall_clock_breakdown": false,
        "fp16": { "enabled": true, "loss_scale": 0, "loss_scale_window": 500, "hysteresis": 2, "min_loss_scale": 1,
            "initial_scale_power": 11 },
        "optimizer": { "type": "AdamW", "params": { "lr": 1e-3 } },
        "data_efficiency": {
            "enabled": true,
            "seed": 5,
            "data_sampling": { "enabled": false, "num_workers": 0 },
            "data_routing": {
                "enabled": true,
                "random_ltd": {
                    "enabled": true,
                    "total_layer_num": 6,
                    "random_ltd_layer_num": 4,
                    "random_ltd_layer_id": [1, 2, 3, 4],
                    "model_mask_name": "attention_mask",
                    "model_type": "decoder",
                    "hidden_state_order": "seq_batch_dim",
                    "global_batch_size": 8,
                    "micro_batch_size": 2,
                    "random_ltd_schedule": {
                        "min_value": 32,
                        "max_value": 128,
                        "schedule_type": "fixed_linear",
                        "schedule_config": { "require_steps": 120, "seq_per_step": 16 }
                    },
                    "layer_token_lr_schedule": { "enabled": true }
                }
            }
        }
    })
}

/// The rate that DeepSpeed refuses, from the layer tokens in the file or from the scheduler's steps. The plan is the reference
/// tables' first: 96 tokens of growth over 122,880 raw tokens, which are 120 steps of 8 samples.
#[test]
fn layer_token_rates() {
    let rate = |max: f32, min: f32, shape, total, warmup| {
        LrSchedule::layer_token(LayerTokenRate { max, min, shape, total, warmup }).unwrap()
    };
    let keys = |keys: Value| with(pretraining(), LTD, json!({ "layer_token_lr_schedule": keys }));
    let scheduler =
        |kind: &str, params: Value| with(pretraining(), "", json!({ "scheduler": { "type": kind, "params": params } }));
    let others = [
        "fp16.hysteresis is not used: every overflow lowers the loss scale",
        "prescale_gradients is not used",
        "steps_per_print is not used",
        "wall_clock_breakdown is not used",
        "zero_optimization is not used",
    ];
    let check = |value: &Value, expected: LrSchedule, said: &[&str]| {
        let config = read(value).unwrap();
        assert_eq!(config.rate, Some(expected));
        assert_eq!((config.batch_size, config.accumulate, config.random_ltd.unwrap().seed()), (8, 4, 5));
        let mut warnings = config.warnings;
        warnings.retain(|warning| !others.contains(&warning.as_str()));
        assert_eq!(warnings, said);
    };
    let tokens =
        json!({ "enabled": true, "total_layer_tokens": 1000, "warmup_layer_tokens": 100, "warmup_type": "linear" });
    check(&keys(tokens), rate(1e-3, 0.0, LrShape::Linear, 1000.0, 100.0), &[]);

    let linear = json!({ "warmup_min_lr": 1e-5, "warmup_max_lr": 1e-3, "warmup_num_steps": 20, "warmup_type": "linear",
        "total_num_steps": 200 });
    let said = "scheduler.params.warmup_min_lr is the rate at the end alone: the LayerToken rate rises from 0";
    let expected = rate(1e-3, 1e-5, LrShape::Linear, 1_044_480.0, 122_880.0);
    check(&scheduler("WarmupDecayLR", linear), expected, &[said]);
    let cosine = json!({ "warmup_num_steps": 20, "cos_min_ratio": 0.5, "total_num_steps": 200 });
    let said = "scheduler.params.warmup_type is not used: the LayerToken rate rises in a straight line";
    let expected = rate(1e-3, 0.5e-3, LrShape::Cosine, 1_044_480.0, 122_880.0);
    check(&scheduler("WarmupCosineLR", cosine.clone()), expected, &[said]);
    // Layer tokens in the file count more than steps.
    let both = json!({ "enabled": true, "total_layer_tokens": 1000, "warmup_layer_tokens": 100, "warmup_type": "log" });
    let both = with(scheduler("WarmupCosineLR", cosine), LTD, json!({ "layer_token_lr_schedule": both }));
    let lost = "scheduler says its steps to no effect: layer_token_lr_schedule says the layer tokens";
    let own = "data_efficiency.data_routing.random_ltd.layer_token_lr_schedule.warmup_type is not used: the rate rises in a \
               straight line";
    check(&both, rate(1e-3, 0.5e-3, LrShape::Cosine, 1000.0, 100.0), &[own, said, lost]);
    // Switched off it has no effect, and nobody misses anything.
    check(&keys(json!({ "enabled": false })), constant(1e-3), &[]);
    check(&keys(Value::Null), constant(1e-3), &[]);

    for (value, said) in [
        (keys(json!({ "enabled": true, "total_layer_tokens": 9 })), "warmup_layer_tokens is missing"),
        (keys(json!({ "enabled": true, "warmup_layer_tokens": 9 })), "total_layer_tokens is missing"),
        (
            keys(json!({ "enabled": true, "total_layer_tokens": 9, "warmup_layer_tokens": 9 })),
            "LayerToken learning rate: warmup must be from 0 to below half of all 9",
        ),
        (keys(json!({ "enabled": true, "total_layer_tokens": -9 })), "total_layer_tokens must be a whole number"),
        (
            with(pretraining(), "", json!({ "scheduler": { "params": { "warmup_num_steps": 9 } } })),
            "scheduler.type is missing",
        ),
        (scheduler("WarmupLR", json!({})), "scheduler.type must be WarmupDecayLR or WarmupCosineLR"),
        (scheduler("WarmupDecayLR", json!({ "total_num_steps": 0 })), "total_tokens must be at least 1"),
        (with(pretraining(), "", json!({ "optimizer": null })), "optimizer is missing, whose lr"),
        (with(pretraining(), LTD, json!({ "micro_batch_size": 4 })), "random_ltd.micro_batch_size must be 2"),
    ] {
        let error = refused(&value);
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn sampling_by_difficulty_is_not_used() {
    let sampling = |enabled: bool| {
        let sampling = json!({ "enabled": enabled, "num_epochs": 1, "curriculum_learning": { "enabled": true } });
        read(&with(cifar(), "/data_efficiency", json!({ "data_sampling": sampling }))).unwrap().warnings
    };
    assert_eq!(sampling(false), [DECAY]);
    assert_eq!(
        sampling(true),
        [DECAY, "data_efficiency.data_sampling is not used: batches come from the data loader as they are"]
    );
}

#[test]
fn settings_take_what_the_file_says() {
    let plain = TrainSettings { seed: 9, ..TrainSettings::new(Rule::AdamW(AdamW::default()), constant(0.5)) };
    let config = read(&with(
        cifar(),
        "",
        json!({ "fp16": { "enabled": true }, "gradient_accumulation_steps": 4,
        "train_micro_batch_size_per_gpu": 8 }),
    ))
    .unwrap();
    let settings = config.apply(plain.clone());
    assert_eq!((settings.rate, settings.max_norm, settings.accumulate), (constant(1e-4), Some(1.0), 4));
    assert!(matches!(settings.rule, Rule::Sgd(_)) && matches!(settings.drop, TokenDrop::RandomLtd(_)));
    let scale = LossScale { initial: 65536.0, growth: 2.0, backoff: 0.5, interval: 1000, floor: 1.0 };
    assert_eq!((settings.precision, settings.loss_scale, settings.seed), (Precision::F16, scale, 9));

    let bare = read(&json!({ "train_batch_size": 7 })).unwrap();
    let settings = bare.apply(plain.clone());
    assert_eq!((settings.rule, settings.rate, settings.max_norm), (plain.rule, plain.rate, None));
    assert_eq!((settings.drop, settings.precision), (TokenDrop::None, Precision::F32));
}

fn constant(rate: f32) -> LrSchedule {
    LrSchedule::constant(rate).unwrap()
}

/// Any one of the three sizes follows from the others.
#[test]
fn batch_sizes_agree() {
    let sizes = |batch: Value, micro: Value, steps: Value| {
        read(&json!({ "train_batch_size": batch, "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": steps }))
    };
    for (batch, micro, steps, expected) in [
        (json!(32), json!(8), json!(4), (32, 4)),
        (json!(32), json!(8), Value::Null, (32, 4)),
        (json!(32), Value::Null, json!(4), (32, 4)),
        (Value::Null, json!(8), json!(4), (32, 4)),
        (json!(32), Value::Null, Value::Null, (32, 1)),
        (Value::Null, json!(8), Value::Null, (8, 1)),
        (json!(3.2e1), json!(8), Value::Null, (32, 4)),
    ] {
        let config = sizes(batch, micro, steps).unwrap();
        assert_eq!((config.batch_size, config.accumulate), expected);
    }
    for (batch, micro, steps, said) in [
        (json!(32), json!(8), json!(2), "train_batch_size must be train_micro_batch_size_per_gpu (8) times"),
        (json!(30), json!(8), Value::Null, "train_batch_size must be"),
        (json!(3), json!(8), Value::Null, "train_batch_size must be"),
        (json!(31), Value::Null, json!(2), "train_batch_size must be"),
        (json!(2), Value::Null, json!(3), "train_batch_size must be"),
        (Value::Null, Value::Null, json!(3), "train_batch_size is missing, and so is train_micro_batch_size_per_gpu"),
        (json!(0), Value::Null, Value::Null, "train_batch_size must be at least 1"),
        (json!(8), json!(0), Value::Null, "train_micro_batch_size_per_gpu must be at least 1"),
        (json!(8), Value::Null, json!(0), "gradient_accumulation_steps must be at least 1"),
        (json!("auto"), Value::Null, Value::Null, "train_batch_size must be a whole number"),
        (json!(8.5), Value::Null, Value::Null, "train_batch_size must be a whole number"),
        (json!(-8), Value::Null, Value::Null, "train_batch_size must be a whole number"),
        (json!(1e300), Value::Null, Value::Null, "train_batch_size must be a whole number"),
        (Value::Null, json!(4_000_000_000u64), json!(4_000_000_000u64), ""),
    ] {
        match sizes(batch, micro, steps) {
            Err(error) => assert!(error.to_string().contains(said), "{error}"),
            // More samples than any loader takes, but a product all the same.
            Ok(config) => assert!(said.is_empty() && config.batch_size == 16_000_000_000_000_000_000),
        }
    }
}

#[test]
fn optimizers() {
    let rule = |kind: &str, params: Value| {
        let optimizer = json!({ "type": kind, "params": params });
        read(&with(cifar(), "", json!({ "optimizer": optimizer }))).map(|config| config.rule.unwrap())
    };
    let adam = AdamW { weight_decay: 0.0, ..AdamW::default() };
    assert_eq!(rule("Adam", json!({})).unwrap(), Rule::AdamW(adam));
    let params = json!({ "betas": [0.8, 0.99], "eps": 1e-6, "weight_decay": 0.1 });
    let full = AdamW { betas: (0.8, 0.99), eps: 1e-6, weight_decay: 0.1 };
    assert_eq!(rule("AdamW", params).unwrap(), Rule::AdamW(full));
    assert_eq!(rule("adam", json!({ "adam_w_mode": false })).unwrap(), Rule::AdamW(adam));
    let plain = Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
    assert_eq!(rule("SGD", json!({})).unwrap(), Rule::Sgd(plain));
    for (kind, params, said) in [
        ("Adam", json!({ "adam_w_mode": false, "weight_decay": 0.1 }), "optimizer.params.adam_w_mode must be true"),
        ("Adam", json!({ "betas": [0.9] }), "optimizer.params.betas must be a list of two numbers"),
        ("Adam", json!({ "betas": [1.5, 0.9] }), "optimizer.params: optimiser: betas.0 must be in 0..1"),
        ("Adam", json!({ "amsgrad": true }), "optimizer.params.amsgrad must be false"),
        ("AdamW", json!({ "lr": "fast" }), "optimizer.params.lr must be a number"),
        ("AdamW", json!({ "lr": 1e99 }), "optimizer.params.lr must be a number"),
        ("AdamW", json!({ "lr": -1.0 }), "optimizer.params: learning rate: base must be finite and not negative"),
        ("SGD", json!({ "nesterov": true }), "nesterov must be false without momentum"),
        ("OneBitAdam", json!({}), "optimizer.type must be Adam, AdamW or SGD, is \"OneBitAdam\""),
    ] {
        let error = rule(kind, params).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    // Decay reaches less than DeepSpeed's, which is said where there is any.
    for (kind, decay, said) in [("SGD", 0.1, true), ("AdamW", 0.1, true), ("Adam", 0.0, false), ("SGD", 0.0, false)] {
        let optimizer = json!({ "type": kind, "params": { "weight_decay": decay } });
        let warnings = read(&json!({ "train_batch_size": 8, "optimizer": optimizer })).unwrap().warnings;
        assert_eq!(warnings == [DECAY], said, "{kind} {decay}: {warnings:?}");
    }
    let none = with(cifar(), "", json!({ "optimizer": { "params": {} } }));
    assert!(refused(&none).contains("optimizer.type is missing"));
}

fn at(step: u64) -> At {
    At { step, layer_tokens: 0 }
}

/// Rates of single steps, worked out by hand from the formulas in the code's documentation.
#[test]
fn schedulers() {
    let rates = |kind: &str, params: Value, steps: &[u64]| {
        let scheduler = json!({ "type": kind, "params": params });
        let config = read(&with(cifar(), "", json!({ "scheduler": scheduler })))?;
        let rate = config.rate.unwrap();
        Ok::<_, Error>(steps.iter().map(|&step| rate.rate(at(step))).collect::<Vec<_>>())
    };
    let close = |got: Vec<f32>, expected: &[f64]| {
        for (got, expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() <= 1e-6 * expected.abs() + 1e-12, "{got} {expected}");
        }
    };
    let warm = json!({ "warmup_min_lr": 0.1, "warmup_max_lr": 1.1, "warmup_num_steps": 4, "warmup_type": "linear" });
    close(rates("WarmupLR", warm, &[0, 1, 2, 4, 5, 99]).unwrap(), &[0.1, 0.1, 0.35, 0.85, 1.1, 1.1]);
    // By logarithm: ln 2 / ln 4 is a half.
    let log = json!({ "warmup_max_lr": 1.0, "warmup_num_steps": 4 });
    close(rates("WarmupLR", log, &[0, 1, 2, 4, 5]).unwrap(), &[0.0, 0.0, 0.5, 1.0, 1.0]);
    close(rates("WarmupLR", json!({}), &[2000]).unwrap(), &[1e-4]);
    let decay = json!({ "warmup_max_lr": 1.0, "warmup_num_steps": 4, "warmup_type": "linear", "total_num_steps": 14 });
    close(rates("WarmupDecayLR", decay, &[1, 3, 5, 10, 15, 20]).unwrap(), &[0.0, 0.5, 1.0, 0.5, 0.0, 0.0]);
    let cosine = json!({ "warmup_num_steps": 4, "warmup_type": "linear", "total_num_steps": 12,
        "warmup_min_ratio": 0.5, "cos_min_ratio": 0.1 });
    let expected = [0.0, 0.5e-4, 0.75e-4, 0.55e-4, 0.1e-4, 0.1e-4];
    close(rates("WarmupCosineLR", cosine, &[0, 1, 3, 8, 12, 50]).unwrap(), &expected);

    for (kind, params, said) in [
        ("WarmupDecayLR", json!({}), "scheduler.params.total_num_steps is missing"),
        ("WarmupCosineLR", json!({}), "scheduler.params.total_num_steps is missing"),
        ("WarmupLR", json!({ "warmup_num_steps": 0 }), "warm-up steps must be at least 1"),
        ("WarmupLR", json!({ "warmup_max_lr": -1 }), "scheduler.params: learning rate: max must be finite"),
        ("WarmupLR", json!({ "warmup_type": "slow" }), "scheduler.params.warmup_type must be \"log\" or \"linear\""),
        ("OneCycle", json!({}), "scheduler.type must be WarmupLR"),
    ] {
        let error = rates(kind, params, &[]).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let alone = json!({ "optimizer": null, "scheduler": { "type": "WarmupCosineLR", "params": {} } });
    assert!(refused(&with(cifar(), "", alone)).contains("needs the optimizer's lr"));
    let rate = DeepSpeedRate { min: 0.0, max: 1.0, steps: u64::MAX, is_linear: false, after: AfterWarmup::Constant };
    assert!(LrSchedule::deepspeed(rate).unwrap().rate(at(u64::MAX)) <= 1.0);
}

#[test]
fn half_precision() {
    let scale = |fp16: Value| read(&with(cifar(), "", json!({ "fp16": fp16 })));
    assert_eq!(scale(json!({ "enabled": false })).unwrap().loss_scale, None);
    assert_eq!(scale(json!({ "loss_scale": 128 })).unwrap().loss_scale, None);
    let constant = scale(json!({ "enabled": true, "loss_scale": 128 })).unwrap();
    assert_eq!(constant.loss_scale, Some(LossScale::constant(128.0)));
    let told = constant.warnings.join("\n");
    assert!(told.contains("is constant") && !told.contains("hysteresis"), "{told}");
    let given = json!({ "enabled": true, "initial_scale_power": 4, "loss_scale_window": 50, "min_loss_scale": 2,
        "hysteresis": 2 });
    let given = scale(given).unwrap();
    let expected = LossScale { initial: 16.0, growth: 2.0, backoff: 0.5, interval: 50, floor: 2.0 };
    assert_eq!(given.loss_scale, Some(expected));
    assert_eq!(given.warnings, [DECAY, "fp16.hysteresis is not used: every overflow lowers the loss scale"]);
    let scheduled = json!({ "fp16": { "enabled": true, "hysteresis": 1 },
        "scheduler": { "type": "WarmupLR", "params": { "warmup_num_steps": 10 } } });
    let said = read(&with(cifar(), "", scheduled)).unwrap().warnings;
    assert!(said.iter().any(|said| said.contains("a step that overflows moves the rate on")), "{said:?}");
    for (fp16, said) in [
        (json!({ "initial_scale_power": 101 }), "fp16.initial_scale_power must be at most 100"),
        (json!({ "loss_scale_window": 0 }), "fp16: loss scale: interval must be at least 1"),
        (json!({ "min_loss_scale": 1e9 }), "fp16: loss scale: floor must be"),
        (json!(true), "fp16 must be an object, is true"),
    ] {
        let error = scale(fp16).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// Every key that must be there, by name.
#[test]
fn missing_keys_are_named() {
    for key in ["total_layer_num", "random_ltd_layer_num", "random_ltd_layer_id", "random_ltd_schedule"] {
        let said = refused(&with(cifar(), LTD, json!({ key: null })));
        assert!(said.contains(&format!("data_efficiency.data_routing.random_ltd.{key} is missing")), "{said}");
    }
    let schedule = &format!("{LTD}/random_ltd_schedule");
    for key in ["min_value", "max_value", "schedule_type", "schedule_config"] {
        let said = refused(&with(cifar(), schedule, json!({ key: null })));
        assert!(said.contains(&format!("random_ltd.random_ltd_schedule.{key} is missing")), "{said}");
    }
    for key in ["require_steps", "seq_per_step"] {
        let said = refused(&with(cifar(), &format!("{schedule}/schedule_config"), json!({ key: null })));
        assert!(said.contains(&format!("random_ltd_schedule.schedule_config.{key} is missing")), "{said}");
    }
}

#[test]
fn bad_values_are_named() {
    let schedule = &format!("{LTD}/random_ltd_schedule");
    let config = &format!("{schedule}/schedule_config");
    for (at, object, said) in [
        (LTD, json!({ "total_layer_num": "twelve" }), "random_ltd.total_layer_num must be a whole number"),
        (LTD, json!({ "total_layer_num": 4_000_000_000u64 }), "random_ltd.total_layer_num must be at most 65536"),
        (LTD, json!({ "total_layer_num": 0 }), "total_blocks must be 1 to"),
        (LTD, json!({ "total_layer_num": 2 }), "each once and below 2"),
        (LTD, json!({ "random_ltd_layer_num": 9 }), "random_ltd.random_ltd_layer_id must name 9 layers"),
        (LTD, json!({ "random_ltd_layer_id": [1, 2, 3, 4, 5, 6, 7, 8, 9, 12] }), "each once and below 12"),
        (LTD, json!({ "random_ltd_layer_id": [1, 1, 3, 4, 5, 6, 7, 8, 9, 10] }), "each once and below 12"),
        (
            LTD,
            json!({ "random_ltd_layer_id": [1, -1] }),
            "random_ltd.random_ltd_layer_id must be a list of whole numbers",
        ),
        (LTD, json!({ "random_ltd_layer_id": 3 }), "random_ltd.random_ltd_layer_id must be a list"),
        (LTD, json!({ "random_ltd_layer_num": 0, "random_ltd_layer_id": [] }), "at least one block"),
        (LTD, json!({ "model_type": "both" }), "random_ltd.model_type must be \"encoder\" or \"decoder\""),
        (LTD, json!({ "hidden_state_order": "dim" }), "random_ltd.hidden_state_order must be"),
        (LTD, json!({ "model_mask_name": 7 }), "random_ltd.model_mask_name must be a text"),
        (LTD, json!({ "global_batch_size": 33 }), "random_ltd.global_batch_size must be 32"),
        (LTD, json!({ "micro_batch_size": 8 }), "random_ltd.micro_batch_size must be 32"),
        (LTD, json!({ "enabled": "yes" }), "random_ltd.enabled must be true or false"),
        (
            LTD,
            json!({ "layer_token_lr_schedule": { "enabled": true } }),
            "scheduler is missing, whose steps layer_token_lr_schedule needs",
        ),
        (
            schedule,
            json!({ "schedule_type": "fixed_root" }),
            "schedule_type must be \"fixed_linear\", is \"fixed_root\"",
        ),
        (
            schedule,
            json!({ "min_value": 0 }),
            "random_ltd_schedule: schedule fixed_linear: min_value must be at least 1",
        ),
        (schedule, json!({ "min_value": 7 }), "min_value must be at least seq_per_step, 8"),
        (schedule, json!({ "max_value": 16 }), "max_value must be min_value (32) to"),
        (config, json!({ "seq_per_step": 0 }), "seq_per_step must be at least 1"),
        (config, json!({ "seq_per_step": 8.5 }), "schedule_config.seq_per_step must be a whole number"),
        (config, json!({ "require_steps": 0 }), "require_steps must be at least 1"),
        ("", json!({ "gradient_clipping": -1 }), "gradient_clipping must not be negative"),
        ("", json!({ "data_efficiency": [] }), "data_efficiency must be an object"),
        ("/data_efficiency", json!({ "seed": -1 }), "data_efficiency.seed must be a whole number"),
    ] {
        let error = refused(&with(cifar(), at, object));
        assert!(error.contains(said) && error.starts_with("ds_config.json: "), "{error}");
    }
}

/// DeepSpeed refuses them too, wherever they stand.
#[test]
fn keys_that_are_there_twice_are_named() {
    for (text, said) in [
        (r#"{"train_batch_size": 8, "fp16": {}, "train_batch_size": 8}"#, "train_batch_size is there twice"),
        (
            r#"{"train_batch_size": 8, "optimizer": {"params": {"lr": 1, "lr": 2}}}"#,
            "optimizer.params.lr is there twice",
        ),
        (r#"{"train_batch_size": 8, "other": [{}, {"a": {"b": null, "b": []}}]}"#, "other.a.b is there twice"),
    ] {
        match parse_deepspeed("ds_config.json", text) {
            Err(error @ Error::File { .. }) => {
                assert!(error.to_string().starts_with(&format!("ds_config.json: {said}")), "{error}");
            }
            other => panic!("expected a refused file, got {other:?}"),
        }
    }
    let once = r#"{"train_batch_size": 8, "a": {"lr": 1}, "b": {"lr": [{"lr": 2}, {"lr": 3}]}}"#;
    assert_eq!(parse_deepspeed("ds_config.json", once).unwrap().batch_size, 8);
}

#[test]
fn keys_without_effect_are_named() {
    let strange = json!({ "zero_optimization": { "stage": 2 }, "steps_per_print": 200, "line\nbreak": 1 });
    let value = with(cifar(), "", strange);
    let value = with(value, "/optimizer/params", json!({ "torch_adam": true }));
    let value = with(value, LTD, json!({ "global_batch_size": 32, "keep": 3 }));
    let mut warnings = read(&value).unwrap().warnings;
    warnings.sort();
    let expected = [
        "data_efficiency.data_routing.random_ltd.keep is not used",
        "line\\nbreak is not used",
        "optimizer.params.torch_adam is not used",
        DECAY,
        "steps_per_print is not used",
        "zero_optimization is not used",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn what_is_not_enabled_is_off() {
    for at in ["/data_efficiency", "/data_efficiency/data_routing", LTD] {
        for enabled in [json!(false), Value::Null] {
            let config = read(&with(cifar(), at, json!({ "enabled": enabled }))).unwrap();
            assert_eq!(config.random_ltd, None);
            let expected = "data_efficiency.data_routing.random_ltd is not enabled, or a section around it is not";
            assert_eq!(config.warnings, [DECAY, expected]);
        }
    }
    assert_eq!(read(&with(cifar(), "", json!({ "data_efficiency": null }))).unwrap().random_ltd, None);
    let seeded = read(&with(cifar(), "/data_efficiency", json!({ "seed": 7 }))).unwrap();
    assert_eq!(seeded.random_ltd.unwrap().seed(), 7);
}

/// "Off" is another word than none: what a program drops of itself goes with the first alone.
#[test]
fn random_ltd_that_is_said_to_be_off() {
    let own = RandomLtd::new(12, Schedule::constant(50).unwrap()).unwrap();
    let settings = |drop: TokenDrop| TrainSettings {
        drop,
        ..TrainSettings::new(Rule::Sgd(Sgd::default()), LrSchedule::constant(1e-3).unwrap())
    };
    let check = |config: DeepSpeedConfig, is_off: bool, drop: TokenDrop| {
        assert_eq!((config.random_ltd.clone(), config.is_random_ltd_off()), (None, is_off));
        assert_eq!(config.apply(settings(own.clone().into())).drop, drop);
        // It says nothing of other ways to drop tokens.
        let other = TokenDrop::from(PatchDrop::new(20, 1).unwrap());
        assert_eq!(config.apply(settings(other.clone())).drop, other);
    };
    for at in ["/data_efficiency", "/data_efficiency/data_routing", LTD] {
        check(read(&with(cifar(), at, json!({ "enabled": false }))).unwrap(), true, TokenDrop::None);
    }
    let off = [json!({ "enabled": false }), json!({ "enabled": true, "data_routing": { "enabled": false } })];
    for section in off {
        check(read(&with(cifar(), "", json!({ "data_efficiency": section }))).unwrap(), true, TokenDrop::None);
    }
    check(read(&with(cifar(), LTD, json!({ "enabled": null }))).unwrap(), true, TokenDrop::None);
    let silent = [Value::Null, json!({ "enabled": true }), json!({ "enabled": true, "data_routing": {} })];
    for section in silent {
        let config = read(&with(cifar(), "", json!({ "data_efficiency": section }))).unwrap();
        check(config, false, own.clone().into());
    }
    let on = read(&cifar()).unwrap();
    assert!(!on.is_random_ltd_off());
    assert_eq!(on.apply(settings(TokenDrop::None)).drop, on.random_ltd.unwrap().into());
}

#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ds_config.json");
    assert!(matches!(read_deepspeed(&path), Err(Error::Io { .. })));
    std::fs::write(&path, cifar().to_string()).unwrap();
    assert_eq!(read_deepspeed(&path).unwrap(), read(&cifar()).unwrap());
    let deep = format!("{{\"train_batch_size\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for text in ["", "{", "[]", "3", "null", "{\"train_batch_size\": 8,}", &deep, &" ".repeat((1 << 20) + 1)] {
        std::fs::write(&path, text).unwrap();
        let error = read_deepspeed(&path).unwrap_err();
        assert!(matches!(error, Error::File { .. }) && error.to_string().len() < 500, "{error}");
    }
}

/// Values of every kind.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,3}", inner, 0..3).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// JSON pointers of all values below.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    if let Value::Object(map) = value {
        for (key, value) in map {
            let at = format!("{at}/{key}");
            pointers(value, &at, found);
            found.push(at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_value_panics(at in any::<prop::sample::Index>(), value in any_value(), cut in 0usize..1500) {
        let mut config = with(cifar(), "", json!({
            "scheduler": { "type": "WarmupDecayLR", "params": { "total_num_steps": 100, "warmup_num_steps": 10 } },
            "fp16": { "enabled": true, "loss_scale": 0, "initial_scale_power": 16 },
        }));
        let mut all = Vec::new();
        pointers(&config, "", &mut all);
        *config.pointer_mut(&all[at.index(all.len())]).unwrap() = value;
        if let Ok(read) = read(&config) {
            read.rate.map(|rate| rate.rate(At { step: 17, layer_tokens: 1_000_000 }));
            read.random_ltd.map(|ltd| ltd.schedule().kept_length(17));
        }
        let text = config.to_string();
        let cut = (0..=cut.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap();
        prop_assert!(cut == text.len() || parse_deepspeed("cut", &text[..cut]).is_err());
    }
}
