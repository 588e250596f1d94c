//! Tokenizers, texts, and the cache of their tokens.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use wgrad::Error;
use wgrad::data::{Documents, SpecialTokens, TextOptions, Texts, TokenCache, Tokenizer, Tokens, TrainOptions};

use super::{Reader, Set};

/// A few lines with capitals, punctuation and accents.
const VERSES: &str = "Of Man's first disobedience, and the fruit\nOf that forbidden tree whose mortal taste\n\
    Brought death into the World, and all our woe,\nWith loss of Eden, till one greater Man\n\
    Restore us, and regain the blissful seat,\n\nIn the beginning how the heavens and earth\n\
    Rose out of Chaos: café, naïve, 東京, 😀!\n";

/// The tokens of a small WordPiece vocabulary.
const WORD_PIECES: &[&str] = &[
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[unused0]",
    ",",
    ".",
    "!",
    "the",
    "of",
    "man",
    "##s",
    "first",
    "dis",
    "##obed",
    "##ience",
    "and",
    "a",
    "##b",
    "e",
    "##l",
    "cafe",
    "東",
    "京",
    "'",
];

/// A tokenizer that was opened does what it should on any text.
fn use_it(tokenizer: &Tokenizer) {
    for text in ["Of Man's first disobedience 東京 12\n\n <|endoftext|>[MASK] é!", "", "\u{0}\u{301}\u{1F600}a"] {
        let Ok(ids) = tokenizer.encode(text) else { continue };
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "an id beyond the vocabulary");
        let whole = tokenizer.decode(&ids).unwrap();
        let mut stream = tokenizer.stream();
        let parts: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(parts + &stream.finish().unwrap(), whole, "streamed otherwise than decoded");
    }
    assert!(tokenizer.vocab_size() <= 1 << 22, "a vocabulary of {}", tokenizer.vocab_size());
}

