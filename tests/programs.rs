//! The programs `vit_finetune` and `vit_predict` as their users run them: what they write, killed at any moment, given bad
//! input. `cargo test` builds them, as all examples; with a name or `--test main` it neither builds nor renews any.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::{gpu_with_f16, this_program, values};
use serde_json::{Value, json as object};
use tempfile::TempDir;
use wgrad::checkpoint;
use wgrad::models::vit::{CropMode, OpenOptions, open};
use wgrad::train::{RunState, STATE_FILE};

/// Classes of the pictures, and pictures of each.
const CLASSES: [&str; 2] = ["even", "striped"];
const OF_CLASS: usize = 40;
/// Side of a picture.
const SIDE: u32 = 16;
/// A model that takes a moment.
const TINY: &str = "--data folder --from-scratch --model 32x3x2 --img-size 16";
const BATCH: &str = "--batch-size 10";
pub const WEIGHTS: [&str; 2] = ["best.safetensors", "last.safetensors"];

/// A command that starts an example, found beside this program: `target/PROFILE/examples/NAME` and
/// `target/PROFILE/deps/main-HASH`, wherever `target` is.
pub fn example(name: &str) -> Command {
    let words = this_program();
    let own = PathBuf::from(words.last().unwrap());
    let profile = own.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.is_file(), "{} is missing: `cargo build --release --examples` makes it", path.display());
    // A loader is told the program's name besides.
    let named = |word: String| if Path::new(&word) == own { path.clone() } else { word.into() };
    let mut words: Vec<PathBuf> = words.into_iter().map(named).collect();
    let mut command = Command::new(words.remove(0));
    // Its messages are what a user sees, without the stack below them.
    command.args(words).stdin(Stdio::null()).env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
    // As in a container, where Mesa would complain.
    command.env_remove("XDG_RUNTIME_DIR");
    command
}

/// `vit_finetune` with options parted by spaces.
fn finetune(options: &str) -> Command {
    let mut command = example("vit_finetune");
    command.args(options.split_whitespace());
    command
}

/// The tiny run on the pictures in `photos`, to `output`.
pub fn tiny(photos: &Path, output: &Path, more: &str) -> Command {
    let batch = if more.contains("--batch-size") { "" } else { BATCH };
    let mut command = finetune(&format!("{TINY} {batch}"));
    command.arg("--data-dir").arg(photos).arg("--output").arg(output).args(more.split_whitespace());
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
pub fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{}\n{said}", output.status, text(&output.stdout));
    output
}

/// Ends with status 1 or 2 and one message, which holds `parts`.
#[track_caller]
pub fn refuse(mut command: Command, parts: &[&str]) {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{command:?}: {}\n{said}", output.status);
    let errors = said.lines().filter(|line| line.to_lowercase().starts_with("error: ")).count();
    assert!(errors == 1 && parts.iter().all(|part| said.contains(part)), "{command:?}: expected {parts:?}\n{said}");
}

/// A folder with pictures of two classes, which are split by the program.
pub fn photos() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (class, name) in CLASSES.iter().enumerate() {
        let folder = folder.path().join("train").join(name);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..OF_CLASS {
            let noise = values((class * OF_CLASS + i) as u64, (3 * SIDE * SIDE) as usize);
            let is_light = |at: usize| class == 1 && (at / 6).is_multiple_of(2);
            let pixel = |(at, v): (usize, &f32)| (128.0 + 60.0 * v + if is_light(at) { 60.0 } else { 0.0 }) as u8;
            let pixels: Vec<u8> = noise.iter().enumerate().map(pixel).collect();
            image::save_buffer(folder.join(format!("{i}.png")), &pixels, SIDE, SIDE, image::ColorType::Rgb8).unwrap();
        }
    }
    folder
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The rows of a CSV file, by column.
pub fn rows(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    csv::Reader::from_path(path).unwrap().into_deserialize().map(Result::unwrap).collect()
}

// ---- what a run leaves behind ----

#[test]
fn a_run_writes_what_it_promises() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    for export in ["hf", "timm"] {
        let run = outputs.path().join(export);
        let more = format!("--steps 8 --compare --tensorboard --json --export {export}");
        let output = succeed(tiny(photos.path(), &run, &more));
        let report = json(&run.join("report.json"));
        for line in ["training", "evaluation", "saving", "compilation"] {
            assert!(text(&output.stdout).contains(line), "no line on {line}");
        }
        assert!(!text(&output.stdout).contains("features, besides"), "there is no probe");
        let printed: Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
        assert_eq!(printed, report, "--json prints report.json");
        report_agrees_with_metrics(&run, &report);
        for folder in [run.clone(), run.join("full-length")] {
            for name in WEIGHTS {
                let opened = open(folder.join(name), &OpenOptions::default()).unwrap();
                assert_eq!(opened.class_names.unwrap(), CLASSES);
            }
            assert_eq!(RunState::read(folder.join(STATE_FILE)).unwrap().steps(), 8);
            is_picture(&folder.join("confusion.png"));
        }
        is_picture(&run.join("curves.png"));
        stands_alone(&fs::read_to_string(run.join("report.html")).unwrap(), 3);
        for name in ["patchdrop", "full-length"] {
            let files: Vec<_> = fs::read_dir(run.join("tensorboard").join(name)).unwrap().collect();
            assert_eq!(files.len(), 1);
            // The version, the start, eight steps and an evaluation or two.
            let records = events(&fs::read(files[0].as_ref().unwrap().path()).unwrap());
            assert!((11..=13).contains(&records), "{records} records");
        }
        let exported = open(run.join("export"), &OpenOptions::default()).unwrap();
        let best = checkpoint::read(run.join("best.safetensors")).unwrap();
        assert!(exported.checkpoint.tensors == best.tensors, "--export {export} is not the best checkpoint");
        assert_eq!(exported.class_names.unwrap(), CLASSES);
        predictions_are_sorted(&run, photos.path());
        predictions_are_sorted(&run.join("export"), photos.path());
    }
}

fn report_agrees_with_metrics(run: &Path, report: &Value) {
    let (rows, runs) = (rows(&run.join("metrics.csv")), report["runs"].as_array().unwrap());
    assert_eq!((rows.len(), runs.len()), (16, 2));
    for run in runs {
        let name = run["name"].as_str().unwrap();
        let rows: Vec<_> = rows.iter().filter(|row| row["run"] == name).collect();
        let steps: Vec<u64> = rows.iter().map(|row| row["step"].parse().unwrap()).collect();
        assert_eq!(steps, (1..=run["steps"].as_u64().unwrap()).collect::<Vec<_>>(), "as the console counts");
        assert!(rows.iter().all(|row| row["epoch"].parse::<u64>().unwrap() >= 1));
        let measured = rows.iter().filter_map(|row| row["validation_accuracy"].parse::<f64>().ok());
        let best = measured.fold(f64::NAN, f64::max);
        assert!((best - run["validation_accuracy"].as_f64().unwrap()).abs() < 1e-12, "{name}: {best}, {run}");
        assert!(rows.last().unwrap()["validation_loss"].parse::<f64>().unwrap().is_finite());
        let classes = run["per_class"].as_array().unwrap();
        assert_eq!(classes.iter().map(|class| class["name"].as_str().unwrap()).collect::<Vec<_>>(), CLASSES);
        let samples = |class: &Value| class["samples"].as_f64().unwrap();
        let right: f64 = classes.iter().map(|class| samples(class) * class["accuracy"].as_f64().unwrap_or(0.0)).sum();
        let share = right / classes.iter().map(samples).sum::<f64>();
        assert!((share - run["test_accuracy"].as_f64().unwrap()).abs() < 1e-9, "{name}: {share}, {run}");
        assert_eq!((&run["stopped"], &run["tested_on"]), (&false.into(), &"test".into()));
    }
}

pub fn is_picture(path: &Path) {
    let picture = image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgb8();
    assert!(picture.width() > 100 && picture.height() > 100, "{}", path.display());
    assert!(picture.pixels().any(|pixel| pixel != picture.get_pixel(0, 0)), "{} is empty", path.display());
}

