//! Another library's names for a model's tensors: to ours and back.

use std::collections::BTreeMap;

use super::tensors::{fault, refusal};
use super::{Checkpoint, HostTensor, READ};
use crate::error::Result;

/// A name of another library's, and ours.
pub(crate) type Pair = (&'static str, &'static str);

/// What another library calls the tensors of a model.
pub(crate) struct Renaming {
    /// Whose names they are, for errors.
    pub(crate) model: &'static str,
    /// What stands before their names in a file with more than the bare model, such as "vit.".
    pub(crate) place: &'static str,
    /// Beginnings of those of their names that have no `place` before them.
    pub(crate) outside: &'static [&'static str],
    /// Tensors outside the blocks.
    pub(crate) outer: &'static [Pair],
    /// What stands before a block's number.
    pub(crate) blocks: Pair,
    /// Layers of a block, each with a weight and perhaps a bias. Of several names of theirs for one layer all are read, and the
    /// first is written: so everywhere here.
    pub(crate) layers: &'static [Pair],
    /// Tensors of a block that are no layer's weight or bias.
    pub(crate) tensors: &'static [Pair],
    /// Layers of a block of which ours, named second, has the rows of all, one below the other.
    pub(crate) packed: &'static [(&'static [&'static str], &'static str)],
    /// Beginnings of names of what is not used.
    pub(crate) ignored: &'static [&'static str],
    /// As [`super::Known::refused`].
    pub(crate) refused: &'static [(&'static str, &'static str)],
}

/// What becomes of one of their tensors.
enum Renamed {
    To(String),
    /// The part `part` of the packed tensor of this name.
    Packed {
        name: String,
        parts: &'static [&'static str],
        part: usize,
    },
    Ignored,
    Unknown,
}

/// A packed tensor's parts, as far as they have been found.
pub(crate) struct Packing {
    pub(crate) names: &'static [&'static str],
    pub(crate) found: Vec<Option<HostTensor>>,
}