/// A byte-level tokenizer in each of its forms: tokenizer.json, and vocab.json with merges.txt.
fn byte_pairs() -> [Vec<(&'static str, Vec<u8>)>; 2] {
    let texts = Texts::from_memory([("verses.txt", VERSES)], TextOptions::default()).unwrap();
    let options = TrainOptions { vocab_size: 290, ..TrainOptions::default() };
    let text = Tokenizer::train(&texts, &options).unwrap().files()["tokenizer.json"].clone();
    let file: Value = serde_json::from_str(&text).unwrap();
    let merge = |merge: &Value| match merge {
        Value::Array(two) => format!("{} {}", two[0].as_str().unwrap(), two[1].as_str().unwrap()),
        joined => joined.as_str().unwrap().to_owned(),
    };
    let merges: Vec<String> = file["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    let merges = format!("#version: 0.2\n{}\n", merges.join("\n"));
    let config = json!({
        "eos_token": "<|endoftext|>",
        "pad_token": { "content": "[PAD]", "lstrip": false },
        "do_lower_case": true,
        "added_tokens_decoder": { "290": { "content": "<x>", "special": true, "lstrip": true, "rstrip": true } },
    });
    let vocab = file["model"]["vocab"].to_string().into_bytes();
    let of_one = [("tokenizer.json", text), ("tokenizer_config.json", config.to_string())];
    let of_two = [("vocab.json", vocab), ("merges.txt", merges.into_bytes())];
    let added = ("added_tokens.json", br#"{"<y>": 301}"#.to_vec());
    [of_one.map(|(name, text)| (name, text.into_bytes())).into(), of_two.into_iter().chain([added]).collect()]
}

/// A WordPiece tokenizer in each of its forms.
fn word_pieces() -> [Vec<(&'static str, Vec<u8>)>; 2] {
    let vocab: Map<String, Value> =
        WORD_PIECES.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
    let file = json!({
        "added_tokens": [{ "id": 4, "content": "[MASK]", "single_word": false, "lstrip": true, "rstrip": false,
            "normalized": false, "special": true }],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab },
    });
    let map = ("special_tokens_map.json", br#"{"mask_token": "[MASK]", "sep_token": "[SEP]"}"#.to_vec());
    [
        vec![("tokenizer.json", file.to_string().into_bytes()), map.clone()],
        vec![("vocab.txt", WORD_PIECES.join("\n").into_bytes()), map],
    ]
}

fn tokenizers() -> Reader {
    let sets = byte_pairs().into_iter().chain(word_pieces()).map(|files| Set::new(files, &[])).collect();
    let read = |folder: &Path, _| Tokenizer::open(folder).map(|tokenizer| use_it(&tokenizer));
    Reader { name: "tokenizers", share: 110, sets, read: Box::new(read), memory: [4 << 20, 512] }
}

fn texts() -> Reader {
    let line = |line: &str| json!({ "id": 1, "text": line }).to_string() + "\n";
    let lines: String = VERSES.lines().map(line).collect();
    let sets = [("a.txt", VERSES.to_owned()), ("a.jsonl", lines)];
    let sets = sets.map(|(name, text)| Set::new([(name, text.into_bytes())], &[])).into();
    let tokenizer = Tokenizer::byte_level(SpecialTokens::Gpt2).unwrap();
    let read = move |folder: &Path, _| {
        for documents in [Documents::Files, Documents::Lines, Documents::Paragraphs] {
            let options = TextOptions { documents, max_line: 100, ..TextOptions::default() };
            let tokens = Tokens::new(&Texts::open(folder, options)?, &tokenizer, &TokenCache::Memory)?;
            let end = tokens.documents().last().map(|places| places.end);
            assert_eq!(end, Some(tokens.len()), "tokens behind the last document");
            assert_eq!(tokens.read(0..tokens.len())?.len() as u64, tokens.len());
        }
        Ok(())
    };
    Reader { name: "texts", share: 70, sets, read: Box::new(read), memory: [4 << 20, 512] }
}

/// The hash of the blocks that end a cache (`src/hash.rs`), which a forger would put there.
fn hash(bytes: &[u8]) -> u64 {
    let finalise = |word: u64| {
        let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    };
    let absorb = |hash: u64, word: u64| finalise(hash.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word);
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    bytes.chunks(8).map(word).fold(absorb(0, bytes.len() as u64), absorb)
}

/// Half of the hostile caches have the right checksum.
fn caches() -> Reader {
    let tokenizer = Tokenizer::byte_level(SpecialTokens::Gpt2).unwrap();
    let texts = Texts::from_memory([("verses.txt", VERSES)], TextOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = |folder: &Path| TokenCache::Folder(folder.to_owned());
    Tokens::new(&texts, &tokenizer, &cache(folder.path())).unwrap();
    let made = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
    let (name, bytes) = (made.file_name().into_string().unwrap(), fs::read(made.path()).unwrap());
    let sets = vec![Set::new([(name.clone(), bytes)], &[])];
    let times = RefCell::new(0u64);
    let read = move |folder: &Path, _| {
        *times.borrow_mut() += 1;
        let path = folder.join(&name);
        let mut bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
        if times.borrow().is_multiple_of(2) && bytes.len() > 8 {
            let end = bytes.len() - 8;
            let sum = hash(&bytes[..end]);
            bytes[end..].copy_from_slice(&sum.to_le_bytes());
            fs::write(&path, bytes).map_err(|e| Error::io(&path, e))?;
        }
        let tokens = Tokens::new(&texts, &tokenizer, &cache(folder))?;
        let ids = tokens.read(0..tokens.len())?;
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "an id beyond the vocabulary");
        assert!(tokens.documents().count() > 0);
        Ok(())
    };
    Reader { name: "cache of tokens", share: 60, sets, read: Box::new(read), memory: [4 << 20, 512] }
}

pub fn readers() -> Vec<Reader> {
    vec![tokenizers(), texts(), caches()]
}
