//! A model of which only some of the tokens go through the middle blocks, in evaluation.

use std::cell::Cell;

use wgrad::autograd::Parameters;
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::models::vit::Vit;
use wgrad::nn::{Classifier, Mode, Model, Span};
use wgrad::ops::TokenIndices;
use wgrad::{Result, Tensor};

pub struct Thinned<'a> {
    vit: &'a Vit,
    kept: usize,
    drop: TokenDrop,
    /// The batches so far, each of which draws anew; so every model that is evaluated sees the same tokens.
    batches: Cell<u64>,
}

impl<'a> Thinned<'a> {
    /// With this share of the tokens, the class token always among them.
    pub fn new(vit: &'a Vit, share: f64) -> Result<Self> {
        let extent = vit.extent();
        let kept = (share * extent.tokens as f64).round() as usize;
        let drop = RandomLtd::new(extent.depth, Schedule::constant(kept)?)?.with_keep_prefix(extent.prefix)?;
        Ok(Thinned { vit, kept, drop: drop.into(), batches: Cell::new(0) })
    }
}

impl Model for Thinned<'_> {
    fn parameters(&self) -> &Parameters {
        self.vit.parameters()
    }

    fn identity(&self) -> String {
        self.vit.identity()
    }
}

impl Classifier for Thinned<'_> {
    fn classes(&self) -> usize {
        self.vit.classes()
    }

    fn image_size(&self) -> (usize, usize) {
        self.vit.image_size()
    }

    fn logits(&self, images: &Tensor, _: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        let (batch, extent) = (images.dims()[0], self.vit.extent());
        let spans = self.drop.draw(self.batches.replace(self.batches.get() + 1), extent, 0, batch)?;
        let upload =
            |positions: Vec<u32>| TokenIndices::new(self.vit.gpu(), [batch, self.kept], extent.tokens, &positions);
        let spans: Vec<_> = spans.into_iter().map(|span| span.try_map(upload)).collect::<Result<_>>()?;
        self.vit.logits(images, &spans, mode)
    }
}
