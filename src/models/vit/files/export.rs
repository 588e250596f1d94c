//! Folders that timm and transformers load.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::VitFile;
use super::adapted;
use super::config_json::BICUBIC;
use super::layouts;
use super::names::Family;
use crate::checkpoint::{CONFIG_FILE, Folder, HostTensor, PREPROCESSOR_FILE, Storage, WEIGHTS_FILE, download};
use crate::error::{Error, Result};
use crate::models::vit::{Pool, Vit, VitConfig};

/// What an export says beside the weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions<'a> {
    /// A name for each class, or none at all.
    pub class_names: &'a [String],
    /// timm's `crop_pct`, 0.875 by default. transformers' image processor of ViTs does not crop, that of DINOv2 does.
    pub crop_fraction: Option<f64>,
    /// The element type of the weights.
    pub storage: Storage,
}

impl ExportOptions<'_> {
    /// timm's `crop_pct`.
    fn crop_pct(&self) -> f64 {
        self.crop_fraction.unwrap_or(0.875)
    }

    /// The classes' names, or transformers' default ones.
    fn names(&self, config: &VitConfig) -> Result<Vec<String>> {
        match self.class_names.len() {
            0 => Ok((0..config.num_classes).map(|i| format!("LABEL_{i}")).collect()),
            n if n == config.num_classes => Ok(self.class_names.to_vec()),
            n => Err(Error::argument("export", "class_names", format!("none or {}", config.num_classes), n)),
        }
    }
}

/// Writes `model` as a folder that transformers loads: `ViTForImageClassification.from_pretrained(folder)`, and
/// `AutoImageProcessor` for its pictures. A model with layer scale is one for `Dinov2ForImageClassification`, with registers for
/// `Dinov2WithRegistersForImageClassification`: a head that reads the class token alone, or the mean, gets zeros for the other,
/// and a position of registers is added to them. The mask token of pretraining, which those have too, is 0.
///
/// Adapters are merged into the weights beside them ([`super::save_adapter`] writes them by themselves).
///
/// The folder is written beside its place, and then takes it. If there is an export already, that is first renamed to
/// `.NAME.old`, and removed at the end: a crash in between leaves the old folder or the new one complete, at worst under that
/// name. A folder with any other content is not touched.
///
/// # Errors
/// [`Error::Argument`] if transformers' ViT cannot express the model (mean pooling, registers, a first norm and the like):
/// [`export_timm`] can. [`Error::File`] if the folder holds other files, [`Error::Io`] if the system refuses,
/// [`Error::Parameter`] if a weight is beyond the range of f16 where that is asked for; and if the device fails.
pub fn export_hf(folder: &Path, model: &Vit, options: &ExportOptions<'_>) -> Result<()> {
    let config = model.config();
    let family = family(config)?;
    let names = options.names(config)?;
    let hf = json(folder, &HfConfig::new(config, family, &names, options.storage))?;
    let preprocessor = json(folder, &HfPreprocessor::new(config, family, options.crop_pct()))?;
    let mut tensors = download(model.parameters())?;
    adapted::merge(&mut tensors, config)?;
    if family.is_dinov2() {
        layouts::to_dinov2(&mut tensors, config)?;
    }
    let mut tensors = family.renaming().to_theirs(tensors)?;
    if family.is_dinov2() {
        let mask = HostTensor { shape: vec![1, config.embed_dim], data: vec![0.0; config.embed_dim] };
        tensors.insert(format!("{}embeddings.mask_token", family.renaming().place), mask);
    }
    let contents = Folder {
        weights: WEIGHTS_FILE,
        tensors,
        // transformers asks for this entry.
        metadata: BTreeMap::from([("format".to_owned(), "pt".to_owned())]),
        storage: options.storage,
        files: &[(CONFIG_FILE, Some(hf.as_bytes())), (PREPROCESSOR_FILE, Some(preprocessor.as_bytes()))],
    };
    contents.write(folder)
}

/// Writes `model` as a folder that timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`. Its
/// `model.safetensors` is a plain state dict, with this crate's own description in the metadata. Written as by [`export_hf`].
///
/// timm takes no eps from a file: its norms have 1e-6, CLIP's 1e-5. A model with another one computes slightly different
/// values there, and a warning in the log says so.
///
/// # Errors
/// As [`export_hf`]; the one model that timm cannot express is one whose head reads both class token and mean.
pub fn export_timm(folder: &Path, model: &Vit, options: &ExportOptions<'_>) -> Result<()> {
    if model.config().global_pool == Pool::TokenAvg {
        let expected = "class token or mean, which timm's heads read: export it for transformers";
        return Err(Error::argument("export_timm", "global_pool", expected, "both"));
    }
    let names = options.names(model.config())?;
    let mut tensors = download(model.parameters())?;
    let config = adapted::merge(&mut tensors, model.config())?;
    let config = &layouts::to_timm(&mut tensors, &config)?;
    let file = VitFile { config, class_names: options.class_names, crop_fraction: options.crop_fraction };
    let timm = TimmConfig::new(config, &names, options.crop_pct());
    if config.eps != timm.eps() {
        log::warn!("timm's model of this architecture has an eps of {}, this one of {}", timm.eps(), config.eps);
    }
    let timm = json(folder, &timm)?;
    let contents = Folder {
        weights: WEIGHTS_FILE,
        tensors,
        metadata: file.metadata(folder)?,
        storage: options.storage,
        files: &[(CONFIG_FILE, Some(timm.as_bytes())), (PREPROCESSOR_FILE, None)],
    };
    contents.write(folder)
}

