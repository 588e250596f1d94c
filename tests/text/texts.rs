//! Texts: what is a document, and what is no text.

use std::fs;

use wgrad::data::{Documents, SpecialTokens, TextOptions, Texts, TokenCache, Tokens};

use super::{VERSES, all, bytes, from_files, gpt2, gpt2_files, lines, tokens_of, write_all};
use crate::allocation::peak;
use crate::data::{assert_mentions, refused};

fn options(documents: Documents) -> TextOptions {
    TextOptions { documents, ..TextOptions::default() }
}

/// The documents of a text, by their bytes.
fn documents_of(name: &str, text: &str, options: TextOptions) -> Vec<String> {
    let texts = Texts::from_memory([(name, text)], options).unwrap();
    let tokenizer = bytes(SpecialTokens::Gpt2);
    let tokens = tokens_of(&texts, &tokenizer);
    let document = |places: std::ops::Range<u64>| {
        assert_eq!(tokens.read(places.end - 1..places.end).unwrap(), [256]);
        tokenizer.decode(&tokens.read(places.start..places.end - 1).unwrap()).unwrap()
    };
    tokens.documents().map(document).collect()
}

#[test]
fn documents_are_files_lines_or_paragraphs() {
    let text = "\u{feff}\n  \none\r\ntwo\n \t\r\n\r\n three \n\nfour";
    assert_eq!(documents_of("a.txt", text, options(Documents::Files)), [&text[3..]]);
    assert_eq!(documents_of("a.txt", text, options(Documents::Lines)), ["one", "two", " three ", "four"]);
    assert_eq!(documents_of("a.txt", text, options(Documents::Paragraphs)), ["one\r\ntwo", " three ", "four"]);
    assert_eq!(documents_of("a.txt", "one\n\n", options(Documents::Paragraphs)), ["one"]);
    assert_eq!(documents_of("a.txt", "one", options(Documents::Paragraphs)), ["one"]);
    let json = "{\"text\": \"a\\nb\", \"other\": [{}]}\n\n{\"text\": \"\"}\r\n{\"n\": 1, \"text\": \"\\u00e9\"}";
    assert_eq!(documents_of("a.jsonl", json, options(Documents::Files)), ["a\nb", "é"]);
    let field = TextOptions { field: "n".into(), ..TextOptions::default() };
    for name in ["A.JSONL", "b.ndjson"] {
        assert_eq!(documents_of(name, "{\"n\": \"x\", \"text\": 1}", field.clone()), ["x"]);
    }
}

/// A pre-tokenizer that puts a space before a text.
fn byte_level() -> serde_json::Value {
    serde_json::json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true })
}

