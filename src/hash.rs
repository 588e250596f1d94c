//! Hashes that are the same everywhere and always, which the standard library's are not: of 64-bit words with the parts of
//! SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), of bytes by FNV-1a (Fowler,
//! Noll and Vo). What is drawn from them is a format: they never change.

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

/// FNV-1a of all bytes that it has been given, 64 bits.
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Of `bytes` alone.
    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut hash = Fnv::default();
        hash.add(bytes);
        hash.value()
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn value(&self) -> u64 {
        self.0
    }
}

/// The hash of what `hash` stands for, followed by `bytes`: their length, then words of eight bytes, the last one filled up
/// with zeros.
#[cfg(any(feature = "pictures", feature = "text"))]
pub(crate) fn hash_bytes(hash: u64, bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    };
    bytes.chunks(8).map(word).fold(absorb(hash, bytes.len() as u64), absorb)
}
