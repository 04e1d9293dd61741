//! Diffusion policies (Ho, Jain and Abbeel 2020; as a visuomotor policy: Chi et al. 2023), and their distillation into few steps.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tendon_nn::Network;

use crate::checkpoint::Checkpoint;
use crate::communicator::{Communicator, each_has_one, share, sum};
use crate::driver::{Learner, Place, drive};
use crate::imitate::{demonstrate, fits};
use crate::normaliser::Normaliser;
use crate::policy::{Head, Hidden, Policy, TIME_FEATURES, mlp, time_features};
use crate::ppo::{LearnError, Trained};
use crate::progress::{CurveRow, OnProgress};
use crate::random::{Rng, derive_seed};
use crate::regression::Regression;
use crate::rollout::{Finished, MakeEnvironment, stream};
use crate::run_folder::{FileError, RunFolder};

/// Hyper-parameters of a diffusion policy.
///
/// An action `a` is mixed with noise `e` to `x = cos(phi) a + sin(phi) e`, `phi = pi t / 2`: the cosine schedule of Nichol and Dhariwal 2021
/// with offset 0. The network sees the observation, `x` and features of `t` and is fitted to `v = cos(phi) e - sin(phi) a` for random `t`
/// (Salimans and Ho 2022, appendix D), which is DDPM's simple loss under another weight and has a meaning at pure noise. The policy goes
/// from noise at `t = 1` to an action at `t = 0` in `steps` steps of DDIM without noise of their own (Song, Meng and Ermon 2021,
/// equation 12); with this schedule a step turns `x` by `pi / (2 steps)`: `x = cos(d) x - sin(d) v`.
///
/// Then the steps are halved until `distilled_steps` are left: each time the network learns to do in one step what it did in two
/// (progressive distillation, Salimans and Ho 2022, algorithm 2).
///
/// **Noise.** Another noise can lead to another mode of the demonstrations. A controller draws nothing: the noise is one draw from
/// `noise_seed`, a constant of the exported file, so the policy is deterministic and keeps to its mode. Another seed is another policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Episodes that each teacher demonstrates.
    pub episodes: usize,
    /// Standard deviation of the noise on the teachers' actions; the labels have none. It shows how to come back from where a student errs
    /// to (DART, Laskey et al. 2017).
    pub noise: f32,
    /// Gradient steps per iteration.
    pub updates: usize,
    /// Iterations of denoising.
    pub iterations: u64,
    /// Steps of the undistilled policy; `distilled_steps` times a power of two.
    pub steps: usize,
    /// Steps after distillation; as many as `steps`: none.
    pub distilled_steps: usize,
    /// Iterations for each halving of the steps.
    pub distillation_iterations: u64,
    /// Of the noise that the policy starts from.
    pub noise_seed: u64,
    /// Rows per gradient step.
    pub batch: usize,
    /// Hidden layers.
    pub hidden: Vec<usize>,
    /// What follows each of them.
    pub activation: Hidden,
    /// Adam's step size; falls to zero over denoising and over each halving.
    pub learning_rate: f32,
    /// Threads; changes no bit of the result.
    pub threads: usize,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        Self {
            episodes: 128,
            noise: 0.3,
            updates: 1000,
            iterations: 20,
            steps: 8,
            distilled_steps: 2,
            distillation_iterations: 8,
            noise_seed: 1,
            batch: 256,
            hidden: vec![128, 128],
            activation: Hidden::Swish,
            learning_rate: 1e-3,
            threads: 2,
        }
    }
}

impl DiffusionConfig {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the first such setting.
    pub fn check(&self) -> Result<(), LearnError> {
        let counts = [
            ("episodes", self.episodes),
            ("updates", self.updates),
            ("iterations", self.iterations as usize),
            ("steps", self.steps),
            ("distilled_steps", self.distilled_steps),
            ("distillation_iterations", self.distillation_iterations as usize),
            ("batch", self.batch),
            ("threads", self.threads),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return Err(LearnError::Config { field, problem: "0 is not above 0".into() });
        }
        let halved = self.steps / self.distilled_steps;
        if halved * self.distilled_steps != self.steps || !halved.is_power_of_two() {
            let problem = format!("{} is not {} times a power of two", self.steps, self.distilled_steps);
            return Err(LearnError::Config { field: "steps", problem });
        }
        Ok(())
    }
}

