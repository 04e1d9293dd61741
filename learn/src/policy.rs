//! A trained policy without its exploration: what is evaluated and exported.

use serde::{Deserialize, Serialize};
use tendon_nn::{
    Activation, Conv2d, Encoder, Gru, Mlp, Network, NetworkWeights, NetworkWorkspace, Transformer,
};

use crate::checkpoint::Checkpoint;
use crate::normaliser::FrozenNormaliser;
use crate::parallel::parallel_map;
use crate::random::{Rng, derive_seed};
use crate::rollout::{ACTION_LIMIT, MakeEnvironment, stream};
use crate::run_folder::{FileError, RunFolder};

/// `clip(head(normalise(observation)), -1, 1)`: deterministic, what is evaluated and exported.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The observation normaliser.
    pub normaliser: FrozenNormaliser,
    /// How the network's result becomes an action.
    pub head: Head,
    /// The network.
    pub network: Network,
    /// Its packed weights.
    pub parameters: Vec<f32>,
}

/// By their codes in checkpoints.
const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::Tanh,
    Activation::Relu,
    Activation::Elu,
    Activation::Swish,
    Activation::Sigmoid,
];
/// Wider layers are a damaged file.
const MAX_WIDTH: usize = 1 << 16;

/// From a network to an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The network's result is the action (PPO's mean; with a last tanh SAC's).
    Direct,
    /// The network is a velocity field `v(observation, x, t)`; the action is `x` after `steps` Euler steps from `x = 0` at `t = 0` to
    /// `t = 1` (flow matching, Lipman et al. 2023).
    Flow {
        /// Euler steps.
        steps: usize,
    },
    /// The network is `v(observation, x, features of t)` of a diffusion with the cosine schedule; the action is `x` after `steps` steps of
    /// DDIM from noise at `t = 1` to `t = 0` (see [`crate::DiffusionConfig`]).
    Diffusion {
        /// Steps of DDIM.
        steps: usize,
        /// Of the noise that every action starts from.
        seed: u64,
    },
}

/// How an action is sampled: from `start`, `x = keep x + move v(observation, x, time)` per step.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    /// `[n_act]`.
    pub start: Vec<f32>,
    /// What the network sees of the time of each step.
    pub times: Vec<Vec<f32>>,
    /// Share of `x` that stays.
    pub keep: f32,
    /// Length of the step along `v`.
    pub along: f32,
}

/// Numbers in which a diffusion policy sees the time.
pub(crate) const TIME_FEATURES: usize = 8;

/// `sin` and `cos` of `t` at wave lengths 4, 2, 1 and 1/2 (Vaswani et al. 2017, in octaves).
pub(crate) fn time_features(t: f32) -> [f32; TIME_FEATURES] {
    std::array::from_fn(|i| {
        let phase = std::f32::consts::FRAC_PI_2 * t * (1 << (i / 2)) as f32;
        if i % 2 == 0 { phase.sin() } else { phase.cos() }
    })
}

impl Head {
    /// How the action is sampled; `None` where the network's result is the action.
    pub fn sampler(&self, n_act: usize) -> Option<Sampler> {
        match *self {
            Head::Direct => None,
            Head::Flow { steps } => {
                let length = 1.0 / steps as f32;
                Some(Sampler {
                    start: vec![0.0; n_act],
                    times: (0..steps).map(|step| vec![step as f32 * length]).collect(),
                    keep: 1.0,
                    along: length,
                })
            }
            Head::Diffusion { steps, seed } => {
                let mut rng = Rng::at(seed, &[stream::NOISE]);
                let (sin, cos) = (std::f32::consts::FRAC_PI_2 / steps as f32).sin_cos();
                Some(Sampler {
                    start: (0..n_act).map(|_| rng.normal() as f32).collect(),
                    times: (1..=steps)
                        .rev()
                        .map(|i| time_features(i as f32 / steps as f32).to_vec())
                        .collect(),
                    keep: cos,
                    along: -sin,
                })
            }
        }
    }

    /// Numbers that the network sees beside the observation.
    fn beside(&self, n_act: usize) -> usize {
        match self {
            Head::Direct => 0,
            Head::Flow { .. } => n_act + 1,
            Head::Diffusion { .. } => n_act + TIME_FEATURES,
        }
    }
}

