//! How many bytes of a text its tokens stand for.

use anyhow::Result;
use wgrad::data::{Loader, LoaderOptions, Source, TokenBatch, Tokenizer};

/// Sequences that are looked at together.
const BATCH: usize = 64;

/// The mean, over all tokens of a text but the first of each sequence, which nothing predicts. Separators stand for none.
pub fn a_token(text: impl Source<Batch = TokenBatch>, tokenizer: &Tokenizer) -> Result<f64> {
    let (mut bytes, mut tokens) = (0, 0);
    for batch in Loader::new(text, LoaderOptions::evaluation(BATCH))?.epoch(0)? {
        let batch = batch?;
        for ids in batch.ids.chunks(batch.tokens) {
            let predicted = ids.iter().skip(1).copied();
            let text: Vec<u32> = predicted.clone().filter(|&id| !tokenizer.is_special(id)).collect();
            bytes += tokenizer.decode(&text)?.len();
            tokens += predicted.len();
        }
    }
    Ok(bytes as f64 / tokens.max(1) as f64)
}
