//! How many bytes of a text its tokens stand for.

use anyhow::Result;
use wgrad::data::{Loader, LoaderOptions, Source, TokenBatch, Tokenizer};

/// Sequences that are looked at together.
const BATCH: usize = 64;

/// The mean, over all tokens of a text but the first of each sequence, which nothing predicts. Separators stand for none.
pub fn a_token(text: impl Source<Batch = TokenBatch>, tokenizer: &Tokenizer) -> Result<f64> {
    // Of a vocabulary of bytes by token, since a sequence may begin and end within a character.
    let counts: Vec<Option<usize>> = (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.byte_count(id)).collect();
    let (mut bytes, mut tokens) = (0, 0);
    for batch in Loader::new(text, LoaderOptions::evaluation(BATCH))?.epoch(0)? {
        let batch = batch?;
        for ids in batch.ids.chunks(batch.tokens) {
            let predicted = ids.iter().skip(1).copied();
            let text: Vec<u32> = predicted.clone().filter(|&id| !tokenizer.is_special(id)).collect();
            let counted = text.iter().map(|&id| counts.get(id as usize).copied().flatten()).sum::<Option<usize>>();
            bytes += counted.map_or_else(|| tokenizer.decode(&text).map(|text| text.len()), Ok)?;
            tokens += predicted.len();
        }
    }
    Ok(bytes as f64 / tokens.max(1) as f64)
}
