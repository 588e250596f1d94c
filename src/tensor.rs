//! Tensors: a dtype, a shape, a range of device memory, and perhaps a place in a gradient graph.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result, TensorInfo};
use crate::gpu::{BufferView, Fit, Gpu, Readback};
use crate::shape::{DType, Shape};

/// A tensor's place in a gradient graph. Opaque here; [`crate::autograd`] knows what it is.
pub(crate) trait Node: Any + wgpu::WasmNotSendSync {
    /// The handle itself in a box, for the one downcast in [`crate::autograd`].
    fn as_any(self: Arc<Self>) -> Box<dyn Any>;
}

/// An array on the device, row-major with the last axis contiguous. Clones share memory; tensors are not written to
/// once made, except parameters by their optimiser, and what [`Tensor::write`] overwrites.
#[derive(Clone)]
pub struct Tensor {
    gpu: Gpu,
    info: TensorInfo,
    view: BufferView,
    node: Option<Arc<dyn Node>>,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let graph = if self.node.is_some() { ", in a graph" } else { "" };
        write!(f, "Tensor({}{graph})", self.info)
    }
}

/// Host types that a tensor can be made of and read into.
pub trait Element: bytemuck::Pod + private::Sealed {
    /// The device's name for it.
    const DTYPE: DType;
}

mod private {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for u32 {}
    impl Sealed for u8 {}
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
/// On devices that have it ([`Gpu::has_f16`]).
impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}

impl Tensor {
    /// Uploads `data` as a tensor of the given sizes.
    ///
    /// # Errors
    /// If `shape` is not a valid shape of `data.len()` elements, or the device has no room.
    pub fn from_slice<T: Element>(gpu: &Gpu, shape: &[usize], data: &[T]) -> Result<Self> {
        let sized = checked_shape("Tensor::from_slice", shape)?;
        if sized.numel() != data.len() {
            let expected = format!("{} values for shape {shape:?}", sized.numel());
            return Err(Error::argument("Tensor::from_slice", "data", expected, data.len()));
        }
        let tensor = Self::unwritten(gpu, T::DTYPE, sized)?;
        gpu.upload(bytemuck::cast_slice(data), &tensor.view)?;
        Ok(tensor)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// If `shape` is not valid or the device has no room.
    pub fn zeros(gpu: &Gpu, dtype: DType, shape: &[usize]) -> Result<Self> {
        let tensor = Self::unwritten(gpu, dtype, checked_shape("Tensor::zeros", shape)?)?;
        gpu.clear(&tensor.view)?;
        Ok(tensor)
    }

    /// A tensor with `value` everywhere.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn full<T: Element>(gpu: &Gpu, shape: &[usize], value: T) -> Result<Self> {
        /// The host holds no more of them.
        const AT_ONCE: usize = 1 << 20;
        let tensor = Self::unwritten(gpu, T::DTYPE, checked_shape("Tensor::full", shape)?)?;
        let values = vec![value; tensor.numel().min(AT_ONCE)];
        for first in (0..tensor.numel()).step_by(AT_ONCE) {
            let count = values.len().min(tensor.numel() - first);
            let at = (first * size_of::<T>()) as u64;
            gpu.upload(bytemuck::cast_slice(&values[..count]), &tensor.view.window(at, tensor.view.size() - at))?;
        }
        Ok(tensor)
    }

    /// A tensor whose contents are yet to be written by a kernel: every element of it.
    ///
    /// # Errors
    /// If `shape` is not valid or the device has no room.
    pub fn empty(gpu: &Gpu, dtype: DType, shape: &[usize]) -> Result<Self> {
        Self::unwritten(gpu, dtype, checked_shape("Tensor::empty", shape)?)
    }

    /// The same of a shape that is one already.
    pub(crate) fn unwritten(gpu: &Gpu, dtype: DType, shape: Shape) -> Result<Self> {
        Self::allocate(gpu, dtype, shape, Fit::Close)
    }

    /// The same, perhaps in memory of up to four times its size.
    pub(crate) fn unwritten_loose(gpu: &Gpu, dtype: DType, shape: Shape) -> Result<Self> {
        Self::allocate(gpu, dtype, shape, Fit::Loose)
    }

    /// Every f16 tensor that is not a parameter begins here.
    fn allocate(gpu: &Gpu, dtype: DType, shape: Shape, fit: Fit) -> Result<Self> {
        expect_dtype(gpu, dtype)?;
        let view = gpu.alloc(shape.numel() as u64 * dtype.size(), fit, TensorInfo { dtype, shape })?;
        #[cfg(not(target_arch = "wasm32"))]
        if gpu.is_inspected() {
            // Of what a kernel does not write, nothing is to be thought its own.
            gpu.clear(&view)?;
        }
        Ok(Self::from_view(gpu, dtype, shape, view))
    }

