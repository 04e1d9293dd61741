//! Which network a learner trains: the `[network]` section of its settings.

use serde::{Deserialize, Serialize};
use tendon_nn::{Activation, BLOCK, Conv2d, Encoder, Gru, Network, Transformer};

use crate::policy::{Hidden, mlp};
use crate::ppo::LearnError;

/// What comes before the dense layers (`hidden`). A kind looks only at its own keys; the others may stay as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// `mlp`, `gru`, `conv` or `transformer`.
    pub kind: NetworkKind,
    /// `gru`, `transformer`: steps of the sequences that rollouts and demonstrations are cut into. Gradients of a GRU go so far back
    /// in time (truncated backpropagation through time, Williams and Peng 1990); what it remembers goes further.
    pub sequence_steps: usize,
    /// `gru`: units.
    pub units: usize,
    /// `transformer`: steps that it sees, the present one included; zeros where the episode is younger.
    pub window: usize,
    /// `transformer`: numbers of a token.
    pub width: usize,
    /// `transformer`: heads of attention, which share the width.
    pub heads: usize,
    /// `transformer`: blocks one after the other.
    pub blocks: usize,
    /// `conv`: rows, columns and channels of the image with which the observation begins, channels last; what follows the image goes
    /// to the dense layers directly.
    pub image: [usize; 3],
    /// `conv`: outputs of each convolution.
    pub filters: Vec<usize>,
    /// `conv`: side of the square that each sees.
    pub kernels: Vec<usize>,
    /// `conv`: pixels from one square to the next.
    pub strides: Vec<usize>,
}

/// Kinds of network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// Dense layers alone.
    #[default]
    Mlp,
    /// Gated recurrent units.
    Gru,
    /// Convolutions over an image.
    Conv,
    /// Attention over the last observations.
    Transformer,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            kind: NetworkKind::Mlp,
            sequence_steps: 16,
            units: 64,
            window: 8,
            width: 32,
            heads: 4,
            blocks: 1,
            image: [16, 16, 1],
            filters: vec![16, 32],
            kernels: vec![4, 3],
            strides: vec![2, 2],
        }
    }
}

