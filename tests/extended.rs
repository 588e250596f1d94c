//! Models as parts of a program's own, and models that say little of themselves.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{each_family, gpu};
use crate::lm::assert_refused;
use wgrad::autograd::{Parameter, Parameters};
use wgrad::checkpoint::{self, Checkpoint, HostTensor, MatchOptions, download, load_parameters};
use wgrad::data::Batch;
use wgrad::models::FolderOptions;
use wgrad::models::bert::{self, Bert, BertConfig};
use wgrad::models::gpt2::{self, Gpt2, Gpt2Config};
use wgrad::models::vit::{
    self, AdapterNames, ExportOptions, OpenOptions, Vit, VitConfig, export_hf, export_timm, save_adapter,
};
use wgrad::nn::{self, Extent, Headed, Init, Linear, LoraConfig, Mode, Model, Span};
use wgrad::ops::{self, TokenIndices};
use wgrad::optim::{AdamW, LrSchedule, Rule};
use wgrad::train::{Freeze, Part, Scored, Task, TrainSettings, Trainer};
use wgrad::{Error, Gpu, Result, Tensor};

const SIDE: usize = 8;

fn config() -> VitConfig {
    let sizes = VitConfig::custom(16, 2, 2);
    VitConfig { img_size: (SIDE, SIDE), patch_size: 4, num_classes: 3, mlp_ratio: 2.0, ..sizes }
}

/// How old somebody is, by a head beside the ViT's own.
struct Ages {
    vit: Vit,
    age: Linear,
}

impl Ages {
    fn new(gpu: &Gpu, config: VitConfig, seed: u64) -> Self {
        let inputs = config.head_inputs();
        let age = |init: &mut Init<'_>| Linear::new(init.at("age"), inputs, 1, true);
        let (vit, age) = Vit::new_with(gpu, config, seed, age).unwrap();
        assert_eq!(vit.head_inputs(), inputs);
        Ages { vit, age }
    }

    fn values(&self) -> BTreeMap<String, HostTensor> {
        download(self.vit.parameters()).unwrap()
    }
}

/// Pictures of one grey each, and as many years.
struct Pictures(Vec<u8>);

impl Batch for Pictures {
    fn samples(&self) -> usize {
        self.0.len()
    }
}

impl Task for Ages {
    type Batch = Pictures;

    fn model(&self) -> &dyn Model {
        &self.vit
    }

    fn identity(&self) -> String {
        r#""ages""#.to_owned()
    }

    fn loss(&self, part: &Part<'_, Pictures>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Scored> {
        let (gpu, greys) = (self.vit.gpu(), &part.batch.0[part.samples.clone()]);
        let pixels: Vec<u8> = greys.iter().flat_map(|grey| [*grey; 3 * SIDE * SIDE]).collect();
        let images = Tensor::from_slice(gpu, &[greys.len(), 3, SIDE, SIDE], &pixels)?;
        let ages: Vec<f32> = greys.iter().map(|grey| f32::from(*grey) / 100.0).collect();
        let features = self.vit.features(&images, spans, mode)?;
        let guessed = self.age.forward(&self.vit.pool(&features)?)?;
        Ok(Scored::new(ops::mse_loss(&guessed, &Tensor::from_slice(gpu, &[greys.len(), 1], &ages)?)?))
    }

    fn blank(&self, samples: usize) -> Result<Pictures> {
        Ok(Pictures(vec![0; samples]))
    }
}

fn settings(freeze: Freeze) -> TrainSettings {
    let rule = Rule::AdamW(AdamW { weight_decay: 0.0, ..AdamW::default() });
    TrainSettings { freeze, ..TrainSettings::new(rule, LrSchedule::constant(1e-2).unwrap()) }
}