/// Fits a diffusion policy to what `teachers` do, one after the other, then distils it. Checkpoints and resumption as for
/// [`crate::train`], ranks as for [`crate::imitate`].
///
/// # Errors
/// As [`crate::imitate`].
pub fn train_diffusion(
    config: &DiffusionConfig,
    make: MakeEnvironment,
    teachers: &[Policy],
    ranks: &dyn Communicator,
    seed: u64,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<Trained, LearnError> {
    config.check()?;
    each_has_one(ranks, "batch", config.batch)?;
    let mut data = Pairs::default();
    for (index, teacher) in teachers.iter().enumerate() {
        fits(make, teacher, false)?;
        let drivers: Vec<(u64, &Policy)> = (0..config.episodes as u64)
            .map(|episode| (derive_seed(seed, &[stream::EPISODE, index as u64, episode]), teacher))
            .collect();
        let shown = demonstrate(make, teacher, &drivers, config.noise, false, (config.threads, ranks));
        data.observations.extend(shown.observations);
        data.actions.extend(shown.actions);
    }
    let probe = make();
    let widths = (probe.observation_len(), probe.action_len());
    if data.actions.is_empty() {
        return Err(LearnError::Config { field: "teacher", problem: "there is none".into() });
    }
    drive(Diffusion::new(config, data, widths, ranks, seed), config, run, on_progress)
}

/// Observations and actions in them, row by row.
#[derive(Default)]
struct Pairs {
    observations: Vec<f32>,
    actions: Vec<f32>,
}

struct Diffusion<'a> {
    config: DiffusionConfig,
    ranks: &'a dyn Communicator,
    seed: u64,
    field: Regression,
    /// The weights that are being distilled.
    slower: Option<Vec<f32>>,
    normaliser: Normaliser,
    /// Normalised; made again from the seed after a restart.
    data: Pairs,
    n_obs: usize,
    n_act: usize,
    iteration: u64,
}

impl<'a> Diffusion<'a> {
    fn new(
        config: &DiffusionConfig,
        mut data: Pairs,
        (n_obs, n_act): (usize, usize),
        ranks: &'a dyn Communicator,
        seed: u64,
    ) -> Self {
        let mut normaliser = Normaliser::new(n_obs);
        normaliser.update(&data.observations);
        let raw = data.observations.clone();
        normaliser.freeze().apply(&raw, &mut data.observations);
        let shape = mlp(n_obs + n_act + TIME_FEATURES, &config.hidden, n_act, config.activation);
        let rng = &mut Rng::at(seed, &[stream::WEIGHTS]);
        Self {
            field: Regression::new(Network::dense(shape), 0.01, config.threads, rng),
            slower: None,
            normaliser,
            data,
            n_obs,
            n_act,
            iteration: 0,
            config: config.clone(),
            ranks,
            seed,
        }
    }

    fn halvings(&self) -> u64 {
        u64::from((self.config.steps / self.config.distilled_steps).ilog2())
    }

    /// Halvings begun before `iteration`, 0 while denoising; and where in its part that iteration is, 0 to 1.
    fn part(&self, iteration: u64) -> (u64, f32) {
        let DiffusionConfig { iterations, distillation_iterations: each, .. } = self.config;
        match iteration.checked_sub(iterations) {
            None => (0, iteration as f32 / iterations as f32),
            Some(after) => (after / each + 1, (after % each) as f32 / each as f32),
        }
    }

    /// Noisy actions, `[rows, n_obs + n_act + time]`, their times, and `v`: this rank's share of a batch, all of which every rank draws.
    fn rows(&self, times: impl Fn(&mut Rng) -> f32, rng: &mut Rng) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (n_obs, n_act) = (self.n_obs, self.n_act);
        let (mut x, mut at, mut v) = (Vec::new(), Vec::new(), Vec::new());
        let own = share(self.ranks, self.config.batch);
        let mut noise = vec![0.0; n_act];
        for row in 0..self.config.batch {
            let r = rng.below(self.data.actions.len() / n_act);
            let t = times(rng);
            noise.fill_with(|| rng.normal() as f32);
            if !own.contains(&row) {
                continue;
            }
            let (sin, cos) = angle(t).sin_cos();
            x.extend_from_slice(&self.data.observations[r * n_obs..(r + 1) * n_obs]);
            for (&a, noise) in self.data.actions[r * n_act..(r + 1) * n_act].iter().zip(&noise) {
                x.push(cos * a + sin * noise);
                v.push(cos * noise - sin * a);
            }
            x.extend(time_features(t));
            at.push(t);
        }
        (x, at, v)
    }

    /// Rows at the ends of a step of `steps`, and the `v` that goes in one step where `slower` goes in two: from `x` at `t` over `x'` to
    /// `x''` at `t''`, `v = (cos(d) x - x'') / sin(d)` with the angle `d` between them.
    fn distilled(
        &self,
        steps: usize,
        slower: &Network,
        weights: &[f32],
        rng: &mut Rng,
    ) -> (Vec<f32>, Vec<f32>) {
        let (x, at, _) = self.rows(|rng| (rng.below(steps) + 1) as f32 / steps as f32, rng);
        let (n_obs, n_act) = (self.n_obs, self.n_act);
        let width = n_obs + n_act + TIME_FEATURES;
        let half = 0.5 / steps as f32;
        let (weights, mut workspace) = (slower.weights(weights), slower.workspace());
        let mut moved = x.clone();
        let mut v = vec![0.0; at.len() * n_act];
        for later in [0.0, half] {
            for (row, t) in moved.chunks_exact_mut(width).zip(&at) {
                row[n_obs + n_act..].copy_from_slice(&time_features(t - later));
            }
            weights.step(&moved, &mut [], &mut v, &mut workspace);
            let (sin, cos) = angle(half).sin_cos();
            for (row, v) in moved.chunks_exact_mut(width).zip(v.chunks_exact(n_act)) {
                row[n_obs..n_obs + n_act].iter_mut().zip(v).for_each(|(x, v)| *x = cos * *x - sin * v);
            }
        }
        let (sin, cos) = angle(2.0 * half).sin_cos();
        let both = x.chunks_exact(width).zip(moved.chunks_exact(width));
        let target = both.flat_map(|(from, to)| {
            let range = n_obs..n_obs + n_act;
            from[range.clone()].iter().zip(&to[range]).map(move |(from, to)| (cos * from - to) / sin)
        });
        let target = target.collect();
        (x, target)
    }
}

