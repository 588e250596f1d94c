//! What a dispatch of a matrix product is told, and how long its loops then are.

use crate::gpu::{Grid, Kernel, params};
use crate::ops::item::longest;

params!(pub(super) GemmParams {
    m: u32,
    n: u32,
    k: u32,
    inner: u32,
    lda: u32,
    ldb: u32,
    ldc: u32,
    accumulate: u32,
    a_offset: u32,
    b_offset: u32,
    c_offset: u32,
    alpha: f32,
    a_outer: u32,
    a_inner: u32,
    b_outer: u32,
    b_inner: u32,
    c_outer: u32,
    c_inner: u32,
    first_row: u32,
    first_column: u32,
    first_matrix: u32,
    accumulate_sums: u32,
    has_bias: u32,
    has_residual: u32,
    kept: u32,
    tokens: u32,
    fault: u32,
});

impl GemmParams {
    /// Steps of K that `kernel` runs through in a dispatch: all, or an equal share, and no more than `most`.
    pub(super) fn share_of_k(&self, kernel: &Kernel, most: usize) -> usize {
        let fits = |k: usize| k <= most && kernel.fits(&GemmParams { k: k as u32, ..*self }, Grid::new(1, 1, 1));
        longest(self.k as usize, 16, fits)
    }
}

/// The rounds of the kernels by form.
pub(super) mod cost {
    use super::GemmParams;
    use crate::gpu::{Rounds, looped, rounds};

    /// One step of K in a round, then four blocks of C.
    pub(in crate::ops::matmul) const SIMPLE: Rounds = rounds!(GemmParams, |p, _| looped(p.k, 0) + looped(4u64, 0));
    /// Four steps of K in a round, by one of two loops.
    pub(in crate::ops::matmul) const FEW_LANE: Rounds =
        rounds!(GemmParams, |p, _| looped(p.k / 4, 0) + looped(0u64, 0));
    /// 256 steps of K in a round, then the sum of 16 shares.
    pub(in crate::ops::matmul) const FEW_GROUP: Rounds =
        rounds!(GemmParams, |p, _| looped((p.k / 4).div_ceil(64), 0) + looped(15u64, 0));
    /// Four steps of K in a round, then four columns of C with what is left of K.
    pub(in crate::ops::matmul) const ROWS: Rounds = rounds!(GemmParams, |p, _| rows(p));
    /// The same after two sums over columns of A, two steps in a round.
    pub(in crate::ops::matmul) const SUMS: Rounds = rounds!(GemmParams, |p, _| rows(p) + 2 * looped(p.k / 2, 0));
    /// 16 steps of K in a round.
    pub(in crate::ops::matmul) const TILE: Rounds = rounds!(GemmParams, |p, _| looped(p.k.div_ceil(16), 0));
    /// The same: eight subgroups of 8 or four of 32, which bring the tiles of A and B in by vec4s.
    pub(in crate::ops::matmul) const COOPERATIVE_8: Rounds = rounds!(GemmParams, |p, _| cooperative(p, 64, 64));
    pub(in crate::ops::matmul) const COOPERATIVE_32: Rounds = rounds!(GemmParams, |p, _| cooperative(p, 32, 128));

    fn rows(p: &GemmParams) -> u64 {
        looped(p.k / 4, 0) + looped(4u64, looped(p.k % 4, 0))
    }

    fn cooperative(p: &GemmParams, rows: u64, invocations: u64) -> u64 {
        let turns = |vec4s: u64| looped(vec4s.div_ceil(invocations), 0);
        // Each tile is brought in by one of two loops, which a driver may count both.
        let stage = turns(rows * 4) + turns(128) + 2;
        looped(p.k.div_ceil(16), stage + looped(2u64, 0)) + turns(rows * 8)
    }
}