/// The page, of at least so many pictures, refers to nothing outside itself and runs nothing. (The pictures' base64 has none of these characters.)
pub fn stands_alone(page: &str, least: usize) {
    for part in ["http:", "https:", "file:", "href=", "url(", "@import", "<script", "<link", "<iframe"] {
        assert!(!page.contains(part), "report.html holds {part}");
    }
    let pictures = page.matches("src=").count();
    assert!(pictures >= least && pictures == page.matches("src=\"data:image/png;base64,").count());
    assert!(page.ends_with("</html>") && page.contains("Content-Security-Policy"));
}

/// Counts the records of an event file: length, its checksum, bytes, their checksum.
pub fn events(mut file: &[u8]) -> usize {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let mut records = 0;
    while !file.is_empty() {
        let (length, rest) = file.split_at(8);
        let (of_length, rest) = rest.split_at(4);
        let (bytes, rest) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (of_bytes, rest) = rest.split_at(4);
        assert!(of_length == masked(length) && of_bytes == masked(bytes), "the checksums of record {records}");
        (file, records) = (rest, records + 1);
    }
    records
}

fn predictions_are_sorted(weights: &Path, photos: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.csv");
    let mut command = example("vit_predict");
    command.arg("--weights").arg(weights).arg("--csv").arg(&path).arg(photos);
    succeed(command);
    let rows = rows(&path);
    assert_eq!(rows.len(), CLASSES.len() * OF_CLASS);
    for row in rows {
        let [first, second] = ["probability_1", "probability_2"].map(|key| row[key].parse::<f64>().unwrap());
        assert!(second >= 0.0 && first >= second && first <= 1.0, "{row:?}");
        assert!((first + second - 1.0).abs() < 1e-5 && row["label_1"] != row["label_2"], "{row:?}");
        assert!(CLASSES.contains(&row["label_1"].as_str()) && Path::new(&row["path"]).is_file(), "{row:?}");
    }
}

/// The run's folder is what counts: a reader of the messages that goes away, as `| head` does, ends nothing.
#[test]
fn nobody_need_read_the_messages() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    let mut command = tiny(photos.path(), &run, "--steps 4");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success());
    assert_eq!(json(&run.join("report.json"))["runs"][0]["steps"], 4);
}

// ---- going on ----

/// Every file in a folder and below, with its content and the time of its last change.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            found.push((path.clone(), fs::read(path).unwrap(), changed));
        }
    }
    found.sort();
    found
}

/// A run that has ended says so and is left as it is. Its settings name the same files from any folder.
#[test]
fn a_run_that_has_ended_says_so() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    let mut command = tiny(
        Path::new("train/.."),
        &run,
        "--steps 3 --drop random-ltd --compare --json --ltd-start 5e-5 --ltd-keep-prefix 0",
    );
    command.current_dir(photos.path());
    succeed(command);
    let kept = json(&run.join("args.json"));
    assert!(Path::new(kept["data_dir"].as_str().unwrap()).is_absolute(), "{kept}");
    let before = contents(outputs.path());
    let resume = || {
        let mut command = finetune("--resume run");
        command.current_dir(outputs.path());
        text(&succeed(command).stdout)
    };
    let said = resume();
    for part in ["run has ended", "random-ltd after 3 steps, full-length after 3 steps", "nothing left to do", "saving"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let printed: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(printed, json(&run.join("report.json")));
    assert!(contents(outputs.path()) == before, "a file has changed");
    // Without its last report one run has not ended; it goes on from another folder than it began in.
    fs::remove_file(run.join("report.json")).unwrap();
    assert!(resume().contains("random-ltd goes on after step 3 of 3"));
    let accuracies = |report: &Value| {
        report["runs"].as_array().unwrap().iter().map(|run| run["test_accuracy"].clone()).collect::<Vec<_>>()
    };
    let report = json(&run.join("report.json"));
    assert_eq!(accuracies(&report), accuracies(&printed));
    let speeds = report["runs"].as_array().unwrap().iter().map(|run| run["images_per_second"].as_f64().unwrap());
    assert_eq!(speeds.collect::<Vec<_>>(), [0.0, 0.0], "no step was timed");
}

/// A run goes on as it began, whatever has become of the defaults since, and a number is read back as it was written.
#[test]
fn a_run_goes_on_with_its_own_settings() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    let more = "--steps 3 --drop random-ltd --crop-scale 0.43468743057789355 --seed 18446744073709551615 --seeds 2";
    succeed(tiny(photos.path(), &run, more));
    fs::remove_file(run.join("report.json")).unwrap();
    let mut args = json(&run.join("args.json"));
    args["overrides"].as_object_mut().unwrap().remove("drop").unwrap();
    fs::write(run.join("args.json"), args.to_string()).unwrap();
    let mut command = finetune("--resume");
    command.arg(&run);
    let said = text(&succeed(command).stdout);
    assert!(said.contains("random-ltd-seed18446744073709551615 goes on after step 3 of 3"), "{said}");
    assert!(said.contains("random-ltd-seed0"), "{said}");
}

/// A model that was evaluated on whole pictures, squashed, goes on so.
#[test]
fn a_checkpoints_way_to_crop_stays() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let [weights, run] = ["weights", "run"].map(|name| outputs.path().join(name));
    fs::create_dir(&weights).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/vision/timm_deit3");
    fs::copy(source.join("model.safetensors"), weights.join("model.safetensors")).unwrap();
    let mut config = json(&source.join("config.json"));
    let inner = config["pretrained_cfg"].as_object_mut().unwrap();
    inner.insert("crop_mode".to_owned(), "squash".into());
    inner.remove("crop_pct").unwrap();
    fs::write(weights.join("config.json"), config.to_string()).unwrap();
    let mut command = finetune("--steps 1 --batch-size 10 --weights");
    command.arg(&weights).arg("--data-dir").arg(photos.path()).arg("--output").arg(&run);
    succeed(command);
    let best = open(run.join("best.safetensors"), &OpenOptions::default()).unwrap();
    assert_eq!((best.config.crop_mode, best.crop_fraction), (CropMode::Squash, Some(0.875)));
}

/// What a file held before is lost only to what takes its place.
#[test]
fn answers_take_a_files_place_at_the_end() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let csv = outputs.path().join("answers.csv");
    fs::write(&csv, "of before").unwrap();
    let predict = |more: &str| {
        let mut command = example("vit_predict");
        command.arg(photos.path()).arg("--csv").arg(&csv).args(more.split_whitespace());
        command
    };
    refuse(predict("--batch-size 0"), &["--batch-size"]);
    assert_eq!(fs::read_to_string(&csv).unwrap(), "of before");
    succeed(predict("--top 1"));
    assert_eq!(rows(&csv).len(), CLASSES.len() * OF_CLASS);
    assert_eq!(fs::read_dir(outputs.path()).unwrap().count(), 1, "nothing lies beside it");
}

/// The time of a step follows from a run that was timed, or else is measured.
#[test]
fn equal_time_does_not_follow_from_steps_that_were_not_timed() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    succeed(tiny(photos.path(), &run, "--steps 3 --compare none,equal-time"));
    // As if it had been killed before the second run's report, in which nothing but the test is left to do then.
    let mut report = json(&run.join("report.json"));
    report["runs"].as_array_mut().unwrap().truncate(1);
    fs::write(run.join("report.json"), report.to_string()).unwrap();
    fs::remove_dir_all(run.join("equal-time")).unwrap();
    let mut command = finetune("--resume");
    command.arg(&run);
    let said = text(&succeed(command).stdout);
    assert!(said.contains("full-length goes on after step 3 of 3"), "{said}");
    let report = json(&run.join("report.json"));
    let steps: Vec<u64> = report["runs"].as_array().unwrap().iter().map(|run| run["steps"].as_u64().unwrap()).collect();
    assert!(steps.len() == 3 && (2..=300).contains(&steps[2]), "{steps:?}");
}

