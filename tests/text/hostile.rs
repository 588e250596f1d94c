//! Ten thousand files with small edits: each is read or an error, and nothing panics.

use std::fs;

use wgrad::Error;
use wgrad::data::{Documents, SpecialTokens, TextOptions, Texts, TokenCache, Tokenizer, Tokens, TrainOptions};

use super::{VERSES, WORD_PIECES, all, bert, bytes, from_files, gpt2, gpt2_files};

/// What is put in the place of a value.
const VALUES: &[&str] = &[
    "null",
    "-1",
    "0",
    "1e99",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "0.5",
    "true",
    "\"\"",
    "\"a\"",
    "\"##\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "[]",
    "{}",
    "[[\"a\",\"b\"]]",
    "[[[[[[[[",
    "{\"a\":0}",
    "\"[UNK]\"",
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}",
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a*)*$\"},\"behavior\":\"Isolated\",\"invert\":false}",
    "{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":\"Removed\",\"invert\":true}",
    "{\"type\":\"Digits\",\"individual_digits\":true}",
    "{\"type\":\"Punctuation\",\"behavior\":\"MergedWithNext\"}",
    "{\"type\":\"ByteLevel\"}",
    "{\"type\":\"BPEDecoder\",\"suffix\":\"\"}",
    "{\"type\":\"NFKD\"}",
    "{\"type\":\"WordPiece\",\"prefix\":\"\",\"cleanup\":true}",
    "{\"type\":\"StripAccents\"}",
    "[{\"id\":0,\"content\":\"\",\"special\":true,\"single_word\":true,\"lstrip\":true,\"rstrip\":true,\"normalized\":true}]",
];

/// A linear congruential generator.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    /// A file with a few edits: bytes, lines, or whole values.
    fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(7) {
                0 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                1 => bytes.insert(at, self.below(256) as u8),
                2 if self.below(4) == 0 => bytes.truncate(at),
                3 => {
                    let end = (at + self.below(40)).min(bytes.len());
                    let copy = bytes[at.min(end)..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                4 => {
                    let end = (at + self.below(20)).min(bytes.len());
                    bytes.drain(at.min(end)..end);
                }
                _ => {
                    // The value after the next colon.
                    let Some(start) = bytes[at..].iter().position(|b| *b == b':').map(|i| at + i + 1) else { continue };
                    let end = bytes[start..].iter().position(|b| b",}".contains(b)).map_or(bytes.len(), |i| start + i);
                    bytes.splice(start..end, VALUES[self.below(VALUES.len())].bytes());
                }
            }
        }
        bytes
    }
}

/// A tokenizer that was opened does what it should on any text.
fn use_it(tokenizer: &Tokenizer) {
    for text in ["Of Man's first disobedience 東京 12\n\n <|endoftext|>[MASK] é!", "", "\u{0}\u{301}\u{1F600}a"] {
        let Ok(ids) = tokenizer.encode(text) else { continue };
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        let whole = tokenizer.decode(&ids).unwrap();
        let mut stream = tokenizer.stream();
        let parts: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(parts + &stream.finish().unwrap(), whole);
    }
    assert!(tokenizer.vocab_size() <= 1 << 22);
}

fn check(result: wgrad::Result<Tokenizer>) -> bool {
    match result {
        Ok(tokenizer) => use_it(&tokenizer),
        Err(Error::File { .. } | Error::Argument { .. }) => return false,
        Err(other) => panic!("{other}"),
    }
    true
}

#[test]
fn hostile_tokenizers_are_errors() {
    let texts = Texts::from_memory([("v.txt", VERSES)], TextOptions::default()).unwrap();
    let trained = Tokenizer::train(&texts, &TrainOptions { vocab_size: 290, ..TrainOptions::default() }).unwrap();
    let word_piece = {
        let vocab: serde_json::Value = WORD_PIECES
            .iter()
            .enumerate()
            .map(|(id, token)| ((*token).to_owned(), id.into()))
            .collect::<serde_json::Map<_, _>>()
            .into();
        serde_json::json!({
            "added_tokens": [{"id": 5, "content": "[MASK]", "single_word": false, "lstrip": true, "rstrip": false, "normalized": false, "special": true}],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
        }).to_string()
    };
    let config = r#"{"eos_token": "<|endoftext|>", "pad_token": {"content": "[PAD]", "lstrip": false}, "do_lower_case": true,
        "added_tokens_decoder": {"290": {"content": "<x>", "special": true, "lstrip": true, "rstrip": true}}}"#;
    let [vocab, merges] = gpt2_files();
    let beside = [
        ("tokenizer_config.json", config.to_owned()),
        ("special_tokens_map.json", r#"{"mask_token": "a"}"#.to_owned()),
    ];
    let added = ("added_tokens.json", r#"{"<y>": 275}"#.to_owned());
    // Files that go together, each of which is edited in turn.
    let sets: Vec<Vec<(&str, String)>> = vec![
        [vec![("tokenizer.json", trained.files()["tokenizer.json"].clone())], beside.to_vec()].concat(),
        [vec![("tokenizer.json", word_piece)], beside.to_vec()].concat(),
        vec![vocab, merges, added],
        [vec![("vocab.txt", WORD_PIECES.join("\n"))], beside.to_vec()].concat(),
    ];
    let (mut draws, mut read) = (Draws(11), 0);
    for case in 0..6000 {
        let mut files = sets[case % sets.len()].clone();
        let which = draws.below(files.len());
        let bytes = draws.mutated(files[which].1.as_bytes());
        let Ok(text) = String::from_utf8(bytes) else { continue };
        files[which].1 = text;
        read += usize::from(check(from_files(files)));
    }
    assert!((500..5500).contains(&read), "{read}");
}

#[test]
fn hostile_texts_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let json: String =
        VERSES.lines().map(|line| serde_json::json!({ "id": 1, "text": line }).to_string() + "\n").collect();
    let tokenizers = [gpt2(), bert(), bytes(SpecialTokens::Bert)];
    let (mut draws, mut read) = (Draws(12), 0);
    for case in 0..3000 {
        let (name, text) = [("a.txt", VERSES), ("a.jsonl", &json)][case % 2];
        let path = folder.path().join(name);
        fs::write(&path, draws.mutated(text.as_bytes())).unwrap();
        let documents = [Documents::Files, Documents::Lines, Documents::Paragraphs][draws.below(3)];
        let options = TextOptions { documents, max_line: 50 + draws.below(100), ..TextOptions::default() };
        let tokens = Texts::open(&path, options)
            .and_then(|texts| Tokens::new(&texts, &tokenizers[case % 3], &TokenCache::Memory));
        match tokens {
            Ok(tokens) => {
                let ends = tokens.documents().last().map(|places| places.end);
                assert_eq!((ends, all(&tokens).len() as u64), (Some(tokens.len()), tokens.len()));
                read += 1;
            }
            Err(Error::File { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!((500..2900).contains(&read), "{read}");
}

/// The tokens are the texts' own, whatever is in the cache.
#[test]
fn hostile_caches_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let texts = Texts::from_memory([("v.txt", &VERSES[..200])], TextOptions::default()).unwrap();
    let cache = TokenCache::Folder(folder.path().to_owned());
    let tokenizer = gpt2();
    let right = all(&Tokens::new(&texts, &tokenizer, &cache).unwrap());
    let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&path).unwrap();
    let mut draws = Draws(13);
    for _ in 0..1000 {
        fs::write(&path, draws.mutated(&whole)).unwrap();
        assert_eq!(all(&Tokens::new(&texts, &tokenizer, &cache).unwrap()), right);
    }
}
