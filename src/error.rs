//! The one error type of the crate.

use std::fmt;
use std::path::PathBuf;

use crate::shape::{DType, Shape};

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A dtype with a shape, printed as `f32[8, 197, 768]`: what an error says about a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The element type.
    pub dtype: DType,
    /// The shape.
    pub shape: Shape,
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

/// Everything that can go wrong. Each variant names the operation with the shapes, the file with the offset, or the
/// parameter, so that the message alone tells what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two tensors do not fit together.
    #[error("{op}: {what}: lhs {lhs}, rhs {rhs}")]
    Mismatch {
        /// The operation, as named in [`crate::ops`].
        op: &'static str,
        /// What differs.
        what: &'static str,
        /// The first tensor.
        lhs: TensorInfo,
        /// The second tensor.
        rhs: TensorInfo,
    },
    /// One tensor has a dtype or shape that the operation does not take.
    #[error("{op}: {what}: got {got}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What was expected.
        what: &'static str,
        /// The tensor that was given.
        got: TensorInfo,
    },
    /// An argument or a setting is outside its range.
    #[error("{op}: {name} must be {expected}, got {}", shown(.got))]
    Argument {
        /// The operation, module or setting group.
        op: &'static str,
        /// The argument's name.
        name: &'static str,
        /// The range, in words.
        expected: String,
        /// The value, printed.
        got: String,
    },
    /// A value on the device (a class label, a token index) was out of range; nothing was read or written for it.
    #[error("{op}: {what} {value} is out of range, must be below {bound}")]
    OutOfRange {
        /// The operation whose kernel raised it.
        op: &'static str,
        /// What the value is: "label", "token index".
        what: &'static str,
        /// The offending value.
        value: u32,
        /// The exclusive upper bound.
        bound: u32,
    },
    /// No adapter fits the request.
    #[error("no GPU adapter {wanted}; available: {}", list(.available))]
    NoAdapter {
        /// The request in words.
        wanted: String,
        /// What the machine offers.
        available: Vec<String>,
    },
    /// The adapter or device offers less than is needed.
    #[error("{device}: limit {name} is {available}, but {needed} is needed{hint}")]
    Limit {
        /// The adapter's or device's name.
        device: String,
        /// wgpu's name of the limit.
        name: &'static str,
        /// What is needed.
        needed: u64,
        /// What there is.
        available: u64,
        /// A way out, or nothing. Starts with "; " if present.
        hint: &'static str,
    },
    /// A training run that the device or the memory cannot hold, as found by a dry run before anything was allocated.
    #[error("the run does not fit: {reason}; {}", way_out(.ways))]
    DoesNotFit {
        /// What is exceeded, and by how much.
        reason: String,
        /// Settings with which it fits, most like the present ones first.
        ways: Vec<String>,
    },
    /// The device is gone: its driver failed, it was unplugged, or the program that owns it has destroyed it. Every call says
    /// so from then on; what was on it is lost, and a new [`crate::Gpu`] is needed. A call that only records may not know
    /// before the next submission.
    #[error("{device}: the device is lost: {message}")]
    DeviceLost {
        /// The device's name.
        device: String,
        /// How it showed.
        message: String,
    },
    /// The device has no memory left. What was recorded is not changed by it, and what is dropped can be used again.
    #[error("{device}: no memory for {what}, {size} bytes, beside {held} that are held: {message}")]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// What it was for: a tensor's dtype and shape, or in words.
        what: String,
        /// Its bytes.
        size: u64,
        /// Bytes that this engine held then.
        held: u64,
        /// The driver's words.
        message: String,
    },
    /// The driver refused or failed.
    #[error("{during}: {message}")]
    Device {
        /// What was being done.
        during: &'static str,
        /// The driver's words.
        message: String,
    },
    /// A gradient was not finite: the update was skipped, weights are unchanged.
    #[error("after {step} steps: the gradient of {parameter} is not finite; the weights were left unchanged")]
    NonFinite {
        /// The optimiser step, from 0: so many were done before it.
        step: u64,
        /// The first bad parameter, by path.
        parameter: String,
    },
    /// The first kernel that made a NaN or an infinity, as [`crate::Gpu::check_values`] or a trainer that looks for it
    /// ([`crate::train::Trainer::find_non_finite`]) has found it.
    #[error("{}{kernel}{beside} (dispatch {dispatch}) made {what}, element {element} of {tensor}; {cause}", of_step(.step))]
    NonFiniteValue {
        /// The optimiser step, from 0, if it was one's.
        step: Option<u64>,
        /// The kernel, named after its operation.
        kernel: &'static str,
        /// The parameters that it was given, behind " with ", or nothing.
        beside: String,
        /// The number of the dispatch in what was looked at, from 1.
        dispatch: u64,
        /// "a NaN" or "an infinity".
        what: &'static str,
        /// Where it is.
        element: usize,
        /// Dtype and shape of what was written, with the parameter's path if it is one's.
        tensor: String,
        /// Whether it came with what the kernel was given.
        cause: String,
    },
    /// A parameter is missing, surplus, or does not fit the model.
    #[error("parameter {}: {}", shown(.name), shown(.what))]
    Parameter {
        /// The parameter's path, timm's name.
        name: String,
        /// What is wrong, with the shapes.
        what: String,
    },
    /// A gradient is not its function's, as [`crate::autograd::check`] has found.
    #[error(
        "check: input {input}, element {element:?}: the gradient {how} is {backward}, by differences {difference}, more than \
         {allowed:.1e} apart"
    )]
    Gradient {
        /// Which of the inputs, from 0.
        input: usize,
        /// The place in it, an index for each axis.
        element: Vec<usize>,
        /// Whether it was written, or added to another.
        how: &'static str,
        /// As backward has it.
        backward: f32,
        /// As central differences have it.
        difference: f64,
        /// How far apart they may be.
        allowed: f64,
    },
    /// Backward was asked for where there is no graph.
    #[error("{op}: {what}")]
    Graph {
        /// The call.
        op: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A file's content is wrong: truncated, lying about its size, of an unknown format.
    #[error("{}{}: {}", shown(.path.display()), at(.offset), shown(.what))]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Byte offset where the trouble starts, if it has one.
        offset: Option<u64>,
        /// What is wrong.
        what: String,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: {error}", shown(.path.display()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error. Part of the message, and so not repeated as its source.
        error: std::io::Error,
    },
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn way_out(ways: &[String]) -> String {
    if ways.is_empty() {
        return "neither micro-batches nor recomputed blocks make it fit; a smaller model or input would".to_owned();
    }
    format!("it fits with {}", ways.join(", or with "))
}