/// The model of transformers that computes what this one does: with layer scale a Dinov2, whose tokens, positions and head
/// [`layouts::to_dinov2`] brings about.
pub(super) fn family(config: &VitConfig) -> Result<Family> {
    let is_plain = config.init_values.is_none();
    let parts = [
        ("global_pool", is_plain && config.global_pool != Pool::Token),
        ("class_token", !config.class_token),
        ("reg_tokens", is_plain && config.reg_tokens > 0),
        ("no_embed_class", is_plain && config.no_embed_class),
        ("pre_norm", config.pre_norm),
        ("fc_norm", config.has_fc_norm()),
        ("patch_bias", !config.patch_bias),
    ];
    match parts.into_iter().find(|(_, differs)| *differs) {
        Some((name, _)) => {
            let expected = "as in a plain ViT for transformers, which cannot express this model: export it for timm";
            Err(Error::argument("export_hf", name, expected, "another setting"))
        }
        None if is_plain => Ok(Family::Vit),
        None if config.reg_tokens > 0 => Ok(Family::Dinov2WithRegisters),
        None => Ok(Family::Dinov2),
    }
}

pub(super) fn json(folder: &Path, value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    text.map_err(|e| Error::file(folder, format!("its configuration cannot be written: {e}")))
}

/// A number for a square, else height and width.
#[derive(Serialize)]
#[serde(untagged)]
enum Side {
    Both(usize),
    Each([usize; 2]),
}

impl Side {
    fn new((height, width): (usize, usize)) -> Self {
        if height == width { Side::Both(height) } else { Side::Each([height, width]) }
    }
}

/// transformers' `config.json`.
#[derive(Serialize)]
struct HfConfig<'a> {
    architectures: [&'static str; 1],
    model_type: &'static str,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(flatten)]
    own: HfOwn,
    hidden_act: &'static str,
    hidden_dropout_prob: f32,
    attention_probs_dropout_prob: f32,
    layer_norm_eps: f32,
    image_size: Side,
    patch_size: usize,
    num_channels: usize,
    qkv_bias: bool,
    id2label: BTreeMap<usize, &'a str>,
    label2id: BTreeMap<&'a str, usize>,
    dtype: &'static str,
}

/// What only ViT or only Dinov2 is told.
#[derive(Serialize)]
#[serde(untagged)]
enum HfOwn {
    Vit {
        intermediate_size: usize,
    },
    Dinov2 {
        mlp_ratio: serde_json::Number,
        layerscale_value: f32,
        use_swiglu_ffn: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        num_register_tokens: Option<usize>,
    },
}

impl HfOwn {
    fn new(config: &VitConfig, family: Family) -> Self {
        if family == Family::Vit {
            return HfOwn::Vit { intermediate_size: config.hidden() };
        }
        HfOwn::Dinov2 {
            mlp_ratio: whole_or_not(ratio(config.hidden(), config.embed_dim)),
            layerscale_value: config.init_values.unwrap_or(1.0),
            use_swiglu_ffn: false,
            num_register_tokens: (family == Family::Dinov2WithRegisters).then_some(config.reg_tokens),
        }
    }
}

impl<'a> HfConfig<'a> {
    fn new(config: &VitConfig, family: Family, names: &'a [String], storage: Storage) -> Self {
        let (architecture, model_type) = match family {
            Family::Vit => ("ViTForImageClassification", "vit"),
            Family::Dinov2 => ("Dinov2ForImageClassification", "dinov2"),
            Family::Dinov2WithRegisters => ("Dinov2WithRegistersForImageClassification", "dinov2_with_registers"),
        };
        HfConfig {
            architectures: [architecture],
            model_type,
            hidden_size: config.embed_dim,
            num_hidden_layers: config.depth,
            num_attention_heads: config.num_heads,
            own: HfOwn::new(config, family),
            hidden_act: "gelu",
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            layer_norm_eps: config.eps,
            image_size: Side::new(config.img_size),
            patch_size: config.patch_size,
            num_channels: 3,
            qkv_bias: config.qkv_bias,
            id2label: names.iter().map(String::as_str).enumerate().collect(),
            // Of equal names the first.
            label2id: names.iter().map(String::as_str).enumerate().rev().map(|(i, name)| (name, i)).collect(),
            dtype: match storage {
                Storage::F32 => "float32",
                Storage::F16 => "float16",
            },
        }
    }
}

