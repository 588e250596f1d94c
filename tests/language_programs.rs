//! The programs that train and sample language models, as their users run them: what they write, killed at any moment, given bad
//! input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json as object};
use tempfile::TempDir;
use wgrad::data::Tokenizer;
use wgrad::models::{bert, gpt2};
use wgrad::train::{RunState, STATE_FILE};

use crate::common::values;
use crate::programs::{
    KILLS, WEIGHTS, contents, events, example, is_picture, json, refuse, rows, same_files, same_run,
};
use crate::programs::{stands_alone, succeed, text, until_saved};

/// A model that takes a moment.
const TINY: &str = "--model 32x3x2 --length 16 --vocab-size 280 --batch-size 8";

/// Documents of made-up words.
fn texts() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..24 {
        let word = |v: &f32| ["of", "man", "first", "fruit", "loss", "eden", "greater"][(8.0 * v.abs()) as usize % 7];
        let words: Vec<&str> = values(i, 150).iter().map(word).collect();
        fs::write(folder.path().join(format!("{i}.txt")), words.join(" ")).unwrap();
    }
    folder
}

/// A tiny run of a pretraining program on the texts, to `output`.
fn pretrain(program: &str, texts: &Path, output: &Path, more: &str) -> Command {
    let mut command = example(program);
    command.args(TINY.split_whitespace()).arg("--text").arg(texts);
    command.arg("--output").arg(output).args(more.split_whitespace());
    command
}

/// A finetuning from the weights of a run.
fn finetune(weights: &Path, texts: &Path, output: &Path, more: &str) -> Command {
    let mut command = example("gpt_finetune");
    command.arg("--batch-size").arg("8").arg("--weights").arg(weights).arg("--text").arg(texts);
    command.arg("--output").arg(output).args(more.split_whitespace());
    command
}

/// What is known of a run beforehand, and holds in its files.
fn report_holds(run: &Path, names: &[&str]) -> Value {
    let report = json(&run.join("report.json"));
    let rows = rows(&run.join("metrics.csv"));
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
    for run in runs {
        let steps = rows.iter().filter(|row| row["run"] == run["name"].as_str().unwrap()).count();
        assert_eq!(steps as u64, run["steps"].as_u64().unwrap());
        for fluency in [&run["test"], &run["before"]] {
            let [loss, perplexity] = ["loss", "perplexity"].map(|key| fluency[key].as_f64().unwrap());
            assert!((loss.exp() / perplexity - 1.0).abs() < 1e-9, "{fluency}");
        }
        assert!(run["test"]["loss"].as_f64().unwrap() < run["before"]["loss"].as_f64().unwrap(), "{run}");
        assert!(run["tokens_per_second"].as_f64().unwrap() > 0.0);
    }
    is_picture(&run.join("curves.png"));
    stands_alone(&fs::read_to_string(run.join("report.html")).unwrap(), 1);
    report
}

// ---- what a run leaves behind ----

/// Adapters beside a GPT: written as PEFT has them, merged in the export, and begun anew on what an earlier run has made of the
/// weights.
#[test]
fn a_gpt_is_finetuned_by_adapters() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let [run, next, last] = ["run", "next", "last"].map(|name| outputs.path().join(name));
    succeed(pretrain("gpt_pretrain", texts.path(), &run, "--steps 12 --lr 0.01 --drop none"));
    let lora = "--steps 12 --drop none --lora c_attn,c_proj --lora-rank 2 --lora-alpha 4 --lora-dropout 0.1";
    succeed(finetune(&run, texts.path(), &next, lora));
    report_holds(&next, &["full-length"]);
    let kept = gpt2::open(&next).unwrap().config.lora.unwrap();
    assert_eq!((kept.rank, kept.alpha, kept.dropout, kept.targets.len()), (2, 4.0, 0.1, 2));
    let settings = json(&next.join("adapter/adapter_config.json"));
    assert_eq!((&settings["fan_in_fan_out"], &settings["r"]), (&true.into(), &2.into()));
    let exported = gpt2::open(next.join("export")).unwrap();
    assert_eq!(exported.config.lora, None);
    let mut merged = gpt2::open(&run).unwrap();
    merged.load_adapter(next.join("adapter")).unwrap();
    merged.merge_adapters().unwrap();
    for (name, tensor) in &exported.checkpoint.tensors {
        assert_eq!(merged.checkpoint.tensors[name], *tensor, "{name}");
    }
    succeed(finetune(&next, texts.path(), &last, "--steps 2 --drop none --lora c_fc"));
    assert_eq!(gpt2::open(&last).unwrap().config.lora.unwrap().targets, ["c_fc"]);
    let mut sample = example("gpt_sample");
    sample.arg("--weights").arg(&next).args(["--prompt", "of man", "--tokens", "4"]);
    succeed(sample);
    for (more, parts) in [
        ("--lora q_proj", &["q_proj", "c_attn"][..]),
        ("--lora query", &["whole layers"]),
        ("--lora c_attn --lora-rank 0", &["rank"]),
        ("--lora-rank 2", &["--lora-rank", "with --lora"]),
        ("--lora c_attn --freeze blocks=1", &["--lora", "has no effect"]),
    ] {
        let refused = outputs.path().join("refused");
        refuse(finetune(&run, texts.path(), &refused, more), parts);
        assert!(!refused.join("args.json").exists(), "{more}");
    }
}

