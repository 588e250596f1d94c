//! Text: tokenizers, texts of any size, the cache of their tokens, batches for GPT and BERT.

mod batches;
mod hostile;
mod texts;
mod tokenizers;
mod tokens;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use wgrad::data::{SpecialTokens, TextOptions, Texts, TokenCache, Tokenizer, Tokens};

/// The merges of a small byte-level BPE. "Ġ" stands for a space, "Ċ" for a line's end, "Ã©" for "é".
const MERGES: &[&str] = &[
    "Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ a", "o n", "Ġ s", "Ġa n", "Ġan d", "in g", "r e", "Ġ o", "Ġo f", "Ċ Ċ",
    "Ġs in", "Ã ©", "# #",
];

/// The tokens of a small WordPiece vocabulary.
const WORD_PIECES: &[&str] = &[
    "[PAD]",
    "[unused0]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
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
    "fruit",
    "a",
    "##b",
    "e",
    "##l",
    "im",
    "##able",
    "##a",
    "cafe",
    "東",
    "京",
    "i",
    "'",
    "m",
];

/// A few lines with capitals, punctuation and accents.
const VERSES: &str = "Of Man's first disobedience, and the fruit\nOf that forbidden tree whose mortal taste\n\
    Brought death into the World, and all our woe,\nWith loss of Eden, till one greater Man\n\
    Restore us, and regain the blissful seat,\nSing, Heavenly Muse, that, on the secret top\n\
    Of Oreb, or of Sinai, didst inspire\nThat shepherd who first taught the chosen seed\n\n\
    In the beginning how the heavens and earth\nRose out of Chaos: café, naïve, 東京, 😀!\n";

/// GPT-2's `bytes_to_unicode`, in its order.
fn byte_chars() -> Vec<char> {
    let visible: Vec<u32> = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0xff).collect();
    let hidden = (0..256 - visible.len() as u32).map(|n| 0x100 + n);
    visible.iter().copied().chain(hidden).map(|c| char::from_u32(c).unwrap()).collect()
}

/// vocab.json and merges.txt.
fn gpt2_files() -> [(&'static str, String); 2] {
    let mut tokens: Vec<String> = byte_chars().iter().map(char::to_string).collect();
    tokens.extend(MERGES.iter().map(|merge| merge.replace(' ', "")));
    tokens.push("<|endoftext|>".to_owned());
    let vocab: BTreeMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let merges = format!("#version: 0.2\n{}\n", MERGES.join("\n"));
    [("vocab.json", serde_json::to_string(&vocab).unwrap()), ("merges.txt", merges)]
}

fn from_files<N: Into<String>>(files: impl IntoIterator<Item = (N, String)>) -> wgrad::Result<Tokenizer> {
    Tokenizer::from_files(files.into_iter().map(|(name, text)| (name.into(), text)).collect())
}

fn gpt2() -> Tokenizer {
    from_files(gpt2_files()).unwrap()
}

fn bert() -> Tokenizer {
    from_files([("vocab.txt", WORD_PIECES.join("\n"))]).unwrap()
}

fn bytes(specials: SpecialTokens) -> Tokenizer {
    Tokenizer::byte_level(specials).unwrap()
}

/// Documents in memory, each a line.
fn lines(documents: &[&str]) -> Texts {
    let options = TextOptions { documents: wgrad::data::Documents::Lines, ..TextOptions::default() };
    Texts::from_memory([("lines.txt", documents.join("\n").as_str())], options).unwrap()
}

fn tokens_of(texts: &Texts, tokenizer: &Tokenizer) -> Tokens {
    Tokens::new(texts, tokenizer, &TokenCache::Memory).unwrap()
}

fn all(tokens: &Tokens) -> Vec<u32> {
    tokens.read(0..tokens.len()).unwrap()
}

/// Writes files into a folder, and folders for them.
fn write_all(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
