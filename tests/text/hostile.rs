//! Caches with small edits are made again.

use std::fs;

use wgrad::data::{TextOptions, Texts, TokenCache, Tokens};

use super::{VERSES, all, gpt2};
use crate::hostile::readers::mutate::{Draws, mutated};

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
    for number in 0..1000 {
        fs::write(&path, mutated(&mut Draws::new("cache", 0, number), "v.tokens", &whole, &whole)).unwrap();
        assert_eq!(all(&Tokens::new(&texts, &tokenizer, &cache).unwrap()), right);
    }
}
