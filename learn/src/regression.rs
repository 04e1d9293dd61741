//! One network fitted to targets: what imitation, flow matching and cost critics share.

use tendon_nn::{Adam, AdamSettings, BLOCK, Mlp, Network, NetworkWeights, NetworkWorkspace, Sharded};

use crate::checkpoint::Checkpoint;
use crate::communicator::Communicator;
use crate::network::{restore_adam, save_adam};
use crate::random::Rng;
use crate::run_folder::FileError;
use crate::sequences::{Rows, Steps};

/// A network, its weights and its optimiser under the mean squared error.
#[derive(Debug)]
pub(crate) struct Regression {
    pub(crate) network: Network,
    pub(crate) parameters: Vec<f32>,
    weights: NetworkWeights,
    adam: Adam,
    sharded: Sharded<Scratch>,
    workspace: NetworkWorkspace,
}

/// What one shard needs, and what it sums up.
#[derive(Debug)]
struct Scratch {
    workspace: NetworkWorkspace,
    steps: Steps,
    slopes: Vec<f32>,
    loss: f64,
}

impl Regression {
    /// Fresh weights; `output_gain` is that of the last layer.
    pub(crate) fn new(network: Network, output_gain: f32, threads: usize, rng: &mut Rng) -> Self {
        let parameters = network.initialise(output_gain, &mut || rng.normal());
        let settings = AdamSettings { max_norm: MAX_GRADIENT_NORM, ..AdamSettings::default() };
        Self::of(network, parameters, settings, threads)
    }

    /// Fresh weights as PyTorch draws them, and no limit of the gradient (SAC's critics).
    pub(crate) fn uniform(mlp: Mlp, threads: usize, rng: &mut Rng) -> Self {
        let parameters = mlp.initialise_uniform(&mut || rng.uniform());
        Self::of(Network::dense(mlp), parameters, AdamSettings::default(), threads)
    }

    fn of(network: Network, parameters: Vec<f32>, settings: AdamSettings, threads: usize) -> Self {
        let scratch = || Scratch {
            workspace: network.workspace(),
            steps: Steps::default(),
            slopes: Vec::new(),
            loss: 0.0,
        };
        Self {
            weights: network.weights(&parameters),
            adam: Adam::new(parameters.len(), settings),
            sharded: Sharded::new(threads, parameters.len(), scratch),
            workspace: network.workspace(),
            parameters,
            network,
        }
    }

    /// One step of Adam on `sum_j (y_j - target_j)^2 / 2`, averaged over the `total` rows of all ranks, each of which gives its own;
    /// returns this rank's share of that loss before the step. The network remembers nothing.
    pub(crate) fn step(
        &mut self,
        inputs: &[f32],
        targets: &[f32],
        (ranks, total): (&dyn Communicator, usize),
        learning_rate: f32,
    ) -> f64 {
        let count = inputs.len() / self.network.inputs();
        let rows = Rows { sequence: 1, states: inputs, begins: &vec![true; count], memory: &[] };
        let units: Vec<usize> = (0..count).collect();
        self.step_on(&rows, targets, &units, (ranks, total), learning_rate)
    }

    /// [`Regression::step`] on the sequences `units` of `data` (rows, where these are one step long).
    pub(crate) fn step_on(
        &mut self,
        data: &Rows,
        targets: &[f32],
        units: &[usize],
        (ranks, total): (&dyn Communicator, usize),
        learning_rate: f32,
    ) -> f64 {
        let (n_in, n_out) = (self.network.inputs(), self.network.outputs());
        let total = total as f32;
        let in_block = BLOCK / data.sequence;
        let blocks = units.len().div_ceil(in_block);
        let weights = &self.weights;
        self.sharded.states().for_each(|state| state.loss = 0.0);
        let gradient = self.sharded.gradient(blocks * BLOCK, |range, scratch, gradient| {
            let first = range.start / BLOCK * in_block;
            let units = &units[first..(first + in_block).min(units.len())];
            let Scratch { workspace, steps, slopes, loss } = scratch;
            steps.gather(data, units, n_in);
            let outputs = weights.forward(steps.sequences(), workspace);
            slopes.clear();
            for (&row, outputs) in steps.rows.iter().zip(outputs.chunks_exact(n_out)) {
                for (y, target) in outputs.iter().zip(&targets[row * n_out..]) {
                    let error = y - target;
                    *loss += f64::from(0.5 * error * error) / f64::from(total);
                    slopes.push(error / total);
                }
            }
            weights.backward(steps.sequences(), slopes, workspace, gradient);
        });
        ranks.sum_f32(gradient);
        self.adam.step(&mut self.parameters, gradient, learning_rate);
        self.weights.set(&self.parameters);
        self.sharded.states().map(|state| state.loss).sum()
    }

    /// The weights as they stand.
    pub(crate) fn weights(&self) -> &NetworkWeights {
        &self.weights
    }

    /// Results, `[rows, outputs]`; the network remembers nothing.
    pub(crate) fn infer(&mut self, inputs: &[f32]) -> Vec<f32> {
        let mut outputs = vec![0.0; inputs.len() / self.network.inputs() * self.network.outputs()];
        self.weights.step(inputs, &mut [], &mut outputs, &mut self.workspace);
        outputs
    }

    /// What the network remembers before every `sequence`-th of `inputs`, rows of episodes one after the other,
    /// `[rows / sequence, memory_len]`.
    pub(crate) fn memories(&mut self, inputs: &[f32], begins: &[bool], sequence: usize) -> Vec<f32> {
        let len = self.network.memory_len();
        if len == 0 {
            return Vec::new();
        }
        let mut kept = Vec::with_capacity(begins.len() / sequence * len);
        let (mut memory, mut output) = (vec![0.0; len], vec![0.0; self.network.outputs()]);
        for (row, input) in inputs.chunks_exact(self.network.inputs()).enumerate() {
            if begins[row] {
                memory.fill(0.0);
            }
            if row.is_multiple_of(sequence) {
                kept.extend_from_slice(&memory);
            }
            self.weights.step(input, &mut memory, &mut output, &mut self.workspace);
        }
        kept
    }

    pub(crate) fn save(&self, checkpoint: &mut Checkpoint, name: &str) {
        checkpoint.put(&format!("{name}.parameters"), &self.parameters);
        save_adam(&self.adam, checkpoint, &format!("{name}.adam"));
    }

    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint, name: &str) -> Result<(), FileError> {
        self.parameters = checkpoint.array_f32(&format!("{name}.parameters"), self.parameters.len())?;
        restore_adam(&mut self.adam, checkpoint, &format!("{name}.adam"))?;
        self.weights.set(&self.parameters);
        Ok(())
    }
}

const MAX_GRADIENT_NORM: f32 = 1.0;
