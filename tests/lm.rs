//! What the tests of language models share: the references of `tests/reference/lm`, and how a model is held against them. Files
//! are read, and compared, as transformers writes them: under its names and in its layouts.

use std::collections::BTreeMap;
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use crate::common::{assert_adam_close, assert_close, assert_loss_close, each_family};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use wgrad::checkpoint::{self, Checkpoint, HostTensor, MatchOptions, load_parameters};
use wgrad::nn::{LanguageModel, Mode, Precision, Span, Tokens};
use wgrad::ops::{self, CrossEntropy, Mask, RandomKey, TokenIndices};
use wgrad::optim::{AdamW, Optimizer, Rule, StepReport};
use wgrad::{Gpu, Tensor};

pub type Tensors = BTreeMap<String, HostTensor>;

/// A language model of this crate, as these tests need it.
pub trait Case: LanguageModel + Sized {
    /// The folder with the weights.
    const FOLDER: &'static str;
    /// Whether the label of a token is the one before it.
    const IS_SHIFTED: bool;

    /// What a folder or file of transformers' is read as.
    type Pretrained;

    /// Reads one.
    fn pretrained(path: &Path) -> wgrad::Result<Self::Pretrained>;

    /// From a folder or file of transformers'.
    fn open(gpu: &Gpu, path: &Path) -> Self;

    /// Writes tensors that have the shapes of the parameters as transformers would.
    fn write(&self, path: &Path, tensors: &Tensors);

    /// What block 0 sees, and what each block makes of it.
    fn states(&self, tokens: &Tokens<'_>, spans: &[Span<TokenIndices>]) -> Vec<Tensor>;

    /// The places of the key biases in a tensor of transformers' of this name.
    fn key_biases(name: &str, length: usize) -> std::ops::Range<usize>;
}

/// Loads everything of a checkpoint into a model that has exactly that.
pub fn load(model: &impl LanguageModel, checkpoint: &Checkpoint) {
    let report = load_parameters(model.parameters(), checkpoint, &MatchOptions::default()).unwrap();
    assert_eq!((report.loaded.len(), report.unused.len()), (model.parameters().len(), 0), "{report}");
}

/// A file or folder of the references of language models.
pub fn reference_path(name: &str) -> PathBuf {
    crate::common::reference(&format!("lm/{name}"))
}

#[track_caller]
pub fn assert_refused<T>(result: wgrad::Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted, without {parts:?}") };
    let message = error.to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}: without one of {parts:?}");
}

/// transformers' tensors and settings of a small model, to be changed.
pub struct Theirs<M> {
    pub tensors: Tensors,
    pub config: Value,
    model: PhantomData<M>,
}

impl<M: Case> Theirs<M> {
    pub fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/lm").join(M::FOLDER);
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let tensors = checkpoint::read(folder.join("model.safetensors")).unwrap().tensors;
        Theirs { tensors, config, model: PhantomData }
    }

    pub fn with(setting: &str, value: Value) -> Self {
        let mut theirs = Self::read();
        theirs.config[setting] = value;
        theirs
    }

    pub fn without(setting: &str) -> Self {
        let mut theirs = Self::read();
        theirs.config.as_object_mut().unwrap().remove(setting);
        theirs
    }

    pub fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        self.tensors = self.tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        self
    }

    pub fn and(mut self, name: &str, shape: &[usize], data: Vec<f32>) -> Self {
        self.tensors.insert(name.to_owned(), HostTensor { shape: shape.to_vec(), data });
        self
    }

    pub fn open(&self) -> wgrad::Result<M::Pretrained> {
        let folder = tempfile::tempdir().unwrap();
        checkpoint::write(folder.path().join("model.safetensors"), &self.tensors, &BTreeMap::new()).unwrap();
        fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        M::pretrained(folder.path())
    }
}

/// A file of reference vectors.
pub struct Reference {
    name: String,
    floats: Checkpoint,
    integers: BTreeMap<String, (Vec<usize>, Vec<i64>)>,
}

