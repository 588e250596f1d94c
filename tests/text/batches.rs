//! Batches for GPT and BERT.

use std::collections::BTreeMap;

use serde_json::json;
use wgrad::data::{
    HeldOut, Loader, LoaderOptions, MaskedOptions, MaskedText, PackedText, Position, Source, Special, SpecialTokens,
    TextOptions, Texts, TokenBatch, Tokenizer, Tokens, TrainOptions,
};

use super::{VERSES, all, bert, bytes, from_files, lines, tokens_of};
use crate::data::{assert_mentions, refused};

const IGNORED: u32 = TokenBatch::IGNORED;

fn byte_tokens(documents: &[&str]) -> Tokens {
    tokens_of(&lines(documents), &bytes(SpecialTokens::Gpt2))
}

#[test]
fn packed_windows_have_every_token_once() {
    let documents: Vec<String> = (0..60).map(|n| format!("document number {n}")).collect();
    let tokens = byte_tokens(&documents.iter().map(String::as_str).collect::<Vec<_>>());
    let [trained, _] = tokens.hold_out(HeldOut::Documents { share: 0.3, seed: 5 }).unwrap();
    for tokens in [tokens, trained] {
        let ids = all(&tokens);
        for length in [2, 7, 64, ids.len()] {
            let source = PackedText::new(tokens.clone(), length).unwrap();
            assert_eq!(source.len(), ids.len() / length);
            let loader = Loader::new(source, LoaderOptions::evaluation(3)).unwrap();
            let batches: Vec<TokenBatch> = loader.epoch(0).unwrap().map(Result::unwrap).collect();
            let read: Vec<u32> = batches.iter().flat_map(|batch| batch.ids.clone()).collect();
            assert_eq!(read, ids[..ids.len() / length * length]);
            batches.iter().for_each(|batch| batch.check(257).unwrap());
        }
        assert_mentions(&refused(PackedText::new(tokens.clone(), ids.len() + 1)), &["length", "from 2 to"]);
        assert!(PackedText::new(tokens, 1).is_err());
    }
}

#[test]
fn an_epoch_of_training_has_each_window_once_and_goes_on_where_it_was() {
    let tokens = byte_tokens(&[VERSES.replace('\n', " ").as_str()]);
    let source = || PackedText::new(tokens.clone(), 16).unwrap();
    let loader = Loader::new(source(), LoaderOptions::training(4, 9)).unwrap();
    let epoch: Vec<TokenBatch> = loader.epoch(1).unwrap().map(Result::unwrap).collect();
    let mut indices: Vec<u32> = epoch.iter().flat_map(|batch| batch.indices.clone()).collect();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), loader.batches_per_epoch() * 4);
    let place = Position { epoch: 1, batch: 3 };
    let resumed = Loader::new(source(), LoaderOptions::training(4, 9)).unwrap();
    assert_eq!(resumed.batches_from(place).unwrap().next().unwrap().unwrap(), epoch[3]);
    assert_eq!(epoch[3].position, place);
    assert_eq!(resumed.identity(), loader.identity());
    let other = Loader::new(PackedText::new(tokens.clone(), 17).unwrap(), LoaderOptions::training(4, 9)).unwrap();
    assert_mentions(&other.difference(&loader.identity()).unwrap(), &["length", "16", "17"]);
}

fn masked(documents: &[&str], options: MaskedOptions) -> MaskedText {
    MaskedText::new(tokens_of(&lines(documents), &bert()), &bert(), options).unwrap()
}

fn batches<S: Source<Batch = TokenBatch>>(source: S, epoch: u64, seed: u64) -> Vec<TokenBatch> {
    let options = LoaderOptions { seed, ..LoaderOptions::evaluation(5) };
    let loader = Loader::new(source, options).unwrap();
    loader.epoch(epoch).unwrap().map(Result::unwrap).collect()
}

/// What the tokens were before some were masked.
fn restored(batch: &TokenBatch) -> Vec<u32> {
    let labels = batch.labels.as_ref().unwrap();
    batch.ids.iter().zip(labels).map(|(&id, &label)| if label == IGNORED { id } else { label }).collect()
}

#[test]
fn packed_sequences_are_full_and_have_every_token_once() {
    let documents = ["the first man", "of the fruit and the man", "man"].repeat(30);
    let source = masked(&documents, MaskedOptions::new(10));
    let ids = all(source.tokens());
    assert_eq!(source.len(), ids.len() / 8);
    let batches = batches(source, 0, 1);
    let mut read = Vec::new();
    for batch in &batches {
        batch.check(bert().vocab_size()).unwrap();
        assert_eq!((batch.tokens, &batch.lengths, &batch.types), (10, &None, &None));
        for row in restored(batch).chunks(10) {
            assert_eq!((row[0], row[9]), (3, 4));
            read.extend_from_slice(&row[1..9]);
        }
        // round(0.15 · 8) of each.
        let counts: Vec<usize> = batch.labels.as_ref().unwrap().chunks(10).map(chosen).collect();
        assert!(counts.iter().all(|&count| count == 1), "{counts:?}");
    }
    assert_eq!(read, ids[..ids.len() / 8 * 8]);
}