impl Renaming {
    fn rename(&self, name: &str) -> Renamed {
        if self.ignored.iter().any(|ignored| name.starts_with(ignored)) {
            return Renamed::Ignored;
        }
        if let Some((_, ours)) = self.outer.iter().find(|(theirs, _)| *theirs == name) {
            return Renamed::To((*ours).to_owned());
        }
        let (theirs, ours) = self.blocks;
        let Some((block, rest)) = name.strip_prefix(theirs).and_then(|name| name.split_once('.')) else {
            return Renamed::Unknown;
        };
        if let Some((_, to)) = self.tensors.iter().find(|(theirs, _)| *theirs == rest) {
            return Renamed::To(format!("{ours}{block}.{to}"));
        }
        let of_layer = rest.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"));
        let Some((layer, kind)) = of_layer else { return Renamed::Unknown };
        let our_name = |layer: &str| format!("{ours}{block}.{layer}.{kind}");
        if let Some((_, ours)) = self.layers.iter().find(|(theirs, _)| *theirs == layer) {
            return Renamed::To(our_name(ours));
        }
        let packed = |(parts, ours): &(&'static [&'static str], &str)| {
            let part = parts.iter().position(|theirs| *theirs == layer)?;
            Some(Renamed::Packed { name: our_name(ours), parts, part })
        };
        self.packed.iter().find_map(packed).unwrap_or(Renamed::Unknown)
    }

    /// The same weights under our names.
    ///
    /// # Errors
    /// [`crate::Error::Parameter`] for a tensor that is not a part of this model, is of a type that is not read, or does not fit
    /// its siblings.
    pub(crate) fn to_ours(&self, theirs: Checkpoint) -> Result<Checkpoint> {
        let mut ours = Checkpoint { metadata: theirs.metadata, ..Checkpoint::default() };
        let mut unknown = Vec::new();
        let mut packed: BTreeMap<String, Packing> = BTreeMap::new();
        for (name, tensor) in theirs.tensors {
            let another = match self.rename(&name) {
                Renamed::To(to) => ours.tensors.insert(to, tensor),
                Renamed::Packed { name, parts, part } => {
                    let packing = packed.entry(name);
                    let packing = packing.or_insert_with(|| Packing { names: parts, found: vec![None; parts.len()] });
                    packing.found[part].replace(tensor)
                }
                Renamed::Ignored => None,
                Renamed::Unknown => {
                    unknown.push(name);
                    continue;
                }
            };
            if another.is_some() {
                return Err(fault(&name, "is there twice, under two of its names"));
            }
        }
        if let Some(first) = unknown.first() {
            let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
            return Err(match refusal(&names, self.refused) {
                Some((name, reason)) => fault(name, format!("belongs to {reason}, which is not computed here")),
                None => fault(first, format!("is not a part of {}", self.model)),
            });
        }
        for (name, skipped) in theirs.skipped {
            match self.rename(&name) {
                Renamed::To(to) => drop(ours.skipped.insert(to, skipped)),
                Renamed::Packed { .. } => {
                    return Err(fault(&name, format!("is {skipped}, which is not read: {READ} are")));
                }
                Renamed::Ignored => {}
                Renamed::Unknown => drop(ours.skipped.insert(name, skipped)),
            }
        }
        for (name, packing) in packed {
            let tensor = packing.pack(&name)?;
            ours.tensors.insert(name, tensor);
        }
        Ok(ours)
    }

    /// Our tensors under their names, what is packed in parts.
    ///
    /// # Errors
    /// [`crate::Error::Parameter`] for a tensor that they have no name for.
    pub(crate) fn to_theirs(&self, ours: BTreeMap<String, HostTensor>) -> Result<BTreeMap<String, HostTensor>> {
        let mut theirs = BTreeMap::new();
        for (name, tensor) in ours {
            if let Some((to, _)) = self.outer.iter().find(|(_, ours)| *ours == name) {
                theirs.insert(self.placed(to), tensor);
                continue;
            }
            let no_name = || fault(&name, format!("has no place in {}", self.model));
            let rest = name.strip_prefix(self.blocks.1).ok_or_else(no_name)?;
            let (block, rest) = rest.split_once('.').ok_or_else(no_name)?;
            if let Some((to, _)) = self.tensors.iter().find(|(_, ours)| *ours == rest) {
                theirs.insert(self.placed(&format!("{}{block}.{to}", self.blocks.0)), tensor);
                continue;
            }
            let (layer, kind) = rest.rsplit_once('.').ok_or_else(no_name)?;
            let their_name = |layer: &str| self.placed(&format!("{}{block}.{layer}.{kind}", self.blocks.0));
            if let Some((to, _)) = self.layers.iter().find(|(_, ours)| *ours == layer) {
                theirs.insert(their_name(to), tensor);
                continue;
            }
            let (parts, _) = self.packed.iter().find(|(_, ours)| *ours == layer).ok_or_else(no_name)?;
            let cut = cut(&tensor, parts.len()).ok_or_else(no_name)?;
            theirs.extend(parts.iter().map(|part| their_name(part)).zip(cut));
        }
        Ok(theirs)
    }

    fn placed(&self, name: &str) -> String {
        let is_outside = self.outside.iter().any(|beginning| name.starts_with(beginning));
        format!("{}{name}", if is_outside { "" } else { self.place })
    }
}

impl Packing {
    /// The parts, of equal shapes, one below the other, in the tensor `name`.
    ///
    /// # Errors
    /// [`crate::Error::Parameter`] if one is missing, or of another shape than the others.
    pub(crate) fn pack(self, name: &str) -> Result<HostTensor> {
        let called = || self.names.iter().map(|name| name.rsplit('.').next().unwrap_or(name).to_owned());
        let Some(parts) = self.found.into_iter().collect::<Option<Vec<HostTensor>>>() else {
            return Err(fault(name, format!("cannot be packed: one of {} is missing", listed(called()))));
        };
        let mut shape = parts.first().map(|part| part.shape.clone()).unwrap_or_default();
        if shape.is_empty() || parts.iter().any(|part| part.shape != shape) {
            let shapes = called().zip(&parts).map(|(name, part)| format!("{name} {:?}", part.shape));
            return Err(fault(name, format!("cannot be packed: {}", listed(shapes))));
        }
        shape[0] = shape[0].saturating_mul(parts.len());
        let data: Vec<Vec<f32>> = parts.into_iter().map(|part| part.data).collect();
        Ok(HostTensor { shape, data: data.concat() })
    }
}

/// A tensor's rows in so many equal parts, if their number allows that.
pub(crate) fn cut(tensor: &HostTensor, parts: usize) -> Option<Vec<HostTensor>> {
    let mut shape = tensor.shape.clone();
    let rows = shape.first_mut().filter(|rows| rows.is_multiple_of(parts))?;
    *rows /= parts;
    let data = tensor.data.chunks(shape.iter().product::<usize>().max(1));
    Some(data.map(|data| HostTensor { shape: shape.clone(), data: data.to_vec() }).collect())
}

/// `a, b and c`.
fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => items.concat(),
    }
}