/// Documents that are longer than what is tokenised at a time have the tokens that they have as a whole.
#[test]
fn long_texts_are_cut_where_no_token_is() {
    let tokenizer = gpt2();
    let config = ("tokenizer_config.json", r#"{"add_prefix_space": true}"#.to_owned());
    let prefixing = from_files(gpt2_files().into_iter().chain([config])).unwrap();
    let text = VERSES.repeat(2000);
    assert!(text.len() > 3 << 18);
    assert_ne!(tokenizer.encode(&text).unwrap(), prefixing.encode(&text).unwrap());
    for (documents, tokenizer) in
        [(Documents::Files, &tokenizer), (Documents::Files, &prefixing), (Documents::Paragraphs, &tokenizer)]
    {
        let long = match documents {
            Documents::Files => text.clone(),
            _ => text.replace("\n\n", "\n"),
        };
        let texts = Texts::from_memory([("long.txt", long.as_str())], options(documents)).unwrap();
        let mut ids = all(&tokens_of(&texts, tokenizer));
        assert_eq!(ids.pop(), Some(274));
        let whole = if documents == Documents::Files { long.as_str() } else { long.trim_end_matches('\n') };
        assert_eq!(ids, tokenizer.encode(whole).unwrap());
    }
    // Where the space is put before each word, or before a text that is divided later.
    let digits = serde_json::json!({ "type": "Digits", "individual_digits": true });
    let (verses, lines) = (VERSES.repeat(1200), "abc\n".repeat(1 << 17));
    for (parts, text) in [
        (serde_json::json!([{ "type": "WhitespaceSplit" }, byte_level()]), &verses),
        (serde_json::json!([byte_level(), digits]), &verses),
        (serde_json::json!([digits, byte_level()]), &verses),
        (serde_json::json!([digits, byte_level()]), &lines),
    ] {
        let mut json: serde_json::Value =
            serde_json::from_str(&bytes(SpecialTokens::Gpt2).files()["tokenizer.json"]).unwrap();
        json["pre_tokenizer"] = serde_json::json!({ "type": "Sequence", "pretokenizers": parts });
        let tokenizer = from_files([("tokenizer.json", json.to_string())]).unwrap();
        let texts = Texts::from_memory([("long.txt", text.as_str())], options(Documents::Files)).unwrap();
        let mut ids = all(&tokens_of(&texts, &tokenizer));
        assert_eq!(ids.pop(), Some(256));
        assert_eq!(ids, tokenizer.encode(text).unwrap());
    }
    // Where no part begins with a space: one is put before the first alone.
    let numbers = format!("{}<|endoftext|>the{0}", "1234567\n".repeat(1 << 16));
    let texts = Texts::from_memory([("long.txt", numbers.as_str())], options(Documents::Files)).unwrap();
    let mut ids = all(&tokens_of(&texts, &prefixing));
    ids.pop();
    assert_eq!(ids, prefixing.encode(&numbers).unwrap());
    // Lines and words without an end.
    for line in [" the sin".repeat(1 << 17), "é".repeat(1 << 19)] {
        let texts = Texts::from_memory([("long.txt", line.as_str())], options(Documents::Lines)).unwrap();
        let tokens = tokens_of(&texts, &tokenizer);
        let mut ids = all(&tokens);
        ids.pop();
        assert_eq!((tokenizer.decode(&ids).unwrap(), tokens.documents().count()), (line, 1));
    }
    let json = format!("{}\n", serde_json::json!({ "text": text }));
    let texts = Texts::from_memory([("long.jsonl", json.as_str())], TextOptions::default()).unwrap();
    assert_eq!(all(&tokens_of(&texts, &tokenizer)).len(), tokenizer.encode(&text).unwrap().len() + 1);
}

#[test]
fn folders_are_read_in_order_and_what_is_left_out_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write_all(
        folder.path(),
        &[
            ("b.txt", b"b"),
            ("a/z.md", b"z"),
            ("a.text", b"a"),
            ("a/y.jsonl", b"{\"text\": \"y\"}"),
            ("a/x.png", b"\0"),
            ("a/w.png", b"\0"),
            ("README", b"r"),
            (".hidden/c.txt", b"c"),
            (".d.txt", b"d"),
        ],
    );
    let texts = Texts::open(folder.path(), TextOptions::default()).unwrap();
    assert_eq!((texts.len(), texts.bytes()), (4, 16));
    assert_eq!(texts.unused().len(), 2);
    assert_mentions(&texts.unused().join("\n"), &["2 .png", "1 other files"]);
    let ids = all(&tokens_of(&texts, &bytes(SpecialTokens::Gpt2)));
    assert_eq!(ids, [97, 256, 121, 256, 122, 256, 98, 256]);
    // A file that is named is read, whatever its ending.
    let both = [folder.path().join("README"), folder.path().join("a")];
    let texts = Texts::open_all(&both, TextOptions::default()).unwrap();
    assert_eq!(all(&tokens_of(&texts, &bytes(SpecialTokens::Gpt2))), [114, 256, 121, 256, 122, 256]);
}

