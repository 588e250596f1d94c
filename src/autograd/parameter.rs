//! Parameters: named tensors that training changes, side by side in an arena, and the gradients of those that are trained in another.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::f16;

use super::gradients::Filled;
use super::memory::{Frozen, GradientMemory};
use super::turns::{Turn, Turns};
use super::{GraphNode, Kind, Met, is_recording, meet};
use crate::error::{Error, Result};
use crate::gpu::{Arena, Beside, BufferView, Gpu, Place};
use crate::shape::{DType, Shape};
use crate::tensor::{Tensor, beyond_f16, checked_shape, expect_dtype};

/// A tensor that training changes. Clones are the same parameter.
#[derive(Clone)]
pub struct Parameter(pub(super) Arc<Inner>);

pub(super) struct Inner {
    path: Arc<str>,
    value: Tensor,
    place: Place,
    /// Where gradients lie, and this one's, if it has room there.
    memory: Arc<GradientMemory>,
    room: Mutex<Option<Tensor>>,
    filled: Filled,
    /// Off where it was frozen by hand.
    trainable: AtomicBool,
    /// On where a run's settings leave it out.
    withheld: AtomicBool,
}

impl Parameter {
    /// Its name, as in checkpoints: `blocks.0.attn.qkv.weight`.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The value as a leaf of the graph, so that backward fills [`Parameter::grad`]; plain where it is frozen or inside
    /// [`super::no_grad`].
    pub fn tensor(&self) -> Tensor {
        if !self.is_trainable() {
            return self.value();
        }
        if !is_recording() {
            meet(Met::Parameter(self));
            return self.value();
        }
        self.value().with_node(GraphNode::new(self.0.value.info(), 0, Kind::Parameter(self.clone())))
    }

    /// The value outside any graph: f32, or f16 where it is stored so, which only what stays frozen is
    /// ([`crate::nn::LoraConfig::base`]).
    pub fn value(&self) -> Tensor {
        self.0.value.clone()
    }

    /// The gradient summed over the backward passes since [`Parameters::zero_grad`]; `None` if there was none. It is a
    /// handle of the live gradient: later passes add to it, the next step of an optimiser lets it be overwritten, and it moves where the
    /// gradients are laid out anew for other trained parameters ([`Parameters`]). To keep it or to compute with it, take a copy
    /// ([`Tensor::copied`]).
    pub fn grad(&self) -> Option<Tensor> {
        if self.has_gradient() { self.room() } else { None }
    }

    /// Whether [`Parameter::grad`] is some.
    pub(crate) fn has_gradient(&self) -> bool {
        self.0.filled.is_full()
    }

    /// Overwrites the value, rounded where it is stored in f16. Graphs that need the old one can no longer be walked.
    ///
    /// # Errors
    /// If the number of values differs, one of them is beyond what f16 holds where that is what it is stored in, or the device fails.
    pub fn set(&self, values: &[f32]) -> Result<()> {
        let fault = |what| Error::Parameter { name: self.path().to_owned(), what };
        if values.len() != self.0.value.numel() {
            return Err(fault(format!("{} values do not fit {}", values.len(), self.0.value.info())));
        }
        let (gpu, view) = (self.0.value.gpu(), self.0.value.buffer());
        if self.0.value.dtype() == DType::F16 {
            if let Some(value) = beyond_f16(values) {
                return Err(fault(format!("has the value {value}, beyond what f16 can hold")));
            }
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            view.overwritten();
            return gpu.upload(bytemuck::cast_slice(&halves), view);
        }
        // Before the upload, which may fail half-way.
        view.overwritten();
        gpu.upload(bytemuck::cast_slice(values), view)
    }

    /// Whether it takes part in training: never where it is stored in f16.
    pub fn is_trainable(&self) -> bool {
        let is_full = self.0.value.dtype() == DType::F32;
        is_full && self.0.trainable.load(Ordering::Relaxed) && !self.0.withheld.load(Ordering::Relaxed)
    }

