//! Text: tokenizers, texts of any size, and what makes batches of them.
//!
//! | file | holds |
//! |---|---|
//! | `tokenizer/` | [`Tokenizer`]: from text to token ids and back; vocabularies of one's own |
//! | `texts`, `reader` | [`Texts`]: files and folders; their documents in pieces, read block by block |
//! | `tokens`, `cache` | [`Tokens`]: all token ids of texts, on disk; the file that they are in |
//! | `held_out` | [`HeldOut`]: which part is measured and not trained on |
//! | `packed`, `masked` | [`PackedText`], [`MaskedText`]: what batches for GPT and for BERT are made of |

mod cache;
mod held_out;
mod masked;
mod packed;
mod reader;
mod texts;
mod tokenizer;
mod tokens;

pub use held_out::HeldOut;
pub use masked::{MaskedOptions, MaskedText};
pub use packed::PackedText;
pub use texts::{Documents, TextOptions, Texts};
pub use tokenizer::{Special, SpecialTokens, TextStream, Tokenizer, TrainOptions};
pub use tokens::{TokenCache, Tokens};