    /// [`Tensor::empty`] of this tensor's dtype and shape, on its device.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn empty_like(&self) -> Result<Self> {
        Self::unwritten(&self.gpu, self.dtype(), self.shape())
    }

    /// A copy in memory of its own, outside any graph, of what is there when all that has been recorded is done. Clones share
    /// memory, and so follow a parameter's value or gradient as it changes.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn copied(&self) -> Result<Self> {
        let copy = self.empty_like()?;
        self.gpu.copy(&self.view, &copy.view)?;
        Ok(copy)
    }

    pub(crate) fn from_view(gpu: &Gpu, dtype: DType, shape: Shape, view: BufferView) -> Self {
        let info = TensorInfo { dtype, shape };
        #[cfg(not(target_arch = "wasm32"))]
        gpu.note_tensor(&view, info);
        Tensor { gpu: gpu.clone(), info, view, node: None }
    }

    /// The same memory under another shape of as many elements, outside any graph.
    pub(crate) fn with_shape(&self, shape: Shape) -> Self {
        debug_assert_eq!(shape.numel(), self.numel());
        Self::from_view(&self.gpu, self.dtype(), shape, self.view.clone())
    }

    pub(crate) fn with_node(self, node: Arc<dyn Node>) -> Self {
        Tensor { node: Some(node), ..self }
    }

    pub(crate) fn node(&self) -> Option<&Arc<dyn Node>> {
        self.node.as_ref()
    }

    /// The same memory outside any graph: nothing flows back through it.
    pub fn detach(&self) -> Self {
        Tensor { node: None, ..self.clone() }
    }

    /// The device that holds it.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Element type and shape, as errors print them.
    pub fn info(&self) -> TensorInfo {
        self.info
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.info.dtype
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.info.shape
    }

    /// Sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.info.shape.dims()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.info.shape.numel()
    }

    /// The memory, for a host program's own passes (see [`BufferView::wgpu_buffer`]).
    pub fn buffer(&self) -> &BufferView {
        &self.view
    }

    /// Overwrites the values, in order with what is recorded: what was recorded before reads the old ones, whether or
    /// not it has been submitted, and what is recorded from now on the new ones. For what a program feeds in again and
    /// again, such as its input; a host's own write of the buffer comes before whatever is not submitted yet. An f16
    /// tensor takes f32 too, rounded.
    ///
    /// # Errors
    /// [`Error::Argument`] if something else has this memory, or the tensor is in a graph: gradients could be spoilt
    /// unseen. That is a clone, of the tensor or of its [`Tensor::buffer`]; a graph that keeps the values for its
    /// backward pass, until that has been; a parameter, which [`crate::autograd::Parameter::set`] is for, or its
    /// gradient. And if the number of values differs, or one of them is beyond what f16 holds; [`Error::Shape`] if the
    /// dtype is not `T`'s. Nothing is written then. Else if the device fails.
    pub fn write<T: Element>(&self, values: &[T]) -> Result<()> {
        const OP: &str = "Tensor::write";
        let is_rounded = (self.dtype(), T::DTYPE) == (DType::F16, DType::F32);
        if T::DTYPE != self.dtype() && !is_rounded {
            return Err(Error::Shape { op: OP, what: "written as another dtype", got: self.info });
        }
        if values.len() != self.numel() {
            return Err(Error::argument(OP, "values", format!("{} for {}", self.numel(), self.info), values.len()));
        }
        if self.node.is_some() || !self.view.is_sole() {
            let expected = "the only handle of its memory: no clone, no graph before its backward pass, no parameter";
            return Err(Error::argument(OP, "tensor", expected, "shared"));
        }
        if !is_rounded {
            return self.gpu.upload(bytemuck::cast_slice(values), &self.view);
        }
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(values);
        if let Some(value) = beyond_f16(&values) {
            return Err(Error::argument(OP, "values", "within what f16 can hold", value));
        }
        let halves: Vec<half::f16> = values.into_iter().map(half::f16::from_f32).collect();
        self.gpu.upload(bytemuck::cast_slice(&halves), &self.view)
    }

    /// Asks for the contents without waiting; the device goes on meanwhile. Decode with [`Tensor::decode`].
    ///
    /// # Errors
    /// If the host has no room for the copy.
    pub fn read_later(&self) -> Result<Readback> {
        self.gpu.read(&[&self.view])
    }

    /// [`Tensor::read_later`] of several tensors of one device at once. The bytes come in their order.
    ///
    /// # Errors
    /// If there is no tensor, they are on different devices, or the host has no room for the copies.
    pub fn read_all_later(tensors: &[&Tensor]) -> Result<Readback> {
        const OP: &str = "Tensor::read_all";
        let Some(first) = tensors.first() else {
            return Err(Error::argument(OP, "tensors", "at least one", 0));
        };
        if let Some(other) = tensors.iter().find(|other| !first.gpu.same(&other.gpu)) {
            let what = "the tensors are on different devices";
            return Err(Error::Mismatch { op: OP, what, lhs: first.info, rhs: other.info });
        }
        first.gpu.read(&tensors.iter().map(|tensor| &tensor.view).collect::<Vec<_>>())
    }

    /// The values in bytes that a [`Readback`] returned for this tensor. Those of an f16 tensor may be read as f32 too.
    ///
    /// # Errors
    /// If the dtype is not `T`'s, or the bytes are too few.
    pub fn decode<T: Element>(&self, bytes: &[u8]) -> Result<Vec<T>> {
        let is_widened = (self.dtype(), T::DTYPE) == (DType::F16, DType::F32);
        if T::DTYPE != self.dtype() && !is_widened {
            return Err(Error::Shape { op: "Tensor::decode", what: "read as another dtype", got: self.info });
        }
        let size = self.numel() * self.dtype().size() as usize;
        let used = bytes.get(..size);
        let used =
            used.ok_or_else(|| Error::argument("Tensor::decode", "bytes", format!("{size} or more"), bytes.len()))?;
        if is_widened {
            let halves: Vec<half::f16> = bytemuck::pod_collect_to_vec(used);
            let values: Vec<f32> = halves.into_iter().map(half::f16::to_f32).collect();
            return Ok(bytemuck::pod_collect_to_vec(&values));
        }
        Ok(bytemuck::pod_collect_to_vec(used))
    }

    /// Downloads the values.
    ///
    /// # Errors
    /// As [`Readback::bytes`], or if the dtype is not `T`'s.
    pub async fn read<T: Element>(&self) -> Result<Vec<T>> {
        let bytes = self.read_later()?.bytes().await?;
        self.decode(bytes.first().map_or(&[], Vec::as_slice))
    }

    /// [`Tensor::read`], blocking the thread.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let bytes = self.read_later()?.wait()?;
        self.decode(bytes.first().map_or(&[], Vec::as_slice))
    }

    /// Downloads the values of several tensors of one device and one dtype, in one read-back. Of several dtypes:
    /// [`Tensor::read_all_later`] and [`Tensor::decode`].
    ///
    /// # Errors
    /// As [`Tensor::read_all_later`] and [`Tensor::read`].
    pub async fn read_all<T: Element>(tensors: &[&Tensor]) -> Result<Vec<Vec<T>>> {
        decoded(tensors, &Self::read_all_later(tensors)?.bytes().await?)
    }

    /// [`Tensor::read_all`], blocking the thread.
    ///
    /// # Errors
    /// As [`Tensor::read_all`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_vecs<T: Element>(tensors: &[&Tensor]) -> Result<Vec<Vec<T>>> {
        decoded(tensors, &Self::read_all_later(tensors)?.wait()?)
    }

    /// The value of a tensor with one f32 element, blocking the thread.
    ///
    /// # Errors
    /// As [`Tensor::read`], or if there is more than one element.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn item(&self) -> Result<f32> {
        match self.to_vec::<f32>()?.as_slice() {
            [value] => Ok(*value),
            _ => Err(Error::Shape { op: "Tensor::item", what: "needs exactly one element", got: self.info }),
        }
    }
}