/// A step that half precision leaves out has no loss and no gradient.
#[test]
fn steps_that_were_left_out_have_empty_cells() {
    let Some(_) = gpu_with_f16() else { return };
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let [run, config] = ["run", "ds.json"].map(|name| outputs.path().join(name));
    let fp16 = r#"{"train_batch_size": 10, "fp16": {"enabled": true, "initial_scale_power": 100}}"#;
    fs::write(&config, fp16).unwrap();
    let mut command = finetune(&format!("{TINY} --steps 3 --data-dir"));
    command.arg(photos.path()).arg("--output").arg(&run).arg("--ltd-config").arg(&config);
    succeed(command);
    let rows = rows(&run.join("metrics.csv"));
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row["loss"].is_empty() && row["grad_norm"].is_empty()), "{rows:?}");
}

/// Ended by Ctrl-C, a run prints the command that goes on, word for word as a shell takes it.
#[cfg(unix)]
#[test]
fn an_interrupted_run_says_how_to_go_on() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("a run of 'mine'");
    let mut command = tiny(photos.path(), &run, "--steps 400 --threads 1");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let first = lines.find(|line| line.contains("epoch 1:")).expect("an epoch's line");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    lines.for_each(|line| said += &format!("{line}\n"));
    assert!(child.wait().unwrap().success(), "{first}\n{said}");
    let steps = RunState::read(run.join(STATE_FILE)).unwrap().steps();
    assert!(steps < 400, "ended before it was interrupted");
    // The next program tells at once where it stands.
    let mut command = finetune("--resume");
    let mut child = command.arg(&run).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let first = lines.find(|line| line.contains("/400 epoch")).expect("a step's line");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.contains(&format!(" {}/400 epoch", steps + 1)), "{steps}: {first}");
    let command = said.lines().find_map(|line| line.strip_prefix("to go on: ")).unwrap_or_else(|| panic!("{said}"));
    assert!(command.contains("--resume") && command.ends_with("--threads 1"), "{command}");
    let output = Command::new("sh").args(["-c", &format!("{command} --estimate")]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", text(&output.stderr));
}

/// The program cuts a batch that does not fit, says so, and trains as if it had been told to.
#[test]
fn a_batch_that_does_not_fit_is_cut() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let [own, told, refused] = ["own", "told", "refused"].map(|name| outputs.path().join(name));
    let options = "--steps 3 --batch-size 40";
    let said = text(&succeed(tiny(photos.path(), &own, &format!("{options} --estimate"))).stdout);
    let peak = said.lines().find(|line| line.contains("peak")).unwrap();
    let peak: f64 = peak.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    let options = format!("{options} --memory {}", (peak * 0.8) as u64);
    let said = text(&succeed(tiny(photos.path(), &own, &options)).stdout);
    let (_, rest) = said.split_once("a step's batch of 40 is cut in ").unwrap_or_else(|| panic!("{said}"));
    let count: u64 = rest.split(',').next().unwrap().parse().unwrap();
    assert!(count > 1 && rest.contains(&format!("as with --accumulate {count}: ")) && rest.contains("MB are needed"));
    assert_eq!(json(&own.join("recipe.json"))["accumulate"], count);
    succeed(tiny(photos.path(), &told, &format!("--steps 3 --batch-size 40 --accumulate {count}")));
    let name = "last.safetensors";
    assert!(fs::read(own.join(name)).unwrap() == fs::read(told.join(name)).unwrap(), "{count} micro-batches");
    // What is said on the command line is not changed.
    let [one, way] = ["--accumulate 1", &format!("accumulate {count} (")];
    refuse(tiny(photos.path(), &refused, &format!("{options} {one}")), &["does not fit", way]);
}

/// A probe's pictures go through the model in the parts of a step, by which it is cut like any run, or told what would fit.
#[test]
fn a_probe_that_does_not_fit_is_cut() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let [run, refused] = ["run", "refused"].map(|name| outputs.path().join(name));
    let probe = |output: &Path, more: &str| {
        let mut command = finetune("--data folder --from-scratch --model 32x3x2 --img-size 64 --probe --steps 3");
        command.arg("--batch-size").arg("40").arg("--data-dir").arg(photos.path());
        command.arg("--output").arg(output).args(more.split_whitespace());
        command
    };
    let said = text(&succeed(probe(&run, "--estimate")).stdout);
    let peak = said.lines().find(|line| line.contains("peak of the steps")).unwrap();
    let peak: f64 = peak.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    let memory = format!("--memory {}", (peak * 0.8) as u64);
    let said = text(&succeed(probe(&run, &memory)).stdout);
    let (_, rest) = said.split_once("a step's batch of 40 is cut in ").unwrap_or_else(|| panic!("{said}"));
    let count: u64 = rest.split(',').next().unwrap().parse().unwrap();
    assert!(count > 1, "{said}");
    assert_eq!(json(&run.join("recipe.json"))["accumulate"], count);
    // What the features took is no part of the training time, and stands beside it.
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(said.contains("features, besides") && page.contains("<th>features</th>"), "{said}");
    let output = probe(&refused, &format!("{memory} --accumulate 1")).output().unwrap();
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("does not fit"), "{said}");
    // Nothing of its steps is computed again.
    assert!(said.contains(&format!("accumulate {count} (")) && !said.contains("recompute_blocks"), "{said}");
}

/// An error tells it too, and whether there is anything to go on from; here that of a rate which no weights survive.
#[test]
fn a_run_that_failed_says_how_to_go_on() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    for (name, saved, told, begins) in [
        ("unsaved", "", "nothing was saved yet; to begin anew: ", true),
        ("saved", "--save-every 1", "to go on from what was saved last: ", false),
    ] {
        let run = outputs.path().join(name);
        let way_on = format!("--resume {}", run.display());
        let command = tiny(photos.path(), &run, &format!("--steps 30 --lr 1e38 --clip-grad 0 {saved}"));
        refuse(command, &["not finite", told, &way_on]);
        let mut command = finetune("--resume");
        let said = text(&command.arg(&run).output().unwrap().stdout);
        assert_eq!(said.contains("nothing was saved: the run begins anew"), begins, "{said}");
    }
}

/// Why a run ended before its last step stands on the console, with its numbers.
#[test]
fn the_end_of_patience_is_told() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    let said = text(&succeed(tiny(photos.path(), &run, "--steps 60 --lr 1e-20 --patience 2")).stdout);
    let report = json(&run.join("report.json"))["runs"][0].clone();
    let (steps, accuracy) = (report["steps"].as_u64().unwrap(), report["validation_accuracy"].as_f64().unwrap());
    assert!(report["out_of_patience"] == true && steps < 60, "{report}");
    let expected = format!(
        "ended after step {steps} of 60: no epoch of the last 2 (--patience) had a better validation accuracy than {:.2} %",
        100.0 * accuracy
    );
    assert!(said.contains(&expected), "{expected}: {said}");
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("out of patience") && !said.contains("to go on"), "{said}");
}

/// What lies where the run is to be exported to is found before it trains, not behind it.
#[test]
fn an_export_takes_the_place_of_nothing_else() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    for (name, more) in [("export", "--steps 1 --export timm"), ("adapter", "--steps 1 --lora qkv")] {
        let run = outputs.path().join(format!("of {name}"));
        fs::create_dir_all(run.join(name)).unwrap();
        fs::write(run.join(name).join("notes.txt"), "mine").unwrap();
        refuse(tiny(photos.path(), &run, more), &["--output", name, "is there already"]);
        assert_eq!(contents(&run).len(), 1, "{more}");
    }
}

