//! Learning from a teacher: behaviour cloning, DAgger, and distillation of a teacher that sees more than its student.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tendon_sim::{Environment, Step};

use crate::architecture::{NetworkConfig, NetworkKind};
use crate::checkpoint::Checkpoint;
use crate::communicator::{Communicator, each_has_one, joined, joined_rows, share, sum};
use crate::driver::{Learner, Place, drive};
use crate::normaliser::Normaliser;
use crate::parallel::parallel_map;
use crate::policy::{Head, Hidden, Policy};
use crate::ppo::{LearnError, Trained};
use crate::progress::{CurveRow, OnProgress};
use crate::random::{Rng, derive_seed};
use crate::regression::Regression;
use crate::rollout::{ACTION_LIMIT, Finished, MakeEnvironment, stream};
use crate::run_folder::{FileError, RunFolder};
use crate::sequences::Rows;

/// Hyper-parameters of learning from a teacher.
///
/// Each round runs episodes, lets the teacher say what it would have done in every state, adds these to all earlier ones and fits the
/// student to the whole by the squared error (DAgger: Ross, Gordon and Bagnell 2011, algorithm 3.1). With `rounds = 1` this is
/// behaviour cloning: the teacher drives alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImitationConfig {
    /// Rounds; 1 is behaviour cloning.
    pub rounds: u64,
    /// Episodes per round.
    pub episodes: usize,
    /// Probability that the teacher drives an episode of round `i`: `beta^i`; the student drives the others.
    pub beta: f64,
    /// Standard deviation of the noise on the driver's actions; the labels have none (DART, Laskey et al. 2017).
    pub noise: f32,
    /// Gradient steps per round.
    pub updates: usize,
    /// Rows per step.
    pub batch: usize,
    /// Hidden layers of the student.
    pub hidden: Vec<usize>,
    /// What follows each of them, and each convolution.
    pub activation: Hidden,
    /// What comes before the hidden layers.
    pub network: NetworkConfig,
    /// Adam's step size.
    pub learning_rate: f32,
    /// The teacher sees the observation and what the task calls privileged; the student the observation alone.
    pub privileged_teacher: bool,
    /// Threads; changes no bit of the result.
    pub threads: usize,
}

impl Default for ImitationConfig {
    fn default() -> Self {
        Self {
            rounds: 10,
            episodes: 16,
            beta: 0.5,
            noise: 0.1,
            updates: 1000,
            batch: 256,
            hidden: vec![64, 64],
            activation: Hidden::Tanh,
            network: NetworkConfig::default(),
            learning_rate: 1e-3,
            privileged_teacher: false,
            threads: 2,
        }
    }
}

