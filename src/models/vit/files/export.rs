//! Folders that timm and transformers load.

use std::path::Path;

use super::VitFile;
use super::adapted;
use super::export_hf::{self, HfExport, HfPreprocessor};
use super::export_timm::TimmExport;
use super::layouts;
use super::names::Family;
use crate::checkpoint::{
    CONFIG_FILE, Folder, HostTensor, PREPROCESSOR_FILE, PROCESSOR_FILE, Storage, WEIGHTS_FILE, download,
};
use crate::error::{Error, Result};
use crate::models::library::{label, of_pytorch, pretty_json};
use crate::models::vit::{Pool, Vit, VitConfig};
use crate::ops::Gelu;
use crate::preprocess::CropMode;

/// What an export says beside the weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions<'a> {
    /// A name for each class, or none at all.
    pub class_names: &'a [String],
    /// timm's `crop_pct`, above 0 and at most 1: by default 0.875, or all of a picture that is squashed ([`VitConfig::crop_mode`]).
    pub crop_fraction: Option<f64>,
    /// The element type of the weights.
    pub storage: Storage,
}

impl ExportOptions<'_> {
    /// timm's `crop_pct`.
    fn crop_pct(&self, config: &VitConfig) -> Result<f64> {
        let usual = if config.crop_mode == CropMode::Squash { 1.0 } else { 0.875 };
        match self.crop_fraction.unwrap_or(usual) {
            share if share > 0.0 && share <= 1.0 => Ok(share),
            other => Err(Error::argument("export", "crop_fraction", "above 0 and at most 1", other)),
        }
    }

    /// The classes' names, or transformers' default ones.
    fn names(&self, config: &VitConfig) -> Result<Vec<String>> {
        match self.class_names.len() {
            0 => Ok((0..config.num_classes).map(label).collect()),
            n if n == config.num_classes => Ok(self.class_names.to_vec()),
            n => Err(Error::argument("export", "class_names", format!("none or {}", config.num_classes), n)),
        }
    }
}

/// Writes `model` as a folder that transformers loads: `ViTForImageClassification.from_pretrained(folder)`, and
/// `AutoImageProcessor` for its pictures. A model with layer scale is one for `Dinov2ForImageClassification`, with registers for
/// `Dinov2WithRegistersForImageClassification`, one with a first norm for `CLIPForImageClassification`, one without a class token for
/// `SiglipForImageClassification`, one with rotary positions for `DINOv3ViTModel` (which ignores the head beside it), a distilled
/// one for `DeiTForImageClassificationWithTeacher`: a head that reads the class token alone, or the mean, gets zeros for the
/// other, and a position of registers is added to them. The mask token of pretraining, which those have too, is 0.
///
/// Adapters are merged into the weights beside them ([`super::save_adapter`] writes them by themselves).
///
/// The folder is written beside its place, and then takes it. If there is an export already, that is first renamed to
/// `.NAME.old`, and removed at the end: a crash in between leaves the old folder or the new one complete, at worst under that
/// name. Hidden files in it stay; a folder with any other content is not touched.
///
/// # Errors
/// [`Error::Argument`] if transformers' ViT cannot express the model (mean pooling, registers, a first norm and the
/// like): [`export_timm`] can; or the model has parameters that were added to it ([`Vit::new_with`]). [`Error::File`]
/// if the folder holds other files, [`Error::Io`] if the system refuses, [`Error::Parameter`] if a weight is beyond the
/// range of f16 where that is asked for; and if the device fails.
pub fn export_hf(folder: &Path, model: &Vit, options: &ExportOptions<'_>) -> Result<()> {
    model.parameters.expect_plain("export_hf")?;
    let config = model.config();
    let family = exported_family(config)?;
    let names = options.names(config)?;
    let hf = pretty_json(folder, &HfExport::new(config, family, &names, options.storage))?;
    let preprocessor = pretty_json(folder, &HfPreprocessor::new(config, family, options.crop_pct(config)?))?;
    let mut tensors = download(model.parameters())?;
    adapted::merge(&mut tensors, config)?;
    match family {
        Family::Vit | Family::Deit | Family::Dinov3 { .. } => {}
        Family::Dinov2 | Family::Dinov2WithRegisters => layouts::to_dinov2(&mut tensors, config)?,
        Family::Clip | Family::Siglip | Family::SiglipTower => layouts::to_tower(&mut tensors, config)?,
    }
    let mut tensors = family.renaming().to_theirs(tensors)?;
    if config.gated_mlp && family.is_dinov2() {
        layouts::rename_gated(&mut tensors);
    }
    if family.is_dinov2() || family.is_dinov3() {
        let shape = if family.is_dinov2() { vec![1, config.embed_dim] } else { vec![1, 1, config.embed_dim] };
        let mask = HostTensor { shape, data: vec![0.0; config.embed_dim] };
        tensors.insert(format!("{}embeddings.mask_token", family.renaming().place), mask);
    }
    let contents = Folder {
        weights: WEIGHTS_FILE,
        tensors,
        metadata: of_pytorch(),
        storage: options.storage,
        files: &[
            (CONFIG_FILE, Some(hf.as_bytes())),
            (PREPROCESSOR_FILE, Some(preprocessor.as_bytes())),
            (PROCESSOR_FILE, None),
        ],
    };
    contents.write(folder)
}