#[test]
fn what_is_no_text_is_an_error_that_names_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    assert_mentions(&refused(Texts::open(at, TextOptions::default())), &["holds no text", ".jsonl"]);
    assert!(matches!(Texts::open(at.join("missing"), TextOptions::default()), Err(wgrad::Error::Io { .. })));
    assert!(Texts::open_all(&[], TextOptions::default()).is_err());
    write_all(at, &[("ok/a.txt", b"a"), ("ok/b.txt", b"")]);
    assert_mentions(&refused(Texts::open(at.join("ok"), TextOptions::default())), &["b.txt", "is empty"]);
    let long = [&b"x".repeat(70_000)[..], b"\xe9"].concat();
    let split = [&b"x".repeat((1 << 16) - 1)[..], "é".as_bytes(), b"\0"].concat();
    let limit = TextOptions { max_line: 20, ..TextOptions::default() };
    let lines = options(Documents::Lines);
    for (name, content, options, why) in [
        ("a.txt", &b"ab\xff"[..], TextOptions::default(), &["at byte 2", "not UTF-8"][..]),
        ("a.txt", &long, TextOptions::default(), &["at byte 70000", "not UTF-8"]),
        ("a.txt", &split, TextOptions::default(), &["at byte 65537", "NUL"]),
        ("a.txt", b"ab\xe2\x82", TextOptions::default(), &["at byte 2", "not UTF-8"]),
        ("a.txt", b"\xff\xfea\0", TextOptions::default(), &["at byte 3", "NUL"]),
        ("a.txt", b"\xef\xbb\xbf", TextOptions::default(), &["holds no document"]),
        ("a.txt", b" \n\n\t\n", lines, &["holds no document"]),
        ("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": 3}\n", TextOptions::default(), &["line 2", "at byte 2", "string"]),
        ("a.jsonl", b"{\"text\": \"a\"\n", TextOptions::default(), &["line 1", "EOF"]),
        ("a.jsonl", b"\n{\"txt\": \"a\"}\n", TextOptions::default(), &["line 2", "\"text\""]),
        ("a.jsonl", b"{\"text\": \"a\", \"text\": \"b\"}", TextOptions::default(), &["line 1", "twice"]),
        ("a.jsonl", b"{\"text\": \"a\"} x", TextOptions::default(), &["line 1", "trailing"]),
        ("a.jsonl", b"[\"text\"]", TextOptions::default(), &["line 1", "an object"]),
        ("a.jsonl", b"{\"text\": \"a\\u0000\"}", TextOptions::default(), &["line 1", "NUL"]),
        ("a.jsonl", b"{\"text\": \"\\ud800\"}", TextOptions::default(), &["line 1"]),
        ("a.jsonl", b"{\"text\": \"\"}", TextOptions::default(), &["holds no document"]),
        ("a.jsonl", b"\n{\"text\": \"twenty characters\"}", limit, &["line 2", "20 bytes", "max_line"]),
    ] {
        let path = at.join(name);
        fs::write(&path, content).unwrap();
        let texts = Texts::open(&path, options).unwrap();
        let error = refused(Tokens::new(&texts, &bytes(SpecialTokens::Gpt2), &TokenCache::Folder(at.join("cache"))));
        assert_mentions(&error, &[&[name], why].concat());
        // Nothing is left of what was begun.
        assert_eq!(fs::read_dir(at.join("cache")).unwrap().count(), 0, "{error}");
    }
    write_all(at, &[("pipe.txt/a", b"")]);
    fs::create_dir_all(at.join("deep").join(["d"; 70].join("/"))).unwrap();
    assert_mentions(&refused(Texts::open(at.join("deep"), TextOptions::default())), &["deeper than"]);
}

/// Braces and escapes are not learnt as text, and what is called .json may be lines of it or one document.
#[test]
fn a_named_json_is_a_text_only_where_it_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.JSON");
    for json in ["{\"text\": \"a\"}\n{\"text\": \"b\"}\n", "\u{feff}\n [\n{\"text\": \"a\"}]", "{broken"] {
        fs::write(&path, json).unwrap();
        let parts = ["a.JSON", "call it .jsonl", "is not read"];
        assert_mentions(&refused(Texts::open(&path, TextOptions::default())), &parts);
        assert_mentions(&refused(Texts::from_memory([("a.JSON", json)], TextOptions::default())), &parts);
    }
    fs::write(&path, "of {braces}").unwrap();
    let texts = Texts::open(&path, TextOptions::default()).unwrap();
    assert_eq!((texts.len(), texts.has_json_lines()), (1, false));
    // One that nobody names is left out, and told, whatever it holds.
    write_all(folder.path(), &[("b.ndjson", b"{\"text\": \"b\"}\n")]);
    let texts = Texts::open(folder.path(), TextOptions::default()).unwrap();
    assert_eq!((texts.len(), texts.has_json_lines()), (1, true));
    assert_mentions(&texts.unused().join("\n"), &["1 .json"]);
    assert_eq!(all(&tokens_of(&texts, &bytes(SpecialTokens::Gpt2))), [98, 256]);
}

