//! Tokens with a meaning of their own.

use serde::Serialize;

/// A token that stands for no text, by what it is for. transformers calls them `eos_token` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub enum Special {
    /// The end of a text: GPT-2's `<|endoftext|>`.
    Eos,
    /// The beginning of a text.
    Bos,
    /// What fills a batch up.
    Pad,
    /// What masked language modelling puts in a token's place.
    Mask,
    /// The beginning of BERT's sequences.
    Cls,
    /// The end of each part of BERT's sequences.
    Sep,
    /// What stands for text that the vocabulary has no token for.
    Unk,
}

impl Special {
    /// All of them.
    pub const ALL: [Special; 7] =
        [Special::Eos, Special::Bos, Special::Pad, Special::Mask, Special::Cls, Special::Sep, Special::Unk];

    /// What transformers calls it: the key in `tokenizer_config.json`.
    pub fn key(self) -> &'static str {
        match self {
            Special::Eos => "eos_token",
            Special::Bos => "bos_token",
            Special::Pad => "pad_token",
            Special::Mask => "mask_token",
            Special::Cls => "cls_token",
            Special::Sep => "sep_token",
            Special::Unk => "unk_token",
        }
    }

    /// How published vocabularies of GPT-2, BERT and RoBERTa write it, where no file says.
    pub(super) fn usual(self) -> &'static [&'static str] {
        match self {
            Special::Eos => &["<|endoftext|>", "</s>"],
            Special::Bos => &["<|endoftext|>", "<s>"],
            Special::Pad => &["[PAD]", "<pad>"],
            Special::Mask => &["[MASK]", "<mask>"],
            Special::Cls => &["[CLS]", "<s>"],
            Special::Sep => &["[SEP]", "</s>"],
            Special::Unk => &["[UNK]", "<unk>"],
        }
    }
}

/// The special tokens of a vocabulary that is made here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecialTokens {
    /// `<|endoftext|>`, which ends and begins texts.
    #[default]
    Gpt2,
    /// `[PAD]`, `[CLS]`, `[SEP]`, `[MASK]`. No `[UNK]`: bytes are never unknown.
    Bert,
}

impl SpecialTokens {
    /// What each is for, and how it is written.
    pub(super) fn named(self) -> &'static [(Special, &'static str)] {
        match self {
            SpecialTokens::Gpt2 => &[(Special::Eos, "<|endoftext|>"), (Special::Bos, "<|endoftext|>")],
            SpecialTokens::Bert => {
                &[(Special::Pad, "[PAD]"), (Special::Cls, "[CLS]"), (Special::Sep, "[SEP]"), (Special::Mask, "[MASK]")]
            }
        }
    }

    /// How they are written, each once.
    pub(super) fn contents(self) -> Vec<&'static str> {
        let mut contents: Vec<&str> = self.named().iter().map(|(_, content)| *content).collect();
        contents.dedup();
        contents
    }
}