impl ImitationConfig {
    /// Behaviour cloning: one round that the teacher drives, with enough noise to show how to come back (DART, Laskey et al. 2017).
    pub fn cloning() -> Self {
        Self { rounds: 1, episodes: 128, noise: 0.3, updates: 5000, ..Self::default() }
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the first such setting.
    pub fn check(&self) -> Result<(), LearnError> {
        let counts = [
            ("rounds", self.rounds as usize),
            ("episodes", self.episodes),
            ("updates", self.updates),
            ("batch", self.batch),
            ("threads", self.threads),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return Err(LearnError::Config { field, problem: "0 is not above 0".into() });
        }
        if !(0.0..=1.0).contains(&self.beta) {
            return Err(LearnError::Config {
                field: "beta",
                problem: format!("{} is not in 0..1", self.beta),
            });
        }
        self.network.check_sequence()?;
        if self.batch < self.network.sequence() {
            return Err(LearnError::Config {
                field: "batch",
                problem: format!(
                    "{} rows are less than a sequence of {}",
                    self.batch,
                    self.network.sequence()
                ),
            });
        }
        Ok(())
    }
}

/// Trains a student on what `teacher` does. Checkpoints and resumption as for [`crate::train`]. Over `ranks` each runs its share of the
/// episodes, all get all demonstrations, and each learns from its share of every batch.
///
/// # Errors
/// As [`crate::train`]; also when the teacher has another observation or action than the task.
pub fn imitate(
    config: &ImitationConfig,
    make: MakeEnvironment,
    teacher: &Policy,
    ranks: &dyn Communicator,
    seed: u64,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<Trained, LearnError> {
    drive(Imitation::new(config, make, teacher, ranks, seed)?, config, run, on_progress)
}

/// An environment whose observation also holds what only training sees: for a privileged teacher.
pub struct WithPrivileged(Box<dyn Environment>);

impl WithPrivileged {
    /// Shows all of `environment`.
    pub fn new(environment: Box<dyn Environment>) -> Self {
        Self(environment)
    }
}

impl Environment for WithPrivileged {
    fn observation_len(&self) -> usize {
        self.0.observation_len() + self.0.privileged_len()
    }
    fn action_len(&self) -> usize {
        self.0.action_len()
    }
    fn reset(&mut self, seed: u64, observation: &mut [f32]) {
        let (seen, hidden) = observation.split_at_mut(self.0.observation_len());
        self.0.reset(seed, seen);
        self.0.privileged(hidden);
    }
    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
        let (seen, hidden) = observation.split_at_mut(self.0.observation_len());
        let step = self.0.step(action, seen);
        self.0.privileged(hidden);
        step
    }
    fn metric_names(&self) -> &[String] {
        self.0.metric_names()
    }
    fn metrics(&self) -> &[f32] {
        self.0.metrics()
    }
    fn success(&self) -> bool {
        self.0.success()
    }
    fn level(&self) -> f32 {
        self.0.level()
    }
    fn set_level(&mut self, level: f32) {
        self.0.set_level(level);
    }
    fn start_curriculum(&mut self) {
        self.0.start_curriculum();
    }
}

/// States and the teacher's actions in them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demonstrations {
    /// `[rows, n_obs]`.
    pub(crate) observations: Vec<f32>,
    /// `[rows, n_act]`.
    pub(crate) actions: Vec<f32>,
    /// Whether an episode begins with the row, `[rows]`.
    pub(crate) begins: Vec<bool>,
    /// On rank 0.
    pub(crate) finished: Vec<Finished>,
}

/// Runs seeded episodes of `drivers`, with noise on their actions, and notes the teacher's action in every state. Each rank runs its
/// share; all get all of it.
pub(crate) fn demonstrate(
    make: MakeEnvironment,
    teacher: &Policy,
    drivers: &[(u64, &Policy)],
    noise: f32,
    privileged_teacher: bool,
    (threads, ranks): (usize, &dyn Communicator),
) -> Demonstrations {
    let own = &drivers[share(ranks, drivers.len())];
    let parts = parallel_map(own, threads, |_, &(seed, driver)| {
        let mut environment = make();
        let (n_obs, n_act) = (environment.observation_len(), environment.action_len());
        let n_privileged = if privileged_teacher { environment.privileged_len() } else { 0 };
        let mut rng = Rng::at(seed, &[stream::EXPLORATION]);
        let mut state = vec![0.0; n_obs + n_privileged];
        let (mut teacher, mut driver) = (teacher.actor(), (driver != teacher).then(|| driver.actor()));
        let (mut label, mut action) = (Vec::new(), vec![0.0; n_act]);
        let mut out = Demonstrations::default();
        let mut finished = Finished { step: 0, episode_return: 0.0, length: 0, success: false };
        environment.reset(seed, &mut state[..n_obs]);
        while finished.length < crate::policy::EPISODE_LIMIT {
            environment.privileged(&mut state[n_obs..]);
            teacher.act(&state, &mut label);
            match &mut driver {
                Some(driver) => driver.act(&state[..n_obs], &mut action),
                None => action.clone_from(&label),
            }
            out.begins.push(finished.length == 0);
            out.observations.extend_from_slice(&state[..n_obs]);
            out.actions.extend_from_slice(&label);
            for a in &mut action {
                *a = (*a + noise * rng.normal() as f32).clamp(-ACTION_LIMIT, ACTION_LIMIT);
            }
            let step = environment.step(&action, &mut state[..n_obs]);
            finished.episode_return += f64::from(step.reward);
            finished.length += 1;
            if step.terminated || step.truncated {
                break;
            }
        }
        finished.success = environment.success();
        out.finished.push(finished);
        out
    });
    let mut whole = Demonstrations::default();
    for part in parts {
        whole.observations.extend(part.observations);
        whole.actions.extend(part.actions);
        whole.begins.extend(part.begins);
        whole.finished.extend(part.finished);
    }
    let begins = whole.begins.iter().map(|begins| f32::from(u8::from(*begins))).collect();
    Demonstrations {
        observations: joined_rows(ranks, whole.observations),
        actions: joined_rows(ranks, whole.actions),
        begins: joined_rows(ranks, begins).iter().map(|begins| *begins != 0.0).collect(),
        finished: joined(ranks, whole.finished),
    }
}

