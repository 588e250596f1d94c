//! Random bits on the device, made where they are needed from a counter and a key. There is no generator and no state:
//! forward and backward make the same mask twice, resuming a run makes the same masks again, and so do micro-batches,
//! several machines and every vendor's GPU.
//!
//! The bits are a format, pinned by golden vectors in the tests. They are Philox4x32 with ten rounds (Salmon et al., 2011,
//! "Parallel random numbers: as easy as 1, 2, 3"):
//!
//! - The key, low word first, is h after absorbing seed, step and the operation's number (dropout 1, drop_path 2, dropout of
//!   attention's weights 3), with `h = 0`, then `h = finalise((h + 0x9e3779b97f4a7c15) xor word)` modulo 2⁶⁴, where `finalise` is SplitMix64's.
//! - The counter is (index within the sample, layer, position of the sample in the global batch as low and high word).
//! - An event of probability p happens where a word is below the integer nearest to p·2³².
//! - Attention's weights are too many for a Philox word each, and kernels meet them in blocks of different forms. There the index is the
//!   head, w the first two words, and the word of query q and key k is `mix(mix(w₀ + q) xor mix(w₁ + k))` modulo 2³², where `mix` is
//!   a permutation by shifts and products (multipliers 0x7feb352d and 0x846ca68b, shifts 16, 15, 16; Wellons, 2018, "Prospecting for hash
//!   functions").

use crate::error::{Error, Result};
use crate::hash::absorb;

/// What random bits depend on, besides the operation and the element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RandomKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step, from 0: not the micro-step.
    pub step: u64,
    /// A number of its own for each place in the model that draws.
    pub layer: u32,
    /// The position of this batch's first sample in the *global* batch, over all micro-batches and machines.
    pub first_sample: u64,
}

/// An operation that draws, so that two of them with one key do not draw the same.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Dropout = 1,
    DropPath = 2,
    Attention = 3,
}

impl RandomKey {
    /// Philox's key, low word first, for an operation of another crate that draws ([`crate::gpu::lib::PHILOX`]). Operations of other
    /// `purpose`s draw other bits, and this crate's own draw none of these.
    pub fn philox_key(&self, purpose: u32) -> [u32; 2] {
        self.key_for((1 << 32) | u64::from(purpose))
    }

    /// The same of an operation here.
    pub(super) fn words(&self, purpose: Purpose) -> [u32; 2] {
        self.key_for(purpose as u64)
    }

    fn key_for(&self, purpose: u64) -> [u32; 2] {
        halves([self.seed, self.step, purpose].into_iter().fold(0, absorb))
    }
}

/// What a kernel that drops something finds in its `Params`. The default drops nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Draws {
    /// Philox's key.
    pub(super) key: [u32; 2],
    pub(super) layer: u32,
    /// The position of the first sample.
    pub(super) first: [u32; 2],
    /// Words below it are dropped.
    pub(super) threshold: u32,
    /// What is left is multiplied by this: 1 / (1 − p).
    pub(super) keep_scale: f32,
}

impl Draws {
    /// Those that drop with probability `p`; `None` where it is 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if p is not in 0 ≤ p < 1.
    pub(super) fn new(op: &'static str, p: f32, key: RandomKey, purpose: Purpose) -> Result<Option<Self>> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::argument(op, "p", "at least 0 and below 1", p));
        }
        let draws = || Draws {
            key: key.words(purpose),
            layer: key.layer,
            first: halves(key.first_sample),
            threshold: threshold(p),
            keep_scale: 1.0 / (1.0 - p),
        };
        Ok((p > 0.0).then(draws))
    }
}

/// The low and the high word.
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// The bound below which a random word falls with probability `p`, from 0 to below 1.
pub(super) fn threshold(p: f32) -> u32 {
    (f64::from(p) * (1u64 << 32) as f64).round() as u32
}

/// The same on the CPU.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use super::{Purpose, RandomKey, halves};

    /// Philox4x32 with ten rounds.
    pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
        let ([mut a, mut b, mut c, mut d], [mut k, mut l]) = (counter, key);
        for _ in 0..10 {
            let first = halves(0xd251_1f53 * u64::from(a));
            let second = halves(0xcd9e_8d57 * u64::from(c));
            (a, b, c, d) = (second[1] ^ b ^ k, second[0], first[1] ^ d ^ l, first[0]);
            (k, l) = (k.wrapping_add(0x9e37_79b9), l.wrapping_add(0xbb67_ae85));
        }
        [a, b, c, d]
    }

    /// The permutation under the words of attention's weights.
    fn mix(word: u32) -> u32 {
        let x = (word ^ (word >> 16)).wrapping_mul(0x7feb_352d);
        let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    }

    /// The word of a query and a key of a head whose words are `words`.
    pub(in crate::ops) fn attention_word([of_queries, of_keys, ..]: [u32; 4], query: u32, key: u32) -> u32 {
        mix(mix(of_queries.wrapping_add(query)) ^ mix(of_keys.wrapping_add(key)))
    }

    /// Four words for `index` within the batch's sample number `sample`.
    pub(in crate::ops) fn words(key: &RandomKey, purpose: Purpose, sample: usize, index: u32) -> [u32; 4] {
        let [low, high] = halves(key.first_sample.wrapping_add(sample as u64));
        philox4x32([index, key.layer, low, high], key.words(purpose))
    }
}
