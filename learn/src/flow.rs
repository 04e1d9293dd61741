//! Flow-matching policies (Lipman et al. 2023; as a visuomotor policy: Black et al. 2024, pi0), and their distillation into few steps.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tendon_nn::Network;

use crate::checkpoint::Checkpoint;
use crate::communicator::{Communicator, each_has_one, joined_rows, share, sum};
use crate::driver::{Learner, Place, drive};
use crate::imitate::{Demonstrations, demonstrate, fits};
use crate::normaliser::Normaliser;
use crate::policy::{Head, Hidden, Policy, mlp};
use crate::ppo::{LearnError, Trained};
use crate::progress::{CurveRow, OnProgress};
use crate::random::{Rng, derive_seed};
use crate::regression::Regression;
use crate::rollout::{Finished, MakeEnvironment, stream};
use crate::run_folder::{FileError, RunFolder};

/// Hyper-parameters of a flow-matching policy.
///
/// The field `v(o, x, t)` is fitted to `a - x0` at `x = (1 - t) x0 + t a` for demonstrated actions `a`, noise `x0` and uniform `t`
/// (equation 23 of Lipman et al. with sigma_min = 0). The policy follows it from `x = 0`, the mean of the noise, in `steps` Euler steps.
/// Then `v(o, x, t)` is fitted, for the few steps that the controller takes, to where the many steps arrive (progressive distillation,
/// Salimans and Ho 2022, in one go).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// Episodes that the teacher demonstrates.
    pub episodes: usize,
    /// Standard deviation of the noise on the teacher's actions; the labels have none. It shows how to come back from where a student errs
    /// to (DART, Laskey et al. 2017).
    pub noise: f32,
    /// Standard deviation of the flow's noise `x0`.
    pub spread: f32,
    /// Gradient steps per iteration.
    pub updates: usize,
    /// Iterations of flow matching.
    pub iterations: u64,
    /// Euler steps of the undistilled policy.
    pub steps: usize,
    /// Euler steps after distillation; 0: none.
    pub distilled_steps: usize,
    /// Iterations of distillation.
    pub distillation_iterations: u64,
    /// Rows per gradient step.
    pub batch: usize,
    /// Hidden layers.
    pub hidden: Vec<usize>,
    /// What follows each of them.
    pub activation: Hidden,
    /// Adam's step size; falls to zero over each of the two parts.
    pub learning_rate: f32,
    /// Threads; changes no bit of the result.
    pub threads: usize,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            episodes: 128,
            noise: 0.3,
            spread: 1.0,
            updates: 500,
            iterations: 20,
            steps: 10,
            distilled_steps: 2,
            distillation_iterations: 10,
            batch: 256,
            hidden: vec![128, 128],
            activation: Hidden::Swish,
            learning_rate: 1e-3,
            threads: 2,
        }
    }
}

impl FlowConfig {
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
            ("batch", self.batch),
            ("threads", self.threads),
        ];
        match counts.into_iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(LearnError::Config { field, problem: "0 is not above 0".into() }),
            None => Ok(()),
        }
    }
}

/// Fits a flow to what `teacher` does, then distils it. Checkpoints and resumption as for [`crate::train`], ranks as for
/// [`crate::imitate`].
///
/// # Errors
/// As [`crate::imitate`].
pub fn train_flow(
    config: &FlowConfig,
    make: MakeEnvironment,
    teacher: &Policy,
    ranks: &dyn Communicator,
    seed: u64,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<Trained, LearnError> {
    drive(Flow::new(config, make, teacher, ranks, seed)?, config, run, on_progress)
}

struct Flow<'a> {
    config: FlowConfig,
    ranks: &'a dyn Communicator,
    seed: u64,
    field: Regression,
    /// The many-step policy that is being distilled.
    whole: Option<Policy>,
    normaliser: Normaliser,
    /// Normalised; made again from the seed after a restart.
    data: Demonstrations,
    iteration: u64,
}

