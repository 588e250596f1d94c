//! The operations of one optimiser step with what they cost, from the model's sizes alone.

use serde::Serialize;
use wgrad::models::vit::VitConfig;

use crate::cost::{self, Cost, Passes};

/// What kernels are counted together: [`Group::of`] sorts them by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Group {
    Products,
    Attention,
    BiasGradients,
    LayerNorm,
    Gelu,
    Residuals,
    Tokens,
    Loss,
    Optimiser,
    /// Kernels that no operation here stands for.
    Other,
}

impl Group {
    pub const ALL: [Group; 10] = [
        Group::Products,
        Group::Attention,
        Group::BiasGradients,
        Group::LayerNorm,
        Group::Gelu,
        Group::Residuals,
        Group::Tokens,
        Group::Loss,
        Group::Optimiser,
        Group::Other,
    ];

    /// The group of a kernel, by the file that its name begins with.
    pub fn of(kernel: &str) -> Group {
        const FILES: [(&str, Group); 15] = [
            ("matmul", Group::Products),
            ("flash", Group::Attention),
            ("softmax", Group::Attention),
            ("column_sum", Group::BiasGradients),
            ("layernorm", Group::LayerNorm),
            ("gelu", Group::Gelu),
            ("add", Group::Residuals),
            ("accumulate", Group::Residuals),
            ("patchify", Group::Tokens),
            ("embed_tokens", Group::Tokens),
            ("token_", Group::Tokens),
            ("mean_tokens", Group::Tokens),
            ("copy_rows", Group::Tokens),
            ("cross_entropy", Group::Loss),
            ("optim", Group::Optimiser),
        ];
        FILES.iter().find(|(file, _)| kernel.starts_with(file)).map_or(Group::Other, |(_, group)| *group)
    }

    pub fn name(self) -> &'static str {
        match self {
            Group::Products => "matrix products",
            Group::Attention => "attention",
            Group::BiasGradients => "bias gradients",
            Group::LayerNorm => "layer norm",
            Group::Gelu => "GELU",
            Group::Residuals => "residuals",
            Group::Tokens => "tokens",
            Group::Loss => "loss",
            Group::Optimiser => "optimiser",
            Group::Other => "other",
        }
    }
}

/// An operation of the step.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub name: &'static str,
    pub group: Group,
    /// How often in a step, forward.
    pub count: usize,
    /// Of all of them together.
    pub forward: Cost,
    pub backward: Cost,
}

impl Entry {
    pub fn cost(&self) -> Cost {
        self.forward + self.backward
    }
}

/// Every operation of a step on `batch` pictures, where all blocks but the first and last keep `kept` tokens.
pub fn entries(config: &VitConfig, batch: usize, kept: usize) -> Vec<Entry> {
    let mut list = Entries::default();
    embedding(&mut list, config, batch);
    let tokens = config.tokens();
    let dropping = if kept < tokens { config.depth - 2 } else { 0 };
    blocks(&mut list, config, batch * tokens, tokens, config.depth - dropping);
    if dropping > 0 {
        blocks(&mut list, config, batch * kept, kept, dropping);
        let sizes = [batch, kept, tokens, config.embed_dim];
        list.add("gather of kept tokens", Group::Tokens, dropping, cost::token_gather(sizes));
        list.add("scatter of kept tokens", Group::Tokens, dropping, cost::token_scatter(sizes));
    }
    head(&mut list, config, batch);
    list.0
}

/// Entries by name, so that blocks of several lengths add up.
#[derive(Default)]
struct Entries(Vec<Entry>);

impl Entries {
    /// `count` times an operation of this cost.
    fn add(&mut self, name: &'static str, group: Group, count: usize, one: Passes) {
        let all = one * count;
        match self.0.iter_mut().find(|entry| entry.name == name) {
            Some(entry) => {
                entry.count += count;
                entry.forward = entry.forward + all.forward;
                entry.backward = entry.backward + all.backward;
            }
            None => {
                let Passes { forward, backward } = all;
                self.0.push(Entry { name, group, count, forward, backward });
            }
        }
    }

    /// A linear layer of M, N, K and its bias gradient.
    fn linear(&mut self, name: &'static str, count: usize, size: [usize; 3], has_dx: bool) {
        let [m, n, k] = size;
        let mut passes = cost::linear(size);
        if !has_dx {
            passes.backward = cost::product([n, k, m]);
        }
        self.add(name, Group::Products, count, passes);
        self.add("bias gradients", Group::BiasGradients, count, backward(cost::column_sum(m, n)));
    }
}

fn forward(forward: Cost) -> Passes {
    Passes { forward, backward: Cost::default() }
}

fn backward(backward: Cost) -> Passes {
    Passes { forward: Cost::default(), backward }
}

/// Pictures have no gradient, so neither have their patches.
fn embedding(list: &mut Entries, config: &VitConfig, batch: usize) {
    let (patches, width, patch) = (config.patches(), config.embed_dim, config.patch_size);
    let pixels = batch * 3 * config.img_size.0 * config.img_size.1;
    list.add("patchify", Group::Tokens, 1, forward(cost::patchify(pixels)));
    list.linear("patch projection", 1, [batch * patches, width, 3 * patch * patch], false);
    list.add("positions, class token", Group::Tokens, 1, cost::embed_tokens([batch, patches, width]));
}

/// `count` blocks over `rows` rows, samples of `tokens`.
fn blocks(list: &mut Entries, config: &VitConfig, rows: usize, tokens: usize, count: usize) {
    let (c, f, h) = (config.embed_dim, config.hidden(), config.num_heads);
    list.add("layer norm", Group::LayerNorm, 2 * count, cost::layernorm(rows, c));
    list.linear("qkv", count, [rows, 3 * c, c], true);
    list.add("attention", Group::Attention, count, cost::attention([rows / tokens, tokens, h, c / h]));
    list.linear("attention's projection", count, [rows, c, c], true);
    list.linear("fc1", count, [rows, f, c], true);
    list.add("GELU", Group::Gelu, count, cost::gelu(rows * f));
    list.linear("fc2", count, [rows, c, f], true);
    list.add("residuals", Group::Residuals, 2 * count, forward(cost::add(rows * c)));
}

fn head(list: &mut Entries, config: &VitConfig, batch: usize) {
    let (width, classes) = (config.embed_dim, config.num_classes);
    list.add("layer norm", Group::LayerNorm, 1, cost::layernorm(batch, width));
    list.linear("head", 1, [batch, classes, width], true);
    list.add("cross-entropy", Group::Loss, 1, cost::cross_entropy(batch, classes));
    list.add("AdamW", Group::Optimiser, 1, forward(cost::adamw(parameters(config))));
}

/// Weights and biases of a ViT with class token and biases everywhere.
fn parameters(config: &VitConfig) -> usize {
    let (c, f, p) = (config.embed_dim, config.hidden(), config.patch_size);
    let block = 4 * c * c + 4 * c + 2 * c * f + c + f + 4 * c;
    let ends = c * 3 * p * p + c + c + config.tokens() * c + 2 * c + (c + 1) * config.num_classes;
    config.depth * block + ends
}
