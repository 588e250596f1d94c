//! Files that nobody should trust: every reader, some thousands of spoilt ones each, and what more of them have found.

pub mod readers;

use std::fs;

use wgrad::checkpoint::{self, Checkpoint};
use wgrad::data::{FolderOptions, Tokenizer, image_folder};

use crate::shared::training::folder::saved_args;
use readers::Reader;

/// Inputs of all readers together.
const INPUTS: u64 = 6_000;

/// The first failure of a reader, as `cargo bench --bench fuzz` would have it again, and how many of its inputs were read.
fn attempt(reader: &Reader, inputs: u64) -> (Option<String>, u64) {
    let mut read = 0;
    for number in 0..inputs {
        let input = reader.input(0, number);
        match reader.check(&input) {
            Ok(was_read) => read += u64::from(was_read),
            Err(fault) => {
                let fault = format!("--reader \"{}\" --first {number} ({}): {fault}", reader.name, input.name);
                return (Some(fault), read);
            }
        }
    }
    (None, read)
}

#[test]
fn hostile_files_are_errors_within_bounds() {
    let mut faults = Vec::new();
    let readers = readers::all();
    for reader in &readers {
        let inputs = reader.share_of(INPUTS, &readers);
        let (fault, read) = attempt(reader, inputs);
        assert!(
            fault.is_some() || read > 0,
            "{}: none of {inputs} are read, so what reads them is not tried",
            reader.name
        );
        faults.extend(fault);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

// ---- what more of them have found ----

/// Names from files that someone else has made do not command the terminal which shows an error.
#[test]
fn messages_hold_no_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let of_folder = image_folder(folder.path().join("c\u{1b}[2Jt"), FolderOptions::default()).unwrap_err();
    let missing = checkpoint::read(folder.path().join("a\u{7f}\u{1b}c.safetensors")).unwrap_err();
    let named = Checkpoint::default().get("weight\u{1b}[31m").unwrap_err();
    for message in [of_folder, missing, named].map(|error| error.to_string()) {
        assert!(message.contains('\u{fffd}') && !message.contains(char::is_control), "{message:?}");
    }
}

/// The arguments of a run, from a folder that someone else has made.
#[test]
fn arguments_that_are_not_understood_hold_no_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("args.json"), r#"{"kind": "\u001b[2J"}"#).unwrap();
    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        One,
    }
    #[derive(Debug, serde::Deserialize)]
    struct Arguments {
        #[serde(rename = "kind")]
        _kind: Kind,
    }
    let message = format!("{:#}", saved_args::<Arguments>(folder.path()).unwrap_err());
    assert!(message.contains("unknown variant") && !message.contains(char::is_control), "{message:?}");
}

/// Of a suffix within tokens, spaces are made but in the last token: what is decoded would change with the next one.
#[test]
fn a_decoder_whose_text_changes_is_refused() {
    let with = |suffix: &str| {
        let file = serde_json::json!({
            "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "ab</w>": 2 }, "merges": [], "end_of_word_suffix": "</w>" },
            "decoder": { "type": "Sequence", "decoders": [{ "type": "BPEDecoder", "suffix": suffix }] },
        });
        Tokenizer::from_files([("tokenizer.json".to_owned(), file.to_string())].into())
    };
    assert!(with("</w>").is_ok());
    for suffix in ["", "a", "/"] {
        let message = with(suffix).unwrap_err().to_string();
        assert!(message.contains("suffix"), "{message}");
    }
}
