//! Names as a model has them by itself, without what training programs put around it.

use std::collections::{BTreeMap, BTreeSet};

use super::tensors::fault;
use super::{Checkpoint, quoted};
use crate::error::Result;

/// Parts that stand for a wrapper of a module, wherever in a name: of data parallelism and averaged weights, `torch.compile`,
/// sharded training, recomputation, mixed precision.
const WRAPPERS: [&str; 5] =
    ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];

/// The checkpoint without wrappers and without the model's place, such as `state_dict.model.` or `backbone.`: what stands before
/// a landmark, a tensor that each such model has once, under one of these names. A head may stand outside that place. Of
/// several models the running average of the weights is taken, as by timm.
///
/// # Errors
/// [`crate::Error::Parameter`] if there are several models and none of them is the average, or if two tensors get one name.
pub(crate) fn unwrapped(checkpoint: Checkpoint, landmarks: &[&str]) -> Result<Checkpoint> {
    let Checkpoint { tensors, metadata, skipped } = checkpoint;
    let names = || tensors.keys().chain(skipped.keys());
    let places: BTreeSet<Vec<String>> = names().filter_map(|name| place(name, landmarks)).collect();
    let (place, is_one_of_several) = match places.len() {
        0 => (Vec::new(), false),
        1 => (places.into_iter().next().unwrap_or_default(), false),
        _ => (averaged(&places, landmarks)?, true),
    };
    let rename = |name: &str| {
        let own = parts(name);
        let outside = own.iter().zip(&place).take_while(|(part, of_place)| part == of_place).count();
        let is_other = is_one_of_several && outside < place.len();
        (!is_other).then(|| own[outside..].join("."))
    };
    Ok(Checkpoint { tensors: renamed(tensors, rename)?, skipped: renamed(skipped, rename)?, metadata })
}

/// The parts of a name that are no wrappers.
fn parts(name: &str) -> Vec<&str> {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect()
}

/// What stands before a landmark, if the name ends in one.
fn place(name: &str, landmarks: &[&str]) -> Option<Vec<String>> {
    let own = parts(name);
    let before = |landmark: &&str| {
        let landmark: Vec<&str> = landmark.split('.').collect();
        own.strip_suffix(landmark.as_slice()).map(|place| place.iter().map(|&part| part.to_owned()).collect())
    };
    landmarks.iter().find_map(before)
}

/// The one of several models that is a running average.
fn averaged(places: &BTreeSet<Vec<String>>, landmarks: &[&str]) -> Result<Vec<String>> {
    let is_average = |place: &&Vec<String>| place.iter().any(|part| part.split('_').any(|word| word == "ema"));
    let listed: Vec<String> =
        places.iter().map(|place| if place.is_empty() { "no prefix".to_owned() } else { place.join(".") }).collect();
    let listed = quoted(&listed.join(", "));
    let averages: Vec<&Vec<String>> = places.iter().filter(is_average).collect();
    match averages.as_slice() {
        &[average] => {
            log::warn!("the checkpoint holds several models ({listed}): {} is taken", quoted(&average.join(".")));
            Ok(average.clone())
        }
        _ => {
            let what = format!("is there for several models ({listed}): write a file with the tensors of one");
            Err(fault(landmarks.first().unwrap_or(&""), what))
        }
    }
}

fn renamed<T>(items: BTreeMap<String, T>, rename: impl Fn(&str) -> Option<String>) -> Result<BTreeMap<String, T>> {
    let mut result = BTreeMap::new();
    for (name, item) in items {
        let Some(new) = rename(&name) else { continue };
        if result.insert(new, item).is_some() {
            return Err(fault(&name, "is there twice, with and without the prefix of a wrapper or a model"));
        }
    }
    Ok(result)
}
