//! The head of a checkpoint, for classes that may be others than its own.

use std::collections::BTreeMap;
use std::fmt;

use unicode_normalization::UnicodeNormalization;

use super::Pretrained;
use crate::checkpoint::HostTensor;
use crate::models::library::label;

/// The classifiers' parameters, a row for each class; those of adapters beside them too.
const HEAD: [&str; 6] =
    ["head.weight", "head.bias", "head.lora_B.weight", "head_dist.weight", "head_dist.bias", "head_dist.lora_B.weight"];

/// What becomes of a checkpoint's head, see [`Pretrained::set_classes`]. Prints as a line for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadFit {
    /// It is of these very classes.
    Same,
    /// Its rows were picked by the classes' names: these are some of its classes, or in another order.
    ByName {
        /// How many classes the checkpoint has.
        of: usize,
    },
    /// The checkpoint does not name its classes. Their number is the same, so it is taken to be of these classes in this order.
    Unnamed,
    /// It is of other classes, and is left out or does not fit, so that the model's starts anew.
    Other {
        /// The first class that the checkpoint does not know.
        unknown: String,
    },
    /// There is none, or nothing is known of it but that it has another number of classes.
    None,
}

impl fmt::Display for HeadFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadFit::Same => f.write_str("the checkpoint's head is of these classes"),
            HeadFit::ByName { of } => write!(f, "the head's rows are taken by name from the checkpoint's {of} classes"),
            HeadFit::Unnamed => f.write_str(
                "the checkpoint does not name its classes: its head is taken to be of these, in the order of their names",
            ),
            HeadFit::Other { unknown } => {
                write!(f, "the checkpoint's head is of other classes ({unknown:?} is none of them): the head starts anew")
            }
            HeadFit::None => f.write_str("the checkpoint has no head for these classes: the head starts anew"),
        }
    }
}

impl Pretrained {
    /// Makes it a model of these classes. Its head stays where it is of the same classes; where these are among its classes, its
    /// rows are picked by name; else it does not fit any more. Names are compared in Unicode's form NFC.
    pub fn set_classes(&mut self, names: &[String]) -> HeadFit {
        let own = self.class_names.take().filter(|own| !are_placeholders(own));
        let fit = match own {
            _ if !self.checkpoint.tensors.contains_key(HEAD[0]) => HeadFit::None,
            None if self.config.num_classes == names.len() => HeadFit::Unnamed,
            None => HeadFit::None,
            Some(own) => self.pick_rows(&own, names),
        };
        self.config.num_classes = names.len();
        self.class_names = Some(names.to_vec());
        fit
    }

    fn pick_rows(&mut self, own: &[String], names: &[String]) -> HeadFit {
        let [own, wanted] = [own, names].map(|names| names.iter().map(|name| name.nfc().collect()).collect());
        let (own, wanted): (Vec<String>, Vec<String>) = (own, wanted);
        if own == wanted {
            return HeadFit::Same;
        }
        let mut rows: BTreeMap<&str, Option<usize>> = BTreeMap::new();
        for (row, name) in own.iter().enumerate() {
            // Which of two classes of one name is meant cannot be known.
            rows.entry(name).and_modify(|row| *row = None).or_insert(Some(row));
        }
        let row = |name: &String| rows.get(name.as_str()).copied().flatten().ok_or_else(|| name.clone());
        let picked: Result<Vec<usize>, String> = wanted.iter().map(row).collect();
        let tensors = &mut self.checkpoint.tensors;
        match picked {
            Ok(picked) => {
                for name in HEAD {
                    if let Some(tensor) = tensors.get_mut(name) {
                        *tensor = tensor_of_rows(tensor, &picked);
                    }
                }
                HeadFit::ByName { of: own.len() }
            }
            Err(unknown) => {
                // One of another number of classes does not fit anyway, and a load report says so.
                if own.len() == wanted.len() {
                    HEAD.iter().for_each(|name| drop(tensors.remove(*name)));
                }
                HeadFit::Other { unknown }
            }
        }
    }
}

/// transformers' names for classes that have none.
fn are_placeholders(names: &[String]) -> bool {
    names.iter().enumerate().all(|(i, name)| *name == label(i))
}

/// Some of a tensor's rows.
fn tensor_of_rows(tensor: &HostTensor, rows: &[usize]) -> HostTensor {
    let width: usize = tensor.shape.iter().skip(1).product();
    let data = rows.iter().flat_map(|row| tensor.data.iter().skip(row * width).take(width)).copied().collect();
    let shape = std::iter::once(rows.len()).chain(tensor.shape.iter().skip(1).copied()).collect();
    HostTensor { shape, data }
}
