//! Vision Transformers as people have them, against timm and transformers. Logits, loss, every gradient by name, ten steps of AdamW
//! and, where the library resamples, another picture size, from folders as those libraries save them
//! (`tests/reference/README.md`); `WGRAD_REFERENCE` names another folder with the same files.

mod distilled;
mod eva;
mod layer_scale;
mod pooling;
pub mod reference;
mod rotary;
mod swiglu;
mod towers;