/// transformers' `preprocessor_config.json`.
#[derive(Serialize)]
struct HfPreprocessor {
    image_processor_type: &'static str,
    do_resize: bool,
    size: BTreeMap<&'static str, usize>,
    #[serde(flatten)]
    crop: Option<HfCrop>,
    resample: u32,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

/// A crop of the middle.
#[derive(Serialize)]
struct HfCrop {
    do_center_crop: bool,
    crop_size: BTreeMap<&'static str, usize>,
}

impl HfPreprocessor {
    fn new(config: &VitConfig, family: Family, crop_pct: f64) -> Self {
        let (height, width) = config.img_size;
        let sides = BTreeMap::from([("height", height), ("width", width)]);
        let (image_processor_type, size, crop) = if family.is_dinov2() {
            let short = (height.min(width) as f64 / crop_pct).round() as usize;
            let crop = HfCrop { do_center_crop: true, crop_size: sides };
            ("BitImageProcessor", BTreeMap::from([("shortest_edge", short)]), Some(crop))
        } else {
            ("ViTImageProcessor", sides, None)
        };
        HfPreprocessor {
            image_processor_type,
            do_resize: true,
            size,
            crop,
            resample: BICUBIC,
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: config.normalize.mean,
            image_std: config.normalize.std,
        }
    }
}

/// timm's `config.json`.
#[derive(Serialize)]
struct TimmConfig<'a> {
    architecture: &'static str,
    num_classes: usize,
    num_features: usize,
    global_pool: &'static str,
    label_names: &'a [String],
    model_args: TimmArgs,
    pretrained_cfg: TimmPretrained,
}

/// Arguments of timm's `VisionTransformer`, all that may differ from the architecture named.
#[derive(Serialize)]
struct TimmArgs {
    img_size: [usize; 2],
    patch_size: usize,
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    mlp_ratio: f64,
    qkv_bias: bool,
    class_token: bool,
    no_embed_class: bool,
    reg_tokens: usize,
    pre_norm: bool,
    fc_norm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    init_values: Option<f32>,
    global_pool: &'static str,
}

#[derive(Serialize)]
struct TimmPretrained {
    input_size: [usize; 3],
    fixed_input_size: bool,
    num_classes: usize,
    interpolation: &'static str,
    crop_pct: f64,
    crop_mode: &'static str,
    mean: [f32; 3],
    std: [f32; 3],
    first_conv: &'static str,
    classifier: &'static str,
}

/// Architectures of timm's whose settings are all overridden by the arguments, but for eps.
const PLAIN: &str = "vit_base_patch16_224";
const WITH_FIRST_NORM: &str = "vit_base_patch16_clip_224";

impl<'a> TimmConfig<'a> {
    fn new(config: &VitConfig, names: &'a [String], crop_pct: f64) -> Self {
        let (height, width) = config.img_size;
        let global_pool = match config.global_pool {
            Pool::Avg => "avg",
            Pool::Token | Pool::TokenAvg => "token",
        };
        TimmConfig {
            architecture: if config.pre_norm { WITH_FIRST_NORM } else { PLAIN },
            num_classes: config.num_classes,
            num_features: config.embed_dim,
            global_pool,
            label_names: names,
            model_args: TimmArgs {
                img_size: [height, width],
                patch_size: config.patch_size,
                embed_dim: config.embed_dim,
                depth: config.depth,
                num_heads: config.num_heads,
                mlp_ratio: ratio(config.hidden(), config.embed_dim),
                qkv_bias: config.qkv_bias,
                class_token: config.class_token,
                no_embed_class: config.no_embed_class,
                reg_tokens: config.reg_tokens,
                pre_norm: config.pre_norm,
                fc_norm: config.has_fc_norm(),
                init_values: config.init_values,
                global_pool,
            },
            pretrained_cfg: TimmPretrained {
                input_size: [3, height, width],
                fixed_input_size: true,
                num_classes: config.num_classes,
                interpolation: "bicubic",
                crop_pct,
                crop_mode: "center",
                mean: config.normalize.mean,
                std: config.normalize.std,
                first_conv: "patch_embed.proj",
                classifier: "head",
            },
        }
    }

    /// What timm's norms of this architecture have.
    fn eps(&self) -> f32 {
        if self.model_args.pre_norm { 1e-5 } else { 1e-6 }
    }
}

/// transformers' type for it is a whole number, where it is one.
fn whole_or_not(ratio: f64) -> serde_json::Number {
    let whole = serde_json::Number::from(ratio as u64);
    serde_json::Number::from_f64(ratio).filter(|_| ratio.fract() != 0.0).unwrap_or(whole)
}

/// F / C such that int(C · ratio), as timm computes it, is F again.
fn ratio(hidden: usize, width: usize) -> f64 {
    let ratio = hidden as f64 / width as f64;
    if ((width as f64 * ratio) as usize) < hidden { ratio.next_up() } else { ratio }
}
