//! Batches for masked language models.

use rand_pcg::Pcg32;
use serde::Serialize;

use super::packed::{check_batch, check_count};
use super::tokenizer::Words;
use super::{Special, Tokenizer, Tokens};
use crate::data::random::{Purpose, below, keyed, shuffle};
use crate::data::{Source, TokenBatch, Wanted};
use crate::error::{Error, Result};
use crate::identity::json;

const OP: &str = "data.masked_text";

/// What sequences [`MaskedText`] makes, and what of them is to be found again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MaskedOptions {
    /// T, with `[CLS]` and `[SEP]`.
    pub length: usize,
    /// The share of a sequence's tokens that is to be found again.
    pub share: f64,
    /// Whether the tokens of a word are chosen together: those that begin with the vocabulary's mark, `##` in BERT's, in a WordPiece
    /// vocabulary, all up to the next white space in a byte-level one.
    pub whole_words: bool,
    /// Whether sequences are filled up across documents, with separators between them, so that all have T tokens. Else each
    /// sequence is of one document, or of a part of one that is longer, and shorter ones are padded at the right.
    pub across_documents: bool,
}

impl MaskedOptions {
    /// BERT's: 15 % of the tokens, one by one, in sequences that are filled up.
    pub fn new(length: usize) -> Self {
        MaskedOptions { length, share: 0.15, whole_words: false, across_documents: true }
    }
}

/// Texts as sequences `[CLS]` … `[SEP]`, of which some tokens are to be found again (Devlin et al., "BERT", 2019): of n tokens
/// between the two, round(`share` · n), at least one, in every epoch others. Of these 80 % become `[MASK]`, 10 % any token that stands
/// for text, 10 % stay. Special tokens are never chosen. Labels are the tokens themselves at these places, and
/// [`TokenBatch::IGNORED`] elsewhere.
///
/// Whole words are taken in a drawn order, without those that would be too many; so there may be fewer than that number.
///
/// Sequences across documents have every token once in an epoch, but for those that remain at the end, fewer than T - 2.
#[derive(Debug)]
pub struct MaskedText {
    tokens: Tokens,
    options: MaskedOptions,
    specials: Specials,
    words: Words,
    spans: Spans,
}

#[derive(Debug)]
struct Specials {
    cls: u32,
    sep: u32,
    mask: u32,
    pad: u32,
}

/// Which tokens a sample has.
#[derive(Debug)]
enum Spans {
    /// So many samples, one behind the other.
    Across(u64),
    /// In order. A document that is longer than a sequence has several samples.
    Documents { documents: Vec<Document>, samples: u64 },
}

#[derive(Debug)]
struct Document {
    first_sample: u64,
    /// Its places without its separator.
    begin: u64,
    end: u64,
}