impl<'a> Flow<'a> {
    fn new(
        config: &FlowConfig,
        make: MakeEnvironment,
        teacher: &Policy,
        ranks: &'a dyn Communicator,
        seed: u64,
    ) -> Result<Self, LearnError> {
        config.check()?;
        each_has_one(ranks, "batch", config.batch)?;
        let (n_obs, n_act) = fits(make, teacher, false)?;
        let drivers: Vec<(u64, &Policy)> = (0..config.episodes as u64)
            .map(|episode| (derive_seed(seed, &[stream::EPISODE, 0, episode]), teacher))
            .collect();
        let mut data = demonstrate(make, teacher, &drivers, config.noise, false, (config.threads, ranks));
        let mut normaliser = Normaliser::new(n_obs);
        normaliser.update(&data.observations);
        let raw = data.observations.clone();
        normaliser.freeze().apply(&raw, &mut data.observations);
        let shape = mlp(n_obs + n_act + 1, &config.hidden, n_act, config.activation);
        let rng = &mut Rng::at(seed, &[stream::WEIGHTS]);
        Ok(Self {
            field: Regression::new(Network::dense(shape), 0.01, config.threads, rng),
            whole: None,
            normaliser,
            data,
            iteration: 0,
            config: config.clone(),
            ranks,
            seed,
        })
    }

    fn n_act(&self) -> usize {
        self.field.network.outputs()
    }

    /// `(o, x, t)` and `a - x0` of one random demonstration.
    fn flow_row(&self, rng: &mut Rng, x: &mut Vec<f32>, y: &mut Vec<f32>) {
        let n_act = self.n_act();
        let n_obs = self.normaliser.freeze().offset.len();
        let r = rng.below(self.data.actions.len() / n_act);
        let t = rng.uniform() as f32;
        x.extend_from_slice(&self.data.observations[r * n_obs..(r + 1) * n_obs]);
        for &a in &self.data.actions[r * n_act..(r + 1) * n_act] {
            let start = self.config.spread * rng.normal() as f32;
            x.push((1.0 - t) * start + t * a);
            y.push(a - start);
        }
        x.push(t);
    }

    /// `(o, x, t)` on the few-step way, and the velocity that arrives where the many steps do.
    fn distillation_row(
        &self,
        ends: &[f32],
        n_obs: usize,
        rng: &mut Rng,
        x: &mut Vec<f32>,
        y: &mut Vec<f32>,
    ) {
        let n_act = self.n_act();
        let r = rng.below(ends.len() / n_act);
        let t = rng.below(self.config.distilled_steps) as f32 / self.config.distilled_steps as f32;
        x.extend_from_slice(&self.data.observations[r * n_obs..(r + 1) * n_obs]);
        // A straight way from 0 at t = 0 to the end at t = 1.
        x.extend(ends[r * n_act..(r + 1) * n_act].iter().map(|end| t * end));
        y.extend_from_slice(&ends[r * n_act..(r + 1) * n_act]);
        x.push(t);
    }
}

