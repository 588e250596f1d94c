//! Tokenizers of each kind, against what transformers 5.23 and 5.24 and tokenizers 0.23 make of the same files.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use wgrad::data::{MaskedOptions, MaskedText, Special, SpecialTokens, TextOptions, Texts, Tokenizer, TrainOptions};

use super::{VERSES, WORD_PIECES, bert, byte_chars, bytes, from_files, gpt2, gpt2_files, lines, tokens_of};
use crate::data::{assert_mentions, refused};

#[test]
fn gpt2_files_give_what_transformers_gives() {
    let tokenizer = gpt2();
    for (text, ids) in [
        (
            "In the beginning of singing,\n\n  and the sin's   end.\tCafé ## 12 東京\n",
            &[
                40, 77, 258, 220, 65, 68, 70, 259, 77, 266, 269, 263, 266, 266, 11, 270, 220, 265, 258, 271, 6, 82,
                220, 220, 220, 68, 77, 67, 13, 197, 34, 64, 69, 272, 220, 273, 220, 16, 17, 220, 162, 251, 109, 160,
                118, 105, 198,
            ][..],
        ),
        ("the<|endoftext|>of", &[83, 257, 274, 78, 69]),
        (" é\u{e9}\u{1F600}!", &[220, 272, 272, 172, 253, 246, 222, 0]),
    ] {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids).unwrap(), text);
    }
    assert_eq!(tokenizer.vocab_size(), 275);
    assert_eq!(tokenizer.special(Special::Eos), Some(274));
    assert!(tokenizer.is_special(274) && !tokenizer.is_special(0));
}