fn chosen(labels: &[u32]) -> usize {
    labels.iter().filter(|&&label| label != IGNORED).count()
}

#[test]
fn sequences_of_documents_are_cut_and_padded() {
    let documents = ["the first man of the fruit", "man", "of the fruit and the man"];
    let options = MaskedOptions { across_documents: false, ..MaskedOptions::new(6) };
    let source = masked(&documents, options);
    assert_eq!(source.len(), 5);
    let batch = &batches(source, 0, 1)[0];
    batch.check(bert().vocab_size()).unwrap();
    assert_eq!(batch.lengths, Some(vec![6, 4, 3, 6, 4]));
    let rows =
        [[3, 9, 13, 11, 10, 4], [3, 9, 18, 4, 0, 0], [3, 11, 4, 0, 0, 0], [3, 10, 9, 18, 17, 4], [3, 9, 11, 4, 0, 0]];
    assert_eq!(restored(batch), rows.concat());
    // Of part of a document, all is text.
    let tokens = tokens_of(&lines(&documents), &bert());
    let [trained, _] = tokens.hold_out(HeldOut::End { share: 0.1 }).unwrap();
    let source = MaskedText::new(trained, &bert(), options).unwrap();
    assert_eq!(batches(source, 0, 1)[0].lengths, Some(vec![6, 4, 3, 6, 3]));
}

/// Over a hundred thousand draws, shares are within five standard deviations.
#[test]
fn of_the_chosen_tokens_80_percent_are_masked_and_10_replaced() {
    let texts = Texts::from_memory([("v.txt", VERSES)], TextOptions::default()).unwrap();
    let options = TrainOptions { vocab_size: 400, specials: SpecialTokens::Bert, min_frequency: 1 };
    let tokenizer = Tokenizer::train(&texts, &options).unwrap();
    let texts = Texts::from_memory([("v.txt", VERSES.repeat(400).as_str())], TextOptions::default()).unwrap();
    let tokens = tokens_of(&texts, &tokenizer);
    let [mask, sep] = [Special::Mask, Special::Sep].map(|special| tokenizer.require(special).unwrap());
    let source = || MaskedText::new(tokens.clone(), &tokenizer, MaskedOptions::new(66)).unwrap();
    let (mut masked, mut kept, mut other, mut all_labels) = (0u32, 0u32, 0u32, 0u32);
    let mut replaced: BTreeMap<u32, u32> = BTreeMap::new();
    let mut places = [0u32; 66];
    for epoch in 0..10 {
        for batch in batches(source(), epoch, 3) {
            let labels = batch.labels.as_ref().unwrap();
            for row in labels.chunks(66) {
                assert_eq!(chosen(row), 10);
            }
            for (at, (&id, &label)) in
                batch.ids.iter().zip(labels).enumerate().filter(|(_, (_, label))| **label != IGNORED)
            {
                assert!(!tokenizer.is_special(label) && label != sep);
                all_labels += 1;
                places[at % 66] += 1;
                match id {
                    _ if id == mask => masked += 1,
                    _ if id == label => kept += 1,
                    _ => {
                        other += 1;
                        assert!(!tokenizer.is_special(id));
                        *replaced.entry(id).or_default() += 1;
                    }
                }
            }
        }
    }
    let n = f64::from(all_labels);
    assert!(n > 1e5);
    for (count, share) in [(masked, 0.8), (kept, 0.1), (other, 0.1)] {
        let deviation = (n * share * (1.0 - share)).sqrt();
        // Of a hundred replacements, one in 400 is by the token itself.
        assert!((f64::from(count) - n * share).abs() < 5.0 * deviation + n * 0.0005, "{count} of {n}");
    }
    // All tokens that stand for text come, and all places but the first and the last.
    assert_eq!(replaced.len(), 396);
    let mean = n / 64.0;
    assert!(places[1..65].iter().all(|&count| (f64::from(count) - mean).abs() < 6.0 * mean.sqrt()), "{places:?}");
    assert_eq!((places[0], places[65]), (0, 0));
}

#[test]
fn masks_follow_from_seed_epoch_and_sample() {
    let documents = ["the first man of the fruit and the man"].repeat(40);
    let source = || masked(&documents, MaskedOptions::new(12));
    let first = batches(source(), 2, 7);
    assert_eq!(batches(source(), 2, 7), first);
    assert_ne!(batches(source(), 3, 7)[0].labels, first[0].labels);
    assert_ne!(batches(source(), 2, 8)[0].labels, first[0].labels);
    // In another batch, beside others, a sample is what it was.
    let loader = Loader::new(source(), LoaderOptions { seed: 7, ..LoaderOptions::evaluation(1) }).unwrap();
    let single: Vec<u32> = loader.epoch(2).unwrap().flat_map(|batch| batch.unwrap().ids).collect();
    assert_eq!(single, first.iter().flat_map(|batch| batch.ids.clone()).collect::<Vec<_>>());
    let place = Position { epoch: 2, batch: 4 };
    assert_eq!(loader.batches_from(place).unwrap().next().unwrap().unwrap().ids, single[4 * 12..5 * 12]);
    let other = Loader::new(
        masked(&documents, MaskedOptions { whole_words: true, ..MaskedOptions::new(12) }),
        LoaderOptions { seed: 7, ..LoaderOptions::evaluation(1) },
    );
    assert_mentions(&other.unwrap().difference(&loader.identity()).unwrap(), &["whole_words"]);
}