impl Reference {
    pub fn read(folder: &str) -> Self {
        let path = reference_path(folder).join("expected.safetensors");
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let integers = file.iter().filter(|(_, view)| view.dtype() == Dtype::I64);
        let integers = integers
            .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), bytemuck::pod_collect_to_vec(view.data()))));
        let floats = checkpoint::read_bytes(&bytes, folder).unwrap();
        Reference { name: folder.to_owned(), integers: integers.collect(), floats }
    }

    pub fn get(&self, name: &str) -> &[f32] {
        &self.floats.get(name).unwrap().data
    }

    /// Whole numbers, which are not negative.
    pub fn ids(&self, name: &str) -> (Vec<usize>, Vec<u32>) {
        let (shape, values) = &self.integers[name];
        (shape.clone(), values.iter().map(|&v| u32::try_from(v).unwrap()).collect())
    }

    /// Names below `prefix`, without it.
    fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.floats.tensors.keys().filter_map(move |name| name.strip_prefix(prefix))
    }

    fn batch<M: Case>(&self, gpu: &Gpu) -> Batch {
        let on_device = |(shape, ids): (Vec<usize>, Vec<u32>)| Tensor::from_slice(gpu, &shape, &ids).unwrap();
        let (shape, labels) = &self.integers["labels"];
        let tokens = shape[1];
        let label = |i: usize| match (M::IS_SHIFTED, (i + 1) % tokens) {
            (false, _) => labels[i],
            (true, 0) => -100,
            (true, _) => labels[i + 1],
        };
        let labels: Vec<u32> = (0..labels.len()).map(|i| u32::try_from(label(i)).unwrap_or(u32::MAX)).collect();
        let lengths = self.integers.contains_key("attention_mask").then(|| {
            let (_, mask) = self.ids("attention_mask");
            mask.chunks(tokens).map(|row| row.iter().sum()).collect::<Vec<u32>>()
        });
        Batch {
            ids: on_device(self.ids("input_ids")),
            types: self.integers.contains_key("token_type_ids").then(|| on_device(self.ids("token_type_ids"))),
            lengths: lengths.map(|lengths| Tensor::from_slice(gpu, &[lengths.len()], &lengths).unwrap()),
            labels: Tensor::from_slice(gpu, &[labels.len()], &labels).unwrap(),
            kept: self.integers.contains_key("keep").then(|| self.ids("keep")),
        }
    }
}

/// A batch on the device.
struct Batch {
    ids: Tensor,
    types: Option<Tensor>,
    lengths: Option<Tensor>,
    labels: Tensor,
    /// Shape and positions, `[step, block, sample, kept]`.
    kept: Option<(Vec<usize>, Vec<u32>)>,
}

impl Batch {
    fn tokens(&self) -> Tokens<'_> {
        Tokens { ids: &self.ids, types: self.types.as_ref(), lengths: self.lengths.as_ref() }
    }

    /// The kept tokens of blocks 1 and 2 in a step.
    fn spans(&self, step: usize) -> Vec<Span<TokenIndices>> {
        let Some((shape, positions)) = &self.kept else { return Vec::new() };
        let &[_, blocks, batch, kept] = shape.as_slice() else { panic!("{shape:?}") };
        let span = |block: usize| {
            let at = (step * blocks + block) * batch * kept;
            let positions = &positions[at..at + batch * kept];
            let kept = TokenIndices::new(self.ids.gpu(), [batch, kept], self.ids.dims()[1], positions).unwrap();
            Span::bypass(block + 1..block + 2, kept)
        };
        (0..blocks).map(span).collect()
    }

    /// Logits and loss of a step.
    fn forward(&self, model: &impl LanguageModel, step: usize, precision: Precision) -> (Tensor, Tensor) {
        let key = RandomKey { seed: 0, step: 0, layer: 0, first_sample: 0 };
        let mode = Mode::training(key).with_precision(precision);
        let hidden = model.hidden(&self.tokens(), &self.spans(step), &mode).unwrap();
        let logits = model.logits(&hidden, &mode).unwrap();
        let rows = ops::reshape(&logits, &[self.labels.numel(), model.vocab_size()]).unwrap();
        let settings = CrossEntropy { ignore_index: Some(u32::MAX), ..Default::default() };
        let loss = ops::cross_entropy(&rows, &self.labels, &settings).unwrap();
        (logits, loss)
    }
}

/// Tensors in the parameters' places, as transformers names and stores them.
fn as_theirs<M: Case>(model: &M, value: impl Fn(&wgrad::autograd::Parameter) -> Vec<f32>) -> Tensors {
    let ours = model.parameters().iter();
    let ours = ours.map(|p| (p.path().to_owned(), HostTensor { shape: p.value().dims().to_vec(), data: value(p) }));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    model.write(&file, &ours.collect());
    checkpoint::read(&file).unwrap().tensors
}

const ADAMW: Rule = Rule::AdamW(AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 });

/// Hidden states, logits, loss, all gradients and their norm.
pub fn check_gradients<M: Case>(folder: &str) {
    let reference = Reference::read(folder);
    for gpu in each_family() {
        let (model, batch) = (M::open(&gpu, &reference_path(M::FOLDER)), reference.batch::<M>(&gpu));
        let what = |name: &str| format!("{} {name} ({:?})", reference.name, gpu.family());
        for (i, state) in model.states(&batch.tokens(), &batch.spans(0)).iter().enumerate() {
            let name = format!("hidden/{i}");
            assert_close(&what(&name), &state.to_vec().unwrap(), reference.get(&name), 1e-5);
        }
        let (logits, loss) = batch.forward(&model, 0, Precision::F32);
        assert_close(&what("logits"), &logits.to_vec().unwrap(), reference.get("logits"), 1e-5);
        assert_close(&what("loss"), &loss.to_vec().unwrap(), reference.get("loss"), 1e-6);
        loss.backward().unwrap();
        compare_gradients(&model, &reference, &what, 1.0, 1e-5);
        let decays = |path: &str, rank: usize| model.decays(path, rank);
        let mut optimizer = Optimizer::new(model.parameters(), ADAMW, None, decays).unwrap();
        optimizer.step(model.parameters(), 0.0).unwrap();
        let bytes = optimizer.report().read_later().unwrap().wait().unwrap().concat();
        let report = StepReport::decode(&bytes).unwrap();
        assert_close(&what("grad_norm"), &[report.grad_norm], reference.get("grad_norm"), 1e-5);
    }
}

