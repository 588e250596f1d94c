//! The cache of token ids: used again, made again, never wrong. What is held out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use wgrad::data::{HeldOut, SpecialTokens, TextOptions, Texts, TokenCache, Tokenizer, Tokens};

use super::{VERSES, all, bytes, gpt2, lines, tokens_of, write_all};
use crate::data::{assert_mentions, refused};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    files
}

/// The cache of texts in a folder, beside them.
fn beside(folder: &Path, tokenizer: &Tokenizer) -> Tokens {
    let texts = Texts::open(folder, TextOptions::default()).unwrap();
    Tokens::new(&texts, tokenizer, &TokenCache::Beside).unwrap()
}

#[test]
fn a_cache_is_used_again_and_others_stay_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join(".wgrad-tokens");
    write_all(folder.path(), &[("a.txt", VERSES.as_bytes()), ("b/c.txt", b"the end")]);
    let first = beside(folder.path(), &gpt2());
    let [made] = &files(&cache)[..] else { panic!("one file") };
    let time = fs::metadata(made).unwrap().modified().unwrap();
    let again = beside(folder.path(), &gpt2());
    assert_eq!((again.identity(), all(&again)), (first.identity(), all(&first)));
    assert_eq!(fs::metadata(made).unwrap().modified().unwrap(), time);

    // The same texts elsewhere have the same tokens.
    let moved = tempfile::tempdir().unwrap();
    write_all(moved.path(), &[("a.txt", VERSES.as_bytes()), ("b/c.txt", b"the end")]);
    let texts = Texts::open(moved.path(), TextOptions::default()).unwrap();
    let there = Tokens::new(&texts, &gpt2(), &TokenCache::Folder(cache.clone())).unwrap();
    assert_eq!((there.identity(), files(&cache).len()), (first.identity(), 1));

    // Another tokenizer, other content of the same size, another name, another setting.
    let mut identities = BTreeSet::from([first.identity()]);
    identities.insert(beside(folder.path(), &bytes(SpecialTokens::Gpt2)).identity());
    fs::write(folder.path().join("b/c.txt"), b"the And").unwrap();
    identities.insert(beside(folder.path(), &gpt2()).identity());
    fs::rename(folder.path().join("b/c.txt"), folder.path().join("b/d.txt")).unwrap();
    identities.insert(beside(folder.path(), &gpt2()).identity());
    let options = TextOptions { documents: wgrad::data::Documents::Lines, ..TextOptions::default() };
    let texts = Texts::open(folder.path(), options).unwrap();
    identities.insert(Tokens::new(&texts, &gpt2(), &TokenCache::Beside).unwrap().identity());
    assert_eq!((identities.len(), files(&cache).len()), (5, 5));
    let held = Texts::from_memory([("a.txt", "a")], TextOptions::default()).unwrap();
    assert_mentions(&refused(Tokens::new(&held, &gpt2(), &TokenCache::Beside)), &["cache", "memory"]);
}

/// Whatever becomes of the file, the tokens are those of the texts.
#[test]
fn a_damaged_cache_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let texts = lines(&["the sin", "of", "man"]);
    let cache = TokenCache::Folder(folder.path().to_owned());
    let tokens = || all(&Tokens::new(&texts, &gpt2(), &cache).unwrap());
    let right = tokens();
    let [path] = &files(folder.path())[..] else { panic!("one file") };
    let whole = fs::read(path).unwrap();
    for length in 0..whole.len() {
        fs::write(path, &whole[..length]).unwrap();
        assert_eq!(tokens(), right, "cut after {length}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(path, bytes).unwrap();
        assert_eq!(tokens(), right, "byte {at}");
        assert_eq!(fs::read(path).unwrap(), whole);
    }
    fs::write(path, [&whole[..], &[0; 8]].concat()).unwrap();
    assert_eq!(tokens(), right);
    // That of other texts under its name.
    let other = tempfile::tempdir().unwrap();
    Tokens::new(&lines(&["other"]), &gpt2(), &TokenCache::Folder(other.path().to_owned())).unwrap();
    fs::copy(&files(other.path())[0], path).unwrap();
    assert_eq!(tokens(), right);
    assert_eq!(files(folder.path()).len(), 1);
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
    assert!(Tokens::new(&texts, &gpt2(), &cache).is_err());
}