/// What follows a hidden layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hidden {
    /// Hyperbolic tangent.
    #[default]
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// Exponential linear unit.
    Elu,
    /// `x sigmoid(x)`.
    Swish,
}

impl From<Hidden> for Activation {
    fn from(hidden: Hidden) -> Self {
        match hidden {
            Hidden::Tanh => Self::Tanh,
            Hidden::Relu => Self::Relu,
            Hidden::Elu => Self::Elu,
            Hidden::Swish => Self::Swish,
        }
    }
}

/// A dense network with a linear last layer.
pub fn mlp(inputs: usize, hidden: &[usize], outputs: usize, activation: Hidden) -> Mlp {
    let sizes: Vec<usize> =
        std::iter::once(inputs).chain(hidden.iter().copied()).chain(std::iter::once(outputs)).collect();
    Mlp::new(&sizes, activation.into(), Activation::None)
}

/// A [`Policy`] ready to act: its weights laid out for the kernels, and memory.
#[derive(Debug)]
pub struct Actor {
    normaliser: FrozenNormaliser,
    sampler: Option<Sampler>,
    weights: NetworkWeights,
    workspace: NetworkWorkspace,
    /// Of every row, zero at first.
    memory: Vec<f32>,
    normalised: Vec<f32>,
    input: Vec<f32>,
    velocity: Vec<f32>,
}

impl Policy {
    /// Width of an observation.
    pub fn observation_len(&self) -> usize {
        self.normaliser.offset.len()
    }

    /// Width of an action.
    pub fn action_len(&self) -> usize {
        self.network.outputs()
    }

    /// The policy of the newest checkpoint of a run, whichever learner wrote it; `None` before the first one.
    ///
    /// # Errors
    /// A damaged checkpoint.
    pub fn of_run(run: &RunFolder) -> Result<Option<Self>, FileError> {
        let Some(checkpoint) = Checkpoint::load_last(&run.checkpoints())? else { return Ok(None) };
        let list = |name: &str| -> Result<Vec<usize>, FileError> {
            Ok(checkpoint.any_array(name)?.iter().map(|&size| size as usize).collect())
        };
        let sizes = list("policy.sizes")?;
        let activation = |name: &str| -> Result<Activation, FileError> {
            let code = checkpoint.counter(name)? as usize;
            let known = ACTIVATIONS.get(code).copied();
            known.ok_or_else(|| checkpoint.error(name, format!("{code}: no such activation")))
        };
        if sizes.len() < 2 || sizes.iter().any(|size| !(1..=MAX_WIDTH).contains(size)) {
            return Err(checkpoint.error("policy.sizes", format!("{sizes:?}: no network")));
        }
        let dense = Mlp::new(&sizes, activation("policy.hidden")?, activation("policy.last")?);
        let offset: Vec<f32> = checkpoint.any_array("policy.offset")?.iter().map(|&v| v as f32).collect();
        let scale = checkpoint.array_f32("policy.scale", offset.len())?;
        let steps = |name: &str| -> Result<usize, FileError> {
            let steps = checkpoint.counter(name)? as usize;
            let sane = steps <= MAX_WIDTH;
            if sane {
                Ok(steps)
            } else {
                Err(checkpoint.error(name, format!("{steps}, at most {MAX_WIDTH}")))
            }
        };
        let head = match (steps("policy.flow_steps")?, steps("policy.diffusion_steps")?) {
            (0, 0) => Head::Direct,
            (steps, 0) => Head::Flow { steps },
            (_, steps) => Head::Diffusion { steps, seed: checkpoint.counter("policy.noise_seed")? },
        };
        let inputs = offset.len() + head.beside(dense.outputs());
        let codes = list("policy.encoder")?;
        let encoder = encoder_of(&codes)
            .filter(|encoder| encoder.features(inputs) == Some(dense.inputs()))
            .ok_or_else(|| {
            let problem = format!("{codes:?} does not lead from {inputs} inputs to {sizes:?}");
            checkpoint.error("policy.encoder", problem)
        })?;
        let network = Network::new(inputs, encoder, dense);
        let parameters = checkpoint.array_f32("policy.parameters", network.parameter_count())?;
        Ok(Some(Self { normaliser: FrozenNormaliser { offset, scale }, head, network, parameters }))
    }