#[test]
fn a_gpt_is_pretrained_finetuned_and_sampled() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let [run, next] = ["run", "next"].map(|name| outputs.path().join(name));
    let more = "--steps 12 --lr 0.01 --compare none,tokenbypass --tensorboard --json";
    let said = text(&succeed(pretrain("gpt_pretrain", texts.path(), &run, more)).stdout);
    let report = report_holds(&run, &["random-ltd", "full-length", "tokenbypass"]);
    assert_eq!(
        serde_json::from_str::<Value>(said.lines().last().unwrap()).unwrap(),
        report,
        "--json prints report.json"
    );
    for part in ["before the first step: test perplexity", "bits per byte", "a sample:", "layer tokens"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let saved = |i: usize| report["runs"][i]["layer_tokens_saved"].as_f64().unwrap();
    assert!(saved(0) > 0.0 && saved(1) == 0.0 && saved(2) > 0.0, "{report}");
    for (name, folder) in [("random-ltd", ""), ("full-length", "full-length"), ("tokenbypass", "tokenbypass")] {
        let folder = run.join(folder);
        for weights in WEIGHTS.map(|name| folder.join(name)).into_iter().chain([folder.join("export")]) {
            assert_eq!(gpt2::open(weights).unwrap().config.n_layer, 3);
        }
        let [own, exported] = [&folder, &folder.join("export")].map(|folder| Tokenizer::open(folder).unwrap());
        assert_eq!((own.identity(), own.vocab_size()), (exported.identity(), 280));
        let best = gpt2::open(folder.join(WEIGHTS[0])).unwrap().checkpoint;
        let exported = gpt2::open(folder.join("export")).unwrap().checkpoint;
        assert!(best.tensors == exported.tensors, "{name}: the export is the best checkpoint");
        let files: Vec<_> = fs::read_dir(run.join("tensorboard").join(name)).unwrap().collect();
        assert!(events(&fs::read(files[0].as_ref().unwrap().path()).unwrap()) > 12);
    }
    succeed(finetune(&run, texts.path(), &next, "--steps 4 --lr 0.001 --drop none --recompute-blocks --accumulate 2"));
    let report = report_holds(&next, &["full-length"]);
    assert!(report["runs"][0]["before"]["perplexity"].as_f64().unwrap() < 250.0, "it begins where the run ended");
    // The same text from the run's folder and from its export, token by token.
    let sample = |weights: &Path, more: &str| {
        let mut command = example("gpt_sample");
        command.arg("--weights").arg(weights).args(["--prompt", "man first", "--tokens", "30"]);
        text(&succeed(command_with(command, more)).stdout)
    };
    let own = sample(&next, "--seed 3");
    assert!(own.starts_with("man first") && own.len() > 40, "{own}");
    assert_eq!(own, sample(&next.join("export"), "--seed 3"));
    assert_ne!(own, sample(&next, "--seed 4"));
    // Weights that are named in the folder that they lie in.
    let inside = |mut command: Command| {
        command.current_dir(&next);
        text(&succeed(command).stdout)
    };
    let weights = Path::new(WEIGHTS[0]);
    let more = "--weights best.safetensors --tokens 30 --seed 3";
    let mut there = command_with(example("gpt_sample"), more);
    there.args(["--prompt", "man first"]);
    assert_eq!(own, inside(there));
    inside(finetune(weights, texts.path(), &outputs.path().join("never"), "--estimate"));
    let greedy = sample(&next, "--temperature 0");
    assert_eq!(greedy, sample(&next, "--temperature 0 --seed 9"), "the likeliest is not drawn");
    assert_eq!(greedy, sample(&next, "--top-k 1"), "of one there is one");
}

