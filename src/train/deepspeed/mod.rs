//! DeepSpeed's configuration files: what of them has a meaning here, and the names of what has not.

mod layer_token;
mod section;
mod unique;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::TrainSettings;
use crate::error::{Error, Result};
use crate::ltd::{RandomLtd, Schedule, TokenDrop};
use crate::nn::Precision;
use crate::optim::{AdamW, AfterWarmup, DeepSpeedRate, LossScale, LrSchedule, Rule, Sgd};

use layer_token::LayerToken;
use section::{Notes, Section};

/// No configuration is as large, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// More blocks than any model has.
const MAX_LAYERS: usize = 1 << 16;

/// The rate where an optimiser's `lr` is not given, as in DeepSpeed.
const DEFAULT_RATE: f32 = 1e-3;

/// What random-LTD's section takes a model for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelType {
    /// `encoder`, as ViT and BERT.
    Encoder,
    /// `decoder`, as GPT.
    Decoder,
}

/// What a DeepSpeed configuration says about a run on one device. What it leaves out is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeepSpeedConfig {
    /// Samples of an optimiser step: `train_batch_size`.
    pub batch_size: usize,
    /// Micro-batches of an optimiser step: `gradient_accumulation_steps`.
    pub accumulate: usize,
    /// `gradient_clipping`.
    pub max_norm: Option<f32>,
    /// `optimizer`: Adam (which is AdamW unless `adam_w_mode` is false), AdamW or SGD. Its `weight_decay` reaches what the model says
    /// ([`crate::nn::Model::decays`]), in DeepSpeed all that the program hands over.
    pub rule: Option<Rule>,
    /// `scheduler` (`WarmupLR`, `WarmupDecayLR` or `WarmupCosineLR`), else the optimiser's `lr`. Where random-LTD's
    /// `layer_token_lr_schedule` is enabled, which DeepSpeed refuses, the LayerToken rate of the same height and shape; unless the file tells its
    /// layer tokens, planned for sequences of `max_value` tokens.
    pub rate: Option<LrSchedule>,
    /// `fp16`, where it is enabled.
    pub loss_scale: Option<LossScale>,
    /// `data_efficiency.data_routing.random_ltd`, where it is enabled. Where it is not,
    /// [`DeepSpeedConfig::is_random_ltd_off`] tells whether the file says so or says nothing of it.
    pub random_ltd: Option<RandomLtd>,
    /// Its `model_type`, for programs to compare with their model: masks follow from that alone.
    pub model_type: Option<ModelType>,
    /// Keys without effect here, or with another one, each a sentence that begins with the dotted path.
    pub warnings: Vec<String>,
    /// [`DeepSpeedConfig::is_random_ltd_off`].
    is_off: bool,
}

impl DeepSpeedConfig {
    /// Whether the file says that random-LTD is off, so that a program with a default of its own trains at full length:
    /// it has the section, which is not enabled (as it is not where `enabled` is left out), or a section around it says
    /// `"enabled": false`. A file without any of this says nothing of random-LTD, and this is false.
    pub fn is_random_ltd_off(&self) -> bool {
        self.is_off
    }

    /// `settings` with what the file says in their place. Where it has no `gradient_clipping` and no
    /// `gradient_accumulation_steps`, it says none, and whole batches, as to DeepSpeed; where it says that random-LTD
    /// is off, the settings' own is left out. The batch size is the data loader's.
    pub fn apply(&self, settings: TrainSettings) -> TrainSettings {
        let drop = match (&self.random_ltd, settings.drop) {
            (Some(ltd), _) => TokenDrop::RandomLtd(ltd.clone()),
            (None, TokenDrop::RandomLtd(_)) if self.is_off => TokenDrop::None,
            (None, drop) => drop,
        };
        TrainSettings {
            rule: self.rule.unwrap_or(settings.rule),
            rate: self.rate.clone().unwrap_or(settings.rate),
            max_norm: self.max_norm,
            drop,
            accumulate: self.accumulate,
            precision: if self.loss_scale.is_some() { Precision::F16 } else { settings.precision },
            loss_scale: self.loss_scale.unwrap_or(settings.loss_scale),
            ..settings
        }
    }
}