/// What could not be exported is told at the end, beside a report of all else; going on is then to export it, which is
/// refused at once where it would fail again.
#[test]
fn an_export_that_fails_costs_no_results() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    // In the way of the export alone.
    let old = run.join(".export.old");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("notes.txt"), "mine").unwrap();
    let command = tiny(photos.path(), &run, "--steps 4 --lora qkv --export timm --compare none");
    refuse(command, &["run patchdrop could not be exported", ".export.old"]);
    let report = || json(&run.join("report.json"))["runs"].as_array().unwrap().clone();
    let before = report();
    assert!(before.len() == 2 && before[0]["export_error"].as_str().unwrap().contains("notes.txt"), "{before:?}");
    let resume = || {
        let mut command = finetune("--resume");
        command.arg(&run);
        command
    };
    fs::create_dir(run.join("export")).unwrap();
    fs::rename(old.join("notes.txt"), run.join("export/notes.txt")).unwrap();
    refuse(resume(), &["--resume", "export", "other files than an export's"]);
    fs::remove_file(run.join("export/notes.txt")).unwrap();
    succeed(resume());
    let after = report();
    assert!(after[0].get("export_error").is_none(), "{after:?}");
    // What was measured was so before the export.
    for key in ["name", "test_accuracy", "wall_seconds", "images_per_second", "resumed_at"] {
        assert_eq!([&before[0][key], &before[1][key]], [&after[0][key], &after[1][key]], "{key}");
    }
    open(run.join("export"), &OpenOptions::default()).unwrap();
    // As if it had been killed between the export and the report: what it exported itself is in nobody's way, nor is a
    // hidden file beside it.
    fs::remove_file(run.join("report.json")).unwrap();
    fs::write(run.join("export/.DS_Store"), "").unwrap();
    succeed(resume());
    assert!(run.join("export/.DS_Store").is_file());
}

/// Nor does a run write among the files of a model.
#[test]
fn a_models_folder_is_no_runs() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    for name in ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "vocab.txt"] {
        let folder = outputs.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(name), "of a model").unwrap();
        refuse(tiny(photos.path(), &folder, "--steps 1"), &["--output", &format!("holds a model's {name}")]);
        assert_eq!(contents(&folder).len(), 1);
    }
}

/// Runs of a comparison that have not begun begin with the weights that the others began with, from where those were
/// found.
#[test]
fn a_comparison_goes_on_with_its_own_weights() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let [own, other, run] = ["own", "other", "run"].map(|name| outputs.path().join(name));
    succeed(tiny(photos.path(), &own, "--steps 1"));
    succeed(tiny(photos.path(), &other, "--steps 1 --seed 1"));
    let mut command = finetune(&format!("--data folder --steps 2 {BATCH} --compare none"));
    command.arg("--weights").arg(&own).arg("--data-dir").arg(photos.path()).arg("--output").arg(&run);
    succeed(command);
    // As if it had been killed between the two.
    let whole = json(&run.join("report.json"));
    let mut cut = whole.clone();
    cut["runs"].as_array_mut().unwrap().truncate(1);
    fs::write(run.join("report.json"), cut.to_string()).unwrap();
    fs::remove_dir_all(run.join("full-length")).unwrap();
    let resume = || {
        let mut command = finetune("--resume");
        command.arg(&run);
        command
    };
    let best = own.join("best.safetensors");
    let bytes = fs::read(&best).unwrap();
    fs::copy(other.join("best.safetensors"), &best).unwrap();
    refuse(resume(), &["--resume", "are others than the run began with"]);
    fs::write(&best, bytes).unwrap();
    // A name on the Hub, whose files lie where they did.
    let mut args = json(&run.join("args.json"));
    args["weights"] = "hub:owner/model".into();
    fs::write(run.join("args.json"), args.to_string()).unwrap();
    succeed(resume());
    let report = json(&run.join("report.json"));
    assert_eq!(report["runs"][1]["test_loss"], whole["runs"][1]["test_loss"]);
}

/// With the run's own settings, where fewer tokens at first would save more.
#[test]
fn a_run_that_saves_little_says_what_would_save_more() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let run = |name: &str, more: &str| {
        let options = format!("--steps 6 --drop random-ltd --ltd-granularity 3 {more}");
        let output = outputs.path().join(name);
        let said = text(&succeed(tiny(photos.path(), &output, &options)).stdout);
        (said, json(&output.join("report.json"))["runs"][0]["layer_tokens_saved"].as_f64().unwrap())
    };
    let (said, _) = run("most", "--ltd-ramp 0.4 --ltd-start 0.9");
    let (_, saved) = run("quarter", "--ltd-ramp 0.4 --ltd-start 0.25");
    let expected = format!("From 5 tokens (--ltd-start 0.25) it would save {:.1} %", 100.0 * saved);
    assert!(said.contains(&expected), "{expected}: {said}");
    let (said, _) = run("few", "--ltd-ramp 0.1 --ltd-start 0.2");
    assert!(said.contains("random-LTD saves") && !said.contains("it would save"), "{said}");
}

// ---- DeepSpeed's files ----

/// A file with random-LTD in the middle block of three, from 8 to `most` tokens.
fn deepspeed(most: usize, batch: usize) -> Value {
    let ltd = object!({
        "enabled": true, "total_layer_num": 3, "random_ltd_layer_num": 1, "random_ltd_layer_id": [1],
        "model_type": "encoder", "random_ltd_schedule": {
            "min_value": 8, "max_value": most, "schedule_type": "fixed_linear",
            "schedule_config": { "require_steps": 2, "seq_per_step": 4 }
        }
    });
    object!({
        "train_batch_size": batch,
        "data_efficiency": { "enabled": true, "data_routing": { "enabled": true, "random_ltd": ltd } }
    })
}

/// The tiny run with a configuration, which is written to `file`.
fn configured(photos: &Path, output: &Path, more: &str, file: &Path, config: &Value) -> Command {
    fs::write(file, config.to_string()).unwrap();
    let mut command = finetune(&format!("{TINY} {more} --data-dir"));
    command.arg(photos).arg("--output").arg(output).arg("--ltd-config").arg(file);
    command
}

/// The file's own blocks, lengths and first tokens count, for an arm of constant length too; and for a run that goes on,
/// whatever has become of the file.
#[test]
fn a_file_settles_which_tokens_are_dropped() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let [run, file] = ["run", "ds.json"].map(|name| outputs.path().join(name));
    let config = deepspeed(17, 10);
    let command = configured(photos.path(), &run, "--steps 4 --compare constant", &file, &config);
    let said = text(&succeed(command).stdout);
    assert!(said.contains("[1] keep, by step from 0, 0:8 1:12 2:16 3:17, ltd-keep-prefix 0"), "{said}");
    assert!(!said.contains("never reaches full length"), "{said}");
    assert_eq!(json(&run.join("recipe.json"))["ltd_keep_prefix"], 0);
    assert_eq!(json(&run.join("args.json"))["overrides"]["ltd_keep_prefix"], 0);
    let kept = |arm: &str| {
        let rows = rows(&run.join("metrics.csv")).into_iter().filter(|row| row["run"] == arm);
        rows.map(|row| row["kept"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((kept("random-ltd").join(" "), kept("constant").join(" ")), ("8 12 16 17".into(), "8 8 8 8".into()));
    let report = json(&run.join("report.json"));
    let saved = [0, 1].map(|i| report["runs"][i]["layer_tokens_saved"].as_f64().unwrap());
    assert!((saved[1] - 9.0 / 51.0).abs() < 1e-9, "{saved:?}: a block of three keeps 8 of 17 tokens");
    let refused = outputs.path().join("refused");
    let command = configured(photos.path(), &refused, "--compare constant --ltd-start 0.5", &file, &config);
    refuse(command, &["--ltd-start has no effect"]);

    fs::write(&file, "{}").unwrap();
    fs::remove_file(run.join("report.json")).unwrap();
    let mut command = finetune("--resume");
    command.arg(&run);
    assert!(text(&succeed(command).stdout).contains("0:8 1:12 2:16 3:17"));
}

/// A file that turns random-LTD off is no reason to drop tokens in another way, unless that is asked for.
#[test]
fn a_file_without_random_ltd_trains_at_full_length() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let [run, file] = ["run", "ds.json"].map(|name| outputs.path().join(name));
    let off = object!({
        "train_batch_size": 10,
        "data_efficiency": { "enabled": true, "data_routing": { "enabled": true, "random_ltd": { "enabled": false } } }
    });
    let silent = object!({ "train_batch_size": 10 });
    for (config, more, drop) in
        [(&off, "", "none"), (&off, "--drop random-ltd", "random-ltd"), (&silent, "", "patchdrop")]
    {
        let command = configured(photos.path(), &run, &format!("--estimate {more}"), &file, config);
        let said = text(&succeed(command).stdout);
        assert!(said.contains(&format!("drop {drop},")), "{drop}: {said}");
    }
}

/// What of a file's plan the run does not come to.
#[test]
fn a_file_that_does_not_fit_the_run_is_told() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let [run, file] = ["run", "ds.json"].map(|name| outputs.path().join(name));
    let mut by_tokens = deepspeed(17, 60);
    by_tokens["optimizer"] = object!({ "type": "AdamW", "params": { "lr": 0.01 } });
    by_tokens["scheduler"] = object!({ "type": "WarmupDecayLR", "params": {
        "warmup_max_lr": 0.01, "warmup_num_steps": 2, "total_num_steps": 6
    } });
    let ltd = &mut by_tokens["data_efficiency"]["data_routing"]["random_ltd"];
    ltd["layer_token_lr_schedule"] = object!({ "enabled": true });
    let never = "never reaches full length: at the last step";
    for (config, steps, parts) in [
        (deepspeed(17, 10), 3, [never, "16 of 17 tokens are kept; its require_steps are too many for a run of 3"]),
        (deepspeed(12, 10), 6, [never, "12 of 17 tokens are kept; its max_value is 12"]),
        (by_tokens, 6, ["batches of 56 pictures instead of 60", "planned for batches of 60: with 56 pictures"]),
    ] {
        let command = configured(photos.path(), &run, &format!("--steps {steps} --estimate"), &file, &config);
        let said = text(&succeed(command).stdout);
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    }
}

