//! Rotary positions (Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021) of packed queries, keys and
//! values.

use super::packed::Dims;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, Gpu, Grid, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::ops::item::LANES;
use crate::ops::variants::ByItem;
use crate::ops::{TokenIndices, cast, expect, expect_match, sole_or_copy};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(RotaryParams {
    rows: u32,
    heads: u32,
    pairs: u32,
    stride: u32,
    step: u32,
    apart: u32,
    tokens: u32,
    sense: f32
});

/// The two kernels of a kind of item: for all tokens, and for some.
macro_rules! kernels {
    ($all:ident $kept:ident $mark:literal, $($tile:expr),+) => {
        static $all: Kernel = Kernel {
            name: concat!("rotary.turn", $mark),
            sources: &[wgsl!("rotary.wgsl"), wgsl!("lib/grid.wgsl"), $($tile),+],
            entry: "turn",
            bindings: &[Access::Write, Access::Read],
            params: RotaryParams::FIELDS,
            constants: &[],
            rounds: NO_LOOPS,
        };

        static $kept: Kernel = Kernel {
            name: concat!("rotary.turn_kept", $mark),
            entry: "turn_kept",
            bindings: &[Access::Write, Access::Read, Access::Read],
            ..$all
        };
    };
}

kernels!(VEC4 VEC4_KEPT "", wgsl!("tiles/vec4.wgsl"), wgsl!("tiles/act_f32.wgsl"));
kernels!(SCALAR SCALAR_KEPT ".scalar", wgsl!("tiles/scalar.wgsl"), wgsl!("tiles/act_scalar.wgsl"));
kernels!(HALF HALF_KEPT ".f16", wgsl!("tiles/vec4.wgsl"), wgsl!("tiles/act_f16.wgsl", enable "f16"));

pub(super) const KERNELS: &[&Kernel] = &[&VEC4, &VEC4_KEPT, &SCALAR, &SCALAR_KEPT, &HALF, &HALF_KEPT];

static ALL: ByItem = ByItem::new(&VEC4, &SCALAR).with_half(&HALF);
static KEPT: ByItem = ByItem::new(&VEC4_KEPT, &SCALAR_KEPT).with_half(&HALF_KEPT);

const OP: &str = "rotary";

/// The angles by which the places of tokens turn queries and keys, the same in every head. Clones share memory.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `f32[T, D]`: of each place the cosines of D/2 angles, then their sines.
    table: Tensor,
    pairs: Pairs,
}

/// Which two channels of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pairs {
    /// j and j + D/2.
    Halves,
    /// 2j and 2j + 1.
    Neighbours,
}

impl Rotary {
    /// Of `angles`, in radians, D/2 for each of `tokens` places: angle j is that of channels j and j + D/2 of a head, as in DINOv3.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are none, they are no whole number for each place, or one is not finite; or if the
    /// device has no room.
    pub fn new(gpu: &Gpu, tokens: usize, angles: &[f64]) -> Result<Self> {
        if tokens == 0 || angles.is_empty() || !angles.len().is_multiple_of(tokens) {
            let expected = format!("a whole number for each of {tokens} places");
            return Err(Error::argument(OP, "number of angles", expected, angles.len()));
        }
        if let Some(bad) = angles.iter().find(|angle| !angle.is_finite()) {
            return Err(Error::argument(OP, "angles", "finite", bad));
        }
        let pairs = angles.len() / tokens;
        let place =
            |angles: &[f64]| [angles.iter().map(|a| a.cos()).collect(), angles.iter().map(|a| a.sin()).collect()];
        let table: Vec<f32> =
            angles.chunks(pairs).flat_map(place).flat_map(|half: Vec<f64>| half).map(|x| x as f32).collect();
        Ok(Rotary { table: Tensor::from_slice(gpu, &[tokens, 2 * pairs], &table)?, pairs: Pairs::Halves })
    }

    /// The positions with angle j for channels 2j and 2j + 1, as in EVA-02.
    pub fn interleaved(self) -> Self {
        Rotary { pairs: Pairs::Neighbours, ..self }
    }

    /// T, how many places it has angles for.
    pub fn tokens(&self) -> usize {
        self.table.dims()[0]
    }
}

