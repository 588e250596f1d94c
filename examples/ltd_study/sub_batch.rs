//! The network as an arm trains it: a ViT, in whose middle blocks perhaps only a part of the batch is at work.

use wgrad::autograd::Parameters;
use wgrad::ltd::{SampleKey, sample_kept};
use wgrad::models::vit::Vit;
use wgrad::nn::{Block, Classifier, Extent, Mode, Model, Span};
use wgrad::ops::{self, Mask, RandomKey, TokenIndices};
use wgrad::{Result, Tensor};

/// Stochastic depth that saves what it leaves out: of a batch, a drawn part goes through a block, and the others pass it
/// unchanged. What a block adds to the part counts 1/share, so that the mean of training is the model of evaluation.
/// Source: Oquab et al., "DINOv2", 2023, arXiv 2304.07193, section 5; there for attention and MLP by themselves.
pub struct Trainee {
    pub vit: Vit,
    /// Of the samples, in each block but the first and the last; all if none.
    pub share: Option<f64>,
}

impl Trainee {
    fn blocks(&self, mut x: Tensor, share: f64, key: RandomKey, mode: &Mode) -> Result<Tensor> {
        let blocks = self.vit.encoder().blocks();
        let batch = x.dims()[0];
        let kept = ((share * batch as f64).round() as usize).max(1);
        for (i, block) in blocks.iter().enumerate() {
            let is_middle = i > 0 && i + 1 < blocks.len();
            x = if is_middle && kept < batch {
                let drawn = SampleKey { seed: key.seed, step: key.step, block: i as u32, sample: key.first_sample };
                let positions = sample_kept(&drawn, batch, kept, 0)?;
                let samples = TokenIndices::new(self.vit.gpu(), [1, kept], batch, &positions)?;
                for_some(block, &x, &samples, mode)?
            } else {
                block.forward(x, None, &Mask::NONE, mode)?
            };
        }
        Ok(x)
    }
}

/// A block on these samples of `x`: to the gather and the scatter of tokens, a batch is one sample, and a sample a token.
fn for_some(block: &Block, x: &Tensor, samples: &TokenIndices, mode: &Mode) -> Result<Tensor> {
    let &[batch, tokens, width] = x.dims() else {
        return Err(wgrad::Error::Shape { op: "sub-batch", what: "needs tokens [B, T, C]", got: x.info() });
    };
    let kept = samples.kept();
    let all = ops::reshape(x, &[1, batch, tokens * width])?;
    let some = ops::reshape(&ops::token_gather(&all, samples)?, &[kept, tokens, width])?;
    let added = ops::sub(&block.forward(some.clone(), None, &Mask::NONE, mode)?, &some)?;
    let some = ops::add(&some, &ops::scale(&added, batch as f32 / kept as f32)?)?;
    let some = ops::reshape(&some, &[1, kept, tokens * width])?;
    ops::reshape(&ops::token_scatter(all, &some, samples)?, &[batch, tokens, width])
}

impl Model for Trainee {
    fn parameters(&self) -> &Parameters {
        self.vit.parameters()
    }

    fn identity(&self) -> String {
        self.vit.identity()
    }

    fn extent(&self) -> Extent {
        self.vit.extent()
    }

    fn layer(&self, path: &str) -> usize {
        self.vit.layer(path)
    }

    fn is_head(&self, path: &str) -> bool {
        self.vit.is_head(path)
    }

    fn decays(&self, path: &str, rank: usize) -> bool {
        self.vit.decays(path, rank)
    }
}

impl Classifier for Trainee {
    fn classes(&self) -> usize {
        self.vit.classes()
    }

    fn image_size(&self) -> (usize, usize) {
        self.vit.image_size()
    }

    fn logits(&self, images: &Tensor, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        match self.share.zip(mode.key(0)) {
            None => self.vit.logits(images, spans, mode),
            Some((share, key)) => {
                let x = self.blocks(self.vit.embed(images, mode)?, share, key, mode)?;
                self.vit.classify(&x, mode)
            }
        }
    }
}
