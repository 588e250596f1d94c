//! How pictures are brought to another size.

/// A filter by which pictures are resized, always with antialiasing, as Pillow does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Interpolation {
    /// Keys' cubic kernel with a = −1/2: most of timm's models, DINOv2, CLIP and SigLIP.
    #[default]
    Bicubic,
    /// A triangle: ViT and DINOv3 in transformers, models of torchvision's.
    Bilinear,
}

impl Interpolation {
    /// Whether it is what is meant where nothing is said.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
