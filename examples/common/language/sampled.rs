//! What a GPT begins with where nobody says, and which of its tokens are text.

use wgrad::data::{Special, Tokenizer};

/// The tokens of a text that has not begun; `None` where the vocabulary has none for that.
pub fn beginning(tokenizer: &Tokenizer) -> wgrad::Result<Option<Vec<u32>>> {
    let special = [Special::Bos, Special::Eos, Special::Sep, Special::Cls];
    match special.into_iter().find_map(|special| tokenizer.special(special)) {
        Some(id) => Ok(Some(vec![id])),
        None => Ok(Some(tokenizer.encode("\n")?).filter(|ids| !ids.is_empty())),
    }
}

/// Whether a token stands for text: a special one does not, nor does one that the model has beyond its vocabulary.
pub fn is_text(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.token(id).is_some() && !tokenizer.is_special(id)
}