/// With the model beneath and without, in parts and whole; the head that nobody uses stays as it is.
#[test]
fn a_head_of_ones_own_is_trained() {
    for gpu in each_family() {
        for (freeze, accumulate) in [(Freeze::Nothing, 1), (Freeze::Nothing, 2), (Freeze::AllButHead, 1)] {
            let ages = Ages::new(&gpu, config(), 3);
            let before = ages.values();
            let mut trainer = Trainer::new(&ages, TrainSettings { accumulate, ..settings(freeze) }).unwrap();
            let mut losses = Vec::new();
            for _ in 0..12 {
                losses.extend(trainer.step(&Pictures(vec![20, 90, 160, 250])).unwrap().map(|done| done.loss));
            }
            losses.extend(trainer.finish().unwrap().map(|done| done.loss));
            let least = losses.iter().copied().fold(f32::INFINITY, f32::min);
            assert!(losses.len() == 12 && least < 0.5 * losses[0], "{freeze:?}: {losses:?}");
            let after = ages.values();
            let has_changed = |path: &str| before[path].data != after[path].data;
            assert!(has_changed("age.weight") && has_changed("age.bias") && !has_changed("head.weight"));
            assert_eq!(has_changed("patch_embed.proj.weight"), freeze == Freeze::Nothing);
        }
    }
}

#[test]
fn what_is_added_is_a_part_of_the_head() {
    let gpu = gpu().dry_run().unwrap();
    let Ages { vit, age } = Ages::new(&gpu, config(), 0);
    let plain = Vit::new(&gpu, config(), 0).unwrap();
    let paths = |parameters: &Parameters| parameters.iter().map(|p| p.path().to_owned()).collect::<Vec<_>>();
    let own = paths(plain.parameters());
    assert_eq!(paths(vit.parameters()), [own, vec!["age.weight".to_owned(), "age.bias".to_owned()]].concat());
    assert_eq!(age.weight.path(), "age.weight");
    assert_eq!((vit.layer("age.weight"), vit.is_head("age.weight"), vit.is_head("age")), (3, true, false));
    assert!(vit.decays("age.weight", 2) && !vit.decays("age.bias", 1));
    // A run's state is tied to it.
    assert_eq!(plain.identity(), config().identity());
    assert!(vit.identity() != plain.identity() && vit.identity().contains("age.weight"));
    assert_eq!(VitConfig::from_identity(&vit.identity()).unwrap(), config());
    let taken = Vit::new_with(&gpu, config(), 0, |init| Linear::new(init.at("head"), 16, 1, true));
    assert!(matches!(taken.err(), Some(Error::Parameter { name, .. }) if name == "head.weight"));
    // Beside adapters it is trained as a whole.
    let lora = Some(LoraConfig::new(2, 4.0, &["attn.qkv"]));
    let adapted = Ages::new(&gpu, VitConfig { lora, ..config() }, 0).vit;
    let trained = adapted.parameters().iter().filter(|p| p.is_trainable()).map(Parameter::path);
    let (of_adapters, others): (Vec<&str>, Vec<&str>) = trained.partition(|path| LoraConfig::is_adapter(path));
    assert_eq!((of_adapters.len(), others), (4, vec!["age.weight", "age.bias"]));
}

