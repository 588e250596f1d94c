//! How pictures are brought to the size that a model sees.

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

/// Which part of a picture a model is shown in evaluation, in timm's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CropMode {
    /// The picture is resized by its short side, and the middle cut out.
    #[default]
    Center,
    /// Both sides are resized to the same length, whatever they were, and the middle cut out: ViT, DeiT, DINOv3 and SigLIP in
    /// transformers.
    Squash,
}

impl CropMode {
    /// As [`Interpolation::is_default`].
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The length of which `side` is the share `fraction`, in whole pixels: rounded down, as timm does. A share that was told as a quotient of two
/// lengths gives the one that it is of.
#[cfg(feature = "files")]
pub(crate) fn resized_side(side: usize, fraction: f64) -> usize {
    (side as f64 / fraction + 1e-9).floor() as usize
}
