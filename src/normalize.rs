//! How pictures are brought to the scale that a model sees.

/// Mean and standard deviation of the red, green and blue values, on the scale 0..=1. A model sees
/// (value / 255 − mean) / std.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Normalize {
    /// The mean of each channel.
    pub mean: [f32; 3],
    /// The standard deviation of each channel.
    pub std: [f32; 3],
}

impl Normalize {
    /// Leaves values as they are.
    pub const NONE: Self = Normalize { mean: [0.0; 3], std: [1.0; 3] };
    /// ImageNet's, which most pretrained models were trained with.
    pub const IMAGENET: Self = Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// From 0..=1 to −1..=1: the original Vision Transformers (timm's `augreg` checkpoints) and Inception.
    pub const INCEPTION: Self = Normalize { mean: [0.5; 3], std: [0.5; 3] };
    /// OpenAI's CLIP and its followers.
    pub const CLIP: Self =
        Normalize { mean: [0.481_454_66, 0.457_827_5, 0.408_210_73], std: [0.268_629_54, 0.261_302_6, 0.275_777_1] };
    /// CIFAR-10's training set.
    pub const CIFAR: Self = Normalize { mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616] };
    /// The embedded digits' training split.
    pub const DIGITS: Self = Normalize { mean: [0.3048; 3], std: [0.3760; 3] };

    /// The mean as a colour: what a model sees as 0.
    pub fn mean_color(&self) -> [u8; 3] {
        self.mean.map(|mean| (mean * 255.0).round() as u8)
    }
}
