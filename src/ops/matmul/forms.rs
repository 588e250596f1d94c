//! The kernels of the matrix products: forms, times what they multiply, times what they do with the sums.

use super::params::{GemmParams, cost};
use super::product::{EpilogueKind, Layout, Types};
use crate::gpu::{Access, Kernel, Params, Source};
use crate::ops::Gelu;
use crate::shape::DType;

/// A form of the kernel: how a tile of C is made.
pub(super) struct Form {
    /// For tables that outlive the program.
    pub(super) name: &'static str,
    /// Rows of C that a workgroup makes.
    pub(super) rows: usize,
    /// Columns of C that a workgroup makes.
    pub(super) columns: usize,
    /// Its kernels, by what asks for them.
    variants: &'static [&'static [Variant]],
}

/// A form's kernel for a layout, element types and an epilogue.
struct Variant {
    layout: Layout,
    types: Types,
    epilogue: EpilogueKind,
    kernel: Kernel,
}

impl Form {
    /// The kernel, if the form has it: the table holds what operations ask for.
    pub(super) fn kernel(&self, layout: Layout, types: Types, epilogue: EpilogueKind) -> Option<&'static Kernel> {
        let fits = |v: &&Variant| v.layout == layout && v.types == types && v.epilogue == epilogue;
        self.variants().find(fits).map(|v| &v.kernel)
    }

    fn variants(&self) -> impl Iterator<Item = &'static Variant> + use<> {
        self.variants.iter().copied().flatten()
    }
}

/// Every form.
pub(super) static FORMS: [&Form; 11] = [
    &SIMPLE,
    &FEW_LANE,
    &FEW_GROUP,
    &ROWS_64,
    &ROWS_32,
    &ROWS_16,
    &TILE_128,
    &TILE_64,
    &TILE_32,
    &COOPERATIVE_8,
    &COOPERATIVE_32,
];

/// Every kernel of this file.
pub(in crate::ops) fn kernels() -> Vec<&'static Kernel> {
    FORMS.into_iter().flat_map(Form::variants).map(|v| &v.kernel).collect()
}

const F32: Types = [DType::F32; 3];
const HALF_TO_HALF: Types = [DType::F16, DType::F32, DType::F16];
const HALF_TO_FULL: Types = [DType::F16, DType::F32, DType::F32];
const FULL_TO_HALF: Types = [DType::F32, DType::F32, DType::F16];
const HALVES_TO_FULL: Types = [DType::F16, DType::F16, DType::F32];
const MIXED_TO_FULL: Types = [DType::F32, DType::F16, DType::F32];

/// Bindings after A and B.
const fn bindings(epilogue: EpilogueKind) -> &'static [Access] {
    use Access::{Read, Write};
    match epilogue {
        EpilogueKind::Plain | EpilogueKind::GeluBackward(_) => &[Read, Read, Write],
        EpilogueKind::Sums => &[Read, Read, Write, Write],
        EpilogueKind::Gelu(_) => &[Read, Read, Read, Write, Write],
        EpilogueKind::Linear => &[Read, Read, Read, Read, Write],
        EpilogueKind::Scatter => &[Read, Read, Read, Read, Read, Write, Write],
    }
}

/// A [`Source`] from the parts of a path below `shaders/`.
macro_rules! source {
    ($enable:expr, $($part:literal)+) => {
        Source {
            name: concat!($($part),+),
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $($part),+)),
            enable: $enable,
            trust: $crate::gpu::Trust::Crate,
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

/// One variant: `[form's name, tile's name, rounds] constants [form's files] layout epilogue [its libraries] types`.
macro_rules! variant {
    (
        [$form:literal $tile:literal $rounds:ident] $constants:tt [$($file:literal $(enable $extension:literal)?)+]
        $layout:ident $entry:literal, $epilogue:ident $(($gelu:ident))? $end:literal [$($library:literal)*], $types:ident $type:literal $mark:literal
    ) => {
        Variant {
            layout: Layout::$layout,
            types: $types,
            epilogue: EpilogueKind::$epilogue $((Gelu::$gelu))?,
            kernel: Kernel {
                name: concat!($form, ".", $entry, ".", $end, $mark, $tile),
                sources: &[
                    $(source!(extension!($($extension)?), $file),)+
                    source!(if matches!($types, F32) { None } else { Some("f16") }, "tiles/matmul_" $type ".wgsl"),
                    source!(None, "epilogues/" $end ".wgsl"),
                    $(source!(None, $library),)*
                ],
                entry: $entry,
                bindings: bindings(EpilogueKind::$epilogue $((Gelu::$gelu))?),
                params: GemmParams::FIELDS,
                constants: &$constants,
                rounds: cost::$rounds,
            },
        }
    };
}

/// A layer's forward pass in full precision: all that the operations ask for.
macro_rules! forward_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[
            variant!($names $constants $files Nt "nt", Linear "linear" [], F32 "f32" ""),
            variant!($names $constants $files Nt "nt", Gelu(Erf) "gelu" ["lib/gelu.wgsl"], F32 "f32" ""),
            variant!($names $constants $files Nt "nt", Gelu(Tanh) "gelu" ["lib/gelu_tanh.wgsl"], F32 "f32" ".tanh"),
            variant!($names $constants $files Nt "nt", Gelu(Quick) "gelu" ["lib/gelu_quick.wgsl"], F32 "f32" ".quick"),
            variant!($names $constants $files Nt "nt", Scatter "scatter" ["lib/fault.wgsl"], F32 "f32" ""),
        ]
    };
}