// ---- weights of others ----

/// Both programs take a run's folder, show the library's warnings, and say of another file what it is.
#[test]
fn both_programs_take_the_same_weights() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let [run, next, bare, lfs, pickles] =
        ["run", "next", "bare.safetensors", "lfs.safetensors", "pickles"].map(|name| folder.path().join(name));
    succeed(tiny(photos.path(), &run, "--steps 2"));
    let picture = photos.path().join("train/even/0.png");
    let commands = |weights: &Path, more: &str| {
        let mut train = finetune(&format!("--data folder --steps 1 {BATCH} {more}"));
        train.arg("--data-dir").arg(photos.path()).arg("--output").arg(&next).arg("--weights").arg(weights);
        let mut predict = example("vit_predict");
        predict.arg(&picture).args(more.split_whitespace()).arg("--weights").arg(weights);
        [train, predict]
    };
    // Without the words that tell what model it is of.
    let best = checkpoint::read(run.join("best.safetensors")).unwrap();
    checkpoint::write(&bare, &best.tensors, &Default::default()).unwrap();
    for (weights, more) in [(&run, ""), (&bare, "--heads 2"), (&bare, "--heads 2 --trained-on 16x16")] {
        for command in commands(weights, more) {
            let said = text(&succeed(command).stderr);
            assert_eq!(said.contains("nothing tells how pictures are normalised"), weights == &bare, "{said}");
            assert_eq!(said.contains("nothing tells the size of pictures"), more == "--heads 2", "{said}");
        }
        fs::remove_dir_all(&next).unwrap();
    }
    fs::write(&lfs, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n").unwrap();
    fs::create_dir(&pickles).unwrap();
    fs::write(pickles.join("pytorch_model.bin"), "").unwrap();
    for (weights, more, parts) in [
        (&bare, "", ["num_heads", "heads"]),
        (&bare, "--heads 2 --trained-on 8x32", ["8x32 pictures", "square"]),
        (&lfs, "", ["lfs.safetensors", "git lfs pull"]),
        (&pickles, "", ["pytorch_model.bin", "save_file"]),
        (&run.join(STATE_FILE), "", ["is the state of a run", "best.safetensors"]),
    ] {
        commands(weights, more).into_iter().for_each(|command| refuse(command, &parts));
    }
}

// ---- killed ----

pub const KILLS: usize = 6;
/// Options of the run that is killed.
const LONG: &str =
    "--steps 24 --compare --save-every 1 --ema 0.9 --mixup 0.2 --auto-augment trivial --export timm --batch-size 10";

const RESULTS: [&str; 3] = ["test_accuracy", "test_loss", "per_class"];

/// A run with adapters leaves them by themselves, within its checkpoint, and merged into its export; the next begins with what
/// they have made of the weights.
#[test]
fn adapters_are_written_and_merged() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let run = outputs.path().join("run");
    let lora = "--lora query,value,fc1 --lora-rank 2 --lora-alpha 4 --lora-dropout 0.1";
    succeed(tiny(photos.path(), &run, &format!("--steps 8 --export hf {lora}")));
    let of_run = |file: &str| open(run.join(file), &OpenOptions::default()).unwrap();
    let lora = of_run("best.safetensors").config.lora.unwrap();
    assert_eq!((lora.rank, lora.alpha, lora.dropout), (2, 4.0, 0.1));
    assert_eq!(
        (lora.targets, lora.modules_to_save),
        (vec!["query".into(), "value".into(), "fc1".into()], vec!["head".into()])
    );
    assert_eq!(of_run("export").config.lora, None);
    let adapter = json(&run.join("adapter/adapter_config.json"));
    assert_eq!((&adapter["r"], &adapter["peft_type"]), (&2.into(), &"LORA".into()));
    // Twice the model's base: what an adapter adds to what is merged already is not looked at, only that all of it is taken.
    let mut predict = example("vit_predict");
    predict.arg("--weights").arg(run.join("export")).arg("--lora").arg(run.join("adapter")).arg(photos.path());
    assert!(text(&succeed(predict).stdout).contains("striped"));
    let mut next = finetune("--data folder --batch-size 10 --steps 2 --lora qkv,head");
    next.arg("--data-dir")
        .arg(photos.path())
        .arg("--weights")
        .arg(&run)
        .arg("--output")
        .arg(outputs.path().join("next"));
    succeed(next);
    let lora = open(outputs.path().join("next"), &OpenOptions::default()).unwrap().config.lora.unwrap();
    assert_eq!(lora.targets, ["qkv", "head"]);
    assert!(lora.modules_to_save.is_empty());
    for (more, parts) in [
        ("--lora kv", &["such as fc1, fc2, head, proj, qkv"][..]),
        ("--lora qkv,query", &["or parts of it, not both"]),
        ("--lora qkv --lora-rank 0", &["rank"]),
        ("--lora qkv,head", &["--lora: the head", "begins anew"]),
        ("--lora query --export timm", &["blocks.0.attn.qkv.query"]),
        ("--lora-rank 4", &["--lora-rank", "only with --lora"]),
        ("--lora qkv --freeze all-but-head", &["--lora", "has no effect"]),
        ("--lora qkv --recipe linear-probe", &["--lora", "has no effect"]),
    ] {
        let folder = outputs.path().join("refused");
        refuse(tiny(photos.path(), &folder, more), parts);
        assert!(!folder.join("args.json").exists(), "{more}");
    }
}

