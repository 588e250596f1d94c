//! The data and the weights that the arguments name.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use wgrad::data::{self, DataSet, FolderOptions};
use wgrad::models::vit::{self, HeadFit, OpenOptions, Pretrained, VitConfig};

use crate::args::{Args, Data};
use crate::local;
use crate::training::start;

/// The data set that the arguments name.
pub fn load_data(args: &Args) -> Result<DataSet> {
    let dir = || args.data_dir.as_deref().context("--data-dir DIR is needed for this data set");
    let data = match args.data() {
        Data::Digits => data::digits()?,
        Data::Cifar10 => data::cifar10(dir()?)?,
        Data::Cifar100 => data::cifar100(dir()?)?,
        Data::Folder => {
            let seed = args.split_seed.unwrap_or_default();
            data::image_folder(dir()?, FolderOptions { seed, ..Default::default() })?
        }
    };
    if data.validation.is_empty() {
        bail!("{} has too few pictures to spare some for validation: add more, or a val/ folder", data.name);
    }
    Ok(data)
}

/// What a model starts from.
pub struct Weights {
    /// Its sizes, for the data's classes.
    pub config: VitConfig,
    /// The checkpoint with its name, if it is not random weights.
    checkpoint: Option<(String, Pretrained)>,
    /// The file or folder that it was read from.
    place: Option<PathBuf>,
    /// How the checkpoint's head fits the data's classes.
    head: HeadFit,
    /// Whether the user named the checkpoint.
    is_given: bool,
}

impl Weights {
    pub fn load(args: &Args, data: &DataSet) -> Result<Self> {
        let num_classes = data.class_names.len();
        if args.from_scratch {
            let normalize = data.normalize;
            let side = args.img_size.unwrap_or(32);
            let (img_size, patch_size) = ((side, side), args.patch_size);
            let config = VitConfig { img_size, patch_size, num_classes, normalize, ..preset(&args.model)? };
            return Ok(Weights { config, checkpoint: None, place: None, head: HeadFit::None, is_given: false });
        }
        let (name, place, mut weights) = match &args.weights {
            Some(path) => {
                let (place, opened) = open(path, args).with_context(|| format!("--weights {}", path.display()))?;
                (path.display().to_string(), Some(place), opened)
            }
            None => ("the embedded checkpoint".to_owned(), None, Pretrained::embedded()?),
        };
        // New ones, if any, begin beside what those of an earlier run have made of the weights.
        weights.merge_adapters()?;
        // A run that goes on has its own size, or was begun when nobody asked what the library shows.
        let shown = weights.shown.filter(|_| args.output.resume.is_none());
        if let Some(size) = args.img_size.map(|side| (side, side)).or(shown) {
            weights.resize(size)?;
        }
        let head = weights.set_classes(&data.class_names);
        let (config, is_given) = (weights.config.clone(), args.weights.is_some());
        Ok(Weights { config, checkpoint: Some((name, weights)), place, head, is_given })
    }

    pub fn pretrained(&self) -> Option<&Pretrained> {
        self.checkpoint.as_ref().map(|(_, weights)| weights)
    }

    /// Keeps what tells the checkpoint in the folder of a new run.
    pub fn keep(&self, run: &Path) -> Result<()> {
        self.pretrained().map_or(Ok(()), |weights| start::keep(run, self.place.as_deref(), &weights.checkpoint))
    }

    /// Refuses another checkpoint than the run in this folder began with.
    pub fn check(&self, run: &Path) -> Result<()> {
        self.pretrained().map_or(Ok(()), |weights| start::check(run, &weights.checkpoint))
    }

    /// The share of a picture's short side that the checkpoint was evaluated on, where it tells.
    pub fn crop_fraction(&self) -> Option<f64> {
        self.pretrained()?.crop_fraction
    }

    /// What the initial values are drawn by in a run of this seed. A head that starts anew would else begin as that of an earlier
    /// run of the same seed did, and know its classes still: its own classes' names (by FNV-1a) tell the two apart.
    pub fn seed(&self, seed: u64, class_names: &[String]) -> u64 {
        if !(self.is_given && matches!(self.head, HeadFit::Other { .. })) {
            return seed;
        }
        let bytes = class_names.iter().flat_map(|name| name.bytes().chain([0]));
        bytes.fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Whether the checkpoint's head is taken over.
    pub fn has_head(&self) -> bool {
        matches!(self.head, HeadFit::Same | HeadFit::ByName { .. } | HeadFit::Unnamed)
    }

    /// What of the head nobody may have expected.
    pub fn warning(&self) -> Option<String> {
        match &self.head {
            // Nobody expects the embedded checkpoint's classes to be theirs.
            HeadFit::Other { .. } if !self.is_given => None,
            fit @ (HeadFit::Unnamed | HeadFit::Other { .. }) => Some(fit.to_string()),
            _ => None,
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.checkpoint.as_ref().map_or("random weights", |(name, _)| name.as_str());
        f.write_str(name)?;
        match &self.head {
            fit @ HeadFit::ByName { .. } => write!(f, "; {fit}"),
            _ => Ok(()),
        }
    }
}

/// A file, a folder, a run, or a name on the Hub: with its place, which a run that goes on knows.
fn open(path: &Path, args: &Args) -> Result<(PathBuf, Pretrained)> {
    let options = OpenOptions { heads: args.heads, trained_on: args.trained_on.map(Into::into) };
    let known = args.output.resume.as_deref().map(start::place).transpose()?;
    let place = known.flatten().map_or_else(|| local::found(path), Ok)?;
    let opened = vit::open(&place, &options)?;
    Ok((place, opened))
}

fn preset(name: &str) -> Result<VitConfig> {
    let sizes: Vec<_> = name.split('x').map(str::parse).collect();
    Ok(match (name, sizes.as_slice()) {
        ("tiny", _) => VitConfig::tiny(),
        ("small", _) => VitConfig::small(),
        ("base", _) => VitConfig::base(),
        ("large", _) => VitConfig::large(),
        (_, &[Ok(width), Ok(depth), Ok(heads)]) => VitConfig::custom(width, depth, heads),
        _ => bail!("--model {name}: expected tiny, small, base, large or WIDTHxDEPTHxHEADS"),
    })
}