/// Reads a configuration from a file.
///
/// # Errors
/// [`Error::Io`] if the system refuses; [`Error::File`], which names the key by its dotted path, if one is missing, there twice,
/// of another type, out of range, or contradicts another.
pub fn read_deepspeed(path: impl AsRef<Path>) -> Result<DeepSpeedConfig> {
    let path = path.as_ref();
    let io = |error| Error::io(path, error);
    let mut text = Vec::new();
    File::open(path).map_err(io)?.take(MAX_FILE + 1).read_to_end(&mut text).map_err(io)?;
    parse(path, &text)
}

/// Reads a configuration from text, which `name` stands for in messages.
///
/// # Errors
/// [`Error::File`] as [`read_deepspeed`].
pub fn parse_deepspeed(name: &str, text: &str) -> Result<DeepSpeedConfig> {
    parse(Path::new(name), text.as_bytes())
}

fn parse(file: &Path, text: &[u8]) -> Result<DeepSpeedConfig> {
    if text.len() as u64 > MAX_FILE {
        return Err(Error::file(file, format!("is larger than {MAX_FILE} bytes")));
    }
    let value = unique::check(text).and_then(|()| serde_json::from_slice(text));
    let value = value.map_err(|error| Error::file(file, error.to_string()))?;
    let notes = Notes { file, warnings: Default::default() };
    let root = Section::root(&notes, &value)?;
    let (batch_size, accumulate) = batch(&root)?;
    let (rule, constant) = optimizer(&root)?.unzip();
    let (scheduler, scheduled) = scheduler(&root, constant)?.unzip();
    let (routed, is_off) = random_ltd(&root, (batch_size, batch_size / accumulate))?;
    let layer_token = routed.as_ref().and_then(|routed| Some((routed.layer_token?, &routed.ltd)));
    let is_scheduled = layer_token.is_none() && scheduled.is_some();
    let rate = match (layer_token, scheduled) {
        (Some((keys, ltd)), _) => Some(keys.rate(&root, scheduler, constant, (ltd, batch_size))?),
        (None, Some(scheduled)) => Some(scheduled),
        (None, None) => constant.map(LrSchedule::constant).transpose().map_err(|error| root.refused(&error))?,
    };
    let config = DeepSpeedConfig {
        batch_size,
        accumulate,
        max_norm: clipping(&root)?,
        rule,
        rate,
        loss_scale: half_precision(&root, is_scheduled)?,
        model_type: routed.as_ref().and_then(|routed| routed.model_type),
        random_ltd: routed.map(|routed| routed.ltd),
        warnings: Vec::new(),
        is_off,
    };
    root.warn_of_unknown();
    drop(root);
    Ok(DeepSpeedConfig { warnings: notes.warnings.into_inner(), ..config })
}

/// Samples and micro-batches of a step, any one of the three keys made up from the others. On one device
/// `train_batch_size` is `train_micro_batch_size_per_gpu` times `gradient_accumulation_steps`.
fn batch(root: &Section<'_>) -> Result<(usize, usize)> {
    const BATCH: &str = "train_batch_size";
    const MICRO: &str = "train_micro_batch_size_per_gpu";
    const STEPS: &str = "gradient_accumulation_steps";
    let sizes = [root.size(BATCH)?, root.size(MICRO)?, root.size(STEPS)?];
    for (key, size) in [BATCH, MICRO, STEPS].into_iter().zip(sizes) {
        if size == Some(0) {
            return Err(root.error(key, "must be at least 1, is 0"));
        }
    }
    let (batch, steps) = match sizes {
        [Some(batch), Some(micro), steps] => (batch, steps.unwrap_or((batch / micro).max(1))),
        [Some(batch), None, steps] => (batch, steps.unwrap_or(1)),
        [None, Some(micro), steps] => (micro.saturating_mul(steps.unwrap_or(1)), steps.unwrap_or(1)),
        [None, None, _] => return Err(root.error(BATCH, &format!("is missing, and so is {MICRO}"))),
    };
    let micro = sizes[1].unwrap_or(batch / steps);
    if micro.checked_mul(steps) != Some(batch) {
        let rule = format!("must be {MICRO} ({micro}) times {STEPS} ({steps}) on one device, is {batch}");
        return Err(root.error(BATCH, &rule));
    }
    Ok((batch, steps))
}