fn command_with(mut command: Command, more: &str) -> Command {
    command.args(more.split_whitespace());
    command
}

#[test]
fn a_bert_is_pretrained() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    let more = "--steps 12 --lr 0.01 --whole-words --by-document --compare";
    let said = text(&succeed(pretrain("bert_pretrain", texts.path(), &run, more)).stdout);
    assert!(said.contains("of the tokens predicted") && !said.contains("bits per byte"), "{said}");
    let report = report_holds(&run, &["random-ltd", "full-length"]);
    let test = &report["runs"][0]["test"];
    assert!((0.0..=1.0).contains(&test["accuracy"].as_f64().unwrap()) && test["bits_per_byte"].is_null(), "{test}");
    assert_eq!(bert::open(run.join("export")).unwrap().config.num_hidden_layers, 3);
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(run.join("export").join(name).is_file(), "{name}");
    }
}

/// A budget of layer-averaged tokens takes more steps where tokens are dropped; the kept length rises by raw tokens.
#[test]
fn a_run_ends_at_its_layer_tokens() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    // A step has 8 x 16 raw tokens.
    let more = "--layer-tokens 2048 --ltd-start 8 --ltd-interval 256 --ltd-granularity 4 --lr-schedule layer-token --lr 0.01 --compare";
    succeed(pretrain("gpt_pretrain", texts.path(), &run, more));
    let report = report_holds(&run, &["random-ltd", "full-length"]);
    let steps: Vec<u64> = report["runs"].as_array().unwrap().iter().map(|run| run["steps"].as_u64().unwrap()).collect();
    // R is 8 for two steps and 12 for two more, in one block of three: (16 + 16 + R) / 3 of 16 tokens, rounded down.
    assert_eq!(steps, [17, 16]);
    let rows = rows(&run.join("metrics.csv"));
    let kept: Vec<&str> = rows.iter().take(6).map(|row| row["kept"].as_str()).collect();
    assert_eq!(kept, ["8", "8", "12", "12", "16", "16"]);
    assert_eq!(rows[0]["rate"], "0.0", "the LayerToken rate rises from 0");
    // However its batches are cut: three parts of a batch of eight are not of one size.
    let cut = outputs.path().join("cut");
    succeed(pretrain("gpt_pretrain", texts.path(), &cut, &format!("{more} --accumulate 3")));
    let report = report_holds(&cut, &["random-ltd", "full-length"]);
    assert_eq!(report["runs"][0]["steps"].as_u64(), Some(17));
    // A GPT has no head of its own.
    let run = outputs.path().join("frozen");
    let frozen = pretrain("gpt_pretrain", texts.path(), &run, "--freeze all-but-head");
    refuse(frozen, &["freeze", "something to train"]);
}

/// A file with random-LTD in the middle block of three.
fn deepspeed() -> Value {
    let ltd = object!({
        "enabled": true, "total_layer_num": 3, "random_ltd_layer_num": 1, "random_ltd_layer_id": [1],
        "model_mask_name": "attention_mask", "model_type": "decoder", "hidden_state_order": "batch_seq_dim",
        "random_ltd_schedule": {
            "min_value": 8, "max_value": 16, "schedule_type": "fixed_linear",
            "schedule_config": { "require_steps": 4, "seq_per_step": 4 }
        }
    });
    object!({
        "train_batch_size": 8,
        "optimizer": { "type": "AdamW", "params": { "lr": 0.01 } },
        "data_efficiency": { "enabled": true, "data_routing": { "enabled": true, "random_ltd": ltd } }
    })
}

/// The tiny run with a configuration, which is written to `file`.
fn configured(texts: &Path, output: &Path, more: &str, file: &Path, config: &Value) -> Command {
    fs::write(file, config.to_string()).unwrap();
    let mut command = example("gpt_pretrain");
    command.args("--model 32x3x2 --length 16 --vocab-size 280 --text".split(' ')).arg(texts);
    command.arg("--output").arg(output).arg("--ltd-config").arg(file);
    command_with(command, more)
}

#[test]
fn a_configuration_of_deepspeed() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let [run, config] = ["run", "ds.json"].map(|name| outputs.path().join(name));
    let command = configured(texts.path(), &run, "--steps 6 --compare constant", &config, &deepspeed());
    let said = text(&succeed(command).stdout);
    assert!(said.contains("blocks          [1] keep, by step from 0, 0:8 2:12 4:16"), "{said}");
    // Beside a file its first length is the constant one: half of the tokens in a third of the blocks.
    let saved = || {
        let report = json(&run.join("report.json"));
        [0, 1].map(|i| report["runs"][i]["layer_tokens_saved"].as_f64().unwrap())
    };
    report_holds(&run, &["random-ltd", "constant"]);
    let before = saved();
    assert!((before[1] - 1.0 / 6.0).abs() < 1e-9, "{before:?}");
    // A run goes on with the file that it began with, wherever that is now.
    fs::remove_file(&config).unwrap();
    fs::remove_file(run.join("report.json")).unwrap();
    let mut command = example("gpt_pretrain");
    command.arg("--resume").arg(&run);
    succeed(command);
    assert_eq!(saved(), before);
}