impl Learner for Flow<'_> {
    const KIND: &'static str = "flow";

    fn ranks(&self) -> &dyn Communicator {
        self.ranks
    }

    fn place(&self) -> Place {
        let distilled = self.config.distilled_steps > 0;
        Place {
            iteration: self.iteration,
            iterations: self.config.iterations
                + if distilled { self.config.distillation_iterations } else { 0 },
            checkpoint_interval: 1,
            steps: self.iteration * self.config.updates as u64,
        }
    }

    fn iterate(&mut self) -> Result<(CurveRow, Vec<Finished>), LearnError> {
        let started = Instant::now();
        let n_obs = self.normaliser.freeze().offset.len();
        let flowing = self.iteration < self.config.iterations;
        if !flowing && self.whole.is_none() {
            self.whole = Some(self.policy());
        }
        let mut ends = Vec::new();
        if let Some(whole) = &self.whole {
            // The data are normalised already.
            let plain = Policy {
                normaliser: crate::FrozenNormaliser { offset: vec![0.0; n_obs], scale: vec![1.0; n_obs] },
                ..whole.clone()
            };
            let rows = share(self.ranks, self.data.begins.len());
            plain.actor().act(&self.data.observations[rows.start * n_obs..rows.end * n_obs], &mut ends);
            ends = joined_rows(self.ranks, ends);
        }
        let (begin, length) = if flowing {
            (0, self.config.iterations)
        } else {
            (self.config.iterations, self.config.distillation_iterations)
        };
        let mut rng = Rng::at(self.seed, &[stream::SHUFFLE, self.iteration]);
        let (mut x, mut y, mut loss) = (Vec::new(), Vec::new(), 0.0);
        for update in 0..self.config.updates {
            x.clear();
            y.clear();
            for _ in 0..self.config.batch {
                if flowing {
                    self.flow_row(&mut rng, &mut x, &mut y);
                } else {
                    self.distillation_row(&ends, n_obs, &mut rng, &mut x, &mut y);
                }
            }
            let done = (self.iteration - begin) as f32 + update as f32 / self.config.updates as f32;
            let rate = self.config.learning_rate * (1.0 - done / length as f32);
            // All ranks draw the whole batch, so that it is the same on any number of them.
            let (own, width) = (share(self.ranks, self.config.batch), self.field.network.inputs());
            let x = &x[own.start * width..own.end * width];
            let y = &y[own.start * self.n_act()..own.end * self.n_act()];
            let now = self.field.step(x, y, (self.ranks, self.config.batch), rate);
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
        if let Some(whole) = &self.whole {
            checkpoint.put("whole", &whole.parameters);
        }
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        checkpoint.same_seed(self.seed)?;
        self.iteration = checkpoint.counter("iteration")?;
        self.field.restore(checkpoint, "field")?;
        if self.iteration > self.config.iterations {
            let parameters = checkpoint.array_f32("whole", self.field.parameters.len())?;
            let head = Head::Flow { steps: self.config.steps };
            self.whole = Some(Policy { head, parameters, ..self.policy() });
        }
        Ok(())
    }

    fn policy(&self) -> Policy {
        let distilled = self.iteration > self.config.iterations;
        let steps = if distilled { self.config.distilled_steps } else { self.config.steps };
        Policy {
            normaliser: self.normaliser.freeze(),
            head: Head::Flow { steps },
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

    #[test]
    fn two_distilled_steps_come_near_the_teacher_and_a_killed_run_has_the_same_bits() {
        let mut keep_on = |_: &Progress| ControlFlow::Continue(());
        let config =
            PpoConfig { total_steps: 150_000, environments: 16, discount: 0.95, ..PpoConfig::default() };
        let teacher = train(&config, &pendulum, 1, None, &mut keep_on).unwrap().policy;
        let mean = |policy: Option<&Policy>| {
            evaluate(policy, &pendulum, 50, 7, 2).iter().map(|e| e.episode_return).sum::<f64>() / 50.0
        };
        let config = FlowConfig {
            hidden: vec![64, 64],
            updates: 200,
            iterations: 12,
            distillation_iterations: 6,
            ..FlowConfig::default()
        };
        let whole = train_flow(&config, &pendulum, &teacher, &Alone, 3, None, &mut keep_on).unwrap();
        assert_eq!(whole.policy.head, Head::Flow { steps: 2 });
        let [random, student, expected] = [None, Some(&whole.policy), Some(&teacher)].map(mean);
        let share = (student - random) / (expected - random);
        assert!(share > 0.8, "{student} against {expected}, random {random}");

        let run = RunFolder::create(scratch("flow")).unwrap();
        for stop_after in [5, 14] {
            let mut until = |p: &Progress| {
                if p.done < stop_after { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            train_flow(&config, &pendulum, &teacher, &Alone, 3, Some(&run), &mut until).unwrap();
        }
        let one = FlowConfig { threads: 1, ..config };
        let resumed = train_flow(&one, &pendulum, &teacher, &Alone, 3, Some(&run), &mut keep_on).unwrap();
        assert_eq!(resumed.policy, whole.policy);
    }
}
