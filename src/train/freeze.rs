//! Training a part of a model.

use serde::Serialize;

use crate::autograd::Parameter;
use crate::error::{Error, Result};
use crate::nn::Model;

/// Which parameters of a model stay as they are. They have no gradient, no moment and no part in the gradient's norm, and
/// backward ends where nothing below is trained. None of these freezes the head ([`Model::is_head`]).
///
/// What was frozen by hand ([`Parameter::set_trainable`]) stays frozen under each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Freeze {
    /// None.
    #[default]
    Nothing,
    /// All but the head: a linear probe.
    AllButHead,
    /// What lies below the first block, and the first so many blocks.
    Blocks(usize),
    /// All but biases, norms and the head: what has a single axis, layer scales among it.
    AllButNormsAndBiases,
    /// All but biases and the head (BitFit, Zaken et al., 2022, arXiv 2106.10199): whatever is called `bias` or `..._bias`, as those
    /// of queries and values are (`q_bias`, `v_bias`) where keys have none.
    AllButBiases,
    /// All but the norms' scales and shifts, and the head.
    AllButNorms,
}

impl Freeze {
    /// Whether a model's parameter of that path and rank is frozen.
    pub fn freezes(self, model: &dyn Model, path: &str, rank: usize) -> bool {
        if model.is_head(path) {
            return false;
        }
        match self {
            Freeze::Nothing => false,
            Freeze::AllButHead => true,
            Freeze::Blocks(blocks) => model.layer(path) <= blocks,
            Freeze::AllButNormsAndBiases => rank > 1,
            Freeze::AllButBiases => !path.ends_with("bias"),
            Freeze::AllButNorms => !is_of_norm(model, path),
        }
    }

    /// Whether the model is large enough, and tells its layers apart where that matters.
    pub(super) fn check(self, model: &dyn Model) -> Result<()> {
        let depth = model.extent().depth;
        match self {
            Freeze::Blocks(blocks) if blocks > depth => {
                Err(Error::argument("freeze", "blocks", format!("at most {depth}, the model's depth"), blocks))
            }
            Freeze::Blocks(_) => expect_layers(model, "freeze", "blocks"),
            _ => Ok(()),
        }
    }

    /// Freezes a model's parameters, and thaws those that this has frozen before: the last call decides.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has fewer blocks than are to be frozen, or does not say what belongs to them
    /// ([`Model::layer`]).
    pub fn apply(self, model: &dyn Model) -> Result<()> {
        self.check(model)?;
        let withhold = |parameter: &Parameter| {
            let rank = parameter.value().shape().rank();
            parameter.withhold(self.freezes(model, parameter.path(), rank));
        };
        model.parameters().iter().for_each(withhold);
        Ok(())
    }
}

/// Whether a model with blocks says which parameters belong to them or lie below: else what goes by layers would do
/// nothing.
///
/// # Errors
/// [`Error::Argument`] for the setting `name` of `op`.
pub(super) fn expect_layers(model: &dyn Model, op: &'static str, name: &'static str) -> Result<()> {
    let depth = model.extent().depth;
    let mut layers = model.parameters().iter().map(|parameter| model.layer(parameter.path()));
    if depth == 0 || layers.any(|layer| layer <= depth) {
        return Ok(());
    }
    let expected = "none that goes by layers, for a model that does not tell them apart (Model::layer)";
    Err(Error::argument(op, name, expected, format!("one, and all parameters behind {depth} blocks")))
}

/// Whether a parameter lies beside a `weight` of a single axis, or is one: of all layers, norms alone have such.
fn is_of_norm(model: &dyn Model, path: &str) -> bool {
    let layer = path.rsplit_once('.').map(|(layer, _)| format!("{layer}.weight"));
    let weight = layer.and_then(|weight| model.parameters().get(&weight));
    weight.is_some_and(|weight| weight.value().shape().rank() == 1)
}