/// The same with half-precision activations.
macro_rules! forward_half_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[
            variant!($names $constants $files Nt "nt", Linear "linear" [], HALF_TO_HALF "f16_f32_f16" ".f16"),
            variant!($names $constants $files Nt "nt", Linear "linear" [], HALF_TO_FULL "f16_f32_f32" ".f16_f32"),
            variant!($names $constants $files Nt "nt", Gelu(Erf) "gelu" ["lib/gelu.wgsl"], HALF_TO_HALF "f16_f32_f16" ".f16"),
            variant!(
                $names $constants $files
                Nt "nt", Gelu(Tanh) "gelu" ["lib/gelu_tanh.wgsl"], HALF_TO_HALF "f16_f32_f16" ".tanh.f16"
            ),
            variant!(
                $names $constants $files
                Nt "nt", Gelu(Quick) "gelu" ["lib/gelu_quick.wgsl"], HALF_TO_HALF "f16_f32_f16" ".quick.f16"
            ),
        ]
    };
}

/// Its last product under random-LTD, apart because matrix units do without: in a module of theirs, naga 30 lacks the capability that
/// the scope of `fault_raise`'s atomic needs.
macro_rules! scatter_half_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[variant!(
            $names $constants $files
            Nt "nt", Scatter "scatter" ["lib/fault.wgsl"], HALF_TO_FULL "f16_f32_f32" ".f16"
        )]
    };
}

/// What multiplies any two tensors in full precision, and the gradient of a layer's input.
macro_rules! full_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[
            variant!($names $constants $files Nn "nn", Plain "plain" [], F32 "f32" ""),
            variant!($names $constants $files Nn "nn", GeluBackward(Erf) "gelu_backward" ["lib/gelu.wgsl"], F32 "f32" ""),
            variant!(
                $names $constants $files
                Nn "nn", GeluBackward(Tanh) "gelu_backward" ["lib/gelu_tanh.wgsl"], F32 "f32" ".tanh"
            ),
            variant!(
                $names $constants $files
                Nn "nn", GeluBackward(Quick) "gelu_backward" ["lib/gelu_quick.wgsl"], F32 "f32" ".quick"
            ),
        ]
    };
}

/// The gradient of a layer's input in half precision, from that of its result or of the residual.
macro_rules! half_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[
            variant!($names $constants $files Nn "nn", Plain "plain" [], HALF_TO_HALF "f16_f32_f16" ".f16"),
            variant!($names $constants $files Nn "nn", Plain "plain" [], FULL_TO_HALF "f32_f32_f16" ".f32_f16"),
            variant!(
                $names $constants $files
                Nn "nn", GeluBackward(Erf) "gelu_backward" ["lib/gelu.wgsl"], FULL_TO_HALF "f32_f32_f16" ".f32_f16"
            ),
            variant!(
                $names $constants $files
                Nn "nn", GeluBackward(Tanh) "gelu_backward" ["lib/gelu_tanh.wgsl"], FULL_TO_HALF "f32_f32_f16" ".tanh.f32_f16"
            ),
            variant!(
                $names $constants $files
                Nn "nn", GeluBackward(Quick) "gelu_backward" ["lib/gelu_quick.wgsl"], FULL_TO_HALF "f32_f32_f16" ".quick.f32_f16"
            ),
        ]
    };
}

/// The gradient of a layer's weight, or of what is multiplied transposed.
macro_rules! weight_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[variant!($names $constants $files Tn "tn", Plain "plain" [], F32 "f32" "")]
    };
}

