//! The kernels of the matrix products: forms, times what they multiply, times what they do with the sums.

use super::gemm::{Layout, PARAMS, cost};
use crate::gpu::{Access, Kernel, Source};
use crate::shape::DType;

/// A form of the kernel: how a tile of C is made.
pub(super) struct Form {
    /// For tables that outlive the program.
    pub(super) name: &'static str,
    /// Rows of C that a workgroup makes.
    pub(super) rows: usize,
    /// Columns of C that a workgroup makes.
    pub(super) columns: usize,
    /// Kernels of f32 alone.
    full: &'static [Variant],
    /// Kernels with an f16 operand or result.
    half: &'static [Variant],
    /// Kernels that sum A's columns as well, for layout tn.
    sums: &'static [Variant],
}

/// What happens to the sums: the file in `shaders/epilogues/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ending {
    Plain,
    Sums,
    Linear,
    Gelu,
    GeluBackward,
    Scatter,
}

/// The element types of A, B and C.
pub(super) type Types = [DType; 3];

/// A form's kernel for a layout, element types and an ending.
struct Variant {
    layout: Layout,
    types: Types,
    ending: Ending,
    kernel: Kernel,
}

impl Form {
    /// The kernel, if the form has it: the table holds what operations ask for.
    pub(super) fn kernel(&self, layout: Layout, types: Types, ending: Ending) -> Option<&'static Kernel> {
        let fits = |v: &&Variant| v.layout == layout && v.types == types && v.ending == ending;
        self.variants().find(fits).map(|v| &v.kernel)
    }

    fn variants(&self) -> impl Iterator<Item = &'static Variant> + use<> {
        self.full.iter().chain(self.half).chain(self.sums)
    }
}

/// Every form.
pub(super) static FORMS: [&Form; 9] =
    [&SIMPLE, &ROWS_64, &ROWS_32, &ROWS_16, &TILE_128, &TILE_64, &TILE_32, &COOPERATIVE_8, &COOPERATIVE_32];

/// Every kernel of this file.
pub(super) fn kernels() -> Vec<&'static Kernel> {
    FORMS.into_iter().flat_map(Form::variants).map(|v| &v.kernel).collect()
}

const F32: [DType; 3] = [DType::F32; 3];
const HALF_TO_HALF: [DType; 3] = [DType::F16, DType::F32, DType::F16];
const HALF_TO_FULL: [DType; 3] = [DType::F16, DType::F32, DType::F32];
const FULL_TO_HALF: [DType; 3] = [DType::F32, DType::F32, DType::F16];
const HALVES_TO_FULL: [DType; 3] = [DType::F16, DType::F16, DType::F32];
const MIXED_TO_FULL: [DType; 3] = [DType::F32, DType::F16, DType::F32];

/// Bindings after A and B.
const fn bindings(ending: Ending) -> &'static [Access] {
    use Access::{Read, Write};
    match ending {
        Ending::Plain | Ending::GeluBackward => &[Read, Read, Write],
        Ending::Sums => &[Read, Read, Write, Write],
        Ending::Gelu => &[Read, Read, Read, Write, Write],
        Ending::Linear => &[Read, Read, Read, Read, Write],
        Ending::Scatter => &[Read, Read, Read, Read, Read, Write, Write],
    }
}

/// A [`Source`] from the parts of a path below `shaders/`.
macro_rules! source {
    ($enable:expr, $($part:literal)+) => {
        Source {
            name: concat!($($part),+),
            text: include_str!(concat!("../../shaders/", $($part),+)),
            enable: $enable,
        }
    };
}

/// The WGSL extension that a file needs, if it needs one.
macro_rules! extension {
    () => {
        None
    };
    ($name:literal) => {
        Some($name)
    };
}