/// A rate by layer tokens is made for the file's own way to drop them, one with an end for its own steps.
#[test]
fn a_files_rate_is_made_for_one_run() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let [never, config] = ["never", "ds.json"].map(|name| outputs.path().join(name));
    let (mut by_tokens, mut by_steps) = (deepspeed(), deepspeed());
    by_tokens["scheduler"] = object!({ "type": "WarmupDecayLR", "params": {
        "warmup_max_lr": 0.01, "warmup_num_steps": 2, "total_num_steps": 6
    } });
    by_steps["scheduler"] = by_tokens["scheduler"].clone();
    by_tokens["data_efficiency"]["data_routing"]["random_ltd"]["layer_token_lr_schedule"] =
        object!({ "enabled": true });
    for (file, more, parts) in [
        (by_tokens, "--steps 6 --compare none", ["--compare", "layer_token_lr_schedule"]),
        (by_steps.clone(), "--steps 6 --compare equal-time", ["--compare", "another number of steps"]),
        (by_steps.clone(), "--layer-tokens 2000 --compare none", ["--compare with --layer-tokens", "scheduler"]),
        (by_steps, "--steps 6 --compare constant --ltd-start 4", ["--ltd-start", "without --ltd-config"]),
    ] {
        refuse(configured(texts.path(), &never, more, &config, &file), &parts);
    }
}

/// A file that says that random-LTD is off is obeyed where nobody says otherwise, and the demonstration compares with
/// nothing then.
#[test]
fn a_configuration_that_turns_random_ltd_off() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("ds.json");
    let routing = object!({ "enabled": true, "random_ltd": { "enabled": false } });
    let file = object!({
        "train_batch_size": 4, "optimizer": { "type": "AdamW", "params": { "lr": 0.001 } },
        "data_efficiency": { "enabled": true, "data_routing": routing }
    });
    fs::write(&config, file.to_string()).unwrap();
    for (more, way) in [("", "none"), ("--drop tokenbypass", "tokenbypass"), ("--drop random-ltd", "random-ltd")] {
        let mut command = example("gpt_finetune");
        command.args(["--steps", "6", "--estimate", "--ltd-config"]).arg(&config);
        let said = text(&succeed(command_with(command, more)).stdout);
        assert!(said.contains(&format!("drop {way},")), "{said}");
    }
}

/// Where the kept length goes by raw tokens, it grows by the paper's increment unless another is given.
#[test]
fn the_increment_of_the_kept_length() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let never = outputs.path().join("never");
    for (more, granularity) in [("", 8), ("--ltd-interval 256", 16), ("--ltd-interval 256 --ltd-granularity 4", 4)] {
        let command = pretrain("gpt_pretrain", texts.path(), &never, &format!("--estimate {more}"));
        let said = text(&succeed(command).stdout);
        assert!(said.contains(&format!("ltd-granularity {granularity},")), "{more}: {said}");
    }
}