/// The same with half-precision activations.
macro_rules! weight_half_variants {
    ($names:tt $constants:tt $files:tt) => {
        &[
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

/// A form with kernels in both precisions, for the layouts nn and nt, and others.
macro_rules! form {
    ($name:literal, $rows:literal, $columns:literal, $names:tt $constants:tt $files:tt, [$($others:expr),*]) => {
        Form {
            name: $name,
            rows: $rows,
            columns: $columns,
            variants: &[
                forward_variants!($names $constants $files),
                forward_half_variants!($names $constants $files),
                scatter_half_variants!($names $constants $files),
                full_variants!($names $constants $files),
                half_variants!($names $constants $files),
                $($others,)*
            ],
        }
    };
}

/// The same for all layouts.
macro_rules! whole_form {
    ($name:literal, $rows:literal, $columns:literal, $names:tt $constants:tt $files:tt $(, $sums:expr)?) => {
        form!($name, $rows, $columns, $names $constants $files, [
            weight_variants!($names $constants $files),
            weight_half_variants!($names $constants $files)
            $(, $sums)?
        ])
    };
}

/// One of tiles in registers, with a pass that sums A's columns as well.
macro_rules! rows_form {
    ($name:literal, $rows:literal, $tile:literal $constants:tt) => {
        whole_form!($name, $rows, 16, ["matmul_rows" $tile ROWS] $constants [
            "matmul_rows.wgsl" "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
        ], sums_variants!(["matmul_rows" $tile SUMS] $constants [
            "matmul_rows.wgsl" "matmul_rows_sums.wgsl"
            "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
        ]))
    };
}

/// One of square tiles in workgroup memory.
macro_rules! tile_form {
    ($name:literal, $side:literal, $tile:literal $constants:tt) => {
        whole_form!($name, $side, $side, ["matmul_tile" $tile TILE] $constants [
            "matmul_tile.wgsl" "lib/matmul.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
        ])
    };
}

/// One of matrix units. Narrows both operands to f16, so for products with an f16 operand only.
macro_rules! cooperative_form {
    ($name:literal, $rows:literal, $tile:literal $rounds:ident $constants:tt) => {
        cooperative_form!($name, $rows, ["matmul_coop" $tile $rounds] $constants [
            "matmul_coop.wgsl" enable "wgpu_cooperative_matrix"
            "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
        ])
    };
    ($name:literal, $rows:literal, $names:tt $constants:tt $files:tt) => {
        Form {
            name: $name,
            rows: $rows,
            columns: 32,
            variants: &[
                forward_half_variants!($names $constants $files),
                half_variants!($names $constants $files),
                weight_half_variants!($names $constants $files),
            ],
        }
    };
}

/// One for few rows: a layer's forward pass alone.
macro_rules! few_form {
    ($name:literal, $columns:literal, $names:tt $file:literal) => {
        few_form!($name, $columns, $names [] [
            $file "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
        ])
    };
    ($name:literal, $columns:literal, $names:tt $constants:tt $files:tt) => {
        Form {
            name: $name,
            rows: FEW,
            columns: $columns,
            variants: &[
                forward_variants!($names $constants $files),
                forward_half_variants!($names $constants $files),
                scatter_half_variants!($names $constants $files),
            ],
        }
    };
}

/// Any size and stride, on any device.
pub(super) static SIMPLE: Form = whole_form!("simple", 8, 64, ["matmul_simple" "" SIMPLE] [] [
    "matmul_simple.wgsl" "lib/matmul.wgsl" "lib/matmul_scalar.wgsl" "tiles/scalar.wgsl"
]);

/// Rows of C that a workgroup of [`FEW_LANE`] and [`FEW_GROUP`] makes.
pub(super) const FEW: usize = 4;

/// CPU drivers, for as few rows as text is generated with.
pub(super) static FEW_LANE: Form = few_form!("few_lane", 32, ["matmul_few_lane" "" FEW_LANE] "matmul_few_lane.wgsl");

/// The same for GPUs.
pub(super) static FEW_GROUP: Form =
    few_form!("few_group", 4, ["matmul_few_group" "" FEW_GROUP] "matmul_few_group.wgsl");

/// CPU drivers, eight rows a lane.
pub(super) static ROWS_64: Form = rows_form!("rows64", 64, "" []);

/// CPU drivers, four rows a lane, for a small M.
pub(super) static ROWS_32: Form = rows_form!("rows32", 32, ".32"[("rows_a_lane", 4.0)]);

/// CPU drivers, two rows a lane, for a few rows that are left; not for the layout tn.
pub(super) static ROWS_16: Form = form!("rows16", 16, 16, ["matmul_rows" ".16" ROWS] [("rows_a_lane", 2.0)] [
    "matmul_rows.wgsl" "lib/matmul.wgsl" "lib/matmul_read.wgsl" "lib/matmul_vec4.wgsl" "tiles/vec4.wgsl"
], []);

/// GPUs, through workgroup memory, for large products.
pub(super) static TILE_128: Form = tile_form!("tile128", 128, ".128"[("tile", 128.0)]);

/// GPUs, in between.
pub(super) static TILE_64: Form = tile_form!("tile64", 64, "" []);

/// GPUs, where larger tiles would be too few to fill the device, or mostly empty.
pub(super) static TILE_32: Form = tile_form!("tile32", 32, ".32"[("tile", 32.0)]);

/// Matrix units whose subgroups have 8 invocations.
pub(super) static COOPERATIVE_8: Form = cooperative_form!("cooperative8", 64, "" COOPERATIVE_8 []);

/// The same for subgroups of 32 invocations.
pub(super) static COOPERATIVE_32: Form =
    cooperative_form!("cooperative32", 32, ".32" COOPERATIVE_32 [("lanes", 32.0), ("rows", 32.0)]);