/// Whether [`export_hf`] can write a model like this: to be asked before it is trained.
///
/// # Errors
/// [`Error::Argument`] if transformers has no such model.
pub fn check_export_hf(config: &VitConfig) -> Result<()> {
    exported_family(config).map(drop)
}

fn exported_family(config: &VitConfig) -> Result<Family> {
    let family = family(config)?;
    let takes_oblong = matches!(family, Family::Vit | Family::Deit | Family::Dinov3 { .. });
    if config.img_size.0 != config.img_size.1 && !takes_oblong {
        let expected = format!("square for transformers' {}: export it for timm", family.architecture());
        return Err(Error::argument("export_hf", "img_size", expected, format!("{:?}", config.img_size)));
    }
    Ok(family)
}

/// Writes `model` as a folder that timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`. Its
/// `model.safetensors` is a plain state dict, with this crate's own description in the metadata. Written as by [`export_hf`].
///
/// timm takes no eps from a file: its norms have 1e-6, CLIP's 1e-5. A model with another one computes slightly different
/// values there, and a warning in the log says so.
///
/// # Errors
/// As [`export_hf`]; what timm cannot express is a head that reads both class token and mean, a bias of patches that are normed, and rotary
/// positions in a model that is otherwise not as DINOv3 or EVA-02.
pub fn export_timm(folder: &Path, model: &Vit, options: &ExportOptions<'_>) -> Result<()> {
    model.parameters.expect_plain("export_timm")?;
    check_export_timm(model.config())?;
    let names = options.names(model.config())?;
    let crop_pct = options.crop_pct(model.config())?;
    let mut tensors = download(model.parameters())?;
    let config = adapted::merge(&mut tensors, model.config())?;
    let config = &layouts::to_timm(&mut tensors, &config)?;
    let file = VitFile { config, class_names: options.class_names, crop_fraction: options.crop_fraction };
    if config.rope_temperature.is_some() {
        layouts::to_eva(&mut tensors, config)?;
    }
    let timm = TimmExport::new(config, &names, crop_pct);
    if config.eps != timm.eps() {
        log::warn!("timm's model of this architecture has an eps of {}, this one of {}", timm.eps(), config.eps);
    }
    let timm = pretty_json(folder, &timm)?;
    let contents = Folder {
        weights: WEIGHTS_FILE,
        tensors,
        metadata: file.metadata(folder)?,
        storage: options.storage,
        files: &[(CONFIG_FILE, Some(timm.as_bytes())), (PREPROCESSOR_FILE, None), (PROCESSOR_FILE, None)],
    };
    contents.write(folder)
}

/// Whether [`export_timm`] can write a model like this: to be asked before it is trained.
///
/// # Errors
/// [`Error::Argument`] if timm has no such model.
pub fn check_export_timm(config: &VitConfig) -> Result<()> {
    if config.global_pool == Pool::TokenAvg {
        let expected = "class token or mean, which timm's heads read: export it for transformers";
        return Err(Error::argument("export_timm", "global_pool", expected, "both"));
    }
    if config.pre_norm && config.patch_bias {
        let expected = "false where a norm follows the patches, as in timm's models";
        return Err(Error::argument("export_timm", "patch_bias", expected, true));
    }
    expect_eva(config)
}