    /// Freezes (`false`) or thaws it, whatever has frozen it. A frozen parameter has no gradient and no optimiser touches
    /// it. One that is stored in f16 stays frozen.
    pub fn set_trainable(&self, trainable: bool) {
        self.0.trainable.store(trainable, Ordering::Relaxed);
        self.withhold(false);
    }

    /// Leaves it out of training for a run, or ends that: apart from what [`Parameter::set_trainable`] says, so that the
    /// end thaws nothing that was frozen by hand.
    pub(crate) fn withhold(&self, on: bool) {
        self.0.withheld.store(on, Ordering::Relaxed);
        if !self.is_trainable() {
            self.0.filled.empty();
        }
    }

    pub(super) fn filled(&self) -> &Filled {
        &self.0.filled
    }

    /// Where its gradient goes: `None` before there has been one, or where it is frozen.
    pub(super) fn room(&self) -> Option<Tensor> {
        self.lock_room().clone()
    }

    pub(super) fn has_room(&self) -> bool {
        self.lock_room().is_some()
    }

    pub(super) fn set_room(&self, room: Option<Tensor>) {
        *self.lock_room() = room;
    }

    fn lock_room(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.0.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gradient, if it lies at `view`.
    pub(super) fn gradient_at(&self, view: BufferView) -> Tensor {
        Tensor::from_view(self.0.value.gpu(), DType::F32, self.0.value.shape(), view)
    }

    pub(super) fn memory(&self) -> &Arc<GradientMemory> {
        &self.0.memory
    }

    /// Whether two handles are of one parameter.
    pub(crate) fn is(&self, other: &Parameter) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn place(&self) -> Place {
        self.0.place
    }
}

/// All parameters of a model, in the order in which they were added.
///
/// Gradients take memory for what is trained alone: from the first backward pass on, or when an optimiser is made, which lays them
/// out for what is trained then. What is frozen later keeps the room of its gradient until the next optimiser is made; what is
/// thawed gets some with the next backward pass.
pub struct Parameters {
    gpu: Gpu,
    turns: Arc<Turns>,
    values: Arena,
    gradients: Arc<GradientMemory>,
    list: Vec<Parameter>,
    by_path: HashMap<String, usize>,
}

impl Parameters {
    /// An empty collection on `gpu`.
    pub fn new(gpu: &Gpu) -> Self {
        Self::in_arena(Arena::new(gpu))
    }

    /// An empty collection on `gpu` for parameters of the same shapes and order as those of `other`, which may be on a
    /// [`Gpu::dry_run`]: their memory has no free end.
    pub fn like(gpu: &Gpu, other: &Parameters) -> Self {
        Self::in_arena(Arena::like(gpu, &other.values))
    }

    fn in_arena(values: Arena) -> Self {
        let gpu = values.gpu().clone();
        let (turns, gradients) = (gpu.attachment(), GradientMemory::new(&gpu));
        Parameters { gpu, turns, values, gradients, list: Vec::new(), by_path: HashMap::new() }
    }

    /// Adds a parameter with its initial values.
    ///
    /// # Errors
    /// If the path is taken, the number of values does not fit the shape, or the device has no room.
    pub fn add(&mut self, path: impl Into<String>, shape: &[usize], values: &[f32]) -> Result<Parameter> {
        let (path, shape) = (path.into(), checked_shape("Parameters::add", shape)?);
        if values.len() != shape.numel() {
            let what = format!("{} values do not fit f32{shape}", values.len());
            return Err(Error::Parameter { name: path, what });
        }
        let parameter = self.reserve(path, DType::F32, shape)?;
        if let Err(error) = parameter.set(values) {
            self.withdraw(&parameter);
            return Err(error);
        }
        Ok(parameter)
    }

    /// Takes out the parameter that was added last.
    fn withdraw(&mut self, last: &Parameter) {
        self.list.pop();
        self.by_path.remove(last.path());
        self.gradients.withdraw();
        self.values.untake(last.place());
    }

