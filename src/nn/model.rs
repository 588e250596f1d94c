//! What training asks of a network.

use super::{Mode, Span};
use crate::autograd::Parameters;
use crate::error::Result;
use crate::ops::TokenIndices;
use crate::tensor::Tensor;

/// How large a network is, as far as tokens may be dropped and layers be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// L, its blocks.
    pub depth: usize,
    /// T, the tokens of a sample; 1 where none may be dropped, whatever the network makes of a sample.
    pub tokens: usize,
    /// Of these the first ones that never may be dropped for good: class token and registers.
    pub prefix: usize,
}

impl Default for Extent {
    /// A network without blocks, which sees a sample whole.
    fn default() -> Self {
        Extent { depth: 0, tokens: 1, prefix: 0 }
    }
}

/// Any network. Only [`Model::parameters`] and [`Model::identity`] have to be written; the rest is what a network with
/// another shape than a plain stack of layers is to say of itself.
pub trait Model {
    /// Its parameters. No two have the same path, and none is added later.
    fn parameters(&self) -> &Parameters;

    /// Its configuration, as JSON: equal models have equal ones. A run's state is tied to it.
    fn identity(&self) -> String;

    /// Its blocks and tokens.
    fn extent(&self) -> Extent {
        Extent::default()
    }

    /// The layer that a parameter belongs to, for learning rates that fall with depth and for freezing: 0 for what lies
    /// below the first block, i + 1 for block i, depth + 1 for what follows the last. By default that is all of them,
    /// as is right of a network without blocks: one that has some must say it, else what goes by layers would do
    /// nothing, and is refused.
    fn layer(&self, path: &str) -> usize {
        let _ = path;
        self.extent().depth + 1
    }

    /// Whether a parameter belongs to the part that is made for a task, which no setting freezes.
    fn is_head(&self, path: &str) -> bool {
        path == "head" || path.starts_with("head.")
    }

    /// Whether a parameter of this rank has weight decay: by default matrices have, biases and the scales of norms have not.
    fn decays(&self, path: &str, rank: usize) -> bool {
        let _ = path;
        rank > 1
    }
}

impl<M: Model + ?Sized> Model for &M {
    fn parameters(&self) -> &Parameters {
        (**self).parameters()
    }

    fn identity(&self) -> String {
        (**self).identity()
    }

    fn extent(&self) -> Extent {
        (**self).extent()
    }

    fn layer(&self, path: &str) -> usize {
        (**self).layer(path)
    }

    fn is_head(&self, path: &str) -> bool {
        (**self).is_head(path)
    }

    fn decays(&self, path: &str, rank: usize) -> bool {
        (**self).decays(path, rank)
    }
}

/// A model that tells pictures apart.
pub trait Classifier: Model {
    /// V, the classes.
    fn classes(&self) -> usize;

    /// Height and width of the pictures.
    fn image_size(&self) -> (usize, usize);

    /// Logits: `u8[B, 3, H, W]` to `f32[B, V]`. `spans` are the blocks that see only some of the tokens.
    ///
    /// # Errors
    /// If the pictures or spans are not such as the model takes, or the device fails.
    fn logits(&self, images: &Tensor, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor>;
}

impl<M: Classifier + ?Sized> Classifier for &M {
    fn classes(&self) -> usize {
        (**self).classes()
    }

    fn image_size(&self) -> (usize, usize) {
        (**self).image_size()
    }

    fn logits(&self, images: &Tensor, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        (**self).logits(images, spans, mode)
    }
}

/// A classifier that reads few numbers of each picture at its end, so that its head can be trained on those alone: a linear probe.
/// [`Classifier::logits`] at full length are [`Headed::head`] of [`Headed::pre_logits`].
pub trait Headed: Classifier {
    /// F, how many numbers of a picture the head reads.
    fn head_inputs(&self) -> usize;

    /// What the head reads: `u8[B, 3, H, W]` to `f32[B, F]`, pooled and normed (timm's `forward_head` with `pre_logits`).
    ///
    /// # Errors
    /// If the pictures are not such as the model takes, or the device fails.
    fn pre_logits(&self, images: &Tensor, mode: &Mode) -> Result<Tensor>;

    /// The head, with the dropout before it in training: `f32[B, F]` to logits, `f32[B, V]`.
    ///
    /// # Errors
    /// If there are not F numbers of each picture, or the device fails.
    fn head(&self, pre_logits: &Tensor, mode: &Mode) -> Result<Tensor>;
}

impl<M: Headed + ?Sized> Headed for &M {
    fn head_inputs(&self) -> usize {
        (**self).head_inputs()
    }

    fn pre_logits(&self, images: &Tensor, mode: &Mode) -> Result<Tensor> {
        (**self).pre_logits(images, mode)
    }

    fn head(&self, pre_logits: &Tensor, mode: &Mode) -> Result<Tensor> {
        (**self).head(pre_logits, mode)
    }
}
