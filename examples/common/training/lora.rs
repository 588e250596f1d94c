//! Low-rank adapters: their settings, and what follows from them.

use wgrad::autograd::{Parameter, Parameters};
use wgrad::nn::LoraConfig;

use super::given::Rule;
use super::kinds::StorageKind;
use super::optimisation::Optimisation;
use super::recipe::{entry, settings};
use super::values::{FreezeKind, LayerList};

/// Adapters, which begin as nothing, want a higher learning rate than weights.
const RATE: f32 = 10.0;

settings! {
    /// Adapters, if there are any.
    LoraSettings, LoraOptions;
    "Adapters" {
        /// Train low-rank adapters (LoRA) beside these linear layers, and of all else a classifier's head alone; or none. Of a ViT
        /// some of qkv, query, key, value, proj, fc1, fc2 and head; of a GPT of c_attn, c_proj and c_fc; of a BERT of query, key,
        /// value and dense. Where no learning rate is given, it is then ten times as high
        lora: LayerList,
        /// Rank of the adapters
        lora_rank: usize,
        /// The adapters count alpha / rank
        lora_alpha: f32,
        /// Dropout of what the adapters see
        lora_dropout: f32,
        /// Element type in which the frozen weights beside them are held: f16 takes half the memory, and rounds them
        #[clap(value_enum)]
        lora_base: StorageKind,
    }
}

impl Default for LoraSettings {
    fn default() -> Self {
        LoraSettings {
            lora: LayerList::None,
            lora_rank: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.0,
            lora_base: StorageKind::F32,
        }
    }
}

impl LoraSettings {
    /// The adapters, if there are any, of a model with these heads. A head without one is trained as a whole, as it may be of other
    /// classes than before.
    pub fn config(&self, heads: &[&str]) -> Option<LoraConfig> {
        let LayerList::These(targets) = &self.lora else { return None };
        let whole = heads.iter().filter(|head| !targets.iter().any(|target| target == *head));
        Some(LoraConfig {
            rank: self.lora_rank,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            targets: targets.clone(),
            modules_to_save: whole.map(|&head| head.to_owned()).collect(),
            base: self.lora_base.into(),
        })
    }

    /// Settles the learning rate of a model of this width where none was given, for adapters if there are any.
    pub fn settle_rate(&self, training: &mut Optimisation, width: usize) {
        let is_open = training.lr == 0.0;
        training.settle_rate(width);
        if is_open && self.lora != LayerList::None {
            training.lr *= RATE;
        }
    }

    /// When its options count.
    pub fn rules(&self, freeze: FreezeKind) -> [Rule; 2] {
        let has_adapters = self.lora != LayerList::None;
        [
            (
                &["lora"],
                freeze == FreezeKind::None || !has_adapters,
                "where --freeze and the recipe freeze nothing: adapters do that themselves",
            ),
            (&["lora_rank", "lora_alpha", "lora_dropout", "lora_base"], has_adapters, "with --lora"),
        ]
    }
}

/// The parameters of a model's adapters, which weights to start from do not have.
pub fn new_parameters(parameters: &Parameters) -> impl Iterator<Item = &str> {
    parameters.iter().map(Parameter::path).filter(|path| LoraConfig::is_adapter(path))
}
