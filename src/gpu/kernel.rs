//! Kernels as static data: what the host must know of a WGSL entry point.

use std::hash::{Hash, Hasher};

use super::BufferView;
use crate::error::{Error, Result};

/// One WGSL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) enable: Option<&'static str>,
    /// Of this very text.
    pub(crate) trust: Trust,
}

/// Texts are long, and names tell most of them apart.
impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// Who answers for it that a kernel stays within its bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trust {
    /// Nobody: the driver is given checks to make.
    Nobody,
    /// Whoever wrote the `unsafe`.
    Caller,
    /// This crate.
    Crate,
}

impl Source {
    /// WGSL of another crate, as in `Source::new("snake.wgsl", include_str!("snake.wgsl"))`. It is compiled with checks: an index
    /// outside a buffer reaches some element of that buffer or none, loops end, and workgroup memory begins as zeros.
    ///
    /// No global may have the name `dx`, which the compiler of DX12 has for something else. Tensors are padded to 16 bytes, so that
    /// `arrayLength` may be more than their elements: `Params` tell how many there are.
    pub const fn new(name: &'static str, text: &'static str) -> Self {
        Source { name, text, enable: None, trust: Trust::Nobody }
    }

    /// File name, of this crate's below `shaders/`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its text.
    pub const fn text(&self) -> &'static str {
        self.text
    }

    /// The WGSL extension that it needs, such as `f16`.
    pub const fn enable(&self) -> Option<&'static str> {
        self.enable
    }

    /// The source with a WGSL extension that it needs, such as `f16`. The directive itself must not stand in the text:
    /// it would have to stand before all other files'.
    pub const fn with_enable(self, extension: &'static str) -> Self {
        Source { enable: Some(extension), ..self }
    }

    /// The source compiled without bounds checks, as this crate's own files are, where all files of a kernel are such.
    ///
    /// # Safety
    /// For every dispatch that is made of a kernel with it: no index, also of those that it reads from a buffer, is outside
    /// its binding, nothing is read from workgroup memory that has not been written, and all loops end.
    pub const unsafe fn trusted(self) -> Self {
        Source { trust: Trust::Caller, ..self }
    }
}

/// A [`Source`] of this crate from a path below `shaders/`, with the extension that it needs.
macro_rules! wgsl {
    ($path:literal) => {
        $crate::gpu::wgsl!($path, None)
    };
    ($path:literal, enable $extension:literal) => {
        $crate::gpu::wgsl!($path, Some($extension))
    };
    // Every kernel here guards its own indices, also those that it reads from buffers, loops only up to bounds in its Params,
    // and is tested on sizes that do not divide its tile.
    ($path:literal, $enable:expr) => {
        $crate::gpu::Source {
            name: $path,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path)),
            enable: $enable,
            trust: $crate::gpu::Trust::Crate,
        }
    };
}
pub(crate) use wgsl;

/// Functions in WGSL that kernels of other crates may use too: listed behind a kernel's own file.
pub mod lib {
    use super::{Source, looped};

    /// `grid_group(workgroup_id, num_workgroups)`: the number of a workgroup of [`Grid::linear`](super::Grid::linear).
    pub const GRID: Source = wgsl!("lib/grid.wgsl");
    /// `philox4x32(counter, key)`: random bits without a state, as the operations of [`crate::ops::random`] draw them. The key is
    /// [`RandomKey::philox_key`](crate::ops::RandomKey::philox_key).
    pub const PHILOX: Source = wgsl!("lib/philox.wgsl");
    /// `reduce_sum`, `reduce_sum2` and `reduce_max(value, lane, span)`: over a workgroup of 64, always in one order.
    pub const REDUCE: Source = wgsl!("lib/reduce.wgsl");
    /// `sigmoid(x: vec4<f32>)`, which does not overflow.
    pub const SIGMOID: Source = wgsl!("lib/sigmoid.wgsl");

    /// The [rounds](super::Kernel::rounds) of a call of `philox4x32`.
    pub fn philox_rounds() -> u64 {
        looped(10u64, 0)
    }

    /// The rounds of a call of [`REDUCE`]'s functions: seven of an invocation's eights, seven of a span's eights.
    pub fn reduce_rounds() -> u64 {
        2 * looped(7u64, 0)
    }
}