    pub(crate) fn save(&self, checkpoint: &mut Checkpoint) {
        let layers = self.network.head().layers();
        let sizes: Vec<f64> = std::iter::once(layers[0].inputs)
            .chain(layers.iter().map(|layer| layer.outputs))
            .map(|size| size as f64)
            .collect();
        let codes: Vec<f64> = codes_of(self.network.encoder()).into_iter().map(|code| code as f64).collect();
        checkpoint.put("policy.encoder", &codes);
        checkpoint.put("policy.sizes", &sizes);
        checkpoint.put_counter("policy.hidden", code(layers[0].activation) as u64);
        checkpoint.put_counter("policy.last", code(layers[layers.len() - 1].activation) as u64);
        let [flow, diffusion, seed] = match self.head {
            Head::Direct => [0; 3],
            Head::Flow { steps } => [steps as u64, 0, 0],
            Head::Diffusion { steps, seed } => [0, steps as u64, seed],
        };
        checkpoint.put_counter("policy.flow_steps", flow);
        checkpoint.put_counter("policy.diffusion_steps", diffusion);
        checkpoint.put_counter("policy.noise_seed", seed);
        checkpoint.put("policy.parameters", &self.parameters);
        checkpoint.put("policy.offset", &self.normaliser.offset);
        checkpoint.put("policy.scale", &self.normaliser.scale);
    }

    /// For one thread.
    pub fn actor(&self) -> Actor {
        Actor {
            normaliser: self.normaliser.clone(),
            sampler: self.head.sampler(self.action_len()),
            weights: self.network.weights(&self.parameters),
            workspace: self.network.workspace(),
            memory: Vec::new(),
            normalised: Vec::new(),
            input: Vec::new(),
            velocity: Vec::new(),
        }
    }
}

impl Actor {
    /// Actions, `[rows, n_act]`, for observations as the environment gives them, `[rows, n_obs]`. Where the network remembers, each row
    /// is the next step of an episode of its own, which began with this actor.
    pub fn act(&mut self, observations: &[f32], actions: &mut Vec<f32>) {
        let Self { normaliser, sampler, weights, workspace, memory, normalised, input, velocity } = self;
        let (n_obs, n_act) = (normaliser.offset.len(), weights.network().outputs());
        memory.resize(observations.len() / n_obs * weights.network().memory_len(), 0.0);
        normalised.resize(observations.len(), 0.0);
        normaliser.apply(observations, normalised);
        actions.clear();
        actions.resize(observations.len() / n_obs * n_act, 0.0);
        match sampler {
            None => weights.step(normalised, memory, actions, workspace),
            Some(Sampler { start, times, keep, along }) => {
                velocity.resize(actions.len(), 0.0);
                actions.chunks_exact_mut(n_act).for_each(|x| x.copy_from_slice(start));
                for time in times.iter() {
                    input.clear();
                    for (o, x) in normalised.chunks_exact(n_obs).zip(actions.chunks_exact(n_act)) {
                        input.extend_from_slice(o);
                        input.extend_from_slice(x);
                        input.extend_from_slice(time);
                    }
                    weights.step(input, memory, velocity, workspace);
                    actions.iter_mut().zip(velocity.iter()).for_each(|(x, v)| *x = *keep * *x + *along * v);
                }
            }
        }
        actions.iter_mut().for_each(|a| *a = a.clamp(-ACTION_LIMIT, ACTION_LIMIT));
    }
}

fn code(activation: Activation) -> usize {
    ACTIVATIONS.iter().position(|known| *known == activation).unwrap_or(0)
}