fn clipping(root: &Section<'_>) -> Result<Option<f32>> {
    let norm = root.number("gradient_clipping")?.unwrap_or(0.0);
    if norm < 0.0 {
        return Err(root.error("gradient_clipping", &format!("must not be negative, is {norm}")));
    }
    Ok((norm > 0.0).then_some(norm))
}

/// The update and its rate.
fn optimizer(root: &Section<'_>) -> Result<Option<(Rule, f32)>> {
    let Some(optimizer) = root.section("optimizer")? else { return Ok(None) };
    let kind = optimizer.required("type", optimizer.text("type")?)?;
    let empty = serde_json::Map::new();
    let params = match optimizer.section("params")? {
        Some(params) => params,
        None => optimizer.below("params", &empty),
    };
    let rule = match kind.to_ascii_lowercase().as_str() {
        "adam" => adam(&params, params.flag("adam_w_mode")?.unwrap_or(true))?,
        "adamw" => adam(&params, true)?,
        "sgd" => Rule::Sgd(Sgd {
            momentum: params.number("momentum")?.unwrap_or(0.0),
            dampening: params.number("dampening")?.unwrap_or(0.0),
            nesterov: params.flag("nesterov")?.unwrap_or(false),
            weight_decay: params.number("weight_decay")?.unwrap_or(0.0),
        }),
        _ => return Err(optimizer.error("type", &format!("must be Adam, AdamW or SGD, is {kind:?}"))),
    };
    rule.check().map_err(|error| params.refused(&error))?;
    if params.number("weight_decay")?.is_some_and(|decay| decay > 0.0) {
        params.warn("weight_decay", "spares biases and norms, as the model has it, where DeepSpeed decays all");
    }
    let rate = params.number("lr")?.unwrap_or(DEFAULT_RATE);
    LrSchedule::constant(rate).map_err(|error| params.refused(&error))?;
    params.warn_of_unknown();
    optimizer.warn_of_unknown();
    Ok(Some((rule, rate)))
}

/// Without decoupled decay (`adam_w_mode` false) there must be no decay.
fn adam(params: &Section<'_>, is_decoupled: bool) -> Result<Rule> {
    let weight_decay = params.number("weight_decay")?.unwrap_or(0.0);
    if !is_decoupled && weight_decay != 0.0 {
        return Err(params.error("adam_w_mode", "must be true where weight_decay is not 0, is false"));
    }
    for (key, only) in [("bias_correction", true), ("amsgrad", false)] {
        if params.flag(key)?.is_some_and(|value| value != only) {
            return Err(params.error(key, &format!("must be {only}, is {}", !only)));
        }
    }
    let standard = AdamW::default();
    let betas = params.pair("betas")?.unwrap_or(standard.betas);
    Ok(Rule::AdamW(AdamW { betas, eps: params.number("eps")?.unwrap_or(standard.eps), weight_decay }))
}