/// A rate that a file makes for runs that drop tokens is of one run, and so is one with an end where the budget is of
/// layer tokens: the demonstration sets no other beside it.
#[test]
fn the_demonstration_takes_a_rate_that_is_made_for_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("ds.json");
    let mut file = object!({
        "train_batch_size": 4,
        "optimizer": { "type": "AdamW", "params": { "lr": 0.001 } },
        "scheduler": { "type": "WarmupDecayLR", "params": {
            "warmup_max_lr": 0.001, "warmup_num_steps": 2, "total_num_steps": 6
        } },
        "data_efficiency": { "enabled": true, "data_routing": { "enabled": true, "random_ltd": {
            "enabled": true, "total_layer_num": 4, "random_ltd_layer_num": 2, "random_ltd_layer_id": [1, 2],
            "model_mask_name": "attention_mask", "model_type": "decoder", "hidden_state_order": "batch_seq_dim",
            "random_ltd_schedule": {
                "min_value": 32, "max_value": 128, "schedule_type": "fixed_linear",
                "schedule_config": { "require_steps": 4, "seq_per_step": 16 }
            },
            "layer_token_lr_schedule": { "enabled": true }
        } } }
    });
    let demonstration = |file: &Value, more: &str| {
        fs::write(&config, file.to_string()).unwrap();
        let mut command = example("gpt_finetune");
        command.args(["--estimate", "--ltd-config"]).arg(&config);
        command_with(command, more)
    };
    let said = text(&succeed(demonstration(&file, "--steps 6")).stdout);
    assert!(said.contains("blocks          [1, 2] keep, by step from 0, 0:32"), "{said}");
    refuse(demonstration(&file, "--steps 6 --compare none"), &["--compare", "layer_token_lr_schedule"]);
    let ltd = file["data_efficiency"]["data_routing"]["random_ltd"].as_object_mut().unwrap();
    ltd.remove("layer_token_lr_schedule").unwrap();
    let said = text(&succeed(demonstration(&file, "--layer-tokens 3000")).stdout);
    assert!(said.contains("layer-tokens 3000"), "{said}");
    refuse(demonstration(&file, "--layer-tokens 3000 --compare none"), &["--compare with --layer-tokens"]);
}

/// Blocks that are named drop tokens however few there are.
#[test]
fn a_gpt_of_two_blocks_drops_tokens_in_one() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    let more = "--model 32x2x2 --ltd-blocks 1 --steps 12 --lr 0.01";
    succeed(pretrain_with("gpt_pretrain", texts.path(), &run, more));
    let report = report_holds(&run, &["random-ltd"]);
    assert!(report["runs"][0]["layer_tokens_saved"].as_f64().unwrap() > 0.0, "{report}");
}

/// The seeds of several texts follow each other, behind the largest too.
#[test]
fn samples_have_seeds_in_a_row() {
    let sample = |more: &str| command_with(example("gpt_sample"), &format!("--prompt A --tokens 2 {more}"));
    let said = text(&succeed(sample("--seed 18446744073709551615 --samples 2")).stderr);
    assert!(said.contains("seed 18446744073709551615:") && said.contains("seed 0:"), "{said}");
    let alone = succeed(sample("--seed 18446744073709551615")).stdout;
    assert!(text(&alone).starts_with('A'), "{}", text(&alone));
    refuse(sample("--samples 0"), &["'0' for '--samples", "0 is not in"]);
}

/// What lies where a run is to be exported to, the first or another, is found before any has trained.
#[test]
fn an_export_takes_the_place_of_nothing_else() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    for place in ["export", "full-length/export"] {
        let run = outputs.path().join(place.replace('/', " of "));
        fs::create_dir_all(run.join(place)).unwrap();
        fs::write(run.join(place).join("notes.txt"), "mine").unwrap();
        let more = "--steps 1 --compare none";
        refuse(pretrain("gpt_pretrain", texts.path(), &run, more), &["--output", "export", "is there already"]);
        assert_eq!(contents(&run).len(), 1, "{place}");
    }
}

/// Where a run cannot be exported at its end, what was measured is kept, and what goes on exports it.
#[test]
fn a_run_that_could_not_be_exported_is_reported() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    // In the way of the export alone.
    let old = run.join(".export.old");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("notes.txt"), "mine").unwrap();
    let more = "--steps 12 --lr 0.01 --drop none --json";
    let output = pretrain("gpt_pretrain", texts.path(), &run, more).output().unwrap();
    let said = text(&output.stderr);
    let told = "run full-length could not be exported";
    assert!(output.status.code() == Some(1) && said.contains(told), "{said}");
    let before = report_holds(&run, &["full-length"]);
    assert!(before["runs"][0]["export_error"].as_str().unwrap().contains("notes.txt"), "{before}");
    let printed: Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
    assert_eq!(printed, before, "--json prints report.json all the same");
    let resume = || {
        let mut command = example("gpt_pretrain");
        command.arg("--resume").arg(&run);
        command
    };
    fs::create_dir(run.join("export")).unwrap();
    fs::rename(old.join("notes.txt"), run.join("export/notes.txt")).unwrap();
    refuse(resume(), &["--resume", "holds other files than an export's"]);
    fs::remove_file(run.join("export/notes.txt")).unwrap();
    succeed(resume());
    // All that was measured was so before the export.
    let (mut before, after) = (before, report_holds(&run, &["full-length"]));
    before["runs"][0].as_object_mut().unwrap().remove("export_error").unwrap();
    assert_eq!(after["runs"], before["runs"]);
    gpt2::open(run.join("export")).unwrap();
}

// ---- going on ----