/// A run that was written among the texts holds a tokenizer's files, and samples, which are none of them.
#[test]
fn folders_of_runs_are_no_texts() {
    let folder = tempfile::tempdir().unwrap();
    write_all(
        folder.path(),
        &[
            ("a.txt", b"a"),
            ("runs/1/best.safetensors", b""),
            ("runs/1/export/merges.txt", b"b"),
            ("runs/2/args.json", b"{}"),
            ("runs/2/recipe.json", b"{}"),
            ("runs/2/vocab.txt", b"c"),
            ("other/args.json", b"{}"),
            ("other/d.txt", b"d"),
        ],
    );
    let texts = Texts::open(folder.path(), TextOptions::default()).unwrap();
    assert_eq!(all(&tokens_of(&texts, &bytes(SpecialTokens::Gpt2))), [97, 256, 100, 256]);
    assert_mentions(&texts.unused().join("\n"), &["2 folders of runs", "1 .json"]);
    // One that is named is read.
    let texts = Texts::open(folder.path().join("runs/2"), TextOptions::default()).unwrap();
    assert_eq!(texts.len(), 1);
}

/// A line without an end takes no more memory than the limit, and a file of ten gigabytes no more than a block.
#[test]
fn endless_lines_take_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (line, huge) = (folder.path().join("line.jsonl"), folder.path().join("huge.txt"));
    fs::write(&line, b"{\"text\": \"".iter().copied().chain(b"a".repeat(20 << 20)).collect::<Vec<u8>>()).unwrap();
    let texts = Texts::open(&line, TextOptions { max_line: 1 << 20, ..TextOptions::default() }).unwrap();
    let (error, held) = peak(|| refused(Tokens::new(&texts, &bytes(SpecialTokens::Gpt2), &TokenCache::Memory)));
    assert_mentions(&error, &["line.jsonl", "line 1", "1048576"]);
    assert!(held < 6 << 20, "{held}");
    // A long line that is within the limit is in memory a few times, however many pieces it has.
    let long = format!("{}\n", serde_json::json!({ "text": " the sin".repeat(1 << 19) }));
    fs::write(&line, &long).unwrap();
    let texts = Texts::open(&line, TextOptions { max_line: 8 << 20, ..TextOptions::default() }).unwrap();
    let cache = TokenCache::Folder(folder.path().join("cache"));
    let (tokens, held) = peak(|| Tokens::new(&texts, &gpt2(), &cache).unwrap());
    assert_eq!((tokens.documents().count(), tokens.len()), (1, (2 << 19) + 1));
    assert!(held < 6 * long.len(), "{held} for {} bytes", long.len());
    // Holes read as NULs.
    fs::File::create(&huge).unwrap().set_len(64 << 20).unwrap();
    let texts = Texts::open(&huge, TextOptions::default()).unwrap();
    let (error, held) = peak(|| refused(Tokens::new(&texts, &bytes(SpecialTokens::Gpt2), &TokenCache::Memory)));
    assert_mentions(&error, &["huge.txt", "at byte 0", "NUL"]);
    assert!(held < 4 << 20, "{held}");
}

#[test]
fn texts_without_a_token_are_no_documents() {
    // BERT's vocabularies know no white space and no control characters.
    let tokens = tokens_of(&lines(&["man", "\u{200b}", "the"]), &super::bert());
    assert_eq!(all(&tokens), [11, 4, 9, 4]);
    let error = refused(Tokens::new(&lines(&["\u{200b}"]), &super::bert(), &TokenCache::Memory));
    assert_mentions(&error, &["no token"]);
}