/// What the scheduler is made of, and its rates; `constant` is the optimiser's.
fn scheduler(root: &Section<'_>, constant: Option<f32>) -> Result<Option<(DeepSpeedRate, LrSchedule)>> {
    let Some(section) = root.section("scheduler")? else { return Ok(None) };
    let kind = section.required("type", section.text("type")?)?;
    let empty = serde_json::Map::new();
    let params = match section.section("params")? {
        Some(params) => params,
        None => section.below("params", &empty),
    };
    let total = || params.required("total_num_steps", params.integer("total_num_steps")?);
    let (min, max, after) = match kind {
        "WarmupLR" => (0.0, constant.unwrap_or(DEFAULT_RATE), AfterWarmup::Constant),
        "WarmupDecayLR" => (0.0, DEFAULT_RATE, AfterWarmup::Linear { total: total()? }),
        "WarmupCosineLR" => {
            let Some(rate) = constant else {
                return Err(section.error("type", "is WarmupCosineLR, which needs the optimizer's lr"));
            };
            let floor = rate * params.number("cos_min_ratio")?.unwrap_or(1e-4);
            let min = rate * params.number("warmup_min_ratio")?.unwrap_or(0.0);
            (min, rate, AfterWarmup::Cosine { total: total()?, floor })
        }
        _ => {
            let expected = "must be WarmupLR, WarmupDecayLR or WarmupCosineLR";
            return Err(section.error("type", &format!("{expected}, is {kind:?}")));
        }
    };
    let is_cosine = matches!(after, AfterWarmup::Cosine { .. });
    let rate = DeepSpeedRate {
        min: if is_cosine { min } else { params.number("warmup_min_lr")?.unwrap_or(min) },
        max: if is_cosine { max } else { params.number("warmup_max_lr")?.unwrap_or(max) },
        steps: params.integer("warmup_num_steps")?.unwrap_or(1000),
        is_linear: choice(&params, "warmup_type", ["log", "linear"])?.unwrap_or(0) == 1,
        after,
    };
    params.warn_of_unknown();
    section.warn_of_unknown();
    let schedule = LrSchedule::deepspeed(rate).map_err(|error| params.refused(&error))?;
    Ok(Some((rate, schedule)))
}

/// Which of two texts a key has.
fn choice(section: &Section<'_>, key: &'static str, choices: [&str; 2]) -> Result<Option<usize>> {
    let Some(text) = section.text(key)? else { return Ok(None) };
    let found = choices.iter().position(|choice| *choice == text);
    let [first, second] = choices;
    found.map(Some).ok_or_else(|| section.error(key, &format!("must be {first:?} or {second:?}, is {text:?}")))
}

/// `is_scheduled` tells whether the rate follows the steps, by DeepSpeed's rules.
fn half_precision(root: &Section<'_>, is_scheduled: bool) -> Result<Option<LossScale>> {
    let Some(fp16) = root.section("fp16")? else { return Ok(None) };
    let constant = fp16.number("loss_scale")?.unwrap_or(0.0);
    let power = fp16.size("initial_scale_power")?.unwrap_or(16);
    let interval = fp16.size("loss_scale_window")?.unwrap_or(1000);
    let floor = fp16.number("min_loss_scale")?.unwrap_or(1.0);
    let is_enabled = fp16.flag("enabled")?.unwrap_or(false);
    let is_dynamic = is_enabled && constant <= 0.0;
    // 2 where it is not told.
    if fp16.size("hysteresis")?.unwrap_or(2) != 1 && is_dynamic {
        fp16.warn("hysteresis", "is not used: every overflow lowers the loss scale");
    }
    if is_enabled && !is_dynamic {
        fp16.warn("loss_scale", "is constant: a step that overflows ends the run, where DeepSpeed leaves it out");
    }
    if is_enabled && is_scheduled {
        fp16.warn("enabled", "with a scheduler: a step that overflows moves the rate on, where DeepSpeed's waits");
    }
    fp16.warn_of_unknown();
    if power > 100 {
        return Err(fp16.error("initial_scale_power", &format!("must be at most 100, is {power}")));
    }
    let scale = if constant > 0.0 {
        LossScale::constant(constant)
    } else {
        let initial = 2f32.powi(power as i32);
        LossScale { initial, growth: 2.0, backoff: 0.5, interval: interval as u32, floor }
    };
    scale.check().map_err(|error| fp16.refused(&error))?;
    Ok(is_enabled.then_some(scale))
}

/// Random-LTD's section.
struct Routed {
    ltd: RandomLtd,
    model_type: Option<ModelType>,
    layer_token: Option<LayerToken>,
}

