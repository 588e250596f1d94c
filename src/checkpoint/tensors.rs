//! What the names and shapes of tensors tell of their model, and refusal of a model that is another than the one expected.

use super::{Checkpoint, SkippedTensor, quoted};
use crate::error::{Error, Result};

/// The names that a model's tensors have.
pub(crate) struct Known {
    /// Whether a tensor of this name belongs to the model, or changes nothing of it.
    pub(crate) is_known: fn(&str) -> bool,
    /// Parts of other names, and what has such parts; a star stands for any end of the last. The first that fits explains a
    /// refusal.
    pub(crate) refused: &'static [(&'static str, &'static str)],
    /// What a tensor belongs to that has none of those parts.
    pub(crate) otherwise: &'static str,
}

impl Known {
    /// Refuses tensors that the model has no place for. `architecture` is what the file beside the weights calls it.
    ///
    /// # Errors
    /// [`Error::Parameter`] naming the tensor.
    pub(crate) fn check(&self, checkpoint: &Checkpoint, architecture: Option<&str>) -> Result<()> {
        self.refuse_unknown(checkpoint, architecture)?;
        self.refuse_unread(checkpoint)
    }

    /// Refuses every tensor that the model would leave out: without it, another function would be computed.
    fn refuse_unknown(&self, checkpoint: &Checkpoint, architecture: Option<&str>) -> Result<()> {
        let names = checkpoint.tensors.keys().map(String::as_str);
        let unknown: Vec<&str> = names.filter(|name| !(self.is_known)(name)).collect();
        let Some(first) = unknown.first() else { return Ok(()) };
        let (name, reason) = refusal(&unknown, self.refused).unwrap_or((first, self.otherwise));
        let of = architecture.map_or_else(String::new, |name| format!(" of {}", quoted(name)));
        Err(fault(name, format!("belongs to {reason}{of}, which is not computed here")))
    }

    /// Refuses a tensor of a type that is not read, where the model would be another without it; whole numbers under other names
    /// are counters and tables that no model computes with.
    fn refuse_unread(&self, checkpoint: &Checkpoint) -> Result<()> {
        let is_counter = |dtype: &str| dtype.starts_with(['I', 'U']) || dtype == "BOOL";
        let lost = |(name, tensor): &(&String, &SkippedTensor)| (self.is_known)(name) || !is_counter(&tensor.dtype);
        match checkpoint.skipped.iter().find(lost) {
            Some((name, _)) => checkpoint.get(name).map(drop),
            None => Ok(()),
        }
    }
}

/// What is refused of any model.
const REFUSED: [(&str, &str); 1] = [("lora_*", "an adapter (LoRA), not yet merged into its model")];

/// One of the names with the reason why it is refused, if a reason is known.
pub(crate) fn refusal<'a>(
    names: &[&'a str],
    refused: &[(&'static str, &'static str)],
) -> Option<(&'a str, &'static str)> {
    let found = |(part, reason): &(&str, &'static str)| {
        names.iter().find(|name| has_parts(name, part)).map(|name| (*name, *reason))
    };
    REFUSED.iter().chain(refused).find_map(found)
}

/// Whether a name has these parts, one after the other: `attn.norm` is in `blocks.0.attn.norm.weight`.
fn has_parts(name: &str, wanted: &str) -> bool {
    let (name, wanted): (Vec<&str>, Vec<&str>) = (name.split('.').collect(), wanted.split('.').collect());
    let is_same = |(part, wanted): (&&str, &&str)| match wanted.strip_suffix('*') {
        Some(beginning) => part.starts_with(beginning),
        None => part == wanted,
    };
    name.windows(wanted.len()).any(|parts| parts.iter().zip(&wanted).all(is_same))
}

/// Whether it is the weight or the bias of one of these layers.
pub(crate) fn is_of_layer(layers: &[&str], name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(layer, kind)| matches!(kind, "weight" | "bias") && layers.contains(&layer))
}

/// The number after `blocks`, such as "blocks.", at a name's start, and what follows.
pub(crate) fn in_block<'a>(blocks: &str, name: &'a str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(blocks)?.split_once('.')?;
    // As it is printed: `7`, not `07` or `+7`.
    let block: usize = number.parse().ok().filter(|block: &usize| block.to_string() == number)?;
    Some((block, rest))
}

/// L: blocks, each with a tensor `landmark`, are numbered from 0 without a gap.
///
/// # Errors
/// [`Error::Parameter`] naming a tensor of a block behind a gap.
pub(crate) fn depth(checkpoint: &Checkpoint, blocks: &str, landmark: &str) -> Result<usize> {
    let is_there = |i: &usize| checkpoint.tensors.contains_key(&format!("{blocks}{i}.{landmark}"));
    let depth = (0..).take_while(is_there).count();
    match checkpoint.tensors.keys().find(|name| in_block(blocks, name).is_some_and(|(i, _)| i >= depth)) {
        Some(name) => Err(fault(name, format!("is there, but {blocks}{depth}.{landmark} is not in the checkpoint"))),
        None => Ok(depth),
    }
}

/// The rows of a weight `[rows, width]`.
///
/// # Errors
/// [`Error::Parameter`] if it is not there or of another width.
pub(crate) fn rows(checkpoint: &Checkpoint, name: &str, width: usize) -> Result<usize> {
    match checkpoint.get(name)?.shape.as_slice() {
        &[rows, columns] if columns == width => Ok(rows),
        other => Err(fault(name, format!("is {other:?}, expected two sizes, the last {width}"))),
    }
}

/// Whether each of these tensors is there in its shape. With the large ones of a model among them, it takes no more memory than
/// the file.
///
/// # Errors
/// [`Error::Parameter`] naming the first that is not.
pub(crate) fn check_shapes(
    checkpoint: &Checkpoint,
    expected: impl IntoIterator<Item = (String, Vec<usize>)>,
) -> Result<()> {
    for (name, shape) in expected {
        let found = &checkpoint.get(&name)?.shape;
        if *found != shape {
            return Err(fault(&name, format!("is {found:?}, expected {shape:?}")));
        }
    }
    Ok(())
}

/// What is wrong with the tensor of a file.
pub(crate) fn fault(name: &str, what: impl Into<String>) -> Error {
    Error::Parameter { name: quoted(name), what: what.into() }
}
