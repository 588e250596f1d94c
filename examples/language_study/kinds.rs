//! The two small models, and the text that they learn.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use wgrad::data::{
    HeldOut, MaskedOptions, MaskedText, PackedText, Source, SpecialTokens, Texts, TokenBatch, TokenCache, Tokenizer,
    Tokens, TrainOptions,
};
use wgrad::gpu::Gpu;
use wgrad::models::bert::{Bert, BertConfig};
use wgrad::models::gpt2::{Gpt2, Gpt2Config};
use wgrad::nn::LanguageModel;
use wgrad::train::{Causal, Masked};

/// C, L, H of both.
const SIZES: [usize; 3] = [64, 6, 2];
/// T.
pub const TOKENS: usize = 128;
const VOCABULARY: usize = 1024;
/// Of the documents.
const HELD_OUT: f64 = 0.1;

/// A small language model with the objective `O`.
pub trait SmallModel<O> {
    type Model: LanguageModel;
    type Source: Source<Batch = TokenBatch>;

    const NAME: &'static str;
    /// As headings have it.
    const TITLE: &'static str;

    fn model(gpu: &Gpu, vocabulary: usize, seed: u64) -> wgrad::Result<Self::Model>;

    fn objective() -> O;

    fn source(tokens: Tokens, tokenizer: &Tokenizer) -> wgrad::Result<Self::Source>;
}

/// A GPT.
pub struct SmallGpt;

impl SmallModel<Causal> for SmallGpt {
    type Model = Gpt2;
    type Source = PackedText;

    const NAME: &'static str = "gpt";
    const TITLE: &'static str = "GPT";

    fn model(gpu: &Gpu, vocab_size: usize, seed: u64) -> wgrad::Result<Gpt2> {
        let [width, depth, heads] = SIZES;
        let config = Gpt2Config {
            vocab_size,
            n_positions: TOKENS,
            resid_pdrop: 0.0,
            embd_pdrop: 0.0,
            attn_pdrop: 0.0,
            ..Gpt2Config::custom(width, depth, heads)
        };
        Gpt2::new(gpu, config, seed)
    }

    fn objective() -> Causal {
        Causal
    }

    fn source(tokens: Tokens, _: &Tokenizer) -> wgrad::Result<PackedText> {
        PackedText::new(tokens, TOKENS)
    }
}

/// A BERT.
pub struct SmallBert;

impl SmallModel<Masked> for SmallBert {
    type Model = Bert;
    type Source = MaskedText;

    const NAME: &'static str = "bert";
    const TITLE: &'static str = "BERT";

    fn model(gpu: &Gpu, vocab_size: usize, seed: u64) -> wgrad::Result<Bert> {
        let [width, depth, heads] = SIZES;
        let config = BertConfig {
            vocab_size,
            max_position_embeddings: TOKENS,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            ..BertConfig::custom(width, depth, heads)
        };
        Bert::new(gpu, config, seed)
    }

    fn objective() -> Masked {
        Masked::usual(TOKENS)
    }

    fn source(tokens: Tokens, tokenizer: &Tokenizer) -> wgrad::Result<MaskedText> {
        MaskedText::new(tokens, tokenizer, MaskedOptions::new(TOKENS))
    }
}

/// A text with its vocabulary, of which whole documents are held out.
pub struct Corpus {
    pub tokenizer: Tokenizer,
    pub train: Tokens,
    pub test: Tokens,
    documents: [usize; 2],
    /// Perplexity of the test's tokens to one who knows only how often each occurs.
    pub by_frequency: f64,
}

impl Corpus {
    /// `folder` keeps the tokens.
    pub fn new(texts: &Texts, specials: SpecialTokens, folder: &Path) -> Result<Self> {
        let options = TrainOptions { vocab_size: VOCABULARY, specials, ..TrainOptions::default() };
        let tokenizer = Tokenizer::train(texts, &options)?;
        let tokens = Tokens::new(texts, &tokenizer, &TokenCache::Folder(folder.join("tokens")))?;
        let [train, test] = tokens.hold_out(HeldOut::Documents { share: HELD_OUT, seed: 0 })?;
        let documents = [&train, &test].map(|part| part.documents().count());
        let by_frequency = by_frequency(&train, &test)?;
        Ok(Corpus { tokenizer, train, test, documents, by_frequency })
    }

    /// What tells it from other texts: the vocabulary, which is made of them, and how many tokens they are.
    pub fn identity(&self) -> String {
        format!("{} + {} tokens of vocabulary {}", self.train.len(), self.test.len(), self.tokenizer.identity())
    }
}

/// Perplexity of `test` under the frequencies of `train`'s tokens, each counted once more than it occurs.
fn by_frequency(train: &Tokens, test: &Tokens) -> wgrad::Result<f64> {
    let mut counts = vec![1u64; train.vocab_size()];
    for id in train.read(0..train.len())? {
        counts[id as usize] += 1;
    }
    let all = counts.iter().sum::<u64>() as f64;
    let ids = test.read(0..test.len())?;
    let loss: f64 = ids.iter().map(|&id| -(counts[id as usize] as f64 / all).ln()).sum();
    Ok((loss / ids.len() as f64).exp())
}

impl fmt::Display for Corpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [train, test] = self.documents;
        write!(
            f,
            "{train} documents of {} tokens to train on, {test} documents of {} tokens held out, drawn by seed 0; a byte-level BPE \
             vocabulary of {}",
            self.train.len(),
            self.test.len(),
            self.tokenizer.vocab_size()
        )
    }
}

/// In words.
pub fn sizes() -> String {
    let [width, depth, heads] = SIZES;
    format!("{width} wide, {depth} deep, {heads} heads, sequences of {TOKENS} tokens")
}