/// How a kernel uses a storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// A compute entry point with all that the host must know about it. Storage bindings are `@group(0) @binding(i)` in
/// the order of `bindings`; its `Params` are the uniform `@group(1) @binding(0)`.
///
/// A kernel is a `static`, compiled for a device when it is first dispatched there ([`Gpu::dispatch`](super::Gpu::dispatch)).
/// Another crate makes one by [`Kernel::new`]:
///
/// ```
/// use wgrad::gpu::{Access, Kernel, Source, lib, params};
///
/// params!(SnakeParams { n: u32, accumulate: u32, a: f32 });
///
/// const SOURCES: &[Source] = &[Source::new("snake.wgsl", "/* or include_str!(\"snake.wgsl\") */"), lib::GRID];
/// static FORWARD: Kernel =
///     Kernel::new::<SnakeParams>("snake.forward", SOURCES, "forward", &[Access::Read, Access::Write]);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Kernel {
    /// `file.entry` and what else tells variants apart, for profiles, labels and errors.
    pub name: &'static str,
    /// The kernel's file, then the libraries that it uses.
    pub sources: &'static [Source],
    /// Entry point.
    pub entry: &'static str,
    /// Storage bindings in order.
    pub bindings: &'static [Access],
    /// Fields of `Params` with their WGSL types, each four bytes.
    pub params: &'static [(&'static str, &'static str)],
    /// Values of the file's `override`s that differ from their defaults.
    pub constants: &'static [(&'static str, f64)],
    /// The most rounds that an invocation makes, over all its loops together: at most [`MAX_ROUNDS`], or a driver may end
    /// them early. Must hold for all `Params` and grids. For this crate's kernels a test runs their loops (`tests/rounds.rs`);
    /// for a kernel of yours you vouch.
    pub rounds: Rounds,
}

impl Kernel {
    /// A kernel without overrides and without loops, whose `Params` are `P`.
    pub const fn new<P: Params>(
        name: &'static str,
        sources: &'static [Source],
        entry: &'static str,
        bindings: &'static [Access],
    ) -> Self {
        Kernel { name, sources, entry, bindings, params: P::FIELDS, constants: &[], rounds: NO_LOOPS }
    }

    /// The kernel with values for some of its files' `override`s.
    pub const fn with_constants(self, constants: &'static [(&'static str, f64)]) -> Self {
        Kernel { constants, ..self }
    }

    /// The kernel with loops that make so many [`Kernel::rounds`]; the macro [`rounds!`](super::rounds) makes the
    /// function.
    pub const fn with_rounds(self, rounds: Rounds) -> Self {
        Kernel { rounds, ..self }
    }

    /// What tells it apart from all others.
    pub(super) fn address(&'static self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Who answers for all of its files. No safe code outside this crate gets at a kernel of this crate, which only the operation
    /// that it belongs to knows how to dispatch.
    pub(crate) fn trust(&self) -> Trust {
        self.sources.iter().map(|source| source.trust).min().unwrap_or(Trust::Nobody)
    }

    /// Whether there is a buffer for each binding. Comes first: the other checks rely on it.
    ///
    /// # Errors
    /// [`Error::Argument`] in the kernel's name.
    pub(super) fn check_count(&self, buffers: &[&BufferView]) -> Result<()> {
        let count = self.bindings.len();
        if buffers.len() != count {
            return Err(Error::argument(self.name, "buffers", format!("{count}, one for each binding"), buffers.len()));
        }
        Ok(())
    }

    /// Whether a dispatch with these `Params` and buffers is one of this kernel.
    ///
    /// # Errors
    /// [`Error::Argument`] in the kernel's name.
    pub(super) fn check_call<P: Params>(&self, buffers: &[&BufferView]) -> Result<()> {
        let fits = P::FIELDS == self.params && size_of::<P>() == 4 * P::FIELDS.len() && size_of::<P>() <= PARAMS_WINDOW;
        if !fits {
            return Err(Error::argument(self.name, "params", listed(self.params), listed(P::FIELDS)));
        }
        self.check_sharing(buffers)
    }

    /// Whether no buffer is bound in two ways, which wgpu refuses, with all that is submitted together.
    ///
    /// # Errors
    /// [`Error::Argument`] in the kernel's name.
    pub(super) fn check_sharing(&self, buffers: &[&BufferView]) -> Result<()> {
        let shares = |i: usize, j: usize| {
            let writes = [i, j].map(|at| self.bindings[at] == Access::Write);
            writes != [false; 2] && buffers[i].interferes(buffers[j], writes == [true; 2])
        };
        let shared = (0..buffers.len()).flat_map(|j| (0..j).map(move |i| (i, j))).find(|&(i, j)| shares(i, j));
        shared.map_or(Ok(()), |(i, j)| {
            let expected = "memory of its own for each binding that is written";
            Err(Error::argument(self.name, "buffers", expected, format!("one buffer for bindings {i} and {j}")))
        })
    }

    /// Whether each buffer has the bytes that its binding takes at least.
    ///
    /// # Errors
    /// [`Error::Argument`] in the kernel's name.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn check_sizes(&self, least: &[u64], buffers: &[&BufferView]) -> Result<()> {
        let small = buffers.iter().zip(least).enumerate().find(|(_, (view, least))| view.size() < **least);
        small.map_or(Ok(()), |(binding, (view, least))| {
            let expected = format!("{least} bytes or more at binding {binding}, as its WGSL declares");
            Err(Error::argument(self.name, "buffers", expected, view.size()))
        })
    }

    /// Whether a dispatch stays within [`MAX_ROUNDS`]. An operation whose loops depend on sizes cuts its work by it.
    pub fn fits<P: Params>(&self, params: &P, grid: Grid) -> bool {
        (self.rounds)(bytemuck::bytes_of(params), grid.groups) <= MAX_ROUNDS
    }
}