/// Refuses a teacher that does not fit the task.
pub(crate) fn fits(
    make: MakeEnvironment,
    teacher: &Policy,
    privileged_teacher: bool,
) -> Result<(usize, usize), LearnError> {
    let probe = make();
    let (n_obs, n_act) = (probe.observation_len(), probe.action_len());
    let sees = n_obs + if privileged_teacher { probe.privileged_len() } else { 0 };
    if (teacher.observation_len(), teacher.action_len()) != (sees, n_act) {
        return Err(LearnError::Config {
            field: "teacher",
            problem: format!(
                "it has {} observations and {} actions, the task {sees} and {n_act}",
                teacher.observation_len(),
                teacher.action_len()
            ),
        });
    }
    Ok((n_obs, n_act))
}

/// Updates after which what a GRU remembers of the demonstrations is computed again (R2D2's stored state, Kapturowski et al. 2019,
/// which ages with the weights).
const REMEMBERED: usize = 100;

struct Imitation<'a> {
    config: ImitationConfig,
    make: MakeEnvironment<'a>,
    teacher: Policy,
    ranks: &'a dyn Communicator,
    seed: u64,
    student: Regression,
    normaliser: Normaliser,
    data: Demonstrations,
    n_obs: usize,
    round: u64,
}

impl<'a> Imitation<'a> {
    fn new(
        config: &ImitationConfig,
        make: MakeEnvironment<'a>,
        teacher: &Policy,
        ranks: &'a dyn Communicator,
        seed: u64,
    ) -> Result<Self, LearnError> {
        config.check()?;
        each_has_one(ranks, "batch", config.batch / config.network.sequence())?;
        let (n_obs, n_act) = fits(make, teacher, config.privileged_teacher)?;
        let network = config.network.build(n_obs, &config.hidden, n_act, config.activation)?;
        let student = Regression::new(network, 0.01, config.threads, &mut Rng::at(seed, &[stream::WEIGHTS]));
        Ok(Self {
            config: config.clone(),
            make,
            teacher: teacher.clone(),
            ranks,
            seed,
            student,
            normaliser: Normaliser::new(n_obs),
            data: Demonstrations::default(),
            n_obs,
            round: 0,
        })
    }
}