/// Into it from a plain model's file, where it begins anew and is told so; out and in again whole; and not to libraries
/// that do not know what it is.
#[test]
fn checkpoints_of_extended_models() {
    let (gpu, place) = (gpu(), tempfile::tempdir().unwrap());
    let (file, ages) = (place.path().join("model.safetensors"), Ages::new(&gpu, config(), 1));
    let open = || vit::open(&file, &OpenOptions::default()).unwrap().checkpoint;
    let load = |ages: &Ages, checkpoint: &Checkpoint, head: &[&str]| {
        load_parameters(ages.vit.parameters(), checkpoint, &MatchOptions { head, ..MatchOptions::default() })
    };
    let plain = Vit::new(&gpu, config(), 2).unwrap();
    vit::save(&file, &plain, &[]).unwrap();
    assert_refused(load(&ages, &open(), &[]), &["age.weight"]);
    let report = load(&ages, &open(), &["age"]).unwrap();
    assert_eq!(report.new.iter().map(|new| new.name.as_str()).collect::<Vec<_>>(), ["age.weight", "age.bias"]);
    assert_eq!((report.loaded.len(), report.missing.len()), (plain.parameters().len(), 0));
    assert_eq!(ages.values()["head.weight"], download(plain.parameters()).unwrap()["head.weight"]);

    vit::save(&file, &ages.vit, &[]).unwrap();
    let again = Ages::new(&gpu, config(), 7);
    assert_eq!(load(&again, &open(), &[]).unwrap().loaded.len(), again.vit.parameters().len());
    assert_eq!(again.values(), ages.values());

    let (out, options) = (place.path().join("out"), ExportOptions::default());
    let words = ["parameters", "age.weight"];
    assert_refused(export_hf(&out, &ages.vit, &options), &words);
    assert_refused(export_timm(&out, &ages.vit, &options), &words);
    let lora = Some(LoraConfig::new(2, 4.0, &["attn.qkv"]));
    let adapted = Ages::new(&gpu, VitConfig { lora, ..config() }, 1).vit;
    assert_refused(save_adapter(&out, &adapted, AdapterNames::Timm, None), &words);
    assert!(!out.exists());
}

/// A classifier on what a language model makes of the last token.
#[test]
fn language_models_take_layers_too() {
    let (gpu, place) = (gpu(), tempfile::tempdir().unwrap());
    let (out, file) = (place.path().join("out"), place.path().join("model.safetensors"));
    let stars = |init: &mut Init<'_>| Linear::new(init.at("stars"), 16, 5, true);
    let lora = |layer: &str| Some(LoraConfig::new(2, 4.0, &[layer]));
    let words = ["parameters", "stars.weight"];
    let trained = |parameters: &Parameters| {
        let trained = parameters.iter().filter(|p| p.is_trainable() && !LoraConfig::is_adapter(p.path()));
        trained.map(|p| p.path().to_owned()).collect::<Vec<_>>()
    };

    let sizes = Gpt2Config { vocab_size: 11, n_positions: 8, ..Gpt2Config::custom(16, 2, 2) };
    let (model, layer) = Gpt2::new_with(&gpu, Gpt2Config { lora: lora("c_attn"), ..sizes.clone() }, 0, stars).unwrap();
    assert_eq!(trained(model.parameters()), ["stars.weight", "stars.bias"]);
    assert!(model.is_head("stars.bias") && layer.weight.is_trainable() && model.identity().contains("stars.bias"));
    assert_refused(gpt2::save(&out, &model, &FolderOptions::default()), &words);
    assert_refused(gpt2::save_adapter(&out, &model, None), &words);
    assert_refused(gpt2::write(&file, &sizes, &download(model.parameters()).unwrap()), &["stars.bias"]);

    let sizes = BertConfig { vocab_size: 11, max_position_embeddings: 8, ..BertConfig::custom(16, 2, 2) };
    let classes = |init: &mut Init<'_>| Linear::new(init.at("classifier"), 16, 5, true);
    let (model, _) = Bert::new_with(&gpu, sizes.clone(), 0, classes).unwrap();
    assert_refused(bert::write(&file, &sizes, &download(model.parameters()).unwrap()), &["classifier.weight"]);
    let (model, _) = Bert::new_with(&gpu, BertConfig { lora: lora("qkv"), ..sizes }, 0, stars).unwrap();
    assert_eq!(trained(model.parameters()), ["stars.weight", "stars.bias"]);
    assert!(model.is_head("stars.bias") && model.layer("stars.bias") == 3);
    assert_refused(bert::save(&out, &model, &FolderOptions::default()), &words);
    assert_refused(bert::save_adapter(&out, &model, None), &words);
    assert!(!out.exists() && !file.exists());
    // Its own names.
    let weights = download(model.parameters()).unwrap();
    checkpoint::write(&file, &weights, &BTreeMap::new()).unwrap();
    assert_eq!(read(&file).tensors, weights);
}