/// One variant: `[form's name, tile's name, rounds] constants [form's files] layout ending [its libraries] types`.
macro_rules! variant {
    (
        [$form:literal $tile:literal $rounds:ident] $constants:tt [$($file:literal $(enable $extension:literal)?)+]
        $layout:ident $entry:literal, $ending:ident $end:literal [$($library:literal)*], $types:ident $type:literal $mark:literal
    ) => {
        Variant {
            layout: Layout::$layout,
            types: $types,
            ending: Ending::$ending,
            kernel: Kernel {
                name: concat!($form, ".", $entry, ".", $end, $mark, $tile),
                sources: &[
                    $(source!(extension!($($extension)?), $file),)+
                    source!(if matches!($types, F32) { None } else { Some("f16") }, "tiles/matmul_" $type ".wgsl"),
                    source!(None, "epilogues/" $end ".wgsl"),
                    $(source!(None, $library),)*
                ],
                entry: $entry,
                bindings: bindings(Ending::$ending),
                params: PARAMS,
                constants: &$constants,
                rounds: cost::$rounds,
            },
        }
    };
}

/// A form's variants in full precision: all that the operations ask for.
macro_rules! full_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[
            // What multiplies any two tensors, the gradients of a layer, its forward pass.
            variant!($names $constants $files Nn "nn", Plain "plain" [], F32 "f32" ""),
            variant!($names $constants $files Tn "tn", Plain "plain" [], F32 "f32" ""),
            variant!($names $constants $files Nt "nt", Linear "linear" [], F32 "f32" ""),
            variant!($names $constants $files Nt "nt", Gelu "gelu" ["lib/gelu.wgsl"], F32 "f32" ""),
            variant!($names $constants $files Nt "nt", Scatter "scatter" ["lib/fault.wgsl"], F32 "f32" ""),
            variant!($names $constants $files Nn "nn", GeluBackward "gelu_backward" ["lib/gelu.wgsl"], F32 "f32" ""),
        ]
    };
}

/// The same with half-precision activations.
macro_rules! half_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[
            // A layer's forward pass.
            variant!($names $constants $files Nt "nt", Linear "linear" [], HALF_TO_HALF "f16_f32_f16" ".f16"),
            variant!($names $constants $files Nt "nt", Linear "linear" [], HALF_TO_FULL "f16_f32_f32" ".f16_f32"),
            variant!($names $constants $files Nt "nt", Gelu "gelu" ["lib/gelu.wgsl"], HALF_TO_HALF "f16_f32_f16" ".f16"),
            variant!(
                $names $constants $files
                Nt "nt", Scatter "scatter" ["lib/fault.wgsl"], HALF_TO_FULL "f16_f32_f32" ".f16"
            ),
            // Their gradients, from half-precision ones or from those of the residual.
            variant!($names $constants $files Nn "nn", Plain "plain" [], HALF_TO_HALF "f16_f32_f16" ".f16"),
            variant!($names $constants $files Nn "nn", Plain "plain" [], FULL_TO_HALF "f32_f32_f16" ".f32_f16"),
            variant!(
                $names $constants $files
                Nn "nn", GeluBackward "gelu_backward" ["lib/gelu.wgsl"], FULL_TO_HALF "f32_f32_f16" ".f32_f16"
            ),
            variant!($names $constants $files Tn "tn", Plain "plain" [], HALVES_TO_FULL "f16_f16_f32" ".f16"),
            variant!($names $constants $files Tn "tn", Plain "plain" [], MIXED_TO_FULL "f32_f16_f32" ".f32_f16"),
        ]
    };
}

/// A layer's gradients of weight and bias in one pass, with activations of either precision.
macro_rules! sums_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[
            variant!($names $constants $files Tn "tn_sums", Sums "plain" [], F32 "f32" ""),
            variant!($names $constants $files Tn "tn_sums", Sums "plain" [], HALVES_TO_FULL "f16_f16_f32" ".f16"),
            variant!($names $constants $files Tn "tn_sums", Sums "plain" [], MIXED_TO_FULL "f32_f16_f32" ".f32_f16"),
        ]
    };
}

/// Any size and stride, on any device.
pub(super) static SIMPLE: Form = Form {
    name: "simple",
    rows: 8,
    columns: 64,
    full: full_variants!(["matmul_simple" "" SIMPLE] [] [
        "matmul_simple.wgsl" "lib/matmul.wgsl" "lib/matmul_scalar.wgsl" "tiles/scalar.wgsl"
    ]),
    half: half_variants!(["matmul_simple" "" SIMPLE] [] [
        "matmul_simple.wgsl" "lib/matmul.wgsl" "lib/matmul_scalar.wgsl" "tiles/scalar.wgsl"
    ]),
    sums: &[],
};