/// Options of the run that is killed.
const LONG: &str = "--steps 24 --lr 0.01 --compare none --save-every 1 --ema 0.9 --dropout 0.1";

/// Killed at random moments and resumed until it ends, a comparison leaves the bytes of one that nobody interrupted.
#[test]
fn killed_at_random_moments_and_resumed() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    for (program, more) in [("gpt_pretrain", "--drop tokenbypass"), ("bert_pretrain", "--drop random-ltd")] {
        let go_on = |run: &Path| {
            if !run.join("args.json").exists() {
                return pretrain(program, texts.path(), run, &format!("{LONG} {more}"));
            }
            let mut command = example(program);
            command.arg("--resume").arg(run);
            command
        };
        killed_and_resumed(&outputs.path().join(program), go_on);
    }
}

fn killed_and_resumed(outputs: &Path, go_on: impl Fn(&Path) -> Command) {
    let whole = outputs.join("whole");
    let started = Instant::now();
    succeed(go_on(&whole));
    let duration = started.elapsed();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut seen = format!("seed {seed}, whole run {duration:?}");
    let mut killed = outputs.join("0");
    let same = |killed: &Path, seen: &str| same_run(&whole, killed, &["test", "before", "sample"], seen);
    for (i, moment) in values(seed, KILLS).into_iter().enumerate() {
        let mut child = go_on(&killed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let delay = duration.mul_f32(0.05 + 0.6 * (0.5 + 0.5 * moment));
        match i {
            0 => until_saved(&mut child, &killed),
            _ => std::thread::sleep(delay),
        }
        child.kill().unwrap();
        let has_ended = child.wait().unwrap().success();
        let state = |arm: &str| Some(killed.join(arm).join(STATE_FILE)).filter(|path| path.exists());
        let steps = ["", "full-length"].map(|arm| state(arm).map(|path| RunState::read(path).unwrap().steps()));
        seen += &format!("; after {delay:?} at {steps:?}");
        if has_ended {
            same(&killed, &seen);
            killed = outputs.join((i + 1).to_string());
        }
    }
    println!("{seen}");
    succeed(go_on(&killed));
    same(&killed, &seen);
}

/// A run goes on as its recipe says, whatever has become since of what nobody chose: the increment of the kept length,
/// and the way to drop tokens beside a file that turns random-LTD off.
#[test]
fn a_run_goes_on_by_its_own_recipe() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let file = outputs.path().join("ds.json");
    let mut off = deepspeed();
    off["data_efficiency"]["data_routing"]["random_ltd"] = object!({ "enabled": false });
    let run = |name: &str| outputs.path().join(name);
    let interval = "--steps 3 --ltd-interval 256";
    succeed(pretrain("gpt_pretrain", texts.path(), &run("settled"), interval));
    assert_eq!(json(&run("settled").join("args.json"))["overrides"]["ltd_granularity"], 16);
    let more = format!("{interval} --ltd-granularity 4");
    let of_interval = pretrain("gpt_pretrain", texts.path(), &run("interval"), &more);
    let of_file = configured(texts.path(), &run("off"), "--steps 3 --drop random-ltd", &file, &off);
    for (name, command) in [("interval", of_interval), ("off", of_file)] {
        let run = run(name);
        succeed(command);
        // As if it had been interrupted, and begun by a release that chose these itself.
        fs::remove_file(run.join("report.json")).unwrap();
        let mut args = json(&run.join("args.json"));
        let overrides = args["overrides"].as_object_mut().unwrap();
        overrides.remove("ltd_granularity").unwrap();
        overrides.remove("drop");
        fs::write(run.join("args.json"), args.to_string()).unwrap();
        let mut command = example("gpt_pretrain");
        command.arg("--resume").arg(&run);
        let said = text(&succeed(command).stdout);
        assert!(said.contains("random-ltd goes on after step 3 of 3"), "{said}");
    }
}