fn read(file: &Path) -> Checkpoint {
    checkpoint::read(file).unwrap()
}

/// Two blocks, of which the model may say nothing.
struct Blocks {
    parameters: Parameters,
    layers: Vec<Linear>,
    tells: bool,
}

impl Blocks {
    fn new(gpu: &Gpu, tells: bool) -> Self {
        let (parameters, layers) = nn::build(gpu, |parameters| {
            let mut init = Init::new(parameters, 0);
            ["blocks.0", "blocks.1", "head"].into_iter().map(|name| Linear::new(init.at(name), 4, 4, true)).collect()
        })
        .unwrap();
        Blocks { parameters, layers, tells }
    }
}

impl Model for Blocks {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn identity(&self) -> String {
        "{}".to_owned()
    }

    fn extent(&self) -> Extent {
        Extent { depth: 2, ..Extent::default() }
    }

    fn layer(&self, path: &str) -> usize {
        match path.strip_prefix("blocks.").and_then(|rest| rest[..1].parse::<usize>().ok()) {
            Some(block) if self.tells => block + 1,
            _ => 3,
        }
    }
}

impl Task for Blocks {
    type Batch = Pictures;

    fn model(&self) -> &dyn Model {
        self
    }

    fn identity(&self) -> String {
        "{}".to_owned()
    }

    fn loss(&self, part: &Part<'_, Pictures>, _: &[Span<TokenIndices>], _: &Mode) -> Result<Scored> {
        let samples = part.samples.len();
        let x = Tensor::from_slice(self.parameters.gpu(), &[samples, 4], &vec![1f32; 4 * samples])?;
        let y = self.layers.iter().try_fold(x, |x, layer| layer.forward(&x))?;
        Ok(Scored::new(ops::mean(&ops::mul(&y, &y)?)?))
    }

    fn blank(&self, samples: usize) -> Result<Pictures> {
        Ok(Pictures(vec![0; samples]))
    }
}

/// What goes by layers would silently do nothing where a model does not tell them.
#[test]
fn blocks_that_a_model_does_not_tell_of() {
    let gpu = gpu();
    let decayed = TrainSettings { layer_decay: 0.5, ..settings(Freeze::Nothing) };
    let silent = Blocks::new(&gpu, false);
    for (name, settings) in [("blocks", settings(Freeze::Blocks(1))), ("layer_decay", decayed.clone())] {
        let error = Trainer::new(&silent, settings).err().unwrap();
        assert!(matches!(&error, Error::Argument { name: found, .. } if *found == name), "{error}");
        assert!(error.to_string().contains("Model::layer"), "{error}");
    }
    assert!(Trainer::new(&silent, settings(Freeze::AllButHead)).is_ok());
    let telling = Blocks::new(&gpu, true);
    assert!(Trainer::new(&telling, decayed).is_ok() && Trainer::new(&telling, settings(Freeze::Blocks(1))).is_ok());
    let trained = telling.parameters.iter().filter(|p| p.is_trainable()).map(Parameter::path);
    assert_eq!(trained.collect::<Vec<_>>(), ["blocks.1.weight", "blocks.1.bias", "head.weight", "head.bias"]);
}

/// Made on a dry run first, parameters take the memory that they need.
#[test]
fn models_are_built_in_memory_of_their_size() {
    let gpu = gpu();
    let before = gpu.memory().live;
    let model = Blocks::new(&gpu, true);
    let bytes: u64 = model.parameters.iter().map(|p| 4 * p.value().numel().next_multiple_of(64) as u64).sum();
    assert_eq!((gpu.memory().live - before, model.parameters.bytes()), (bytes, bytes));
}
