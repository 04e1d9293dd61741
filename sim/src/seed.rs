//! Seeds and hashes: every random draw of the simulator comes from a seed given as an argument.

/// SplitMix64 (Steele, Lea, Flood 2014): a small generator whose whole state is one word, so a stream can be named
/// by a seed and a purpose.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts a stream. Streams of the same seed with different `purpose` are independent.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(mix(seed ^ mix(purpose)))
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        // 24 bits: every value is exact in an f32.
        let unit = (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32;
        low + (high - low) * unit
    }
}

/// Derives the seed of member `index` (an environment, an episode) from the seed of the whole.
#[must_use]
pub fn derive_seed(seed: u64, index: u64) -> u64 {
    mix(seed.wrapping_add(mix(index.wrapping_add(0x9E37_79B9_7F4A_7C15))))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a, 64 bits, over the bit patterns of floats: equal only if every bit of a trajectory is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrajectoryHash(u64);

impl Default for TrajectoryHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl TrajectoryHash {
    /// Feeds values in order, each as the four bytes of its little-endian bits.
    pub fn update(&mut self, values: &[f32]) {
        for byte in values.iter().flat_map(|v| v.to_bits().to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of everything fed so far.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_by_purpose_and_repeat_by_seed() {
        let draws = |seed, purpose| {
            let mut rng = Rng::new(seed, purpose);
            [rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(draws(7, 1), draws(7, 1));
        assert_ne!(draws(7, 1), draws(7, 2));
        assert_ne!(draws(7, 1), draws(8, 1));
    }

    #[test]
    fn uniform_stays_in_its_range_and_has_its_mean() {
        let mut rng = Rng::new(1, 0);
        let draws: Vec<f32> = (0..10_000).map(|_| rng.uniform(-2.0, 4.0)).collect();
        assert!(draws.iter().all(|v| (-2.0..4.0).contains(v)));
        let mean = draws.iter().sum::<f32>() / draws.len() as f32;
        assert!((mean - 1.0).abs() < 0.06, "mean {mean}");
    }

    #[test]
    fn hash_is_fnv1a_of_little_endian_bits() {
        let mut hash = TrajectoryHash::default();
        // "foobar" has the published FNV-1a value 0x85944171f73967e8; its first four bytes fit one float.
        hash.update(&[f32::from_bits(u32::from_le_bytes(*b"foob"))]);
        assert_eq!(
            hash.value(),
            b"foob".iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| {
                (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
            })
        );
    }
}