/// Every gradient by transformers' name. Those of key biases, which are 0 but for rounding, by their absolute difference.
fn compare_gradients<M: Case>(
    model: &M,
    reference: &Reference,
    what: &dyn Fn(&str) -> String,
    scale: f32,
    tolerance: f32,
) {
    let gradients = as_theirs(model, |p| {
        let gradient: Vec<f32> = p.grad().unwrap_or_else(|| panic!("{}: none", what(p.path()))).to_vec().unwrap();
        gradient.iter().map(|g| g / scale).collect()
    });
    assert_eq!(gradients.len(), reference.names("grad/").count());
    for (name, HostTensor { mut data, .. }) in gradients {
        let mut expected = reference.get(&format!("grad/{name}")).to_vec();
        for i in M::key_biases(&name, data.len()) {
            assert!((data[i] - expected[i]).abs() <= 0.1 * tolerance, "{}: {} at {i}", what(&name), data[i]);
            (data[i], expected[i]) = (0.0, 0.0);
        }
        assert_close(&what(&name), &data, &expected, tolerance);
    }
}

/// With half-precision activations, and a loss scaled as training would scale it: within a hundredth.
pub fn check_half_precision<M: Case>(folder: &str) {
    const SCALE: f32 = 1024.0;
    let reference = Reference::read(folder);
    for gpu in each_family().into_iter().filter(Gpu::has_f16) {
        let (model, batch) = (M::open(&gpu, &reference_path(M::FOLDER)), reference.batch::<M>(&gpu));
        let what = |name: &str| format!("{} {name} in f16 ({:?})", reference.name, gpu.family());
        let (logits, loss) = batch.forward(&model, 0, Precision::F16);
        assert_close(&what("logits"), &logits.to_vec().unwrap(), reference.get("logits"), 1e-2);
        assert_close(&what("loss"), &loss.to_vec().unwrap(), reference.get("loss"), 1e-3);
        loss.backward_from(&Tensor::from_slice(&gpu, &[], &[SCALE]).unwrap()).unwrap();
        compare_gradients(&model, &reference, &what, SCALE, 1e-2);
    }
}

/// Ten steps of AdamW: the losses on the way, and every parameter at the end but the key biases, whose gradients are rounding.
pub fn check_steps<M: Case>(folder: &str) {
    const RATE: f32 = 1e-3;
    let reference = Reference::read(folder);
    for gpu in each_family() {
        let (model, batch) = (M::open(&gpu, &reference_path(M::FOLDER)), reference.batch::<M>(&gpu));
        let what = |name: &str| format!("{} {name} ({:?})", reference.name, gpu.family());
        let decays = |path: &str, rank: usize| model.decays(path, rank);
        let mut optimizer = Optimizer::new(model.parameters(), ADAMW, None, decays).unwrap();
        for (step, expected) in reference.get("adamw/losses").iter().enumerate() {
            let (_, loss) = batch.forward(&model, step, Precision::F32);
            loss.backward().unwrap();
            optimizer.step(model.parameters(), RATE).unwrap();
            assert_loss_close(&what(&format!("loss {step}")), loss.item().unwrap(), *expected, 1e-5);
        }
        let parameters = as_theirs(&model, |p| p.value().to_vec().unwrap());
        assert_eq!(parameters.len(), reference.names("adamw/param/").count());
        for (name, HostTensor { mut data, .. }) in parameters {
            let mut expected = reference.get(&format!("adamw/param/{name}")).to_vec();
            for i in M::key_biases(&name, data.len()) {
                (data[i], expected[i]) = (0.0, 0.0);
            }
            let first = reference.get(&format!("grad/{name}"));
            assert_adam_close(&what(&name), &data, &expected, first, RATE, 1e-4);
        }
    }
}

/// What block 0 sees, and what each block makes of it, one after the other.
pub fn states_of(
    embedded: Tensor,
    blocks: &[wgrad::nn::Block],
    spans: &[Span<TokenIndices>],
    mask: &Mask,
) -> Vec<Tensor> {
    let mut states = vec![embedded];
    for (i, block) in blocks.iter().enumerate() {
        let span = spans.iter().find(|span| span.blocks.start == i);
        let kept = span.map(|span| &span.positions);
        let mask = kept.map_or_else(|| mask.clone(), |kept| mask.gathered(kept).unwrap());
        let x = states.last().unwrap().clone();
        states.push(block.forward(x, kept, &mask, &Mode::evaluation()).unwrap());
    }
    states
}