/// An open map goes on showing what it showed when its file is replaced.
#[test]
fn tokens_in_use_do_not_change() {
    let folder = tempfile::tempdir().unwrap();
    let cache = TokenCache::Folder(folder.path().to_owned());
    let tokens = Tokens::new(&lines(&["the sin", "of man"]), &gpt2(), &cache).unwrap();
    let before = all(&tokens);
    let path = files(folder.path()).remove(0);
    fs::write(folder.path().join("other"), b"other").unwrap();
    fs::rename(folder.path().join("other"), path).unwrap();
    assert_eq!(all(&tokens), before);
    assert_mentions(&refused(tokens.read(2..tokens.len() + 1)), &["places", "within 0.."]);
    assert!(tokens.read(std::ops::Range { start: 2, end: 1 }).is_err());
}

/// Ids beyond 65,535 take four bytes.
#[test]
fn large_vocabularies_have_wide_ids() {
    let vocab: Vec<String> = (0..70_000).map(|n| format!("w{n}")).collect();
    let vocab = [&["[UNK]".to_owned(), "[SEP]".to_owned()], &vocab[..]].concat().join("\n");
    let tokenizer = super::from_files([("vocab.txt", vocab)]).unwrap();
    let tokens = tokens_of(&lines(&["w3 w69999 w65535", "x"]), &tokenizer);
    assert_eq!(all(&tokens), [5, 70_001, 65_537, 1, 0, 1]);
}

#[test]
fn documents_are_held_out_by_content() {
    let documents: Vec<String> = (0..40).map(|n| format!("document {n}")).collect();
    let refs: Vec<&str> = documents.iter().map(String::as_str).collect();
    let tokenizer = bytes(SpecialTokens::Gpt2);
    let held_of = |refs: &[&str], seed: u64| -> [Vec<String>; 2] {
        let tokens = tokens_of(&lines(refs), &tokenizer);
        tokens.hold_out(HeldOut::Documents { share: 0.2, seed }).unwrap().map(|part| {
            let text =
                |places: std::ops::Range<u64>| tokenizer.decode(&part.read(places.start..places.end - 1).unwrap());
            part.documents().map(|places| text(places).unwrap()).collect()
        })
    };
    let [trained, held] = held_of(&refs, 1);
    assert_eq!((trained.len(), held.len()), (32, 8));
    let both: BTreeSet<&String> = trained.iter().chain(&held).collect();
    assert_eq!(both, documents.iter().collect());
    assert!(trained.is_sorted_by_key(|text| refs.iter().position(|document| document == text)));
    assert_ne!(held_of(&refs, 2)[1], held);
    // In another order, the same; with others, nearly the same; copies stay together.
    let reversed: Vec<&str> = refs.iter().rev().copied().collect();
    assert_eq!(held_of(&reversed, 1)[1].iter().collect::<BTreeSet<_>>(), held.iter().collect());
    let fewer = held_of(&refs[1..], 1);
    assert!(fewer[1].iter().filter(|text| held.contains(text)).count() >= 7);
    let copies: Vec<&str> = refs.iter().flat_map(|text| [*text, *text]).collect();
    let [trained, held] = held_of(&copies, 1);
    assert!(trained.iter().all(|text| !held.contains(text)));
    assert_eq!((trained.len(), held.len()), (64, 16));

    let tokens = tokens_of(&lines(&["a", "a"]), &tokenizer);
    assert_mentions(&refused(tokens.hold_out(HeldOut::Documents { share: 0.5, seed: 0 })), &["documents", "End"]);
    assert_mentions(&refused(tokens.hold_out(HeldOut::End { share: 1.0 })), &["share"]);
    assert!(tokens.hold_out(HeldOut::End { share: f64::NAN }).is_err());
}

#[test]
fn the_end_is_held_out() {
    let tokenizer = bytes(SpecialTokens::Gpt2);
    let tokens = tokens_of(&lines(&["abcd", "efg"]), &tokenizer);
    let [trained, held] = tokens.hold_out(HeldOut::End { share: 0.3 }).unwrap();
    assert_eq!((all(&trained), all(&held)), (vec![97, 98, 99, 100, 256, 101], vec![102, 103, 256]));
    assert_eq!(trained.documents().collect::<Vec<_>>(), [0..5, 5..6]);
    assert!(held.documents().eq(std::iter::once(0..3)));
    assert_ne!(trained.identity(), held.identity());
    // Parts of parts.
    let [first, second] = trained.hold_out(HeldOut::Documents { share: 0.5, seed: 3 }).unwrap();
    assert_eq!([all(&first), all(&second)].concat().len(), 6);
    let [_, last] = held.hold_out(HeldOut::End { share: 0.01 }).unwrap();
    assert_eq!(all(&last), [256]);
}