/// A finetuning goes on with the weights that it began with, from where those were found.
#[test]
fn a_finetuning_goes_on_with_its_own_weights() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let [own, other, run] = ["own", "other", "run"].map(|name| outputs.path().join(name));
    succeed(pretrain("gpt_pretrain", texts.path(), &own, "--steps 1 --drop none"));
    succeed(pretrain("gpt_pretrain", texts.path(), &other, "--steps 1 --drop none --seed 1"));
    succeed(finetune(&own, texts.path(), &run, "--steps 2 --compare none"));
    // As if it had been killed between the two.
    let whole = json(&run.join("report.json"));
    let mut cut = whole.clone();
    cut["runs"].as_array_mut().unwrap().truncate(1);
    fs::write(run.join("report.json"), cut.to_string()).unwrap();
    fs::remove_dir_all(run.join("full-length")).unwrap();
    let resume = || {
        let mut command = example("gpt_finetune");
        command.arg("--resume").arg(&run);
        command
    };
    let best = own.join(WEIGHTS[0]);
    let bytes = fs::read(&best).unwrap();
    fs::copy(other.join(WEIGHTS[0]), &best).unwrap();
    refuse(resume(), &["--resume", "are others than the run began with"]);
    fs::write(&best, bytes).unwrap();
    // A name on the Hub, whose files lie where they did.
    let mut args = json(&run.join("args.json"));
    args["weights"] = "hub:owner/model".into();
    fs::write(run.join("args.json"), args.to_string()).unwrap();
    succeed(resume());
    let report = json(&run.join("report.json"));
    for key in ["before", "test"] {
        assert_eq!(report["runs"][1][key], whole["runs"][1][key], "{key}");
    }
}

/// A run that has ended says so, and is left as it is; one goes on over the same text only.
#[test]
fn a_run_goes_on_over_its_own_text() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    succeed(pretrain("gpt_pretrain", texts.path(), &run, "--steps 3 --save-every 1"));
    let resume = |more: &str| {
        let mut command = example("gpt_pretrain");
        command.arg("--resume").arg(&run).args(more.split_whitespace());
        command
    };
    let before = contents(&run);
    assert!(text(&succeed(resume("")).stdout).contains("there is nothing left to do"));
    assert!(contents(&run) == before, "a file has changed");
    refuse(resume("--lr 3"), &["--resume takes all settings from the run; --lr"]);
    refuse(pretrain("gpt_pretrain", texts.path(), &run, "--steps 2"), &["holds a run already", "--resume"]);
    // What it has learnt is not written over where its state was thrown away.
    let state = fs::read(run.join(STATE_FILE)).unwrap();
    fs::remove_file(run.join(STATE_FILE)).unwrap();
    refuse(pretrain("gpt_pretrain", texts.path(), &run, "--steps 2"), &["holds best.safetensors of a run already"]);
    fs::write(run.join(STATE_FILE), state).unwrap();
    fs::remove_file(run.join("report.json")).unwrap();
    fs::write(texts.path().join("3.txt"), "another text of about the same words, such as man and first and fruit")
        .unwrap();
    let before = contents(&run);
    refuse(resume(""), &["cannot go on: put back what was changed"]);
    same_files(&before, &run);
}

// ---- refused ----

#[test]
fn bad_arguments_and_texts() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let never = outputs.path().join("never");
    let bad = |name: &str, content: &[u8]| -> PathBuf {
        let path = outputs.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    refuse(command_with(example("gpt_pretrain"), "--steps 1"), &["--text"]);
    for (more, parts) in [
        ("--model 32x3", &["--model 32x3", "WIDTHxDEPTHxHEADS"][..]),
        ("--model 32x3x5", &["n_head"]),
        ("--batch-size 0", &["--accumulate 1: 1 to the batch size, 0"]),
        ("--batch-size 100000", &["--batch-size 100000", "training sequences of 16 tokens"]),
        ("--held-out 1", &["--held-out 1", "between 0 and 1"]),
        ("--held-out 0.9 --length 4000", &["too short"]),
        ("--length 1", &["--length 1: at least 2"]),
        ("--lora c_attn", &["--lora has no effect", "gpt_finetune"]),
        ("--ltd-start 40", &["at most 16 tokens"]),
        ("--model 32x2x2", &["the first and the last", "--drop none", "--ltd-blocks"]),
        ("--model 32x2x2 --drop tokenbypass", &["the first and the last", "--drop none"]),
        ("--drop tokenbypass --bypass-keep 1.5", &["--bypass-keep 1.5"]),
        ("--vocab-size 10", &["vocab_size"]),
        ("--dropout 2", &["pdrop"]),
        ("--weight-decay nonsense", &["weight-decay"]),
    ] {
        refuse(pretrain_with("gpt_pretrain", texts.path(), &never, more), parts);
    }
    let output = pretrain("bert_pretrain", texts.path(), &never, "--mask-share 0").output().unwrap();
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("share must be") && !said.contains("too short"), "{said}");
    for (name, content, part) in [
        ("latin.txt", &b"caf\xe9"[..], "UTF-8"),
        ("nul.txt", b"a\0b", "NUL"),
        ("empty.txt", b"", "empty.txt"),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{", "broken.jsonl"),
        ("other.jsonl", b"{\"title\": \"a\"}\n", "text"),
        ("lines.json", b"{\"text\": \"a\"}\n", "call it .jsonl"),
    ] {
        refuse(pretrain("gpt_pretrain", &bad(name, content), &never, "--steps 1"), &[part]);
    }
    refuse(pretrain("gpt_pretrain", &outputs.path().join("none"), &never, "--steps 1"), &["none"]);
    refuse(finetune(&outputs.path().join("none"), texts.path(), &never, "--steps 1"), &["none"]);
    refuse(finetune(texts.path(), texts.path(), &never, "--steps 1"), &["tokenizer"]);
    let mut command = example("gpt_sample");
    command.arg("--weights").arg(texts.path());
    refuse(command, &["--weights"]);
    assert!(!never.exists(), "nothing was written for a run that never began");
}

