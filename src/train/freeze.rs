//! Training a part of a model.

use crate::error::{Error, Result};
use crate::models::vit::Vit;
use crate::optim::layer;

/// Which parameters of a [`Vit`] stay as they are. They have no gradient, no moment and no part in the gradient's norm, and
/// backward ends where nothing below is trained. None of these freezes the head.
///
/// What was frozen by hand ([`crate::autograd::Parameter::set_trainable`]) stays frozen under each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freeze {
    /// None.
    #[default]
    Nothing,
    /// All but the head: a linear probe.
    AllButHead,
    /// Patches, tokens, positions and the first so many blocks.
    Blocks(usize),
    /// All but biases, norms and the head (as in BitFit, Zaken et al., 2022, arXiv 2106.10199).
    AllButNormsAndBiases,
}

impl Freeze {
    /// Whether the parameter of that path and rank is frozen in a model of `depth` blocks.
    pub fn freezes(self, path: &str, rank: usize, depth: usize) -> bool {
        if path == "head" || path.starts_with("head.") {
            return false;
        }
        match self {
            Freeze::Nothing => false,
            Freeze::AllButHead => true,
            Freeze::Blocks(blocks) => layer(path, depth) <= blocks,
            Freeze::AllButNormsAndBiases => rank > 1,
        }
    }

    /// Freezes a model's parameters, and thaws those that this has frozen before: the last call decides.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has fewer blocks than are to be frozen.
    pub fn apply(self, model: &Vit) -> Result<()> {
        let depth = model.config().depth;
        if let Freeze::Blocks(blocks) = self
            && blocks > depth
        {
            return Err(Error::argument("freeze", "blocks", format!("at most {depth}, the model's depth"), blocks));
        }
        for parameter in model.parameters() {
            let rank = parameter.value().shape().rank();
            parameter.withhold(self.freezes(parameter.path(), rank, depth));
        }
        Ok(())
    }
}
