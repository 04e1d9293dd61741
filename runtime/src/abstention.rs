//! Whether an observation is like the recorded ones: range and density scores against a threshold that the compiler
//! calibrated ([`AbstentionHeader`] has the equations).

use tendon_wire::image::AbstentionHeader;

/// Most ticks of a window.
pub const MAX_WINDOW: usize = 16;

/// The abstention section of an image, in place.
#[derive(Clone, Copy, Debug)]
pub struct Abstention<'a> {
    /// Sizes, weights, threshold.
    pub header: &'a AbstentionHeader,
    /// Lowest and highest value of each element, mean and inverse scale of each, `[n]` each.
    bounds: [&'a [f32]; 4],
    /// `[rank]`
    gain: &'a [f32],
    /// `[rank, n]`
    basis: &'a [f32],
}

impl<'a> Abstention<'a> {
    /// Splits a section into records. `None` when the counts do not give exactly the length, or the bytes are not
    /// aligned to 4.
    #[must_use]
    pub fn split(bytes: &'a [u8]) -> Option<Self> {
        let (head, values) = bytes.split_at_checked(size_of::<AbstentionHeader>())?;
        let header: &AbstentionHeader = bytemuck::try_from_bytes(head).ok()?;
        let values: &[f32] = bytemuck::try_cast_slice(values).ok()?;
        let (n, rank) = (header.n as usize, header.rank as usize);
        let (low, rest) = values.split_at_checked(n)?;
        let (high, rest) = rest.split_at_checked(n)?;
        let (mean, rest) = rest.split_at_checked(n)?;
        let (inverse_scale, rest) = rest.split_at_checked(n)?;
        let (gain, basis) = rest.split_at_checked(rank)?;
        let whole = rank.checked_mul(n) == Some(basis.len()) && n > 0;
        whole.then_some(Self { header, bounds: [low, high, mean, inverse_scale], gain, basis })
    }

    /// Checks what the values mean.
    ///
    /// # Errors
    /// The first field that does not hold.
    pub fn check(&self, n_inputs: u32) -> Result<(), &'static str> {
        let h = self.header;
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let weights = [h.threshold, h.residual, h.density_scale, h.range_scale, h.false_alarm];
        let [low, high, _, inverse_scale] = self.bounds;
        if h.n != n_inputs {
            Err("abstention inputs")
        } else if !(1..=MAX_WINDOW as u16).contains(&h.window) || !(1..=h.window).contains(&h.needed) {
            Err("abstention window")
        } else if !(finite(&weights) && weights.iter().all(|&weight| weight >= 0.0)) {
            Err("abstention weights")
        } else if !(self.bounds.iter().all(|values| finite(values))
            && finite(self.gain)
            && finite(self.basis))
        {
            Err("abstention values")
        } else if !low.iter().zip(high).all(|(low, high)| low < high) {
            Err("abstention ranges")
        } else if !inverse_scale.iter().all(|&inverse| inverse >= 0.0) {
            Err("abstention scales")
        } else {
            Ok(())
        }
    }

    /// Range score `max |x - middle| / half`: at most 1 within the recorded ranges.
    #[must_use]
    pub fn range(&self, observation: &[f32]) -> f32 {
        let [low, high, ..] = self.bounds;
        observation.iter().zip(low).zip(high).fold(0.0, |most: f32, ((&x, &low), &high)| {
            let half = 0.5 * high - 0.5 * low;
            most.max((x - (low + half)).abs() / half)
        })
    }

    /// Density score: squared Mahalanobis distance under the recorded covariance.
    #[must_use]
    pub fn density(&self, observation: &[f32]) -> f32 {
        let [_, _, mean, inverse_scale] = self.bounds;
        let z = || {
            observation
                .iter()
                .zip(mean)
                .zip(inverse_scale)
                .map(|((&x, &mean), &inverse)| (x - mean) * inverse)
        };
        let size: f32 = z().map(|z| z * z).sum();
        let rows = self.basis.chunks_exact((self.header.n as usize).max(1));
        let spanned: f32 = rows
            .zip(self.gain)
            .map(|(row, &gain)| {
                let c: f32 = row.iter().zip(z()).map(|(&v, z)| v * z).sum();
                gain * c * c
            })
            .sum();
        (self.header.residual * size + spanned).max(0.0)
    }

    /// The score that the threshold is for; infinite where it is no number.
    #[must_use]
    pub fn score(&self, observation: &[f32]) -> f32 {
        let h = self.header;
        let score =
            (h.density_scale * self.density(observation)).max(h.range_scale * self.range(observation));
        // `max` drops a NaN: ask for it.
        let whole = observation.iter().all(|x| x.is_finite()) && score.is_finite();
        if whole { score } else { f32::INFINITY }
    }

    /// Instructions of a score at most, as `cost` counts them.
    #[must_use]
    pub fn instructions(&self) -> u64 {
        let n = u64::from(self.header.n);
        let row = n.saturating_mul(12).saturating_add(40);
        n.saturating_mul(50).saturating_add(row.saturating_mul(self.header.rank.into())).saturating_add(600)
    }
}

/// The last scores of a run.
#[derive(Clone, Debug, Default)]
pub struct Window {
    scores: [f32; MAX_WINDOW],
    next: usize,
    filled: usize,
}

impl Window {
    /// Forgets them.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Takes a score and gives the statistic: the `needed`-th largest of the last `window` scores, 0 while there are
    /// fewer. Above the threshold means that `needed` of them are.
    pub fn push(&mut self, header: &AbstentionHeader, score: f32) -> f32 {
        let window = usize::from(header.window).clamp(1, MAX_WINDOW);
        if self.next >= window {
            self.next = 0;
        }
        if let Some(place) = self.scores.get_mut(self.next) {
            *place = score;
        }
        self.next += 1;
        self.filled = (self.filled + 1).min(window);
        self.largest(usize::from(header.needed))
    }

    /// The `k`-th largest, by taking the largest away `k` times.
    fn largest(&self, k: usize) -> f32 {
        if self.filled < k {
            return 0.0;
        }
        let mut scores = self.scores;
        let mut found = 0.0;
        for _ in 0..k {
            let mut most: Option<&mut f32> = None;
            for score in scores.iter_mut().take(self.filled) {
                if most.as_ref().is_none_or(|most| *score > **most) {
                    most = Some(score);
                }
            }
            if let Some(most) = most {
                found = *most;
                *most = f32::NEG_INFINITY;
            }
        }
        found
    }
}