/// An encoder as the numbers of a checkpoint: its kind, then its sizes.
fn codes_of(encoder: &Encoder) -> Vec<usize> {
    match encoder {
        Encoder::None => vec![0],
        Encoder::Gru(gru) => vec![1, gru.inputs(), gru.hidden()],
        Encoder::Conv(layers) => std::iter::once(2)
            .chain(layers.iter().flat_map(|l| {
                [l.height, l.width, l.channels, l.outputs, l.kernel, l.stride, code(l.activation)]
            }))
            .collect(),
        Encoder::Transformer(t) => vec![3, t.inputs(), t.window(), t.width(), t.heads(), t.blocks()],
    }
}

/// The encoder of [`codes_of`]; `None` where the numbers are of no encoder.
fn encoder_of(codes: &[usize]) -> Option<Encoder> {
    let (kind, sizes) = codes.split_first()?;
    // An activation may be 0, the last of a convolution's seven.
    let small = |(i, size): (usize, &usize)| (*kind == 2 && i % 7 == 6) || (1..=MAX_WIDTH).contains(size);
    if !sizes.iter().enumerate().all(small) {
        return None;
    }
    Some(match (kind, sizes) {
        (0, []) => Encoder::None,
        (1, &[inputs, hidden]) => Encoder::Gru(Gru::new(inputs, hidden)),
        (2, sizes) if !sizes.is_empty() => {
            let (layers, rest) = sizes.as_chunks::<7>();
            let layers: Option<Vec<Conv2d>> = layers
                .iter()
                .map(|&[height, width, channels, outputs, kernel, stride, activation]| {
                    let activation = *ACTIVATIONS.get(activation)?;
                    let layer = Conv2d { height, width, channels, outputs, kernel, stride, activation };
                    (kernel <= height.min(width)).then_some(layer)
                })
                .collect();
            Encoder::Conv(layers.filter(|_| rest.is_empty())?)
        }
        (3, &[inputs, window, width, heads, blocks]) if width.is_multiple_of(heads) => {
            Encoder::Transformer(Transformer::new(inputs, window, width, heads, blocks))
        }
        _ => return None,
    })
}

/// One finished episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// Sum of the task's rewards.
    pub episode_return: f64,
    /// Control steps.
    pub length: u64,
    /// The task ended it, not the time limit.
    pub terminated: bool,
    /// The task's success condition held in the last step.
    pub success: bool,
    /// The task's physical metrics in the last step, in the order of its names.
    pub metrics: Vec<f32>,
    /// Means of their absolute values over all steps: what a constraint limits.
    pub metric_means: Vec<f64>,
}

/// Runs `episodes` seeded episodes of `policy` under the task's own reward; `None` acts uniformly at random in the action range.
/// An episode that neither terminates nor is truncated is cut after [`EPISODE_LIMIT`] steps.
pub fn evaluate(
    policy: Option<&Policy>,
    make: MakeEnvironment,
    episodes: u64,
    seed: u64,
    threads: usize,
) -> Vec<Episode> {
    let seeds: Vec<u64> = (0..episodes).map(|i| derive_seed(seed, &[stream::EVALUATION, i])).collect();
    parallel_map(&seeds, threads, |_, &seed| {
        let mut environment = make();
        let mut actor = policy.map(Policy::actor);
        let mut rng = Rng::at(seed, &[stream::EXPLORATION]);
        let mut observation = vec![0.0; environment.observation_len()];
        let mut action = vec![0.0; environment.action_len()];
        environment.reset(seed, &mut observation);
        let mut episode = Episode {
            episode_return: 0.0,
            length: 0,
            terminated: false,
            success: false,
            metrics: Vec::new(),
            metric_means: vec![0.0; environment.metric_names().len()],
        };
        while episode.length < EPISODE_LIMIT {
            match &mut actor {
                Some(actor) => actor.act(&observation, &mut action),
                None => {
                    action.iter_mut().for_each(|a| *a = (2.0 * rng.uniform() - 1.0) as f32 * ACTION_LIMIT)
                }
            }
            let step = environment.step(&action, &mut observation);
            episode.episode_return += f64::from(step.reward);
            episode.length += 1;
            episode.terminated = step.terminated;
            for (sum, value) in episode.metric_means.iter_mut().zip(environment.metrics()) {
                *sum += f64::from(value.abs());
            }
            if step.terminated || step.truncated {
                break;
            }
        }
        episode.success = environment.success();
        episode.metrics = environment.metrics().to_vec();
        episode.metric_means.iter_mut().for_each(|sum| *sum /= episode.length as f64);
        episode
    })
}