/// Without control characters, which in the name of a file or a tensor might command the terminal that shows it.
fn shown(text: impl fmt::Display) -> String {
    text.to_string().replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

fn of_step(step: &Option<u64>) -> String {
    step.map_or_else(String::new, |step| format!("after {step} steps: "))
}

fn at(offset: &Option<u64>) -> String {
    offset.map_or_else(String::new, |o| format!(" at byte {o}"))
}

impl Error {
    /// An [`Error::Argument`] with its value printed.
    pub fn argument(op: &'static str, name: &'static str, expected: impl Into<String>, got: impl fmt::Display) -> Self {
        Error::Argument { op, name, expected: expected.into(), got: got.to_string() }
    }

    /// An [`Error::File`] about `path`.
    pub fn file(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Error::File { path: path.into(), offset: None, what: what.into() }
    }

    /// The same as that of an optimiser step, where it may be one's.
    #[cfg(all(feature = "train", not(target_arch = "wasm32")))]
    pub(crate) fn in_step(mut self, of: u64) -> Self {
        if let Error::NonFiniteValue { step, .. } = &mut self {
            *step = Some(of);
        }
        self
    }

    /// An [`Error::Io`] about `path`.
    pub fn io(path: impl Into<PathBuf>, error: std::io::Error) -> Self {
        Error::Io { path: path.into(), error }
    }
}