impl NetworkConfig {
    /// Defaults of a kind.
    pub fn of(kind: NetworkKind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// The network with `hidden` dense layers behind the encoder and a linear last one.
    ///
    /// # Errors
    /// Names the first setting that cannot be.
    pub fn build(
        &self,
        inputs: usize,
        hidden: &[usize],
        outputs: usize,
        activation: Hidden,
    ) -> Result<Network, LearnError> {
        if hidden.contains(&0) || (hidden.is_empty() && self.kind == NetworkKind::Mlp) {
            let problem = format!("{hidden:?} needs layers of width above 0");
            return Err(LearnError::Config { field: "hidden", problem });
        }
        let encoder = self.encoder(inputs, activation)?;
        let features = encoder.features(inputs).ok_or_else(|| LearnError::Config {
            field: "network.image",
            problem: format!("{:?} does not fit an observation of {inputs}", self.image),
        })?;
        Ok(Network::new(inputs, encoder, mlp(features, hidden, outputs, activation)))
    }

    fn encoder(&self, inputs: usize, activation: Hidden) -> Result<Encoder, LearnError> {
        let wrong = |field, problem: String| Err(LearnError::Config { field, problem });
        Ok(match self.kind {
            NetworkKind::Mlp => Encoder::None,
            NetworkKind::Gru if self.units == 0 => return wrong("network.units", "0 is not above 0".into()),
            NetworkKind::Gru => Encoder::Gru(Gru::new(inputs, self.units)),
            NetworkKind::Transformer => {
                let counts = [
                    ("network.window", self.window),
                    ("network.width", self.width),
                    ("network.heads", self.heads),
                    ("network.blocks", self.blocks),
                ];
                if let Some((field, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
                    return wrong(field, "0 is not above 0".into());
                }
                if !self.width.is_multiple_of(self.heads) {
                    let problem = format!("{} do not divide the width of {}", self.heads, self.width);
                    return wrong("network.heads", problem);
                }
                let Self { window, width, heads, blocks, .. } = *self;
                Encoder::Transformer(Transformer::new(inputs, window, width, heads, blocks))
            }
            NetworkKind::Conv => Encoder::Conv(self.convolutions(inputs, activation.into())?),
        })
    }

    fn convolutions(&self, inputs: usize, activation: Activation) -> Result<Vec<Conv2d>, LearnError> {
        let wrong = |field, problem: String| Err(LearnError::Config { field, problem });
        let [mut height, mut width, mut channels] = self.image;
        let pixels = self.image.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
        if !pixels.is_some_and(|pixels| pixels > 0 && pixels <= inputs) {
            let problem =
                format!("{:?} is no image within the {inputs} numbers of the observation", self.image);
            return wrong("network.image", problem);
        }
        let count = self.filters.len();
        if count == 0 || self.filters.contains(&0) {
            return wrong("network.filters", format!("{:?} needs numbers above 0", self.filters));
        }
        for (field, list) in [("network.kernels", &self.kernels), ("network.strides", &self.strides)] {
            if list.len() != count || list.contains(&0) {
                let problem = format!("{list:?} needs {count} numbers above 0, as many as filters");
                return wrong(field, problem);
            }
        }
        let mut layers = Vec::new();
        for ((&outputs, &kernel), &stride) in self.filters.iter().zip(&self.kernels).zip(&self.strides) {
            if kernel > height.min(width) {
                let problem = format!("{kernel} is larger than the {height} x {width} pixels that it gets");
                return wrong("network.kernels", problem);
            }
            let layer = Conv2d { height, width, channels, outputs, kernel, stride, activation };
            (height, width) = layer.out_size();
            channels = outputs;
            layers.push(layer);
        }
        Ok(layers)
    }

    /// Steps of a training sequence: 1 where nothing is remembered.
    pub fn sequence(&self) -> usize {
        match self.kind {
            NetworkKind::Mlp | NetworkKind::Conv => 1,
            NetworkKind::Gru | NetworkKind::Transformer => self.sequence_steps,
        }
    }

    /// Refuses sequences that cannot be.
    ///
    /// # Errors
    /// Names the setting.
    pub(crate) fn check_sequence(&self) -> Result<(), LearnError> {
        if (1..=BLOCK).contains(&self.sequence()) {
            return Ok(());
        }
        let problem = format!("{} is not in 1..={BLOCK}", self.sequence_steps);
        Err(LearnError::Config { field: "network.sequence_steps", problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_network_is_refused_by_its_key() {
        let conv = NetworkConfig::of(NetworkKind::Conv);
        let transformer = NetworkConfig::of(NetworkKind::Transformer);
        let cases = [
            (conv.clone(), 255, "network.image: [16, 16, 1] is no image within the 255 numbers"),
            (NetworkConfig { kernels: vec![4], ..conv.clone() }, 256, "network.kernels: [4] needs 2 numbers"),
            (NetworkConfig { kernels: vec![4, 8], ..conv }, 256, "8 is larger than the 7 x 7 pixels"),
            (NetworkConfig { heads: 5, ..transformer.clone() }, 3, "network.heads: 5 do not divide"),
            (NetworkConfig { window: 0, ..transformer }, 3, "network.window: 0"),
            (NetworkConfig { units: 0, ..NetworkConfig::of(NetworkKind::Gru) }, 3, "network.units: 0"),
        ];
        for (config, inputs, expected) in cases {
            let message = config.build(inputs, &[8], 2, Hidden::Tanh).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let message = NetworkConfig::default().build(3, &[], 2, Hidden::Tanh).unwrap_err().to_string();
        assert!(message.contains("hidden: []"), "{message}");
    }
}
