//! One network fitted to targets: what imitation, flow matching and cost critics share.

use tendon_nn::{Adam, AdamSettings, Mlp, Sharded, Weights, Workspace};

use crate::checkpoint::Checkpoint;
use crate::network::{restore_adam, save_adam};
use crate::random::Rng;
use crate::run_folder::FileError;

/// A network, its weights and its optimiser under the mean squared error.
#[derive(Debug)]
pub(crate) struct Regression {
    pub(crate) mlp: Mlp,
    pub(crate) parameters: Vec<f32>,
    weights: Weights,
    adam: Adam,
    sharded: Sharded<(Workspace, f64)>,
    workspace: Workspace,
}

impl Regression {
    /// Fresh weights; `output_gain` is that of the last layer.
    pub(crate) fn new(mlp: Mlp, output_gain: f32, threads: usize, rng: &mut Rng) -> Self {
        let parameters = mlp.initialise(output_gain, &mut || rng.normal());
        let settings = AdamSettings { max_norm: MAX_GRADIENT_NORM, ..AdamSettings::default() };
        Self::of(mlp, parameters, settings, threads)
    }

    /// Fresh weights as PyTorch draws them, and no limit of the gradient (SAC's critics).
    pub(crate) fn uniform(mlp: Mlp, threads: usize, rng: &mut Rng) -> Self {
        let parameters = mlp.initialise_uniform(&mut || rng.uniform());
        Self::of(mlp, parameters, AdamSettings::default(), threads)
    }

    fn of(mlp: Mlp, parameters: Vec<f32>, settings: AdamSettings, threads: usize) -> Self {
        Self {
            weights: mlp.weights(&parameters),
            adam: Adam::new(parameters.len(), settings),
            sharded: Sharded::new(threads, parameters.len(), || (mlp.workspace(), 0.0)),
            workspace: mlp.workspace(),
            parameters,
            mlp,
        }
    }

    /// One step of Adam on `sum_j (y_j - target_j)^2 / 2`, averaged over rows; returns that loss before the step.
    pub(crate) fn step(&mut self, inputs: &[f32], targets: &[f32], learning_rate: f32) -> f64 {
        let (n_in, n_out) = (self.mlp.inputs(), self.mlp.outputs());
        let rows = inputs.len() / n_in;
        let weights = &self.weights;
        self.sharded.states().for_each(|state| state.1 = 0.0);
        let gradient = self.sharded.gradient(rows, |range, (workspace, loss), gradient| {
            let input = &inputs[range.start * n_in..range.end * n_in];
            let targets = &targets[range.start * n_out..range.end * n_out];
            let errors: Vec<f32> =
                weights.forward(input, workspace).iter().zip(targets).map(|(y, t)| y - t).collect();
            *loss += errors.iter().map(|e| f64::from(0.5 * e * e)).sum::<f64>() / rows as f64;
            let slopes: Vec<f32> = errors.iter().map(|e| e / rows as f32).collect();
            weights.backward(input, &slopes, workspace, gradient, None);
        });
        self.adam.step(&mut self.parameters, gradient, learning_rate);
        self.weights.set(&self.parameters);
        self.sharded.states().map(|state| state.1).sum()
    }

    /// The weights as they stand.
    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Results, `[rows, outputs]`.
    pub(crate) fn infer(&mut self, inputs: &[f32]) -> Vec<f32> {
        let mut outputs = vec![0.0; inputs.len() / self.mlp.inputs() * self.mlp.outputs()];
        self.weights.infer(inputs, &mut outputs, &mut self.workspace);
        outputs
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
