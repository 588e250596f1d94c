//! What a text's next part is encoded with, where a tokenizer puts a space before a text.

use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Tokenizer};

/// What a text's next part is encoded with up to its first word, where a tokenizer puts a space before a text.
pub(super) struct Rest {
    /// The same without that space.
    pub(super) tokenizer: Tokenizer,
    /// What divides a text before a space is put before each split.
    ahead: Option<PreTokenizerWrapper>,
}

impl Rest {
    /// `None` for a tokenizer that puts no space before a text.
    pub(super) fn of(inner: &Tokenizer) -> Option<Self> {
        let own = inner.get_pre_tokenizer()?;
        let plain = without_space(own);
        (plain != *own).then(|| {
            let mut tokenizer = inner.clone();
            tokenizer.with_pre_tokenizer(Some(plain));
            Rest { tokenizer, ahead: ahead_of_bytes(own) }
        })
    }

    /// Where a text's first split ends that begins with the text: 0 if something is taken away before the first.
    pub(super) fn first_split(&self, text: &str) -> usize {
        let Some(ahead) = &self.ahead else { return text.len() };
        let mut splits = PreTokenizedString::from(text);
        if ahead.pre_tokenize(&mut splits).is_err() {
            // The tokenizer fails on it likewise, and says so.
            return text.len();
        }
        match splits.get_splits(OffsetReferential::Original, OffsetType::Byte).first() {
            Some((_, (0, end), _)) => *end,
            Some(_) => 0,
            None => text.len(),
        }
    }
}

fn without_space(pre_tokenizer: &PreTokenizerWrapper) -> PreTokenizerWrapper {
    match pre_tokenizer {
        PreTokenizerWrapper::ByteLevel(byte_level) => {
            PreTokenizerWrapper::ByteLevel(byte_level.add_prefix_space(false))
        }
        PreTokenizerWrapper::Sequence(parts) => sequence(parts.as_ref().iter().map(without_space).collect()),
        other => other.clone(),
    }
}

/// What of a Sequence comes before its ByteLevel.
fn ahead_of_bytes(pre_tokenizer: &PreTokenizerWrapper) -> Option<PreTokenizerWrapper> {
    let PreTokenizerWrapper::Sequence(parts) = pre_tokenizer else { return None };
    let parts = parts.as_ref().iter();
    let ahead: Vec<_> = parts.take_while(|part| !matches!(part, PreTokenizerWrapper::ByteLevel(_))).cloned().collect();
    (!ahead.is_empty()).then(|| sequence(ahead))
}

fn sequence(parts: Vec<PreTokenizerWrapper>) -> PreTokenizerWrapper {
    PreTokenizerWrapper::Sequence(Sequence::new(parts))
}