impl MaskedText {
    /// Sequences of tokens that `tokenizer` has made.
    ///
    /// # Errors
    /// [`Error::Argument`] if T is below 3, the share is not above 0 and at most 1, there is not one sequence, or the tokens are
    /// another tokenizer's; [`Error::File`] if the tokenizer lacks one of `[CLS]`, `[SEP]`, `[MASK]` and, where there is padding,
    /// `[PAD]`.
    pub fn new(tokens: Tokens, tokenizer: &Tokenizer, options: MaskedOptions) -> Result<Self> {
        let MaskedOptions { length, share, across_documents, .. } = options;
        if length < 3 {
            return Err(Error::argument(OP, "length", "at least 3", length));
        }
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::argument(OP, "share", "above 0 and at most 1", share));
        }
        if tokens.tokenizer() != tokenizer.identity() {
            return Err(Error::argument(OP, "tokenizer", "the one that made the tokens", "another one"));
        }
        let [cls, sep, mask] = [Special::Cls, Special::Sep, Special::Mask].map(|special| tokenizer.require(special));
        let pad = if across_documents { Ok(0) } else { tokenizer.require(Special::Pad) };
        let specials = Specials { cls: cls?, sep: sep?, mask: mask?, pad: pad? };
        let body = length as u64 - 2;
        let spans = if across_documents { Spans::Across(tokens.len() / body) } else { by_document(&tokens, body)? };
        let words = Words::new(tokenizer);
        if options.whole_words && !words.are_marked {
            let expected =
                "false for a tokenizer whose words are marked neither as WordPiece's nor as byte-level ones are";
            return Err(Error::argument(OP, "whole_words", expected, true));
        }
        let source = MaskedText { tokens, options, specials, words, spans };
        check_count(OP, source.samples())?;
        if source.samples() == 0 {
            let expected = format!("at most {}, two more than there are tokens", source.tokens.len() + 2);
            return Err(Error::argument(OP, "length", expected, length));
        }
        Ok(source)
    }

    /// What it is made of.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    fn samples(&self) -> u64 {
        match self.spans {
            Spans::Across(samples) | Spans::Documents { samples, .. } => samples,
        }
    }

    /// A sample's tokens between `[CLS]` and `[SEP]`.
    fn body(&self, sample: u32) -> Result<Vec<u32>> {
        let (sample, most) = (u64::from(sample), self.options.length as u64 - 2);
        let places = match &self.spans {
            Spans::Across(_) => sample * most..(sample + 1) * most,
            Spans::Documents { documents, .. } => {
                let at = documents.partition_point(|document| document.first_sample <= sample);
                let document = at.checked_sub(1).and_then(|at| documents.get(at));
                document.map_or(0..0, |&Document { first_sample, begin, end }| {
                    let begin = begin + (sample - first_sample) * most;
                    begin..end.min(begin + most)
                })
            }
        };
        self.tokens.read(places)
    }

    /// The places in `body` that are to be found again, in a drawn order.
    fn choose(&self, body: &[u32], rng: &mut Pcg32) -> Vec<usize> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (place, &id) in body.iter().enumerate().filter(|(_, id)| self.words.is_text(**id)) {
            let before = place.checked_sub(1).map(|before| body[before]);
            let goes_on = self.options.whole_words && before.is_some_and(|before| self.words.is_one_word(before, id));
            match groups.last_mut().filter(|_| goes_on) {
                Some(word) => word.push(place),
                None => groups.push(vec![place]),
            }
        }
        let wanted = ((body.len() as f64 * self.options.share).round() as usize).max(1);
        let mut order: Vec<u32> = (0..groups.len() as u32).collect();
        shuffle(rng, &mut order);
        let mut chosen = Vec::new();
        for group in order.into_iter().map(|group| &groups[group as usize]) {
            if chosen.len() + group.len() <= wanted {
                chosen.extend_from_slice(group);
            }
        }
        chosen
    }

    /// Puts something else in the places of chosen tokens, and returns the labels.
    fn mask(&self, body: &mut [u32], rng: &mut Pcg32) -> Vec<u32> {
        let mut labels = vec![TokenBatch::IGNORED; body.len()];
        for place in self.choose(body, rng) {
            labels[place] = body[place];
            // Two draws whatever they are for, which keeps the later ones in place.
            let (kind, other) = (below(rng, 10), below(rng, self.words.ordinary.len() as u32));
            body[place] = match kind {
                0..8 => self.specials.mask,
                8 => self.words.ordinary[other as usize],
                _ => body[place],
            };
        }
        labels
    }
}

/// The samples of documents, each of at most `most` tokens.
fn by_document(tokens: &Tokens, most: u64) -> Result<Spans> {
    let (mut documents, mut samples) = (Vec::new(), 0);
    for places in tokens.documents() {
        // Of a document that is held out in part, the beginning has no separator.
        let ends = tokens.read(places.end - 1..places.end)? == [tokens.separator()];
        let end = places.end - u64::from(ends);
        if places.start < end {
            documents.push(Document { first_sample: samples, begin: places.start, end });
            samples += (end - places.start).div_ceil(most);
        }
    }
    Ok(Spans::Documents { documents, samples })
}

#[derive(Serialize)]
struct Identity<'a> {
    kind: &'static str,
    options: &'a MaskedOptions,
    tokens: String,
}

impl Source for MaskedText {
    type Batch = TokenBatch;

    fn len(&self) -> usize {
        self.samples() as usize
    }

    /// The options, and what decides on the tokens.
    fn identity(&self) -> String {
        json(&Identity { kind: "masked", options: &self.options, tokens: self.tokens.identity() })
    }

    fn check(&self, batch_size: usize) -> Result<()> {
        check_batch(OP, batch_size, self.options.length)
    }

    fn make(&self, wanted: &Wanted<'_>) -> Result<Option<TokenBatch>> {
        let MaskedOptions { length, across_documents, .. } = self.options;
        let Specials { cls, sep, pad, .. } = self.specials;
        let (mut ids, mut labels, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &sample) in (1..).zip(wanted.samples) {
            if wanted.is_stopped() {
                return Ok(None);
            }
            let mut rng = keyed(Purpose::MaskTokens, wanted.seed, [wanted.position.epoch, sample.into()]);
            let mut body = self.body(sample)?;
            let found = self.mask(&mut body, &mut rng);
            lengths.push(body.len() as u32 + 2);
            ids.push(cls);
            ids.extend(body);
            ids.push(sep);
            ids.resize(row * length, pad);
            labels.push(TokenBatch::IGNORED);
            labels.extend(found);
            labels.resize(row * length, TokenBatch::IGNORED);
        }
        Ok(Some(TokenBatch {
            tokens: length,
            ids,
            types: None,
            lengths: (!across_documents).then_some(lengths),
            labels: Some(labels),
            indices: wanted.samples.to_vec(),
            position: wanted.position,
        }))
    }
}