/// Whether timm's class for rotary positions, which has fewer arguments than its ViT, has what the model is made of.
fn expect_eva(config: &VitConfig) -> Result<()> {
    let is_dinov3 = config.ref_feat_shape.is_none();
    let parts = [
        ("key_bias", config.qkv_bias && config.key_bias),
        ("scale_attn_norm", is_dinov3 && config.scale_attn_norm),
        ("scale_mlp_norm", is_dinov3 && config.scale_mlp_norm),
        ("pre_norm", config.pre_norm),
        ("final_norm", !config.final_norm),
        ("patch_bias", !config.patch_bias),
        ("act_layer", config.act_layer != Gelu::Erf),
        ("init_values", is_dinov3 && config.init_values.is_none()),
        ("distilled", config.distilled),
    ];
    match parts.into_iter().find(|(_, differs)| config.rope_temperature.is_some() && *differs) {
        Some((name, _)) => {
            let expected = "as in DINOv3 or EVA-02, since timm's class for rotary positions has nothing else";
            Err(Error::argument("export_timm", name, expected, "another setting"))
        }
        None => Ok(()),
    }
}

/// The model of transformers that computes what this one does: with layer scale a Dinov2, whose tokens, positions and head
/// [`layouts::to_dinov2`] brings about; with a first norm CLIP's tower, without a class token SigLIP's.
pub(super) fn family(config: &VitConfig) -> Result<Family> {
    let family = match config {
        VitConfig { rope_temperature: Some(_), gated_mlp: gated, .. } => Family::Dinov3 { gated: *gated },
        VitConfig { init_values: Some(_), reg_tokens: 0, .. } => Family::Dinov2,
        VitConfig { init_values: Some(_), .. } => Family::Dinov2WithRegisters,
        VitConfig { pre_norm: true, .. } => Family::Clip,
        VitConfig { class_token: false, .. } => Family::Siglip,
        VitConfig { distilled: true, .. } => Family::Deit,
        _ => Family::Vit,
    };
    let is_tower = matches!(family, Family::Clip | Family::Siglip);
    let is_dinov3 = family.is_dinov3();
    let has_registers = family.is_dinov2() || is_dinov3;
    let pool = if is_tower { Pool::Avg } else { Pool::Token };
    let parts = [
        ("gated_mlp", config.gated_mlp && !family.is_dinov2() && !is_dinov3),
        ("mlp_ratio", family.is_dinov2() && export_hf::mlp_ratio(config).is_none()),
        ("scale_attn_norm", config.scale_attn_norm),
        ("scale_mlp_norm", config.scale_mlp_norm),
        ("ref_feat_shape", config.ref_feat_shape.is_some()),
        ("init_values", is_dinov3 && config.init_values.is_none()),
        ("act_layer", is_dinov3 && config.act_layer != Gelu::Erf),
        ("key_bias", config.qkv_bias && config.key_bias == is_dinov3),
        ("global_pool", config.global_pool == Pool::Map || !family.is_dinov2() && config.global_pool != pool),
        ("class_token", config.class_token == (family == Family::Siglip)),
        ("distilled", config.distilled != (family == Family::Deit)),
        ("reg_tokens", !has_registers && config.reg_tokens > 0),
        ("no_embed_class", !has_registers && config.no_embed_class && config.class_token),
        ("pre_norm", config.pre_norm != (family == Family::Clip)),
        ("fc_norm", config.has_fc_norm()),
        ("final_norm", config.final_norm == (family == Family::Clip)),
        ("patch_bias", config.patch_bias == (family == Family::Clip)),
        ("qkv_bias", is_tower && !config.qkv_bias),
    ];
    match parts.into_iter().find(|(_, differs)| *differs) {
        Some((name, _)) => {
            let expected = format!(
                "as in transformers' {}, which cannot express this model: export it for timm",
                family.architecture()
            );
            Err(Error::argument("export_hf", name, expected, "another setting"))
        }
        None => Ok(family),
    }
}