/// Turns the queries and keys of `f32` or `f16[B, T, 3·C]`, packed as [`super::attention()`] takes them, by the angles of their
/// tokens' places: in a head of width D, channels u = x\[j\] and v = x\[j + D/2\], or x\[2j\] and x\[2j + 1\]
/// ([`Rotary::interleaved`]), become u·cos − v·sin and v·cos + u·sin, so that their scores depend on differences of angles. With
/// `kept`, the rows are those tokens of all T, `[B, R, 3·C]`.
///
/// Works in the memory of `qkv` if this is its last handle, else on a copy.
///
/// # Errors
/// If `qkv` is not `[B, T, 3·heads·D]` of the T and D that `rotary` is for, or not what `kept` is for.
pub fn rotary(qkv: Tensor, heads: usize, rotary: &Rotary, kept: Option<&TokenIndices>) -> Result<Tensor> {
    let dims = Dims::of(OP, &qkv, heads)?;
    expect(OP, &qkv, dims.width.is_multiple_of(2), "the width of a head must be even")?;
    let (table, dtype) = (&rotary.table, qkv.dtype());
    let places = kept.map_or([dims.tokens; 2], |kept| [kept.kept(), kept.tokens()]);
    let fits = table.dims() == [places[1], dims.width] && places[0] == dims.tokens;
    expect_match(OP, &qkv, table, fits, "angles must be f32[T, D] of qkv [B, T, 3·heads·D], or of its kept tokens")?;
    if let Some(kept) = kept {
        let fits = kept.batch() == dims.batch;
        expect_match(OP, &qkv, kept.positions(), fits, "rows must be [B, R, 3·C] of indices u32[B, R]")?;
    }
    // There are kernels for whole vectors of halves.
    if dtype == DType::F16 && (!dims.width.is_multiple_of(8) || rotary.pairs == Pairs::Neighbours) {
        return cast(&self::rotary(cast(&qkv, DType::F32)?, heads, rotary, kept)?, dtype);
    }
    let y = sole_or_copy(&qkv)?;
    let turn = Turn { dims, rotary: rotary.clone(), kept: kept.cloned() };
    turn.run(&y, 1.0)?;
    Ok(record(y, &[&qkv], || turn))
}

/// What a turn is made of; as a rule, that of the gradient, which turns back.
struct Turn {
    dims: Dims,
    rotary: Rotary,
    kept: Option<TokenIndices>,
}

impl Turn {
    /// Turns `qkv` in place, by the angles times `sense`, 1 or −1.
    fn run(&self, qkv: &Tensor, sense: f32) -> Result<()> {
        let Dims { batch, heads, tokens, width } = self.dims;
        let kernels = if self.kept.is_some() { &KEPT } else { &ALL };
        // A vector of neighbours would hold both channels of its pairs.
        let vectors = if self.rotary.pairs == Pairs::Halves { width / 2 } else { 1 };
        let (kernel, item) = kernels.pick_as(qkv.dtype(), vectors);
        let (rows, pairs) = (batch * tokens, width / 2 / item);
        let [step, apart] = if self.rotary.pairs == Pairs::Halves { [1, pairs] } else { [2, 1] };
        let params = RotaryParams {
            rows: rows as u32,
            heads: 2 * heads as u32,
            pairs: pairs as u32,
            stride: (3 * self.dims.channels() / item) as u32,
            step: step as u32,
            apart: apart as u32,
            tokens: self.rotary.table.dims()[0] as u32,
            sense,
        };
        let buffers = [Some(qkv), Some(&self.rotary.table), self.kept.as_ref().map(TokenIndices::positions)];
        let buffers: Vec<_> = buffers.into_iter().flatten().map(Tensor::buffer).collect();
        qkv.gpu().dispatch(kernel, &params, &buffers, Grid::linear(rows * 2 * heads * pairs, LANES))
    }
}

impl Backward for Turn {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        if !parents.wants(0) {
            return Ok(());
        }
        let dx = sole_or_copy(&dy)?;
        drop(dy);
        self.run(&dx, -1.0)?;
        parents.give(0, dx)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// Rows of q, k and v, `heads` heads each, of which row i is turned by the angles `angles[places[i]]`, D/2 of them, times `sense`:
    /// 1, or −1 for the gradient. Channels j and j + D/2 are a pair, or `interleaved` ones 2j and 2j + 1.
    pub fn turned(
        qkv: &[f32],
        heads: usize,
        (angles, pairs, interleaved): (&[f64], usize, bool),
        places: &[usize],
        sense: f64,
    ) -> Vec<f32> {
        let mut y = qkv.to_vec();
        let row = 6 * heads * pairs;
        let (step, apart) = if interleaved { (2, 1) } else { (1, pairs) };
        for (i, &place) in places.iter().enumerate() {
            for (head, j) in (0..2 * heads).flat_map(|head| (0..pairs).map(move |j| (head, j))) {
                let at = i * row + head * 2 * pairs + step * j;
                let (u, v) = (f64::from(qkv[at]), f64::from(qkv[at + apart]));
                let (sin, cos) = (sense * angles[place * pairs + j]).sin_cos();
                y[at] = (u * cos - v * sin) as f32;
                y[at + apart] = (v * cos + u * sin) as f32;
            }
        }
        y
    }
}