/// The section, whose batch sizes must be `batch`, whole and micro; and whether the file says that random-LTD is off.
fn random_ltd(root: &Section<'_>, batch: (usize, usize)) -> Result<(Option<Routed>, bool)> {
    let Some(efficiency) = root.section("data_efficiency")? else { return Ok((None, false)) };
    let seed = efficiency.integer("seed")?.unwrap_or(1234);
    let is_efficient = efficiency.flag("enabled")?;
    let (mut found, mut is_off) = (None, is_efficient == Some(false));
    if let Some(routing) = efficiency.section("data_routing")? {
        let is_routed = routing.flag("enabled")?;
        is_off |= is_routed == Some(false);
        if let Some(section) = routing.section("random_ltd")? {
            if [is_efficient, is_routed, section.flag("enabled")?] == [Some(true); 3] {
                let routed = layers(&section, batch)?;
                found = Some(Routed { ltd: routed.ltd.with_seed(seed), ..routed });
                section.warn_of_unknown();
            } else {
                is_off = true;
                routing.warn("random_ltd", "is not enabled, or a section around it is not");
            }
        }
        routing.warn_of_unknown();
    }
    if let Some(sampling) = efficiency.section("data_sampling")?
        && sampling.flag("enabled")? == Some(true)
    {
        efficiency.warn("data_sampling", "is not used: batches come from the data loader as they are");
    }
    efficiency.warn_of_unknown();
    Ok((found, is_off))
}

fn layers(section: &Section<'_>, (batch, micro): (usize, usize)) -> Result<Routed> {
    let total = section.required("total_layer_num", section.size("total_layer_num")?)?;
    if total > MAX_LAYERS {
        return Err(section.error("total_layer_num", &format!("must be at most {MAX_LAYERS}, is {total}")));
    }
    let count = section.required("random_ltd_layer_num", section.size("random_ltd_layer_num")?)?;
    let ids = section.required("random_ltd_layer_id", section.sizes("random_ltd_layer_id")?)?;
    if ids.len() != count {
        let what = format!("must name {count} layers, as random_ltd_layer_num says, names {}", ids.len());
        return Err(section.error("random_ltd_layer_id", &what));
    }
    for (key, expected) in [("global_batch_size", batch), ("micro_batch_size", micro)] {
        if let Some(size) = section.size(key)?.filter(|&size| size != expected) {
            return Err(section.error(key, &format!("must be {expected}, as the whole file says, is {size}")));
        }
    }
    // They tell DeepSpeed how to cut a foreign model's tensors. Here every model cuts its own, whatever it calls them.
    section.text("model_mask_name")?;
    choice(section, "hidden_state_order", ["batch_seq_dim", "seq_batch_dim"])?;
    let types = [ModelType::Encoder, ModelType::Decoder];
    let model_type = choice(section, "model_type", ["encoder", "decoder"])?.map(|i| types[i]);
    let (schedule, full) = schedule(section)?;
    let layer_token = match section.section("layer_token_lr_schedule")? {
        Some(rates) => LayerToken::read(&rates, full)?,
        None => None,
    };
    let ltd = RandomLtd::in_blocks(total, &ids, schedule);
    let ltd = ltd.map_err(|error| section.refused(&error))?;
    Ok(Routed { ltd, model_type, layer_token })
}

/// The schedule, and the full length that it grows to.
fn schedule(section: &Section<'_>) -> Result<(Schedule, usize)> {
    let schedule = section.required("random_ltd_schedule", section.section("random_ltd_schedule")?)?;
    let min = schedule.required("min_value", schedule.size("min_value")?)?;
    let max = schedule.required("max_value", schedule.size("max_value")?)?;
    let kind = schedule.required("schedule_type", schedule.text("schedule_type")?)?;
    if kind != "fixed_linear" {
        return Err(schedule.error("schedule_type", &format!("must be \"fixed_linear\", is {kind:?}")));
    }
    let config = schedule.required("schedule_config", schedule.section("schedule_config")?)?;
    let steps = config.required("require_steps", config.integer("require_steps")?)?;
    let granularity = config.required("seq_per_step", config.size("seq_per_step")?)?;
    config.warn_of_unknown();
    schedule.warn_of_unknown();
    let grown = Schedule::fixed_linear(min, max, steps, granularity).map_err(|error| schedule.refused(&error))?;
    Ok((grown, max))
}
