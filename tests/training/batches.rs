//! Batches of sequences.

use wgrad::Error;
use wgrad::data::{Batch, Position, TokenBatch};

const IGNORED: u32 = TokenBatch::IGNORED;

/// Three samples of four tokens.
fn batch() -> TokenBatch {
    TokenBatch::new(4, (0..12).collect()).unwrap()
}

fn labels(batch: &TokenBatch) -> Vec<u32> {
    (0..batch.samples()).flat_map(|sample| batch.labels_of(sample)).collect()
}

#[test]
fn sequences_say_what_is_learnt() {
    let plain = batch();
    assert_eq!((plain.samples(), plain.position(), plain.length(2)), (3, Position::default(), 4));
    assert_eq!((labels(&plain), plain.indices.as_slice()), ((0..12).collect(), [0, 1, 2].as_slice()));
    assert_eq!(plain.labels_of(3).count(), 0);
    let short = plain.clone().with_lengths(vec![4, 1, 2]).unwrap();
    assert_eq!(labels(&short), [0, 1, 2, 3, 4, IGNORED, IGNORED, IGNORED, 8, 9, IGNORED, IGNORED]);
    assert_eq!((short.length(1), short.length(9)), (1, 4));
    let mut chosen = vec![IGNORED; 12];
    chosen[9] = 5;
    let masked = short.with_types(vec![0; 12]).unwrap().with_labels(chosen.clone()).unwrap();
    assert_eq!(labels(&masked), chosen);
    assert!(masked.check(12).is_ok());
}

/// Each fault is found whether a constructor is asked or the fields are set by hand, and is named with its place.
#[test]
fn sequences_that_are_not_whole_are_refused() {
    #[track_caller]
    fn refused(batch: TokenBatch, expected: &str) {
        match batch.check(12) {
            Err(error @ Error::Argument { op: "token batch", .. }) => assert_eq!(error.to_string(), expected),
            other => panic!("expected a refused batch, got {other:?}"),
        }
    }
    let good = batch();
    refused(TokenBatch { tokens: 0, ..good.clone() }, "token batch: tokens must be at least 1, got 0");
    refused(TokenBatch { tokens: 5, ..good.clone() }, "token batch: ids must be 3 samples of 5 tokens, got 12 tokens");
    refused(
        TokenBatch { tokens: usize::MAX, ..good.clone() },
        &format!("token batch: ids must be 3 samples of {} tokens, got 12 tokens", usize::MAX),
    );
    refused(
        TokenBatch { indices: Vec::new(), ..good.clone() },
        "token batch: ids must be at least one sample of 4 tokens, and below 2^32 tokens in all, got 12 tokens",
    );
    refused(
        TokenBatch { types: Some(vec![0; 11]), ..good.clone() },
        "token batch: types must be 3 samples of 4 tokens, got 11 tokens",
    );
    refused(
        TokenBatch { labels: Some(Vec::new()), ..good.clone() },
        "token batch: labels must be 3 samples of 4 tokens, got 0 tokens",
    );
    refused(
        TokenBatch { lengths: Some(vec![4, 4]), ..good.clone() },
        "token batch: lengths must be 3, one a sample, got 2",
    );
    for length in [0, 5, u32::MAX] {
        refused(
            TokenBatch { lengths: Some(vec![4, length, 4]), ..good.clone() },
            &format!("token batch: lengths must be 1 to 4, got {length} in sample 1"),
        );
    }
    let mut ids = good.ids.clone();
    ids[6] = 12;
    refused(
        TokenBatch { ids, ..good.clone() },
        "token batch: ids must be below 12, the vocabulary's size, got 12 in sample 1 at 2",
    );
    refused(
        TokenBatch { labels: Some(vec![IGNORED - 1; 12]), ..good.clone() },
        "token batch: labels must be IGNORED or below 12, the vocabulary's size, got 4294967294 in sample 0 at 0",
    );
    refused(
        TokenBatch { labels: Some(good.ids.clone()), lengths: Some(vec![4, 4, 3]), ..good.clone() },
        "token batch: labels must be IGNORED behind the sample's length, got 11 in sample 2 at 3",
    );

    let name = |result: wgrad::Result<TokenBatch>| match result {
        Err(Error::Argument { name, .. }) => name,
        other => panic!("expected a refused batch, got {other:?}"),
    };
    assert_eq!(name(TokenBatch::new(0, vec![1])), "tokens");
    assert_eq!(name(TokenBatch::new(4, Vec::new())), "ids");
    assert_eq!(name(TokenBatch::new(4, vec![1; 3])), "ids");
    assert_eq!(name(TokenBatch::new(4, vec![1; 9])), "ids");
    assert_eq!(name(batch().with_types(vec![0])), "types");
    assert_eq!(name(batch().with_labels(vec![0; 13])), "labels");
    assert_eq!(name(batch().with_lengths(vec![1, 2])), "lengths");
    assert_eq!(name(batch().with_lengths(vec![1, 2, 0])), "lengths");
    assert_eq!(name(batch().with_labels(vec![0; 12]).unwrap().with_lengths(vec![4, 4, 1])), "labels");
    assert_eq!(name(batch().with_lengths(vec![4, 4, 1]).unwrap().with_labels(vec![0; 12])), "labels");
}