#[test]
fn word_pieces_give_what_transformers_gives() {
    let of_man = "Of Man's first disobedience, and the fruit.";
    let able = "ABLE a café, 東京! I'm [MASK] man\0s zebra";
    let the_man = "The Man's Café [SEP] first";
    let uncased = bert();
    for (text, ids, back) in [
        (
            of_man,
            &[10, 11, 30, 2, 13, 14, 15, 16, 6, 17, 9, 18, 7][..],
            "of man ' [UNK] first disobedience, and the fruit.",
        ),
        (able, &[2, 19, 26, 6, 27, 28, 8, 29, 30, 31, 5, 11, 12, 2], "[UNK] a cafe, 東 京! i ' m [MASK] mans [UNK]"),
        (the_man, &[9, 11, 30, 2, 26, 4, 13], "the man ' [UNK] cafe [SEP] first"),
    ] {
        assert_eq!(uncased.encode(text).unwrap(), ids, "{text}");
        assert_eq!(uncased.decode(ids).unwrap(), back);
    }
    // A capital without a small letter, as BERT's uncased vocabulary has one, is none.
    let with_set = from_files([("vocab.txt", [WORD_PIECES, &["ℝ"]].concat().join("\n"))]).unwrap();
    assert_eq!(with_set.encode(the_man).unwrap(), uncased.encode(the_man).unwrap());
    // With capitals in the vocabulary, or told to, text keeps its own.
    let vocab = [WORD_PIECES, &["The", "Man", "Ca", "##fé"]].concat().join("\n");
    let cased = from_files([("vocab.txt", vocab.clone())]).unwrap();
    let told =
        from_files([("vocab.txt", vocab.clone()), ("tokenizer_config.json", r#"{"do_lower_case": false}"#.into())]);
    for tokenizer in [cased, told.unwrap()] {
        let ids = [2, 33, 30, 2, 13, 14, 15, 16, 6, 17, 9, 18, 7];
        assert_eq!(tokenizer.encode(of_man).unwrap(), ids);
        assert_eq!(tokenizer.encode(able).unwrap(), [2, 19, 2, 6, 27, 28, 8, 2, 30, 31, 5, 11, 12, 2]);
        assert_eq!(tokenizer.encode(the_man).unwrap(), [32, 33, 30, 2, 34, 35, 4, 13]);
    }
    let small =
        from_files([("vocab.txt", vocab), ("tokenizer_config.json", r#"{"do_lower_case": true}"#.into())]).unwrap();
    assert_eq!(small.encode(the_man).unwrap(), [9, 11, 30, 2, 26, 4, 13]);
    let named =
        [Special::Pad, Special::Unk, Special::Cls, Special::Sep, Special::Mask].map(|name| uncased.special(name));
    assert_eq!(named, [0, 2, 3, 4, 5].map(Some));
}

#[test]
fn bytes_are_their_own_ids() {
    let gpt = bytes(SpecialTokens::Gpt2);
    let text: String = (1u32..0x300).chain([0x2028, 0xfeff, 0x1F600]).filter_map(char::from_u32).collect();
    let ids: Vec<u32> = text.bytes().map(u32::from).collect();
    assert_eq!(gpt.encode(&text).unwrap(), ids);
    assert_eq!(gpt.decode(&ids).unwrap(), text);
    assert_eq!(gpt.decode(&[0x61, 0xff, 0xc3, 0x62]).unwrap(), "a\u{fffd}\u{fffd}b");
    assert_eq!((gpt.vocab_size(), gpt.special(Special::Eos)), (257, Some(256)));
    let masked = bytes(SpecialTokens::Bert);
    let named = [Special::Pad, Special::Cls, Special::Sep, Special::Mask].map(|name| masked.require(name).unwrap());
    assert_eq!((masked.vocab_size(), named), (260, [256, 257, 258, 259]));
    assert_mentions(&refused(masked.require(Special::Eos)), &["eos_token", "<|endoftext|>"]);
}

#[test]
fn a_vocabulary_is_trained_alike_every_time() {
    let texts = Texts::from_memory([("verses.txt", VERSES)], TextOptions::default()).unwrap();
    let options = TrainOptions { vocab_size: 300, ..TrainOptions::default() };
    let first = Tokenizer::train(&texts, &options).unwrap();
    for _ in 0..5 {
        assert_eq!(Tokenizer::train(&texts, &options).unwrap().files(), first.files());
    }
    assert_eq!((first.vocab_size(), first.special(Special::Eos)), (300, Some(0)));
    let ids = first.encode(VERSES).unwrap();
    assert!(ids.len() < VERSES.len() * 4 / 5, "{} of {}", ids.len(), VERSES.len());
    assert_eq!(first.decode(&ids).unwrap(), VERSES);

    let folder = tempfile::tempdir().unwrap();
    first.save(folder.path()).unwrap();
    for place in [folder.path().to_owned(), folder.path().join("tokenizer.json")] {
        let opened = Tokenizer::open(place).unwrap();
        assert_eq!((opened.identity(), opened.encode(VERSES).unwrap()), (first.identity(), ids.clone()));
    }
    let bert = TrainOptions { vocab_size: 280, specials: SpecialTokens::Bert, min_frequency: 2 };
    let bert = Tokenizer::train(&texts, &bert).unwrap();
    assert_eq!(
        (bert.special(Special::Pad), bert.special(Special::Mask), bert.special(Special::Eos)),
        (Some(0), Some(3), None)
    );
    // The text has no more pairs that are there twice.
    let all = Tokenizer::train(&texts, &TrainOptions { vocab_size: 5000, ..options }).unwrap();
    assert!(all.vocab_size() < 600);
    let none = TrainOptions { vocab_size: 256, ..options };
    assert_mentions(&refused(Tokenizer::train(&texts, &none)), &["vocab_size", "from 257"]);
}

/// The merges that the vocabulary of [`VERSES`] begins with, as tokenizers' own trainer in Python has them.
/// A program that is killed while it writes one leaves no other tokenizer: here a file cannot be written.
#[test]
fn a_tokenizer_that_was_cut_off_is_none() {
    for (made, beside) in
        [(Tokenizer::byte_level(SpecialTokens::Bert).unwrap(), "tokenizer_config.json"), (gpt2(), "merges.txt")]
    {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(beside)).unwrap();
        refused(made.save(folder.path()));
        assert!(Tokenizer::open(folder.path()).is_err(), "{beside}");
    }
    // Nor is it one that was there before, with files of the new one.
    for before in [bytes(SpecialTokens::Gpt2), gpt2(), bert()] {
        let folder = tempfile::tempdir().unwrap();
        before.save(folder.path()).unwrap();
        let beside = folder.path().join("tokenizer_config.json");
        drop(fs::remove_file(&beside));
        fs::create_dir(&beside).unwrap();
        refused(bytes(SpecialTokens::Bert).save(folder.path()));
        fs::remove_dir(&beside).unwrap();
        assert_mentions(&refused(Tokenizer::open(folder.path())), &["no tokenizer"]);
    }
}

#[test]
fn a_trained_vocabulary_is_pythons() {
    let texts = Texts::from_memory([("verses.txt", VERSES)], TextOptions::default()).unwrap();
    let made = Tokenizer::train(&texts, &TrainOptions { vocab_size: 270, ..TrainOptions::default() }).unwrap();
    let tokens: Vec<String> = (257..270).map(|id| made.token(id).unwrap()).collect();
    assert_eq!(tokens, TRAINED);
}

const TRAINED: [&str; 13] = ["Ġt", "he", "Ġo", "in", "re", "se", "Ġthe", "an", "at", "en", "st", "ho", "Ġf"];

#[test]
fn special_tokens_are_found_where_files_name_them() {
    let with = |config: &str, map: &str| {
        let beside = [("tokenizer_config.json", config.to_owned()), ("special_tokens_map.json", map.to_owned())];
        from_files(gpt2_files().into_iter().chain(beside))
    };
    let tokenizer = with(r#"{"eos_token": {"content": "!", "lstrip": false}, "pad_token": null}"#, "{}");
    assert_eq!(tokenizer.unwrap().special(Special::Eos), Some(0));
    // The map comes first; but with `added_tokens_decoder`, neither it nor added_tokens.json is read.
    let eos = |config: &str, map: &str| with(config, map).unwrap().special(Special::Eos);
    assert_eq!(eos(r#"{"eos_token": "!"}"#, r#"{"eos_token": "a"}"#), Some(64));
    assert_eq!(eos(r#"{"eos_token": "!", "added_tokens_decoder": {}}"#, r#"{"eos_token": "a"}"#), Some(0));
    // Of nothing, what such tokens are usually called.
    assert_eq!(eos(r#"{"eos_token": "!"}"#, r#"{"eos_token": null}"#), Some(274));
    let tokenizer = with("{}", r#"{"eos_token": "\"", "pad_token": "[PAD]"}"#).unwrap();
    assert_eq!(tokenizer.special(Special::Eos), Some(1));
    // As transformers does, what the vocabulary lacks is added.
    assert_eq!((tokenizer.special(Special::Pad), tokenizer.vocab_size()), (Some(275), 276));
    assert_eq!(tokenizer.encode("a[PAD]").unwrap(), [64, 275]);
    assert_mentions(&refused(with(r#"{"eos_token": 3}"#, "{}")), &["tokenizer_config.json", "eos_token"]);
    assert_mentions(&refused(with(r#"{"eos_token": ""}"#, "{}")), &["tokenizer_config.json", "eos_token"]);
    assert_mentions(&refused(with("{}", "[1]")), &["special_tokens_map.json", "at byte"]);
    let added = r#"{"added_tokens_decoder": {"275": {"content": "<x>", "special": true}, "276": {"content": "<y>"}}}"#;
    let tokenizer = with(added, "{}").unwrap();
    assert_eq!(tokenizer.encode("<x>a<y>").unwrap(), [275, 64, 276]);
    assert!(tokenizer.is_special(275) && !tokenizer.is_special(276));
    // As many as it lacks are added in transformers' order.
    let tokenizer =
        with("{}", r#"{"pad_token": "<p>", "eos_token": "</s>", "unk_token": "<u>", "bos_token": "<s>"}"#).unwrap();
    let ids = [Special::Bos, Special::Eos, Special::Unk, Special::Pad].map(|special| tokenizer.special(special));
    assert_eq!(ids, [275, 276, 277, 278].map(Some));
    // The older form does not say what is special: what is named is.
    let older = [
        ("added_tokens.json", r#"{"<x>": 275, "new": 276, "<y>": 277}"#.to_owned()),
        ("special_tokens_map.json", r#"{"pad_token": "<x>", "additional_special_tokens": ["<y>"]}"#.to_owned()),
    ];
    let tokenizer = from_files(gpt2_files().into_iter().chain(older)).unwrap();
    assert_eq!([275, 276, 277].map(|id| tokenizer.is_special(id)), [true, false, true]);
    assert_eq!(tokenizer.encode("anew<y>").unwrap(), [64, 276, 277]);
    let gap = r#"{"added_tokens_decoder": {"300": {"content": "<x>"}}}"#;
    assert_mentions(&refused(with(gap, "{}")), &["<x>", "300", "275"]);
}

/// A WordPiece tokenizer.json of a few letters.
fn word_pieces(lowercase: bool) -> Value {
    let normalizer = json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
        "lowercase": lowercase,
    });
    let model = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": { "[UNK]": 0, "a": 1, "A": 2, "é": 3 },
    });
    json!({ "normalizer": normalizer, "pre_tokenizer": { "type": "BertPreTokenizer" }, "model": model })
}

/// transformers' classes of BERT and GPT-2 go by the settings beside a tokenizer.json, and by their defaults.
#[test]
fn settings_beside_a_tokenizer_count() {
    let with = |json: String, config: &str| {
        from_files([("tokenizer.json", json), ("tokenizer_config.json", config.to_owned())]).unwrap()
    };
    for (lowercase, config, ids) in [
        (true, r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false}"#, [2, 3]),
        (false, r#"{"tokenizer_class": "BertTokenizerFast"}"#, [1, 0]),
        (false, r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": true, "strip_accents": false}"#, [1, 3]),
        (false, r#"{"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": true}"#, [2, 3]),
        (true, r#"{"tokenizer_class": "DistilBertTokenizer", "do_lower_case": false}"#, [2, 3]),
        (true, r#"{"tokenizer_class": "ElectraTokenizerFast", "do_lower_case": false}"#, [2, 3]),
        (true, r#"{"tokenizer_class": "MobileBertTokenizer", "do_lower_case": false}"#, [2, 3]),
        (true, "{}", [1, 0]),
    ] {
        assert_eq!(with(word_pieces(lowercase).to_string(), config).encode("A é").unwrap(), ids, "{config}");
    }
    let byte_level = |prefix: bool| {
        let pre_tokenizer =
            json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true });
        let model = json!({ "type": "BPE", "vocab": { "a": 0, "Ġ": 1 }, "merges": [] });
        json!({ "pre_tokenizer": pre_tokenizer, "model": model }).to_string()
    };
    for (prefix, config, ids) in [
        (true, r#"{"tokenizer_class": "GPT2Tokenizer"}"#, &[0][..]),
        (false, r#"{"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": true}"#, &[1, 0]),
        (true, r#"{"tokenizer_class": "RobertaTokenizer"}"#, &[0]),
        (true, r#"{"add_prefix_space": false}"#, &[1, 0]),
    ] {
        assert_eq!(with(byte_level(prefix), config).encode("a").unwrap(), ids, "{config}");
    }
}

/// Bytes and `<|endoftext|>` as a tokenizer.json, with other files beside it.
fn bytes_beside(beside: &[(&str, Value)]) -> Tokenizer {
    let json = ("tokenizer.json", bytes(SpecialTokens::Gpt2).files()["tokenizer.json"].clone());
    from_files([json].into_iter().chain(beside.iter().map(|(name, json)| (*name, json.to_string())))).unwrap()
}

/// The ids are transformers'.
#[test]
fn tokens_beside_a_tokenizer_count() {
    let config = |config: Value| bytes_beside(&[("tokenizer_config.json", config)]);
    let ids = |tokenizer: &Tokenizer, text: &str| tokenizer.encode(text).unwrap();
    let decoder = json!({ "added_tokens_decoder": { "257": { "content": "<x>" } } });
    for tokenizer in [config(decoder), bytes_beside(&[("added_tokens.json", json!({ "<x>": 257 }))])] {
        assert_eq!(ids(&tokenizer, "a<x>"), [97, 257]);
        assert!(!tokenizer.is_special(257));
    }
    // Those that are named follow, then those that are listed; older files are not read beside an `added_tokens_decoder`.
    let tokenizer = bytes_beside(&[
        (
            "tokenizer_config.json",
            json!({
                "added_tokens_decoder": { "257": { "content": "<x>" }, "258": { "content": "<E>", "special": true } },
                "pad_token": "<p>", "extra_special_tokens": ["<y>", "a"],
            }),
        ),
        ("special_tokens_map.json", json!({ "eos_token": "b" })),
        ("added_tokens.json", json!({ "<z>": 259 })),
    ]);
    assert_eq!(ids(&tokenizer, "a<x><E><p><y><z>b"), [97, 257, 258, 259, 260, 60, 122, 62, 98]);
    assert_eq!([97, 257, 258, 259, 260].map(|id| tokenizer.is_special(id)), [true, false, true, true, true]);
    // Lists of both names.
    let further = |config: Value, map: Value| {
        let tokenizer = bytes_beside(&[("tokenizer_config.json", config), ("special_tokens_map.json", map)]);
        ["<x>", "<y>", "<z>"].map(|token| tokenizer.id(token))
    };
    let (extra, additional) = ("extra_special_tokens", "additional_special_tokens");
    assert_eq!(further(json!({ additional: ["<x>"] }), json!({})), [Some(257), None, None]);
    assert_eq!(further(json!({ extra: ["<x>"], additional: ["<y>"] }), json!({})), [Some(257), None, None]);
    let map = json!({ additional: ["<y>"], extra: ["<z>"] });
    assert_eq!(further(json!({ additional: ["<x>"] }), map), [Some(257), None, Some(258)]);
    assert_eq!(further(json!({}), json!({ additional: ["<y>"] })), [None, Some(257), None]);
    assert_eq!(further(json!({ extra: { "image_token": "<z>" } }), json!({})), [None, None, Some(257)]);
    // In the file's order, and those of the other key behind them.
    let object =
        r#"{"extra_special_tokens": {"z_token": "<z>", "a_token": "<y>"}, "additional_special_tokens": ["<x>"]}"#;
    let beside = [("tokenizer_config.json", object.to_owned())];
    let json = ("tokenizer.json", bytes(SpecialTokens::Gpt2).files()["tokenizer.json"].clone());
    let tokenizer = from_files([json].into_iter().chain(beside)).unwrap();
    assert_eq!(["<x>", "<y>", "<z>"].map(|token| tokenizer.id(token)), [Some(259), Some(258), Some(257)]);
    let odd = [("tokenizer_config.json", json!({ extra: [3] }).to_string())];
    assert_mentions(&refused(from_files(gpt2_files().into_iter().chain(odd))), &["tokenizer_config.json", extra]);
}

/// What is said of a token holds, and what is not is as in transformers.
#[test]
fn tokens_keep_their_properties() {
    let mask = json!({ "content": "<m>", "lstrip": true, "rstrip": false, "normalized": false, "single_word": false });
    let config = json!({ "added_tokens_decoder": { "257": mask.clone() }, "mask_token": "<m>" });
    for (name, said) in [
        ("tokenizer_config.json", json!({ "mask_token": mask.clone() })),
        ("special_tokens_map.json", json!({ "mask_token": mask })),
        ("tokenizer_config.json", config),
    ] {
        let tokenizer = bytes_beside(&[(name, said)]);
        assert_eq!(tokenizer.encode("a <m> b").unwrap(), [97, 257, 32, 98]);
        assert_eq!((tokenizer.special(Special::Mask), tokenizer.is_special(257)), (Some(257), true));
    }
    // An added_tokens.json says nothing of those that a tokenizer.json has.
    let mut json: Value = serde_json::from_str(&bytes(SpecialTokens::Gpt2).files()["tokenizer.json"]).unwrap();
    json["added_tokens"].as_array_mut().unwrap().push(json!({
        "id": 257, "content": "<m>", "lstrip": true, "rstrip": false, "normalized": false, "single_word": false,
        "special": true,
    }));
    let files = [("tokenizer.json", json.to_string()), ("added_tokens.json", r#"{"<m>": 257}"#.to_owned())];
    let tokenizer = from_files(files).unwrap();
    assert_eq!((tokenizer.encode("a <m>").unwrap(), tokenizer.is_special(257)), (vec![97, 257], true));
    // What is special is looked for as it is written, all else in small letters as the text.
    let at = WORD_PIECES.len() as u32;
    let added = json!({ "added_tokens_decoder": {
        at.to_string(): { "content": "A B" }, (at + 1).to_string(): { "content": "A Man", "special": true },
    }});
    let files = [("vocab.txt", WORD_PIECES.join("\n")), ("tokenizer_config.json", added.to_string())];
    let tokenizer = from_files(files).unwrap();
    for (text, ids) in [("a b", &[at][..]), ("A B", &[at]), ("a man", &[19, 11]), ("A Man", &[at + 1])] {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text}");
    }
}

/// Where a tokenizer's own files name no class, the model's config.json does, and the files say so when they go elsewhere.
#[test]
fn a_models_config_tells_the_class() {
    let ids = |folder: &[(&str, &Value)]| {
        let at = tempfile::tempdir().unwrap();
        folder.iter().for_each(|(name, json)| fs::write(at.path().join(name), json.to_string()).unwrap());
        let tokenizer = Tokenizer::open(at.path()).unwrap();
        let elsewhere = Tokenizer::from_files(tokenizer.files().clone()).unwrap();
        assert!(!tokenizer.files().contains_key("config.json"));
        assert_eq!(elsewhere.encode("A é").unwrap(), tokenizer.encode("A é").unwrap());
        tokenizer.encode("A é").unwrap()
    };
    let small = word_pieces(true);
    let keep = json!({ "do_lower_case": false });
    let of =
        |model: Value| ids(&[("tokenizer.json", &small), ("tokenizer_config.json", &keep), ("config.json", &model)]);
    assert_eq!(of(json!({ "model_type": "bert" })), [2, 3]);
    assert_eq!(of(json!({ "model_type": "distilbert" })), [2, 3]);
    assert_eq!(of(json!({ "tokenizer_class": "BertTokenizerFast" })), [2, 3]);
    assert_eq!(of(json!({ "model_type": "bert", "tokenizer_class": "PreTrainedTokenizerFast" })), [1, 0]);
    assert_eq!(of(json!({ "model_type": "modernbert" })), [1, 0]);
    assert_eq!(of(json!({})), [1, 0]);
    let bert = json!({ "model_type": "bert" });
    assert_eq!(ids(&[("tokenizer.json", &word_pieces(false)), ("config.json", &bert)]), [1, 0]);
    let plain = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": false });
    let told = [("tokenizer.json", &small), ("tokenizer_config.json", &plain), ("config.json", &bert)];
    assert_eq!(ids(&told), [1, 0]);
}

/// What comes in parts is what comes at once, and no character comes in halves.
#[test]
fn a_stream_gives_the_same_text_in_parts() {
    let trained = {
        let texts = Texts::from_memory([("verses.txt", VERSES)], TextOptions::default()).unwrap();
        Tokenizer::train(&texts, &TrainOptions { vocab_size: 300, ..TrainOptions::default() }).unwrap()
    };
    let mut state = 7u64;
    let mut next = move |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for tokenizer in [gpt2(), bert(), bytes(SpecialTokens::Gpt2), trained] {
        let texts: Vec<Vec<u32>> = (0..40)
            .map(|_| (0..next(200)).map(|_| next(tokenizer.vocab_size()) as u32).collect())
            .chain([tokenizer.encode(&VERSES.repeat(3)).unwrap()])
            .collect();
        for ids in texts {
            let mut stream = tokenizer.stream();
            let parts: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            let whole = parts.concat() + &stream.finish().unwrap();
            assert_eq!(whole, tokenizer.decode(&ids).unwrap());
        }
    }
    let tokenizer = bytes(SpecialTokens::Gpt2);
    let mut stream = tokenizer.stream();
    let parts: Vec<String> = "é😀a".bytes().map(|byte| stream.push(byte.into()).unwrap()).collect();
    assert_eq!(parts, ["", "é", "", "", "", "😀", "a"]);
    assert_eq!(stream.push(0xf0).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    assert_mentions(&refused(tokenizer.stream().push(257)), &["ids", "257"]);
}

#[test]
fn what_is_no_tokenizer_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    assert_mentions(
        &refused(Tokenizer::open(at)),
        &["holds no tokenizer", "tokenizer.json", "merges.txt", "vocab.txt"],
    );
    assert!(matches!(Tokenizer::open(at.join("missing")), Err(wgrad::Error::Io { .. })));
    fs::write(at.join("vocab.json"), "{}").unwrap();
    assert_mentions(&refused(Tokenizer::open(at)), &["merges.txt", "vocab.json"]);
    fs::write(at.join("merges.txt"), "a b\n").unwrap();
    assert_mentions(&refused(Tokenizer::open(at)), &["vocab.json", "merge 1", "a b"]);
    fs::write(at.join("merges.txt"), "#version: 0.2\na b c\n").unwrap();
    assert_mentions(&refused(Tokenizer::open(at)), &["merges.txt", "line 2", "a b c"]);
    fs::write(at.join("vocab.json"), "{\"a\": 0,\n\"b\": -1}").unwrap();
    assert_mentions(&refused(Tokenizer::open(at)), &["vocab.json", "at byte"]);
    fs::write(at.join("vocab.txt"), b"[UNK]\n\xff\n").unwrap();
    assert_mentions(&refused(Tokenizer::open(at.join("vocab.txt"))), &["vocab.txt", "at byte 6", "not UTF-8"]);
    fs::write(at.join("vocab.txt"), "[UNK]\na\nb\na\n").unwrap();
    assert_mentions(&refused(Tokenizer::open(at.join("vocab.txt"))), &["lines 2 and 4", "a"]);
    fs::write(at.join("vocab.txt"), "a\n").unwrap();
    assert_mentions(&refused(Tokenizer::open(at.join("vocab.txt"))), &["vocab.txt", "[UNK]"]);
    fs::create_dir(at.join("tokenizer.json")).unwrap();
    assert_mentions(&refused(Tokenizer::open(at)), &["tokenizer.json", "not a regular file"]);
    fs::remove_dir(at.join("tokenizer.json")).unwrap();
    fs::File::create(at.join("tokenizer.json")).unwrap().set_len(65 << 20).unwrap();
    assert_mentions(&refused(Tokenizer::open(at)), &["tokenizer.json", "larger than"]);

    for (json, why) in [
        (r#"{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}"#, "Unigram"),
        (r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}}"#, "dropout"),
        (r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}}"#, "another one has"),
        (r#"{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}"#, "4294967295"),
        (r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}"#, "merge 1"),
        (r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "u"}}"#, "unk_token"),
        (r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#, "ids go up to 0"),
        (
            r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "normalizer": {"type": "Precompiled"}}"#,
            "Precompiled",
        ),
        (r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "decoder": {"type": "Strip"}}"#, "Strip"),
        (
            r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [{"id": 9, "content": "b"}]}"#,
            "refused",
        ),
    ] {
        assert_mentions(&refused(from_files([("tokenizer.json", json.to_owned())])), &["tokenizer.json", why]);
    }
}

/// What truncates, pads or adds tokens in a tokenizer.json does not change a text's tokens.
#[test]
fn a_texts_tokens_are_its_own() {
    let made = bytes(SpecialTokens::Gpt2);
    let mut json: Value = serde_json::from_str(&made.files()["tokenizer.json"]).unwrap();
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a",
    });
    let tokenizer = from_files([("tokenizer.json", json.to_string())]).unwrap();
    assert_eq!(tokenizer.encode("abcd").unwrap(), [97, 98, 99, 100]);
    assert_ne!(tokenizer.identity(), made.identity());
    assert_eq!(byte_chars().len(), 256);
}

/// A special token that a file names is found in texts, where the vocabulary has it as any other too.
#[test]
fn named_special_tokens_are_found() {
    let vocab = r#"{"<": 0, "|": 1, "p": 2, "a": 3, "d": 4, ">": 5, "<|pad|>": 6, "<|x|>": 7, "x": 8}"#.to_owned();
    let config = r#"{"pad_token": "<|pad|>", "additional_special_tokens": ["<|x|>"]}"#.to_owned();
    let files = [("vocab.json", vocab), ("merges.txt", String::new()), ("tokenizer_config.json", config)];
    let tokenizer = from_files(files).unwrap();
    assert_eq!(tokenizer.encode("a<|pad|>a<|x|>x").unwrap(), [3, 6, 3, 7, 8]);
    assert!(tokenizer.is_special(6) && tokenizer.is_special(7) && !tokenizer.is_special(8));
}

/// A folder holds the tokenizer that was saved last, and nothing of one before.
#[test]
fn saving_replaces_another_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    for tokenizer in [bytes(SpecialTokens::Gpt2), gpt2(), bert(), gpt2(), bytes(SpecialTokens::Bert)] {
        tokenizer.save(folder.path()).unwrap();
        assert_eq!(Tokenizer::open(folder.path()).unwrap().identity(), tokenizer.identity());
    }
}

/// Words that are marked in no way that is known would all be one.
#[test]
fn whole_words_need_marks() {
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true })
    };
    let names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"];
    let vocab: BTreeMap<&str, u32> = names.into_iter().chain(["a", "b"]).zip(0..).collect();
    let plain = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": names.iter().zip(0..).map(|(name, id)| special(id, name)).collect::<Vec<_>>(),
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "BPE", "dropout": null, "unk_token": "[UNK]", "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [] },
    });
    let tokenizer = from_files([("tokenizer.json", plain.to_string())]).unwrap();
    let tokens = || tokens_of(&lines(&["a b a b a b", "b a b a"]), &tokenizer);
    let of = |whole_words| MaskedOptions { whole_words, ..MaskedOptions::new(5) };
    MaskedText::new(tokens(), &tokenizer, of(false)).unwrap();
    let refused = MaskedText::new(tokens(), &tokenizer, of(true)).unwrap_err().to_string();
    assert!(refused.contains("whole_words"), "{refused}");
}
