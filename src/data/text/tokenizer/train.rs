//! Vocabularies made of the user's own text.

use std::collections::HashSet;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use super::describe::{self, byte_char};
use super::{OP, SpecialTokens, Tokenizer};
use crate::data::text::Texts;
use crate::error::{Error, Result};

/// The most text that a vocabulary is made of: pairs are counted in 31 bits.
const MAX_BYTES: u64 = (1 << 31) - 1;

type Trained = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// What vocabulary [`Tokenizer::train`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainOptions {
    /// V, with bytes and special tokens; fewer where the text has no more pairs to merge.
    pub vocab_size: usize,
    /// The special tokens, which get the first ids.
    pub specials: SpecialTokens,
    /// How often a pair must be there to be merged.
    pub min_frequency: u64,
}

impl Default for TrainOptions {
    /// 8,192 tokens, GPT-2's special token, pairs that are there twice.
    fn default() -> Self {
        TrainOptions { vocab_size: 8192, specials: SpecialTokens::Gpt2, min_frequency: 2 }
    }
}

impl Tokenizer {
    /// A byte-level BPE vocabulary (Radford et al., "Language models are unsupervised multitask learners", 2019) of the texts. Equal
    /// texts and options give equal vocabularies. Of 2 GiB and more the first 2 GiB count, with a warning. The distinct words of the texts are held in memory. [`Tokenizer::save`] writes
    /// what transformers loads.
    ///
    /// # Errors
    /// [`Error::Argument`] if the size does not hold the bytes and special tokens, or the texts make none; and what
    /// reading the texts says.
    pub fn train(texts: &Texts, options: &TrainOptions) -> Result<Self> {
        let TrainOptions { vocab_size, specials, min_frequency } = *options;
        let contents = specials.contents();
        let range = 256 + contents.len()..=1 << 20;
        if !range.contains(&vocab_size) {
            let expected = format!("from {} to {}", range.start(), range.end());
            return Err(Error::argument(OP, "vocab_size", expected, vocab_size));
        }
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(min_frequency)
            .show_progress(false)
            .special_tokens(contents.iter().map(|content| AddedToken::from(*content, true)).collect())
            .initial_alphabet((0..=u8::MAX).map(byte_char).collect::<HashSet<char>>())
            .build();
        let mut trained = Trained::new(BPE::default());
        trained.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        let mut fault = None;
        let pieces = texts.pieces().map_while(|piece| piece.map_err(|error| fault = Some(error)).ok());
        let outcome = trained.train(&mut trainer, first_of(pieces.map(|piece| piece.text), MAX_BYTES)).map(|_| ());
        fault.map_or(Ok(()), Err)?;
        let refused = |e: tokenizers::Error| Error::argument(OP, "texts", "such that they make a vocabulary", e);
        outcome.map_err(refused)?;
        let model = serde_json::to_value(trained.get_model()).map_err(|e| refused(e.into()))?;
        let tokenizer = Self::made(&describe::trained(&model, specials).to_string(), specials)?;
        if tokenizer.vocab_size() < vocab_size {
            let got = tokenizer.vocab_size();
            log::warn!(
                "the texts make a vocabulary of {got} tokens, not {vocab_size}: no more pairs are there {min_frequency} times"
            );
        }
        Ok(tokenizer)
    }
}

/// Texts as long as they have no more than so many bytes together. If there are more, a warning says so.
fn first_of(texts: impl Iterator<Item = String>, most: u64) -> impl Iterator<Item = String> {
    let mut sum = 0;
    let fits = move |text: &String| {
        let before = sum;
        sum += text.len() as u64;
        if sum > most {
            log::warn!(
                "the vocabulary is made of the first {before} bytes of text, as no more than {most} are counted"
            );
        }
        sum <= most
    };
    texts.take_while(fits)
}

#[cfg(test)]
mod tests {
    use super::first_of;

    #[test]
    fn no_more_than_so_many_bytes() {
        let texts = || ["four", "sixty", "x"].map(str::to_owned).into_iter();
        assert_eq!(first_of(texts(), 9).collect::<Vec<_>>(), ["four", "sixty"]);
        assert_eq!(first_of(texts(), 10).count(), 3);
    }
}