impl Learner for Imitation<'_> {
    const KIND: &'static str = "imitation";

    fn ranks(&self) -> &dyn Communicator {
        self.ranks
    }

    fn place(&self) -> Place {
        Place {
            iteration: self.round,
            iterations: self.config.rounds,
            checkpoint_interval: 1,
            steps: (self.data.observations.len() / self.n_obs) as u64,
        }
    }

    fn iterate(&mut self) -> Result<(CurveRow, Vec<Finished>), LearnError> {
        let config = &self.config;
        let mut rng = Rng::at(self.seed, &[stream::SHUFFLE, self.round]);
        let student = self.policy();
        let by_teacher = config.beta.powi(self.round as i32);
        let drivers: Vec<(u64, &Policy)> = (0..config.episodes as u64)
            .map(|episode| {
                let seed = derive_seed(self.seed, &[stream::EPISODE, self.round, episode]);
                (seed, if rng.uniform() < by_teacher { &self.teacher } else { &student })
            })
            .collect();
        let started = Instant::now();
        let new = demonstrate(
            self.make,
            &self.teacher,
            &drivers,
            config.noise,
            config.privileged_teacher,
            (config.threads, self.ranks),
        );
        let simulation_s = started.elapsed().as_secs_f64();
        let started = Instant::now();
        self.normaliser.update(&new.observations);
        self.data.observations.extend(&new.observations);
        self.data.actions.extend(&new.actions);
        self.data.begins.extend(&new.begins);
        let sequence = config.network.sequence();
        // Whole sequences only.
        let rows = self.data.begins.len() / sequence * sequence;
        if rows == 0 {
            let problem = format!("{sequence} for {} demonstrated steps", self.data.begins.len());
            return Err(LearnError::Config { field: "network.sequence_steps", problem });
        }
        let begins = &self.data.begins[..rows];
        let mut inputs = vec![0.0; rows * self.n_obs];
        self.normaliser.freeze().apply(&self.data.observations[..rows * self.n_obs], &mut inputs);
        let (mut memory, mut units, mut loss) = (Vec::new(), Vec::new(), 0.0);
        for update in 0..config.updates {
            if update == 0 || (config.network.kind == NetworkKind::Gru && update % REMEMBERED == 0) {
                memory = self.student.memories(&inputs, begins, sequence);
            }
            units.clear();
            units.extend((0..config.batch / sequence).map(|_| rng.below(rows / sequence)));
            let data = Rows { sequence, states: &inputs, begins, memory: &memory };
            // To zero at the end of the round, so that the last bits of noise in the gradient average out.
            let rate = config.learning_rate * (1.0 - update as f32 / config.updates as f32);
            let (own, total) = (&units[share(self.ranks, units.len())], units.len() * sequence);
            let now = self.student.step_on(&data, &self.data.actions, own, (self.ranks, total), rate);
            loss += (now - loss) / (update + 1).min(100) as f64;
        }
        if !self.student.parameters.iter().all(|p| p.is_finite()) {
            return Err(LearnError::NotFinite { iteration: self.round, what: "a weight" });
        }
        self.round += 1;
        let row = CurveRow {
            policy_loss: sum(self.ranks, loss),
            learning_rate: f64::from(config.learning_rate),
            simulation_s,
            update_s: started.elapsed().as_secs_f64(),
            ..CurveRow::of_episodes(&new.finished)
        };
        Ok((row, new.finished))
    }

    fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.put_counter("seed", self.seed);
        checkpoint.put_counter("round", self.round);
        self.student.save(checkpoint, "student");
        self.normaliser.save(checkpoint, "observations");
        checkpoint.put("data.observations", &self.data.observations);
        checkpoint.put("data.actions", &self.data.actions);
        let begins: Vec<f32> = self.data.begins.iter().map(|begins| f32::from(u8::from(*begins))).collect();
        checkpoint.put("data.begins", &begins);
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        checkpoint.same_seed(self.seed)?;
        self.round = checkpoint.counter("round")?;
        self.student.restore(checkpoint, "student")?;
        self.normaliser.restore(checkpoint, "observations")?;
        let read = |name: &str| -> Result<Vec<f32>, FileError> {
            Ok(checkpoint.any_array(name)?.iter().map(|&v| v as f32).collect())
        };
        self.data.observations = read("data.observations")?;
        self.data.actions = read("data.actions")?;
        self.data.begins = read("data.begins")?.iter().map(|begins| *begins != 0.0).collect();
        let rows = self.data.begins.len();
        if self.data.observations.len() != rows * self.n_obs
            || self.data.actions.len() != rows * self.teacher.action_len()
        {
            return Err(checkpoint.error("data", format!("arrays of different lengths for {rows} rows")));
        }
        Ok(())
    }

    fn policy(&self) -> Policy {
        Policy {
            normaliser: self.normaliser.freeze(),
            head: Head::Direct,
            network: self.student.network.clone(),
            parameters: self.student.parameters.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::communicator::Alone;
    use crate::mlp;
    use crate::pendulum::{SIDE, pendulum, pictures, without_speed};
    use crate::run_folder::tests::scratch;
    use crate::{PpoConfig, evaluate, train};

    fn teacher() -> Policy {
        let config =
            PpoConfig { total_steps: 150_000, environments: 16, discount: 0.95, ..PpoConfig::default() };
        train(&config, &pendulum, 1, None, &mut |_| ControlFlow::Continue(())).unwrap().policy
    }

    fn mean(policy: &Policy) -> f64 {
        mean_of(policy, &pendulum)
    }

    fn mean_of(policy: &Policy, make: MakeEnvironment) -> f64 {
        evaluate(Some(policy), make, 50, 7, 2).iter().map(|e| e.episode_return).sum::<f64>() / 50.0
    }

    /// `teacher`, which sees angle and speed, as one that sees `before` other numbers first.
    fn behind(teacher: &Policy, before: usize) -> Policy {
        let (n_obs, n_act) = (before + 3, teacher.action_len());
        let wide = mlp(n_obs, &[64, 64], n_act, Hidden::Tanh);
        let first = wide.layers()[0].outputs;
        let mut normaliser = teacher.normaliser.clone();
        normaliser.offset.splice(0..0, vec![0.0; before]);
        normaliser.scale.splice(0..0, vec![1.0; before]);
        let parameters = [vec![0.0; before * first], teacher.parameters.clone()].concat();
        Policy { normaliser, head: Head::Direct, network: tendon_nn::Network::dense(wide), parameters }
    }

    #[test]
    fn a_student_without_speed_needs_memory_to_follow_a_teacher_with_it_and_a_killed_distillation_has_the_same_bits()
     {
        let mut keep_on = |_: &crate::Progress| ControlFlow::Continue(());
        // Order of the observation with privileged numbers: cos, sin, speed, as the teacher has them.
        let teacher = teacher();
        let expected = mean(&teacher);
        let student = |kind| {
            let network = NetworkConfig { units: 32, window: 4, ..NetworkConfig::of(kind) };
            let config = ImitationConfig {
                privileged_teacher: true,
                rounds: 4,
                updates: 1000,
                hidden: vec![32],
                network,
                ..ImitationConfig::default()
            };
            let trained = imitate(&config, &without_speed, &teacher, &Alone, 3, None, &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap();
            (mean_of(&trained.policy, &without_speed), trained.policy, config)
        };
        let dense = student(NetworkKind::Mlp).0;
        for kind in [NetworkKind::Gru, NetworkKind::Transformer] {
            let (remembering, policy, config) = student(kind);
            println!("teacher {expected:.0}, dense {dense:.0}, {kind:?} {remembering:.0}");
            assert!(
                remembering > expected - 60.0 && remembering > dense + 300.0,
                "{kind:?}: {remembering} against {dense}"
            );
            let run = RunFolder::create(scratch(&format!("distill-{kind:?}"))).unwrap();
            let mut stop = |p: &crate::Progress| {
                if p.done < 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            imitate(&config, &without_speed, &teacher, &Alone, 3, Some(&run), &mut stop).unwrap();
            let one = ImitationConfig { threads: 1, ..config };
            let resumed =
                imitate(&one, &without_speed, &teacher, &Alone, 3, Some(&run), &mut keep_on).unwrap();
            assert_eq!(resumed.policy, policy);
        }
    }

    #[test]
    fn convolutions_over_pictures_follow_a_teacher_that_measures() {
        let teacher = teacher();
        let expected = mean(&teacher);
        let network = NetworkConfig {
            image: [SIDE, SIDE, 2],
            filters: vec![8, 16],
            ..NetworkConfig::of(NetworkKind::Conv)
        };
        let config = ImitationConfig {
            privileged_teacher: true,
            rounds: 3,
            updates: 700,
            hidden: vec![32],
            activation: Hidden::Relu,
            network,
            ..ImitationConfig::default()
        };
        let behind = behind(&teacher, SIDE * SIDE * 2);
        let mut keep_on = |_: &crate::Progress| ControlFlow::Continue(());
        let trained = imitate(&config, &pictures, &behind, &Alone, 3, None, &mut keep_on).unwrap();
        let seeing = mean_of(&trained.policy, &pictures);
        println!("teacher {expected:.0}, pictures {seeing:.0}");
        assert!(seeing > expected - 100.0, "{seeing} against {expected}");
    }

    /// A teacher of the pendulum without speed is trained with what it alone sees, and its run resumes.
    #[test]
    fn a_killed_teacher_resumes_with_the_same_bits() {
        let seeing = || Box::new(WithPrivileged::new(without_speed())) as Box<dyn Environment>;
        let config = PpoConfig {
            total_steps: 6 * 1024,
            environments: 8,
            hidden: vec![16],
            checkpoint_interval: 2,
            ..PpoConfig::default()
        };
        let mut keep_on = |_: &crate::Progress| ControlFlow::Continue(());
        let whole = train(&config, &seeing, 3, None, &mut keep_on).unwrap();
        let run = RunFolder::create(scratch("teacher")).unwrap();
        let mut until =
            |p: &crate::Progress| if p.done < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        train(&config, &seeing, 3, Some(&run), &mut until).unwrap();
        assert_eq!(train(&config, &seeing, 3, Some(&run), &mut keep_on).unwrap().policy, whole.policy);
        assert_eq!(whole.policy.observation_len(), 3);
    }

    #[test]
    fn a_student_does_as_well_as_its_teacher_and_a_killed_run_has_the_same_bits() {
        let teacher = teacher();
        let expected = mean(&teacher);
        let mut keep_on = |_: &crate::Progress| ControlFlow::Continue(());
        for config in [
            ImitationConfig { updates: 2000, ..ImitationConfig::cloning() },
            ImitationConfig { rounds: 3, updates: 500, ..ImitationConfig::default() },
        ] {
            let whole = imitate(&config, &pendulum, &teacher, &Alone, 3, None, &mut keep_on).unwrap();
            let student = mean(&whole.policy);
            assert!(student > expected - 60.0, "{student} against {expected}");
            let one = ImitationConfig { threads: 1, ..config.clone() };
            assert_eq!(
                imitate(&one, &pendulum, &teacher, &Alone, 3, None, &mut keep_on).unwrap().policy,
                whole.policy
            );
            let run = RunFolder::create(scratch(&format!("imitate-{}", config.rounds))).unwrap();
            let mut stop = |_: &crate::Progress| ControlFlow::Break(());
            imitate(&config, &pendulum, &teacher, &Alone, 3, Some(&run), &mut stop).unwrap();
            let resumed = imitate(&config, &pendulum, &teacher, &Alone, 3, Some(&run), &mut keep_on).unwrap();
            assert_eq!(resumed.policy, whole.policy);
        }
    }

    #[test]
    fn a_teacher_of_another_task_is_refused() {
        let other = Policy {
            normaliser: Normaliser::new(2).freeze(),
            head: Head::Direct,
            network: tendon_nn::Network::dense(mlp(2, &[4], 1, Hidden::Tanh)),
            parameters: vec![0.0; 17],
        };
        let mut keep_on = |_: &crate::Progress| ControlFlow::Continue(());
        let result = imitate(&ImitationConfig::default(), &pendulum, &other, &Alone, 1, None, &mut keep_on);
        assert!(result.unwrap_err().to_string().contains("2 observations"));
    }
}
