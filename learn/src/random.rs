//! Random numbers whose whole state is a seed and a place.

/// A small generator (xoshiro256++, Blackman and Vigna 2019) that is made where it is needed.
///
/// Learners never keep one across iterations: `Rng::at(seed, &[iteration, environment])` gives each place its own stream. So a
/// checkpoint holds a seed and a counter, and the number of threads cannot change a draw.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream that belongs to `place` under `seed`.
    pub fn at(seed: u64, place: &[u64]) -> Self {
        let mut counter = derive_seed(seed, place);
        Self {
            state: std::array::from_fn(|_| {
                counter = counter.wrapping_add(GOLDEN);
                mix(counter)
            }),
        }
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..bound`; the bias of the multiply-shift is below `bound / 2^64`. `bound` must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A seed for `place` under `seed`; different places give unrelated seeds.
pub fn derive_seed(seed: u64, place: &[u64]) -> u64 {
    place.iter().fold(mix(seed.wrapping_add(GOLDEN)), |hash, &part| {
        mix(hash.wrapping_add(GOLDEN) ^ mix(part.wrapping_add(GOLDEN)))
    })
}

/// 2^64 divided by the golden ratio: SplitMix64's increment.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's finaliser (Steele, Lea and Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_draws_have_zero_mean_and_unit_variance() {
        let mut rng = Rng::at(1, &[2, 3]);
        let draws: Vec<f64> = (0..100_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn places_have_streams_of_their_own() {
        assert_ne!(Rng::at(1, &[0, 1]).next_u64(), Rng::at(1, &[1, 0]).next_u64());
        assert_eq!(Rng::at(1, &[4]).next_u64(), Rng::at(1, &[4]).next_u64());
    }
}