/// Waits until a program has saved a state for the first time, or has ended.
pub fn until_saved(child: &mut Child, run: &Path) {
    while !run.join(STATE_FILE).exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Killed when it has saved a state, then at random moments, and resumed until it ends, a comparison leaves the bytes of one that nobody
/// interrupted; after every kill what lies in its folder loads.
#[test]
fn killed_at_random_moments_and_resumed() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let whole = outputs.path().join("whole");
    let started = Instant::now();
    succeed(go_on(photos.path(), &whole));
    let duration = started.elapsed();

    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut seen = format!("seed {seed}, whole run {duration:?}");
    let mut killed = outputs.path().join("0");
    for (i, moment) in values(seed, KILLS).into_iter().enumerate() {
        let mut child = go_on(photos.path(), &killed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let delay = duration.mul_f32(0.05 + 0.6 * (0.5 + 0.5 * moment));
        match i {
            0 => until_saved(&mut child, &killed),
            _ => std::thread::sleep(delay),
        }
        child.kill().unwrap();
        let has_ended = child.wait().unwrap().success();
        let steps = ["", "full-length"].map(|arm| everything_loads(&killed.join(arm)));
        seen += &format!("; after {delay:?} at {steps:?}");
        if has_ended {
            same_run(&whole, &killed, &RESULTS, &seen);
            killed = outputs.path().join((i + 1).to_string());
        }
    }
    println!("{seen}");
    succeed(go_on(photos.path(), &killed));
    same_run(&whole, &killed, &RESULTS, &seen);
}

/// The command that begins a run or, once there is one to resume, goes on with it.
fn go_on(photos: &Path, run: &Path) -> Command {
    if !run.join("args.json").exists() {
        return tiny(photos, run, LONG);
    }
    let mut command = finetune("--resume");
    command.arg(run);
    command
}

/// Loads what is there of a run, and returns the step that its state is of.
fn everything_loads(folder: &Path) -> Option<u64> {
    for path in WEIGHTS.map(|name| folder.join(name)).iter().filter(|path| path.exists()) {
        open(path, &OpenOptions::default()).unwrap();
    }
    let state = folder.join(STATE_FILE);
    let has_weights = WEIGHTS.iter().any(|name| folder.join(name).exists());
    assert!(!has_weights || state.exists(), "a state is saved from the first step on");
    for path in ["args.json", "report.json"].map(|name| folder.join(name)).iter().filter(|path| path.exists()) {
        json(path);
    }
    state.exists().then(|| RunState::read(&state).unwrap().steps())
}

/// The same weights, state and metrics to the byte, the same results, and nothing half-written.
pub fn same_run(whole: &Path, killed: &Path, results: &[&str], seen: &str) {
    let of_arm = |arm: &'static str| WEIGHTS.into_iter().chain([STATE_FILE]).map(move |name| Path::new(arm).join(name));
    let others = ["metrics.csv", "export/model.safetensors"].map(PathBuf::from);
    let files = of_arm("").chain(of_arm("full-length")).chain(others);
    for name in files {
        let [whole, killed] = [whole, killed].map(|run| fs::read(run.join(&name)).unwrap());
        assert!(whole == killed, "{} differs in {}: {seen}", name.display(), difference(&whole, &killed));
    }
    let left: Vec<_> = fs::read_dir(killed).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let half_written = left.iter().filter(|name| Path::new(name).extension() == Some(OsStr::new("tmp"))).count();
    assert_eq!(half_written, 0, "{left:?}: {seen}");
    let reports = [whole, killed].map(|run| json(&run.join("report.json")));
    for i in 0..2 {
        let [whole, killed] = reports.each_ref().map(|report| {
            let run = &report["runs"][i];
            ["name", "steps", "best_epoch", "layer_tokens"].iter().chain(results).map(|k| &run[*k]).collect::<Vec<_>>()
        });
        assert!(whole.iter().zip(&killed).all(|(a, b)| are_alike(a, b)), "{whole:?}, {killed:?}: {seen}");
    }
}

/// Of two files, which are safetensors if they are no text: where they differ first, each with what follows there.
fn difference(a: &[u8], b: &[u8]) -> String {
    let header = |bytes: &[u8]| bytes.get(..8).map(|size| u64::from_le_bytes(size.try_into().unwrap()));
    let place = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let near = |bytes: &[u8]| bytes[place.saturating_sub(60)..bytes.len().min(place + 60)].escape_ascii().to_string();
    format!(
        "byte {place} of {} and {} (headers {:?}, {:?}): {} and {}",
        a.len(),
        b.len(),
        header(a),
        header(b),
        near(a),
        near(b)
    )
}

/// The same, but for the last digit of a number: a report that was read and written again may have another.
fn are_alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let [a, b] = [a, b].map(|number| number.as_f64().unwrap());
            (a - b).abs() <= 1e-14 * a.abs()
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| are_alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| are_alike(value, other)))
        }
        _ => a == b,
    }
}

// ---- refused ----

/// The examples are crates of their own, as those of others.
#[test]
fn an_operation_of_another_crate() {
    let output = succeed(example("custom_op"));
    assert!(text(&output.stdout).ends_with("snake: the gradient is that of its function\n"));
}

/// A NaN is the largest difference; what was found is told where it cannot be kept.
#[test]
fn numbers_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let [own, broken] = ["own.safetensors", "broken.safetensors"].map(|name| folder.path().join(name));
    let numbers = |steps: &str| {
        let mut command = example("numbers");
        command.args(["--repeats", "2", "--steps", steps]);
        command
    };
    refuse(numbers("0"), &["'0' for '--steps", "0 is not in"]);
    let mut command = numbers("1");
    command.arg("--save").arg(&own);
    succeed(command);
    let mut results = checkpoint::read(&own).unwrap();
    results.tensors.get_mut("gelu forward").unwrap().data[0] = f32::NAN;
    checkpoint::write(&broken, &results.tensors, &Default::default()).unwrap();
    let mut command = numbers("1");
    command.arg("--against").arg(&broken).arg("--save").arg(own.join("below a file"));
    let output = command.output().unwrap();
    let said = text(&output.stdout);
    assert!(!output.status.success() && said.ends_with("2 repeats of 1 steps: the same bits\n"), "{said}");
    assert!(said.contains("\n| gelu | inf | 0.0e0 |"), "{said}");
}