/// CPU drivers, eight rows a lane.
pub(super) static ROWS_64: Form = Form {
    name: "rows64",
    rows: 64,
    columns: 16,
    full: full_variants!(["matmul_rows" "" ROWS] [] [
        "matmul_rows.wgsl" "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    half: half_variants!(["matmul_rows" "" ROWS] [] [
        "matmul_rows.wgsl" "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    sums: sums_variants!(["matmul_rows" "" SUMS] [] [
        "matmul_rows.wgsl" "matmul_rows_sums.wgsl"
        "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
};

/// CPU drivers, four rows a lane, for a small M.
pub(super) static ROWS_32: Form = Form {
    name: "rows32",
    rows: 32,
    columns: 16,
    full: full_variants!(["matmul_rows" ".32" ROWS] [("rows_a_lane", 4.0)] [
        "matmul_rows.wgsl" "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    half: half_variants!(["matmul_rows" ".32" ROWS] [("rows_a_lane", 4.0)] [
        "matmul_rows.wgsl" "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    sums: sums_variants!(["matmul_rows" ".32" SUMS] [("rows_a_lane", 4.0)] [
        "matmul_rows.wgsl" "matmul_rows_sums.wgsl"
        "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
};

/// CPU drivers, two rows a lane, for a few rows that are left; not for the layout tn.
pub(super) static ROWS_16: Form = Form {
    name: "rows16",
    rows: 16,
    columns: 16,
    full: full_variants!(["matmul_rows" ".16" ROWS] [("rows_a_lane", 2.0)] [
        "matmul_rows.wgsl" "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    half: half_variants!(["matmul_rows" ".16" ROWS] [("rows_a_lane", 2.0)] [
        "matmul_rows.wgsl" "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    sums: &[],
};

/// GPUs, through workgroup memory, for large products.
pub(super) static TILE_128: Form = Form {
    name: "tile128",
    rows: 128,
    columns: 128,
    full: full_variants!(["matmul_tile" ".128" TILE] [("tile", 128.0)] [
        "matmul_tile.wgsl" "lib/matmul.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    half: half_variants!(["matmul_tile" ".128" TILE] [("tile", 128.0)] [
        "matmul_tile.wgsl" "lib/matmul.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    sums: &[],
};

/// GPUs, in between.
pub(super) static TILE_64: Form = Form {
    name: "tile64",
    rows: 64,
    columns: 64,
    full: full_variants!(["matmul_tile" "" TILE] [] [
        "matmul_tile.wgsl" "lib/matmul.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    half: half_variants!(["matmul_tile" "" TILE] [] [
        "matmul_tile.wgsl" "lib/matmul.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    sums: &[],
};

/// GPUs, where larger tiles would be too few to fill the device, or mostly empty.
pub(super) static TILE_32: Form = Form {
    name: "tile32",
    rows: 32,
    columns: 32,
    full: full_variants!(["matmul_tile" ".32" TILE] [("tile", 32.0)] [
        "matmul_tile.wgsl" "lib/matmul.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    half: half_variants!(["matmul_tile" ".32" TILE] [("tile", 32.0)] [
        "matmul_tile.wgsl" "lib/matmul.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    sums: &[],
};

/// Matrix units whose subgroups have 8 invocations. Narrows both operands to f16, so for products with an f16 operand only.
pub(super) static COOPERATIVE_8: Form = Form {
    name: "cooperative8",
    rows: 32,
    columns: 32,
    full: &[],
    half: half_variants!(["matmul_coop" "" COOPERATIVE_8] [] [
        "matmul_coop.wgsl" enable "wgpu_cooperative_matrix"
        "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    sums: &[],
};

/// The same for subgroups of 32 invocations.
pub(super) static COOPERATIVE_32: Form = Form {
    name: "cooperative32",
    rows: 32,
    columns: 32,
    full: &[],
    half: half_variants!(["matmul_coop" ".32" COOPERATIVE_32] [("lanes", 32.0)] [
        "matmul_coop.wgsl" enable "wgpu_cooperative_matrix"
        "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
    ]),
    sums: &[],
};
