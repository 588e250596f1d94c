//! How many bytes of a text its tokens stand for.

use anyhow::Result;
use wgrad::data::{Loader, LoaderOptions, Source, TokenBatch, Tokenizer};

/// Sequences that are looked at together.
const BATCH: usize = 64;

/// The mean, over all tokens of a text but the first of each sequence, which nothing predicts. Separators stand for none. `None` where the
/// vocabulary is not one of bytes: what its tokens leave out of a text nobody can count, and they may leave out all of it.
pub fn a_token(text: impl Source<Batch = TokenBatch>, tokenizer: &Tokenizer) -> Result<Option<f64>> {
    // By token, since a sequence may begin and end within a character.
    let counts: Vec<Option<usize>> = (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.byte_count(id)).collect();
    let (mut bytes, mut tokens) = (0, 0);
    for batch in Loader::new(text, LoaderOptions::evaluation(BATCH))?.epoch(0)? {
        let batch = batch?;
        for ids in batch.ids.chunks(batch.tokens) {
            let predicted = ids.iter().skip(1).copied();
            tokens += predicted.len();
            let text = predicted.filter(|&id| !tokenizer.is_special(id));
            let counted = text.map(|id| counts.get(id as usize).copied().flatten()).sum::<Option<usize>>();
            let Some(counted) = counted else { return Ok(None) };
            bytes += counted;
        }
    }
    Ok(Some(bytes as f64 / tokens.max(1) as f64))
}