/// Of the mixture at time `t`.
fn angle(t: f32) -> f32 {
    std::f32::consts::FRAC_PI_2 * t
}

impl Learner for Diffusion<'_> {
    const KIND: &'static str = "diffusion";

    fn ranks(&self) -> &dyn Communicator {
        self.ranks
    }

    fn place(&self) -> Place {
        let DiffusionConfig { iterations, distillation_iterations, updates, .. } = self.config;
        Place {
            iteration: self.iteration,
            iterations: iterations + self.halvings() * distillation_iterations,
            checkpoint_interval: 1,
            steps: self.iteration * updates as u64,
        }
    }

    fn iterate(&mut self) -> Result<(CurveRow, Vec<Finished>), LearnError> {
        let started = Instant::now();
        let (halving, begun) = self.part(self.iteration);
        if halving > 0 && begun == 0.0 {
            self.slower = Some(self.field.parameters.clone());
        }
        let length = if halving == 0 { self.config.iterations } else { self.config.distillation_iterations };
        let mut rng = Rng::at(self.seed, &[stream::SHUFFLE, self.iteration]);
        let mut loss = 0.0;
        for update in 0..self.config.updates {
            let (x, v) = match &self.slower {
                Some(slower) => {
                    let steps = self.config.steps >> halving;
                    self.distilled(steps, &self.field.network, slower, &mut rng)
                }
                None => {
                    let (x, _, v) = self.rows(|rng| rng.uniform() as f32, &mut rng);
                    (x, v)
                }
            };
            let done = begun + update as f32 / self.config.updates as f32 / length as f32;
            let rate = self.config.learning_rate * (1.0 - done);
            let now = self.field.step(&x, &v, (self.ranks, self.config.batch), rate);
            loss += now / self.config.updates as f64;
        }
        if !self.field.parameters.iter().all(|p| p.is_finite()) {
            return Err(LearnError::NotFinite { iteration: self.iteration, what: "a weight" });
        }
        self.iteration += 1;
        let row = CurveRow {
            policy_loss: sum(self.ranks, loss),
            learning_rate: f64::from(self.config.learning_rate),
            update_s: started.elapsed().as_secs_f64(),
            ..CurveRow::default()
        };
        Ok((row, Vec::new()))
    }

    fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.put_counter("seed", self.seed);
        checkpoint.put_counter("iteration", self.iteration);
        self.field.save(checkpoint, "field");
        if let Some(slower) = &self.slower {
            checkpoint.put("slower", slower);
        }
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        checkpoint.same_seed(self.seed)?;
        self.iteration = checkpoint.counter("iteration")?;
        self.field.restore(checkpoint, "field")?;
        if self.iteration > self.config.iterations {
            self.slower = Some(checkpoint.array_f32("slower", self.field.parameters.len())?);
        }
        Ok(())
    }

    fn policy(&self) -> Policy {
        // In the middle of a halving it already takes the fewer steps.
        let halved = self.iteration.checked_sub(1).map_or(0, |last| self.part(last).0);
        Policy {
            normaliser: self.normaliser.freeze(),
            head: Head::Diffusion { steps: self.config.steps >> halved, seed: self.config.noise_seed },
            network: self.field.network.clone(),
            parameters: self.field.parameters.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::communicator::Alone;
    use crate::pendulum::pendulum;
    use crate::run_folder::tests::scratch;
    use crate::{PpoConfig, Progress, evaluate, train};

    fn keep_on(_: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Left or right of an obstacle, as likely, a little off: `+-0.6`, whatever is observed.
    fn two_ways() -> Pairs {
        let mut rng = Rng::at(9, &[]);
        let mut data = Pairs::default();
        for _ in 0..4000 {
            data.observations.push(rng.normal() as f32);
            let side = if rng.uniform() < 0.5 { -0.6 } else { 0.6 };
            data.actions.push(side + 0.05 * rng.normal() as f32);
        }
        data
    }

    /// Shares of noises that lead left, between, and right.
    fn ways(policy: &Policy) -> [f64; 3] {
        let Head::Diffusion { steps, .. } = policy.head else { panic!("{:?}", policy.head) };
        let mut counts = [0.0; 3];
        let mut action = Vec::new();
        for seed in 0..400 {
            let policy = Policy { head: Head::Diffusion { steps, seed }, ..policy.clone() };
            policy.actor().act(&[(seed % 5) as f32 * 0.4 - 0.8], &mut action);
            let way = if action[0] < -0.4 { 0 } else { usize::from(action[0] > 0.4) + 1 };
            counts[way] += 1.0 / 400.0;
        }
        counts
    }

    #[test]
    fn two_ways_of_the_data_are_both_sampled_also_in_two_steps_where_cloning_goes_between() {
        let config = DiffusionConfig {
            hidden: vec![64, 64],
            updates: 300,
            iterations: 15,
            ..DiffusionConfig::default()
        };
        let mut learner = Diffusion::new(&config, two_ways(), (1, 1), &Alone, 1);
        while learner.place().iteration < config.iterations {
            learner.iterate().unwrap();
        }
        let many = ways(&learner.policy());
        while learner.place().iteration < learner.place().iterations {
            learner.iterate().unwrap();
        }
        assert_eq!(learner.policy().head, Head::Diffusion { steps: 2, seed: 1 });
        let few = ways(&learner.policy());
        println!("left, between, right: {many:?} in eight steps, {few:?} in two");
        for [left, between, right] in [many, few] {
            assert!(left > 0.35 && right > 0.35 && between < 0.12, "{left} {between} {right}");
        }

        let data = two_ways();
        let network = Network::dense(mlp(1, &[64, 64], 1, Hidden::Swish));
        let mut clone = Regression::new(network, 0.01, 1, &mut Rng::at(1, &[]));
        for update in 0..500 {
            let rows = update * 256 % 3700..update * 256 % 3700 + 256;
            clone.step(&data.observations[rows.clone()], &data.actions[rows], (&Alone, 256), 1e-3);
        }
        assert!(
            clone.infer(&[-0.8, 0.0, 0.8]).iter().all(|a| a.abs() < 0.2),
            "the mean of both is nobody's way"
        );
    }

    #[test]
    fn two_distilled_steps_come_near_the_teacher_and_a_killed_run_has_the_same_bits() {
        let config =
            PpoConfig { total_steps: 150_000, environments: 16, discount: 0.95, ..PpoConfig::default() };
        let teacher = train(&config, &pendulum, 1, None, &mut keep_on).unwrap().policy;
        let mean = |policy: Option<&Policy>| {
            evaluate(policy, &pendulum, 50, 7, 2).iter().map(|e| e.episode_return).sum::<f64>() / 50.0
        };
        let config = DiffusionConfig {
            hidden: vec![64, 64],
            updates: 200,
            iterations: 12,
            distillation_iterations: 4,
            ..DiffusionConfig::default()
        };
        let teachers = [teacher];
        let whole = train_diffusion(&config, &pendulum, &teachers, &Alone, 3, None, &mut keep_on).unwrap();
        let [random, student, expected] = [None, Some(&whole.policy), Some(&teachers[0])].map(mean);
        let share = (student - random) / (expected - random);
        println!("teacher {expected:.0}, two steps {student:.0}, random {random:.0}");
        assert!(share > 0.9, "{student} against {expected}, random {random}");

        let run = RunFolder::create(scratch("diffusion")).unwrap();
        for stop_after in [5, 12, 13, 17] {
            let mut until = |p: &Progress| {
                if p.done < stop_after { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            train_diffusion(&config, &pendulum, &teachers, &Alone, 3, Some(&run), &mut until).unwrap();
        }
        let one = DiffusionConfig { threads: 1, ..config };
        let resumed =
            train_diffusion(&one, &pendulum, &teachers, &Alone, 3, Some(&run), &mut keep_on).unwrap();
        assert_eq!(resumed.policy, whole.policy);
        assert_eq!(Policy::of_run(&run).unwrap().unwrap(), whole.policy);
    }

    #[test]
    fn steps_that_do_not_halve_are_refused() {
        let config = DiffusionConfig { steps: 6, ..DiffusionConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("steps: 6 is not 2 times a power of two"));
    }
}