#[test]
fn bad_arguments_and_data() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let [run, empty, file, config] = ["run", "empty", "file", "ds.json"].map(|name| folder.path().join(name));
    fs::create_dir(&empty).unwrap();
    fs::write(&file, "no folder").unwrap();
    let missing = folder.path().join("missing");
    refuse(tiny(&missing, &run, ""), &["missing: "]);
    refuse(tiny(&empty, &run, ""), &["empty: has no class folders"]);
    refuse(tiny(photos.path(), &file.join("run"), ""), &["creating ", "file"]);
    for (options, parts) in [
        ("--drop random-ltd --ltd-start 18", ["--ltd-start 18", "at most 17 tokens"]),
        ("--drop random-ltd --ltd-ramp nan", ["--ltd-ramp NaN", "a share of the steps"]),
        ("--warmup=-1", ["--warmup -1", "a share of the steps"]),
        ("--recipe nope", ["'nope' for '--recipe", "linear-probe"]),
        ("--save-every 0", ["'0' for '--save-every", "0 is not in"]),
        ("--erasing 7", ["probability must be from 0 to 1", "got 7"]),
        ("--batch-size 0", ["--batch-size 0", "at least 1"]),
        ("--seeds 0", ["'0' for '--seeds", "0 is not in"]),
        ("--epochs 0", ["nothing to do", "--epochs"]),
        ("--accumulate 11", ["--accumulate 11", "1 to the batch size, 10"]),
        ("--adapter nothing-of-this-name", ["no GPU adapter", "nothing-of-this-name"]),
    ] {
        refuse(tiny(photos.path(), &run, options), &parts);
    }
    let text = r#"{"train_batch_size": 8, "data_efficiency": {"enabled": true,
        "data_routing": {"enabled": true, "random_ltd": {"enabled": true}}}}"#;
    fs::write(&config, text).unwrap();
    let mut command = tiny(photos.path(), &run, "--ltd-config");
    command.arg(&config);
    refuse(command, &["ds.json: ", "random_ltd.total_layer_num is missing"]);
    // Not after the training.
    let mut command = finetune(&format!("{BATCH} --export hf --weights"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/vision/timm_dinov3"));
    command.arg("--data-dir").arg(photos.path()).arg("--output").arg(&run);
    refuse(command, &["export_hf", "global_pool", "export it for timm"]);
    assert!(!run.exists(), "nothing was written for a run that never began");
}

/// What is asked for and would change nothing is not passed over.
#[test]
fn options_without_effect() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = folder.path().join("run");
    for (options, flag) in [
        ("--epochs 3 --steps 3", "--epochs"),
        ("--min-steps 3 --steps 3", "--min-steps"),
        ("--momentum 0.5", "--momentum"),
        ("--ltd-end 0.9 --drop constant", "--ltd-end"),
        ("--ltd-start 0.5 --drop none", "--ltd-start"),
        ("--ltd-start 0.5", "--ltd-start"),
        ("--patchdrop-keep 0.4 --drop random-ltd", "--patchdrop-keep"),
        ("--crop-scale 0.5 --crop data", "--crop-scale"),
        ("--tuning-cache here", "--tuning-cache"),
        ("--matrix-units", "--matrix-units"),
        ("--save-every 9 --steps 9", "--save-every"),
        ("--drop none --compare", "--compare"),
        ("--drop none --compare equal-time", "--compare"),
        ("--recipe linear-probe --layer-decay 0.5", "--layer-decay"),
        ("--freeze all-but-head --layer-decay 0.5", "--layer-decay"),
        ("--estimate --json", "--json"),
    ] {
        refuse(tiny(photos.path(), &run, options), &[&format!("{flag} has no effect")]);
    }
    let mut digits = finetune("--data digits --data-dir");
    digits.arg(photos.path());
    refuse(digits, &["--data-dir has no effect"]);
    for (options, flag) in
        [("--strict", "--strict"), ("--split-seed 1", "--split-seed"), ("--eval-crop 0.9", "--eval-crop")]
    {
        refuse(finetune(options), &[&format!("{flag} has no effect")]);
    }
    let config = folder.path().join("ds.json");
    fs::write(&config, r#"{"train_batch_size": 8, "optimizer": {"type": "SGD", "params": {"lr": 0.1}}}"#).unwrap();
    for (options, flag) in [("--batch-size 8", "--batch-size"), ("--momentum 0.5", "--momentum"), ("--lr 0.1", "--lr")]
    {
        let mut command = finetune(&format!("{TINY} {options} --data-dir"));
        command.arg(photos.path()).arg("--ltd-config").arg(&config);
        refuse(command, &[&format!("{flag} has no effect"), "--ltd-config"]);
    }
    assert!(!run.exists(), "nothing was written for a run that never began");
}

// ---- folders of pictures ----

/// A folder without --data is what is meant; its splits stand in a file and follow from the pictures, not from the seed; runs
/// that are written beside the pictures are no class.
#[test]
fn a_folder_is_used_again_from_inside() {
    let photos = photos();
    let inside = photos.path().join("train");
    let run = |options: &str| {
        let mut command = finetune("--from-scratch --model 32x3x2 --img-size 16 --steps 1 --batch-size 4 --data-dir .");
        command.args(options.split_whitespace()).current_dir(&inside);
        text(&succeed(command).stdout).replace('\\', "/")
    };
    let first = run("");
    assert!(first.contains("2 classes, 56 training, 8 validation, 16 test pictures"), "{first}");
    assert!(!first.contains("not used"), "{first}");
    let second = run("--seed 1");
    assert!(
        second.contains("2 classes, 56 training") && second.contains("not used: folder runs/1 (a run's)"),
        "{second}"
    );
    run("--split-seed 1");
    let splits =
        ["1", "2", "3"].map(|run| fs::read_to_string(inside.join("runs").join(run).join("splits.csv")).unwrap());
    assert!(splits[0] == splits[1] && splits[0] != splits[2]);
    let rows = rows(&inside.join("runs/1/splits.csv"));
    let of = |split: &str| rows.iter().filter(|row| row["split"] == split).count();
    assert_eq!((rows.len(), of("train"), of("validation"), of("test")), (80, 56, 8, 16));
    for row in rows {
        assert!(
            inside.join(&row["path"]).is_file()
                && CLASSES.contains(&row["class"].as_str())
                && row["problem"].is_empty()
        );
        assert_eq!(Path::new(&row["path"]).parent().unwrap().file_name(), Some(OsStr::new(&row["class"])));
    }
    for output in [&inside, &inside.join(CLASSES[0])] {
        refuse(tiny(&inside, output, "--steps 1"), &["--output", "holds the pictures"]);
    }

    // The other program goes by the same rule.
    fs::write(inside.join(CLASSES[0]).join("IMG_1.HEIC"), "x").unwrap();
    let mut command = example("vit_predict");
    command.args(["--weights", "runs/1", "--csv", "runs/answers.csv", "."]).current_dir(&inside);
    let said = text(&succeed(command).stderr).replace('\\', "/");
    assert!(said.contains("1 .heic in even (not read: convert them to JPEG or PNG)"), "{said}");
    assert!(said.contains("folder runs/1 (a run's)"), "{said}");
    assert_eq!(self::rows(&inside.join("runs/answers.csv")).len(), CLASSES.len() * OF_CLASS);
}

/// A picture that cannot be read is no reason to end a run in its middle: it is known before, and told.
#[test]
fn unreadable_pictures_are_known_before_the_run() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = folder.path().join("run");
    let spoil = |name: &str, count: usize| {
        let pictures = fs::read_dir(photos.path().join(name)).unwrap().map(|entry| entry.unwrap().path());
        let mut pictures: Vec<PathBuf> = pictures.collect();
        pictures.sort();
        pictures.iter().take(count).for_each(|path| fs::write(path, "no picture").unwrap());
    };
    for (from, to) in [("train/even", "test/even"), ("train/striped", "test/striped"), ("train/even", "val/even")] {
        fs::create_dir_all(photos.path().join(to)).unwrap();
        for i in 0..6 {
            let name = format!("{}.png", i + if to.starts_with("val") { 6 } else { 0 });
            fs::rename(photos.path().join(from).join(&name), photos.path().join(to).join(&name)).unwrap();
        }
    }
    // One of 62 cannot be read: batches of 62 are not to be had.
    spoil("train/striped", 1);
    let output = succeed(tiny(photos.path(), &run, "--steps 1 --batch-size 62"));
    let said = text(&output.stdout);
    assert!(said.contains("batches of 61 pictures instead of 62"), "{said}");
    let problems: Vec<_> = rows(&run.join("splits.csv")).into_iter().filter(|row| !row["problem"].is_empty()).collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0]["path"].contains("striped") && problems[0]["problem"].contains("striped"), "{problems:?}");

    let never = folder.path().join("never");
    let more = "--steps 1";
    spoil("test/striped", 6);
    refuse(tiny(photos.path(), &never, more), &["class striped: none of its 6 test pictures can be read", "test"]);
    spoil("test/even", 6);
    refuse(tiny(photos.path(), &never, more), &["none of the 12 test pictures can be read"]);
    fs::remove_dir_all(photos.path().join("test")).unwrap();
    spoil("val/even", 6);
    refuse(tiny(photos.path(), &never, more), &["none of the 6 validation pictures can be read"]);
    fs::remove_dir_all(photos.path().join("val")).unwrap();
    refuse(tiny(photos.path(), &never, "--steps 1 --strict"), &["--strict: "]);
    spoil("train/even", OF_CLASS);
    refuse(tiny(photos.path(), &never, more), &["class even: none of its ", "training pictures can be read"]);
    assert!(!never.exists(), "nothing was written for a run that never began");
}

/// With `--strict` all pictures are tried before the first step, not those alone that make a batch.
#[test]
fn strict_finds_the_last_picture_too() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = folder.path().join("run");
    fs::write(photos.path().join("train/striped/9.png"), "no picture").unwrap();
    refuse(tiny(photos.path(), &run, "--steps 1 --strict"), &["--strict: ", "9.png"]);
    assert!(!run.exists(), "nothing was written for a run that never began");
}

/// Without test pictures the result is of those that the epoch was chosen by, and says so wherever it stands.
#[test]
fn validation_alone_is_no_test() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = folder.path().join("run");
    for class in CLASSES {
        let [from, to] = ["train", "val"].map(|split| photos.path().join(split).join(class));
        fs::create_dir_all(&to).unwrap();
        (0..6).for_each(|i| fs::rename(from.join(format!("{i}.png")), to.join(format!("{i}.png"))).unwrap());
    }
    let said = text(&succeed(tiny(photos.path(), &run, "--steps 2")).stdout);
    assert!(said.contains("warning: no test pictures: the result will be of the validation pictures"), "{said}");
    assert!(said.contains("validation accuracy") && !said.contains("test accuracy"), "{said}");
    let report = json(&run.join("report.json"))["runs"][0].clone();
    assert_eq!(report["tested_on"], "validation");
    assert_eq!(report["test_accuracy"], report["validation_accuracy"]);
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("<h2>Validation: patchdrop</h2>") && page.contains("<th>tested on</th>"));
}