/// A tensor in host memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// The sizes, outermost first; of any rank, since files have them.
    pub shape: Vec<usize>,
    /// The values, as many as the product of the sizes.
    pub data: Vec<f32>,
}

impl HostTensor {
    /// A matrix `[m, n]` as `[n, m]`; of another rank, or with another number of values than its shape says, itself.
    #[cfg(feature = "files")]
    pub(crate) fn transposed(&self) -> HostTensor {
        let &[rows, columns] = self.shape.as_slice() else { return self.clone() };
        if rows == 0 || columns == 0 || rows.checked_mul(columns) != Some(self.data.len()) {
            return self.clone();
        }
        let column = |at: usize| self.data.iter().skip(at).step_by(columns).copied();
        HostTensor { shape: vec![columns, rows], data: (0..columns).flat_map(column).collect() }
    }
}

fn decoded<T: Element>(tensors: &[&Tensor], bytes: &[Vec<u8>]) -> Result<Vec<Vec<T>>> {
    tensors.iter().zip(bytes).map(|(tensor, bytes)| tensor.decode(bytes)).collect()
}

/// Whether the kernels of a device can read such a tensor: none exists where they could not.
pub(crate) fn expect_dtype(gpu: &Gpu, dtype: DType) -> Result<()> {
    if dtype == DType::F16 && !gpu.has_f16() {
        return Err(Error::argument("f16", "device", "one with half precision (SHADER_F16)", gpu.info()));
    }
    Ok(())
}

/// A shape, or an error in the name of `op`.
pub(crate) fn checked_shape(op: &'static str, dims: &[usize]) -> Result<Shape> {
    let expected = "at most 6 sizes, none 0, with a product of at most 2^32 - 2^25";
    Shape::new(dims).ok_or_else(|| Error::argument(op, "shape", expected, format!("{dims:?}")))
}

/// The first of these numbers that half precision would make infinite.
pub(crate) fn beyond_f16(values: &[f32]) -> Option<f32> {
    values.iter().copied().find(|value| value.is_finite() && !half::f16::from_f32(*value).is_finite())
}