    /// Adds a parameter whose values are yet to be set, stored as f32, or as f16 and then frozen.
    pub(crate) fn reserve(&mut self, path: String, dtype: DType, shape: Shape) -> Result<Parameter> {
        expect_dtype(&self.gpu, dtype)?;
        if self.by_path.contains_key(&path) {
            return Err(Error::Parameter { name: path, what: "the name is taken".to_owned() });
        }
        let bytes = shape.numel() as u64 * dtype.size();
        let name: Arc<str> = path.as_str().into();
        let (place, value) = self.values.take(&name, bytes)?;
        let parameter = Parameter(Arc::new(Inner {
            path: name,
            value: Tensor::from_view(&self.gpu, dtype, shape, value),
            place,
            memory: self.gradients.clone(),
            room: Mutex::default(),
            filled: Filled::default(),
            trainable: AtomicBool::new(true),
            withheld: AtomicBool::default(),
        }));
        self.by_path.insert(path, self.list.len());
        self.gradients.add(&parameter);
        self.list.push(parameter.clone());
        Ok(parameter)
    }

    /// The parameter of that path.
    pub fn get(&self, path: &str) -> Option<&Parameter> {
        self.by_path.get(path).map(|&i| &self.list[i])
    }

    /// All of them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.list.iter()
    }

    /// How many parameters there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many numbers they hold together.
    pub fn numel(&self) -> usize {
        self.list.iter().map(|p| p.0.value.numel()).sum()
    }

    /// Bytes of device memory that the values take.
    pub fn bytes(&self) -> u64 {
        self.values.bytes()
    }

    /// Bytes of device memory that gradients take now: those of what is trained, once there is an optimiser or has been a backward
    /// pass.
    pub fn gradient_bytes(&self) -> u64 {
        self.gradients.beside().bytes()
    }

    /// Forgets all gradients: the next backward pass overwrites instead of adding.
    pub fn zero_grad(&self) {
        self.list.iter().for_each(|p| p.0.filled.empty());
    }

    /// Waits until no other thread is in the midst of a backward pass or an update on this device, and keeps them waiting.
    pub(crate) fn turn(&self) -> Turn<'_> {
        self.turns.take()
    }

    /// Ends an update, which has changed all that is trained and has a gradient: forgets the gradients, and graphs that
    /// need the old values can no longer be walked.
    pub(crate) fn updated(&self) {
        let changed = self.list.iter().filter(|p| p.is_trainable());
        let changed: Vec<_> = changed.filter_map(|p| Some((p.grad()?, &p.0.value))).collect();
        changed.iter().for_each(|(_, value)| value.buffer().overwritten());
        self.gpu.carry_faults(changed.iter().map(|(grad, value)| (grad.buffer(), value.buffer())));
        self.zero_grad();
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The values, segment by segment, for optimisers.
    pub(crate) fn segments(&self) -> Vec<BufferView> {
        self.values.segments().collect()
    }

    /// Lays the gradients out for exactly what is trained now. Those that are there stay.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn lay_out_gradients(&self) -> Result<()> {
        self.gradients.lay_out(Frozen::Leaves)
    }

    /// The gradients beside the values, and a number that is another once they are laid out anew.
    pub(crate) fn gradients(&self) -> Beside {
        self.gradients.beside()
    }

    pub(crate) fn gradient_generation(&self) -> u64 {
        self.gradients.generation()
    }

    pub(super) fn memory(&self) -> &Arc<GradientMemory> {
        &self.gradients
    }
}

impl<'a> IntoIterator for &'a Parameters {
    type Item = &'a Parameter;
    type IntoIter = std::slice::Iter<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frozen = if self.is_trainable() { "" } else { ", frozen" };
        write!(f, "Parameter({} {}{frozen})", self.path(), self.0.value.info())
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}