/// Fields as a `struct` has them.
fn listed(fields: &[(&str, &str)]) -> String {
    fields.iter().map(|(name, ty)| format!("{name}: {ty}")).collect::<Vec<_>>().join(", ")
}

/// Rounds from the bytes of a kernel's `Params` and the workgroups of its grid; made by the macro [`rounds!`](super::rounds).
pub type Rounds = fn(&[u8], [u32; 3]) -> u64;

/// What no invocation may exceed. Mesa's llvmpipe keeps one counter for all loops of an invocation (`lp_bld_limits.h`: "shared
/// between every loop"), and when it has made 65,535 rounds, the loop that it is in ends, and every later one after its first
/// round: wrong numbers, no error. Versions 22 to 25 have that, 26 has not. Operations cut their work to stay below, in the same way
/// on every driver, so that results do not depend on it.
pub const MAX_ROUNDS: u64 = 64_000;

/// The rounds of a loop that runs `turns` times, with loops of `inside` rounds in its body. A driver counts the round that finds
/// the loop at its end too, and goes once through the loops of a body that is masked off.
pub fn looped(turns: impl Into<u64>, inside: u64) -> u64 {
    turns.into().saturating_add(1).saturating_mul(inside.saturating_add(1))
}

/// A kernel without loops.
pub(crate) const NO_LOOPS: Rounds = |_, _| 0;

/// [`Kernel::rounds`] as a function of the kernel's `Params` and its grid: `rounds!(SumParams, |p, [x, ..]| looped(p.n / x, 0))`.
/// Bytes that are no such `Params` get no rounds that any driver makes.
#[macro_export]
macro_rules! rounds {
    ($params:ty, $of:expr) => {{
        fn rounds(params: &[u8], groups: [u32; 3]) -> u64 {
            let of: fn(&$params, [u32; 3]) -> u64 = $of;
            $crate::gpu::macros::try_pod_read_unaligned(params).map_or(u64::MAX, |params| of(&params, groups))
        }
        rounds
    }};
}

/// A struct of four-byte fields that a kernel reads as its uniform `Params`; made by the macro [`params!`](super::params).
pub trait Params: bytemuck::Pod {
    /// Field names with WGSL types, in order.
    const FIELDS: &'static [(&'static str, &'static str)];
}

