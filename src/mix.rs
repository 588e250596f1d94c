//! Hashing of 64-bit words with the parts of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", OOPSLA 2014). What is drawn from these hashes is a format: they never change.

/// 2⁶⁴ divided by the golden ratio: SplitMix64's increment.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser, variant 13 of Stafford's: a bijection in which every input bit reaches every output bit.
pub(crate) fn finalise(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The hash of what `hash` stands for, followed by `word`: `finalise((hash + GOLDEN) xor word)`. The order of words
/// matters. Start from 0.
pub(crate) fn absorb(hash: u64, word: u64) -> u64 {
    finalise(hash.wrapping_add(GOLDEN) ^ word)
}
