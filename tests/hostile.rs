//! Descriptions that nobody should trust: how tests spoil them, and those of language models.

use std::fs;
use std::path::Path;

use crate::allocation::peak;
use crate::common::gpu;
use proptest::prelude::*;
use wgrad::models::FolderOptions;
use wgrad::models::bert::{self, Bert, BertConfig};
use wgrad::models::gpt2::{self, Gpt2, Gpt2Config};
use wgrad::{Error, Result};

/// What a value may be replaced by.
const HOSTILE: [&str; 16] = [
    "0",
    "-1",
    "1e999",
    "18446744073709551615",
    "99999999999999999999",
    "0.5",
    "null",
    "[]",
    "{}",
    "[4, 4]",
    "\"\"",
    "\"../model.safetensors\"",
    "\"/etc/passwd\"",
    "{\"0\": \"\\u0000\"}",
    "true",
    "[[[[[[[[[[",
];

/// A file with small edits: bytes, or whole values.
pub fn mutated(text: &str, edits: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (index, byte, kind) in edits {
        let at = index.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
        match kind {
            0 if !bytes.is_empty() => bytes[at] = *byte,
            1 => bytes.insert(at, *byte),
            2 if !bytes.is_empty() => bytes.truncate(at),
            _ => {
                // The value after the next colon.
                let Some(start) = bytes[at..].iter().position(|b| *b == b':').map(|i| at + i + 1) else { continue };
                let end = bytes[start..].iter().position(|b| b",}".contains(b)).map_or(bytes.len(), |i| start + i);
                bytes.splice(start..end, HOSTILE[usize::from(*byte) % HOSTILE.len()].bytes());
            }
        }
    }
    bytes
}

/// Opens a folder and checks what came of it.
type Open = fn(&Path) -> Result<()>;

#[test]
fn hostile_settings_are_errors_within_bounds() {
    let gpu = gpu();
    let place = tempfile::tempdir().unwrap();
    let [gpt2, bert] = ["gpt2", "bert"].map(|name| place.path().join(name));
    let config = Gpt2Config { vocab_size: 5, n_positions: 4, ..Gpt2Config::custom(4, 1, 2) };
    gpt2::save(&gpt2, &Gpt2::new(&gpu, config, 0).unwrap(), &FolderOptions::default()).unwrap();
    let config = BertConfig { vocab_size: 5, max_position_embeddings: 4, ..BertConfig::custom(4, 1, 2) };
    let config = BertConfig { pooler: true, num_labels: 3, ..config };
    bert::save(&bert, &Bert::new(&gpu, config, 0).unwrap(), &FolderOptions::default()).unwrap();
    let models: [(_, Open); 2] = [
        (gpt2.join("config.json"), |path| gpt2::open(path).and_then(|opened| opened.config.check())),
        (bert.join("config.json"), |path| bert::open(path).and_then(|opened| opened.config.check())),
    ];
    let texts = models.each_ref().map(|(path, _)| fs::read_to_string(path).unwrap());

    let edit = (any::<prop::sample::Index>(), any::<u8>(), 0u8..6);
    let case = (0usize..2, prop::collection::vec(edit, 1..4));
    let mut runner = prop::test_runner::TestRunner::new(ProptestConfig::with_cases(10_000));
    let checked = runner.run(&case, |(which, edits)| {
        let ((path, open), text) = (&models[which], &texts[which]);
        let bytes = mutated(text, &edits);
        fs::write(path, &bytes).unwrap();
        let (result, held) = peak(|| open(path.parent().unwrap()));
        // The weights are 5 KB, most of that their header.
        assert!(held <= 256 * 1024 + 32 * bytes.len(), "{held} bytes for a file of {}", bytes.len());
        match result {
            Ok(()) | Err(Error::File { .. } | Error::Io { .. } | Error::Parameter { .. } | Error::Argument { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        Ok(())
    });
    checked.unwrap();
}