/// Declares a [`Params`](crate::gpu::Params) struct once, of at most 256 bytes, whose fields are `u32`, `i32` or `f32`:
/// `params!(SnakeParams { n: u32, a: f32 });`. In the WGSL, `struct Params` has the same fields in the same order.
#[macro_export]
macro_rules! params {
    ($(#[$doc:meta])* $vis:vis $name:ident { $($field:ident: $ty:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        $vis struct $name { $($vis $field: $ty),+ }
        // SAFETY: all fields are `Field`s, for which zeros are a value.
        unsafe impl $crate::gpu::macros::Zeroable for $name {}
        // SAFETY: all fields are `Field`s, four bytes of any value, so that in C's order none are between them.
        unsafe impl $crate::gpu::macros::Pod for $name {}
        impl $crate::gpu::Params for $name {
            const FIELDS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), <$ty as $crate::gpu::macros::Field>::WGSL)),+];
        }
        const _: () = assert!(size_of::<$name>() <= $crate::gpu::macros::PARAMS_WINDOW, "at most 256 bytes");
    };
}

/// What the macros of this module expand to, which is nobody else's business.
#[doc(hidden)]
pub mod macros {
    pub use bytemuck::{Pod, Zeroable, try_pod_read_unaligned};

    /// Bytes of the uniform window that each dispatch sees; no `Params` may be larger.
    pub const PARAMS_WINDOW: usize = 256;

    /// A field of `Params`: four bytes, of which any are a value.
    pub trait Field: sealed::Sealed {
        /// Its type in WGSL.
        const WGSL: &'static str;
    }

    mod sealed {
        pub trait Sealed {}
    }

    macro_rules! fields {
        ($($ty:ident)+) => {$(
            impl sealed::Sealed for $ty {}
            impl Field for $ty {
                const WGSL: &'static str = stringify!($ty);
            }
        )+};
    }
    fields!(u32 i32 f32);
}
pub(crate) use macros::PARAMS_WINDOW;

/// The number of workgroups of a dispatch, and its cost as the recorder's time budget sees it.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Workgroups along x, y, z, however many a device dispatches.
    pub groups: [u32; 3],
    /// Estimated floating-point operations; 0 where it does not matter.
    pub flops: u64,
    beyond: Beyond,
}

/// What is done where a device dispatches fewer workgroups along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beyond {
    /// It is an error.
    Refuse,
    /// Those along x go along y too.
    Fold,
    /// It dispatches as many as it can, and the kernel's loops stride on.
    Stride,
}

/// WebGPU's limit on workgroups along an axis, which is the least that a device has.
pub(crate) const MAX_GROUPS: u64 = 65_535;

impl Grid {
    /// A grid of `x`·`y`·`z` workgroups. A dispatch of more than the device's limit along an axis is an error.
    pub fn new(x: usize, y: usize, z: usize) -> Self {
        let groups = [x, y, z].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        Grid { groups, flops: 0, beyond: Beyond::Refuse }
    }

    /// A grid of `x`·`y` workgroups of a kernel whose loops stride on where there are fewer.
    pub(crate) fn strided(x: usize, y: usize) -> Self {
        Grid { beyond: Beyond::Stride, ..Self::new(x, y, 1) }
    }

    /// Enough workgroups of `per_group` items for `items` along x, folded into two dimensions where a device's limit does not hold
    /// them. Kernels undo the fold with `grid_group()` of `lib/grid.wgsl`, and must ignore the surplus at the end.
    pub fn linear(items: usize, per_group: usize) -> Self {
        let groups = items.div_ceil(per_group.max(1)).max(1);
        Grid { beyond: Beyond::Fold, ..Self::new(groups, 1, 1) }
    }

    /// The grid on a device that dispatches at most `most` workgroups along an axis. It may still have more.
    pub(super) fn within(self, most: u32) -> Self {
        let [x, y, z] = self.groups;
        let groups = match self.beyond {
            Beyond::Fold if x > most => {
                let y = x.div_ceil(most.max(1));
                [x.div_ceil(y), y, z]
            }
            Beyond::Stride => [x.min(most), y.min(most), z],
            Beyond::Fold | Beyond::Refuse => return self,
        };
        Grid { groups, ..self }
    }

    /// The same grid so many times, along z.
    pub(crate) fn layers(self, z: usize) -> Self {
        let [x, y, _] = self.groups;
        Grid { groups: [x, y, z as u32], ..self }
    }

    /// The same grid with its cost.
    pub fn with_flops(self, flops: u64) -> Self {
        Grid { flops, ..self }
    }
}