/// Where what is held out is too short, nothing is trained, and no folder is made.
#[test]
fn texts_are_long_enough_before_a_run_begins() {
    let outputs = tempfile::tempdir().unwrap();
    let (never, short) = (outputs.path().join("never"), outputs.path().join("short.txt"));
    // With the token at its end 320 of bytes alone, of which a GPT's test gets 16, one sequence, and its validation 15.
    fs::write(&short, &"abcdefg ".repeat(40)[1..]).unwrap();
    for (program, more) in
        [("gpt_pretrain", "--vocab-size 257 --held-out 0.05"), ("bert_pretrain", "--vocab-size 261 --held-out 0.01")]
    {
        let command = pretrain_with(program, &short, &never, &format!("{more} --steps 1"));
        refuse(command, &["the validation text is too short"]);
    }
    assert!(!never.exists());
}

/// What keeps tokens from being kept beside the texts is told with the way out.
#[test]
fn tokens_that_cannot_be_kept_beside_the_texts() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    fs::write(texts.path().join(".wgrad-tokens"), "a file").unwrap();
    let run = |more: &str| pretrain("gpt_pretrain", texts.path(), &outputs.path().join("never"), more);
    refuse(run("--steps 1"), &["--text-cache", ".wgrad-tokens"]);
    succeed(run(&format!("--estimate --text-cache {}", outputs.path().join("cache").display())));
}

/// The tiny run, in which options may stand that it has already.
fn pretrain_with(program: &str, texts: &Path, output: &Path, more: &str) -> Command {
    let given = |name: &str| more.split_whitespace().any(|word| word == name);
    let words: Vec<&str> = TINY.split_whitespace().collect();
    let own = words.chunks(2).filter(|pair| !given(pair[0])).flatten();
    let mut command = example(program);
    command.args(own).arg("--text").arg(texts).arg("--output").arg(output);
    command_with(command, more)
}

#[test]
fn options_without_effect() {
    let (texts, outputs) = (texts(), tempfile::tempdir().unwrap());
    let never = outputs.path().join("never");
    for (more, part) in [
        ("--epochs 2 --steps 3", "--epochs has no effect here: it counts only without --steps"),
        ("--steps 3 --layer-tokens 1000", "--steps has no effect here: it counts only without --layer-tokens"),
        ("--ltd-interval 512 --ltd-ramp 0.5", "--ltd-ramp has no effect here: it counts only without --ltd-interval"),
        ("--bypass-keep 0.5", "--bypass-keep has no effect here"),
        ("--drop none --ltd-start 8", "--ltd-start has no effect here"),
        ("--momentum 0.8", "--momentum has no effect here: it counts only with --optimizer sgd"),
        ("--compare random-ltd", "--compare has no effect with random-ltd"),
        ("--drop none --compare equal-time", "--compare has no effect with full-length"),
        ("--estimate --json", "--json has no effect here"),
        ("--steps 3 --save-every 5", "--save-every has no effect here"),
        ("--tuning-cache x", "--tuning-cache has no effect here: it counts only with --tune auto"),
        ("--text-field body", "--text-field has no effect here: it counts only with --text of JSON lines"),
    ] {
        refuse(pretrain("gpt_pretrain", texts.path(), &never, more), &[part]);
    }
    let mut command = example("gpt_finetune");
    command.args(["--text-field", "body", "--output"]).arg(&never);
    refuse(command, &["--text-field has no effect here: it counts only with --text"]);
    let lines = outputs.path().join("lines.ndjson");
    fs::write(&lines, object!({ "body": "of man and fruit ".repeat(200) }).to_string()).unwrap();
    succeed(pretrain("gpt_pretrain", &lines, &never, "--text-field body --estimate"));
    assert!(!never.exists());
}