#[test]
fn whole_words_are_chosen_together() {
    // dis ##obed ##ience, able as a ##b ... is unknown, man ##s.
    let documents = ["first disobedience and mans fruit, disobedience!"].repeat(60);
    let source = masked(&documents, MaskedOptions { whole_words: true, share: 0.3, ..MaskedOptions::new(30) });
    let mut words = 0;
    for batch in batches(source, 0, 2) {
        let (tokens, labels) = (restored(&batch), batch.labels.as_ref().unwrap());
        for (row, labels) in tokens.chunks(30).zip(labels.chunks(30)) {
            let count = chosen(labels);
            assert!((6..=8).contains(&count), "{count}");
            for at in 1..30 {
                // ##s, ##obed, ##ience
                if [12, 15, 16].contains(&row[at]) && row[at - 1] != 3 {
                    assert_eq!(labels[at] == IGNORED, labels[at - 1] == IGNORED, "{row:?} {labels:?}");
                    words += usize::from(labels[at] != IGNORED);
                }
            }
        }
    }
    assert!(words > 30);

    // Another mark than BERT's.
    let special = |id: usize, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true })
    };
    let names = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let with_mark = |mark: &str| {
        let vocab = json!({ "[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "man": 4, format!("{mark}s"): 5 });
        let json = json!({
            "added_tokens": names.iter().enumerate().map(|(id, name)| special(id, name)).collect::<Vec<_>>(),
            "pre_tokenizer": { "type": "Whitespace" },
            "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": mark,
                       "max_input_chars_per_word": 100, "vocab": vocab },
        });
        let tokenizer = from_files([("tokenizer.json", json.to_string())]).unwrap();
        let tokens = tokens_of(&lines(&["mans mans mans mans"].repeat(20)), &tokenizer);
        MaskedText::new(tokens, &tokenizer, MaskedOptions { share: 0.5, whole_words: true, ..MaskedOptions::new(11) })
    };
    for batch in batches(with_mark("@@").unwrap(), 0, 2) {
        for labels in batch.labels.as_ref().unwrap().chunks(11) {
            let ends = labels.windows(2).filter(|pair| pair[1] == 5);
            assert!(chosen(labels) > 1 && ends.clone().count() > 0);
            assert!(ends.into_iter().all(|pair| pair[0] == 4), "{labels:?}");
        }
    }
    assert_mentions(&refused(with_mark("")), &["whole_words"]);

    // Bytes: a word goes up to white space.
    let tokenizer = bytes(SpecialTokens::Bert);
    let tokens = tokens_of(&lines(&["ab cde f ghi"].repeat(50)), &tokenizer);
    let options = MaskedOptions { whole_words: true, across_documents: false, share: 0.5, ..MaskedOptions::new(14) };
    let source = MaskedText::new(tokens, &tokenizer, options).unwrap();
    for batch in batches(source, 0, 2) {
        for labels in batch.labels.as_ref().unwrap().chunks(14) {
            let is = |at: usize| labels[at + 1] != IGNORED;
            assert!(is(0) == is(1) && is(3) == is(4) && is(4) == is(5) && is(9) == is(10) && is(10) == is(11));
            assert!((4..=6).contains(&chosen(labels)));
        }
    }
}

#[test]
fn what_makes_no_sequences_is_refused() {
    let tokens = tokens_of(&lines(&["man"]), &bert());
    let with = |options| MaskedText::new(tokens.clone(), &bert(), options);
    assert_mentions(&refused(with(MaskedOptions::new(2))), &["length", "at least 3"]);
    assert_mentions(&refused(with(MaskedOptions::new(5))), &["length", "at most 4"]);
    assert_mentions(&refused(with(MaskedOptions { share: 0.0, ..MaskedOptions::new(4) })), &["share"]);
    assert!(with(MaskedOptions { share: f64::NAN, ..MaskedOptions::new(4) }).is_err());
    let other = MaskedText::new(tokens.clone(), &bytes(SpecialTokens::Bert), MaskedOptions::new(4));
    assert_mentions(&refused(other), &["tokenizer", "another one"]);
    let tokenizer = bytes(SpecialTokens::Gpt2);
    let none = MaskedText::new(byte_tokens(&["abc"]), &tokenizer, MaskedOptions::new(4));
    assert_mentions(&refused(none), &["cls_token"]);
    // A text of nothing but special tokens has nothing to be found again.
    let specials = tokens_of(&lines(&["[SEP][PAD][MASK][UNK]"]), &bert());
    let source = MaskedText::new(specials, &bert(), MaskedOptions::new(4)).unwrap();
    assert_eq!(chosen(batches(source, 0, 0)[0].labels.as_ref().unwrap()), 0);
}