/// Longest evaluated episode in control steps.
pub const EPISODE_LIMIT: u64 = 10_000;

/// A mean with its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Mean of the sample.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Mean of `values` with Student's 95% interval: for the few trainings that there are of a task, where resampled means (which never leave
/// the range of the sample) would claim too much. One value or none gives an interval without ends (NaN).
pub fn student(values: &[f64]) -> Interval {
    /// 97.5% quantiles of the t distribution with 1, 2, ... degrees of freedom.
    const QUANTILES: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    /// Of the normal distribution, beyond.
    const NORMAL: f64 = 1.96;
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
    let half = match values.len().checked_sub(2) {
        Some(index) => QUANTILES.get(index).copied().unwrap_or(NORMAL) * deviation / count.sqrt(),
        None => f64::NAN,
    };
    Interval { mean, low: mean - half, high: mean + half }
}

/// Mean of `values` with its 95% bootstrap interval (Efron 1979; 10 000 resamples). Empty input gives NaN.
pub fn bootstrap(values: &[f64], seed: u64) -> Interval {
    const RESAMPLES: usize = 10_000;
    let count = values.len().max(1) as f64;
    let mean = if values.is_empty() { f64::NAN } else { values.iter().sum::<f64>() / count };
    let mut rng = Rng::at(seed, &[stream::BOOTSTRAP]);
    let mut means: Vec<f64> = (0..if values.is_empty() { 0 } else { RESAMPLES })
        .map(|_| (0..values.len()).map(|_| values[rng.below(values.len())]).sum::<f64>() / count)
        .collect();
    means.sort_by(f64::total_cmp);
    let quantile = |q: f64| means.get((q * means.len() as f64) as usize).copied().unwrap_or(f64::NAN);
    Interval { mean, low: quantile(0.025), high: quantile(0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_over_three_trainings_is_as_wide_as_students_and_one_training_has_none() {
        let Interval { mean, low, high } = student(&[1.0, 2.0, 3.0]);
        // 4.303 / sqrt(3).
        assert!(mean == 2.0 && (high - 4.4843).abs() < 1e-4 && (low + 0.4843).abs() < 1e-4, "{low} {high}");
        assert!(student(&[1.0]).low.is_nan() && student(&[1.0]).mean == 1.0 && student(&[]).mean.is_nan());
    }

    #[test]
    fn an_encoder_comes_back_from_its_numbers_and_wrong_numbers_are_none() {
        let conv = Conv2d {
            height: 9,
            width: 8,
            channels: 2,
            outputs: 4,
            kernel: 3,
            stride: 2,
            activation: Activation::None,
        };
        let encoders = [
            Encoder::None,
            Encoder::Gru(Gru::new(3, 8)),
            Encoder::Conv(vec![conv, Conv2d { height: 4, width: 3, channels: 4, ..conv }]),
            Encoder::Transformer(Transformer::new(3, 4, 8, 2, 1)),
        ];
        for encoder in encoders {
            let codes = codes_of(&encoder);
            assert_eq!(encoder_of(&codes), Some(encoder));
            assert_eq!(encoder_of(&codes[1..]).filter(|other| codes_of(other) == codes), None);
        }
        for wrong in
            [&[][..], &[0, 1], &[1, 3, 0], &[2], &[3, 3, 4, 8, 3, 1], &[9], &[2, 2, 2, 1, 1, 3, 1, 0]]
        {
            assert_eq!(encoder_of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_bootstrap_interval_of_normal_draws_is_about_two_standard_errors() {
        let mut rng = Rng::at(0, &[]);
        let values: Vec<f64> = (0..400).map(|_| 5.0 + rng.normal()).collect();
        let interval = bootstrap(&values, 1);
        assert!((interval.mean - 5.0).abs() < 0.2);
        assert!((interval.high - interval.low - 4.0 * 0.05).abs() < 0.03, "{interval:?}");
        assert_eq!(interval, bootstrap(&values, 1));
    }
}