/// A head is of classes, not of a number of classes: another run's is used by name, and a run goes on only over the same classes
/// and pictures.
#[test]
fn classes_go_by_their_names() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = folder.path().join("run");
    succeed(tiny(photos.path(), &run, "--steps 3 --save-every 1"));
    let rename = |from: &str, to: &str| {
        fs::rename(photos.path().join("train").join(from), photos.path().join("train").join(to)).unwrap();
    };
    let resume = |parts: &[&str]| {
        let mut command = finetune("--resume");
        command.arg(&run);
        refuse(command, parts);
    };
    fs::remove_file(run.join("report.json")).unwrap();
    rename("even", "flat");
    resume(&["0.png was in ", " when the run began, and is not now: put it back, or begin a new run"]);
    let mut command = finetune("--steps 1 --batch-size 4 --weights");
    command
        .arg(run.join("best.safetensors"))
        .arg("--data-dir")
        .arg(photos.path())
        .arg("--output")
        .arg(folder.path().join("other"));
    let said = text(&succeed(command).stdout);
    assert!(said.contains("the checkpoint's head is of other classes (\"flat\" is none of them)"), "{said}");
    // Nor does it begin where the run's own head began, by the same seed.
    let head = |run: &Path| {
        let file = checkpoint::read(run.join("last.safetensors")).unwrap();
        file.tensors["head.weight"].data.clone()
    };
    let (own, other) = (head(&run), head(&folder.path().join("other")));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(&own, &other) / (dot(&own, &own) * dot(&other, &other)).sqrt();
    assert!(cosine.abs() < 0.7, "{cosine}");
    rename("striped", "even");
    rename("flat", "striped");
    let before = contents(&run);
    resume(&[
        "pictures of class \"even\" here are of class \"striped\" there",
        "cannot go on: put back what was changed",
    ]);
    same_files(&before, &run);
    rename("even", "exchanged");
    rename("striped", "even");
    rename("exchanged", "striped");
    let before = contents(&run);
    let removed = photos.path().join("train/even/0.png");
    let bytes = fs::read(&removed).unwrap();
    fs::remove_file(&removed).unwrap();
    resume(&["0.png was in ", " when the run began, and is not now"]);
    fs::write(&removed, bytes).unwrap();
    let added = photos.path().join("train/even/added.png");
    fs::copy(&removed, &added).unwrap();
    resume(&["added.png is in ", " now, and was not when the run began: take it out, or begin a new run"]);
    fs::remove_file(&added).unwrap();
    same_files(&before, &run);
    let mut command = finetune("--resume");
    command.arg(&run);
    succeed(command);

    // Those of CIFAR-100, which the embedded checkpoint knows.
    rename("even", "apple");
    rename("striped", "wolf");
    let mut command = finetune("--steps 1 --batch-size 4 --data-dir");
    command.arg(photos.path()).arg("--output").arg(folder.path().join("by name"));
    let said = text(&succeed(command).stdout);
    let expected = "from the embedded checkpoint; the head's rows are taken by name from the checkpoint's 100 classes";
    assert!(said.contains(expected) && !said.contains("warning: the head"), "{said}");
}

/// Nothing but the lock has been touched.
pub fn same_files(before: &[(PathBuf, Vec<u8>, SystemTime)], folder: &Path) {
    let is_lock = |path: &Path| path.file_name() == Some(OsStr::new(".lock"));
    let after = contents(folder);
    let changed: Vec<_> = after.iter().filter(|file| !is_lock(&file.0) && !before.contains(file)).collect();
    assert!(
        changed.is_empty() && after.len() == before.len(),
        "{:?}",
        changed.iter().map(|f| &f.0).collect::<Vec<_>>()
    );
}

/// However the data's folder was told of, splits.csv is the same; and a run goes on over the same test pictures only.
#[test]
fn splits_are_those_of_the_beginning() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = folder.path().join("run");
    for class in CLASSES {
        let [from, to] = ["train", "test"].map(|split| photos.path().join(split).join(class));
        fs::create_dir_all(&to).unwrap();
        (0..6).for_each(|i| fs::rename(from.join(format!("{i}.png")), to.join(format!("{i}.png"))).unwrap());
    }
    fs::write(photos.path().join("test/even/3.png"), "no picture").unwrap();
    let mut command = tiny(Path::new("."), &run, "--steps 2");
    command.current_dir(photos.path());
    succeed(command);
    let splits = fs::read_to_string(run.join("splits.csv")).unwrap();
    let broken: Vec<_> = rows(&run.join("splits.csv")).into_iter().filter(|row| !row["problem"].is_empty()).collect();
    assert_eq!(broken.len(), 1, "{splits}");
    assert_eq!(broken[0]["path"].replace('\\', "/"), "test/even/3.png");
    let resume = || {
        fs::remove_file(run.join("report.json")).unwrap();
        let mut command = finetune("--resume");
        command.arg(&run);
        command
    };
    succeed(resume());
    assert_eq!(fs::read_to_string(run.join("splits.csv")).unwrap(), splits);
    fs::rename(photos.path().join("test/even/0.png"), photos.path().join("test/even/renamed.png")).unwrap();
    let (command, before) = (resume(), contents(&run));
    refuse(command, &["0.png was in test when the run began, and is not now: put it back, or begin a new run"]);
    same_files(&before, &run);
}

#[test]
fn bad_runs_and_checkpoints() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = folder.path().join("run");
    let resume = |more: &str| {
        let mut command = finetune(&format!("{more} --resume"));
        command.arg(&run);
        command
    };
    refuse(resume(""), &["--resume", "run: holds no args.json, so it is no run's folder", "written to"]);
    succeed(tiny(photos.path(), &run, "--steps 2"));
    refuse(resume("--lr 3"), &["--resume takes all settings from the run; --lr"]);
    refuse(tiny(photos.path(), &run, "--steps 2"), &["holds a run already", "--resume"]);

    // As if it had been stopped before its end.
    fs::remove_file(run.join("report.json")).unwrap();
    let before = contents(&run);
    assert!(text(&succeed(resume("--list-adapters")).stdout).starts_with("0: "));
    assert!(contents(&run) == before, "listing adapters has written something");
    let kept = fs::read(run.join("args.json")).unwrap();
    fs::write(run.join("args.json"), "{}").unwrap();
    refuse(resume(""), &["--resume", "was begun by another release of this program", "missing field"]);
    fs::write(run.join("args.json"), kept).unwrap();
    let lock = File::options().write(true).open(run.join(".lock")).unwrap();
    lock.lock().unwrap();
    refuse(resume(""), &["another program is writing into"]);
    drop(lock);

    let (sound, state) = (run.join("best.safetensors"), run.join(STATE_FILE));
    let bad = folder.path().join("bad.safetensors");
    let weights = |name: &str, more: &str| {
        let mut command = example(name);
        command.arg("--weights").arg(&bad).args(more.split_whitespace());
        command
    };
    let both = |parts: &[&str]| {
        let mut command = weights("vit_finetune", "--steps 2 --output");
        command.arg(folder.path().join("never"));
        refuse(command, parts);
        refuse(weights("vit_predict", "no-such-picture.png"), parts);
    };
    both(&["bad.safetensors"]);
    let bytes = fs::read(&sound).unwrap();
    fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();
    both(&["bad.safetensors at byte", "the file holds only"]);
    let mut checkpoint = checkpoint::read(&sound).unwrap();
    checkpoint.tensors.get_mut("blocks.1.mlp.fc1.bias").unwrap().shape.insert(0, 1);
    checkpoint::write(&bad, &checkpoint.tensors, &checkpoint.metadata).unwrap();
    both(&["blocks.1.mlp.fc1.bias", "[1, 128]"]);
    let mut checkpoint = checkpoint::read(&sound).unwrap();
    let scale = checkpoint.tensors["norm.weight"].clone();
    checkpoint.tensors.insert("blocks.0.gamma_1".to_owned(), scale);
    checkpoint::write(&bad, &checkpoint.tensors, &Default::default()).unwrap();
    both(&["--weights ", "bad.safetensors", "layer scale"]);

    let bytes = fs::read(&state).unwrap();
    fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    refuse(resume(""), &["state.safetensors at byte"]);
    fs::copy(&sound, &state).unwrap();
    refuse(resume(""), &["state.safetensors: is not the state of a run"]);
}
