//! Hardware in the loop: the controller runs the policy, this side the physics, one raw state and one action
//! per tick. In lockstep the controller's clock is the simulation's, so a run on any controller is the same
//! run, bit for bit.

use crate::link::{LinkError, Session, Transport, joint_commands};
use crate::recording::Recorder;
use std::time::Instant;
use tendon_runtime::{Cause, JointCommand, RawState, Refusal, State};
use tendon_sim::tasks::TaskEnvironment;
use tendon_sim::{Environment, TrajectoryHash};
use tendon_wire::message::Action;

/// Ticks given to a controller for getting ready before something is wrong.
const READY_TICKS: u32 = 10_000;

/// Why a closed loop ended early.
#[derive(Debug, thiserror::Error)]
pub enum HilError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The recording.
    #[error("recording {file}: {source}; free space or choose another folder")]
    Recording {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The controller left Running.
    #[error("tick {tick}: the controller fell back to {state:?} because of {cause:?}")]
    FellBack {
        /// From 0.
        tick: u64,
        /// Its state.
        state: State,
        /// Why.
        cause: Cause,
    },
}

/// A controller in lockstep, ready to tick.
pub struct Loop<'s, T> {
    session: &'s mut Session<T>,
    period_us: u64,
    time_us: u64,
    tick: u64,
    last: RawState,
    stats: TickStats,
    recorder: Option<&'s mut Recorder>,
}

/// What the ticks of a run took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TickStats {
    /// Ticks in Running.
    pub ticks: u64,
    /// Round trip on the host's clock, us, one per tick.
    pub round_trip_us: Vec<f64>,
    /// On the controller's clock, us, one per tick.
    pub on_controller_us: Vec<f64>,
    /// Ticks whose command the envelope changed.
    pub limited: u64,
}

impl<'s, T: Transport> Loop<'s, T> {
    /// Arms the controller and takes it to Running while the simulation stands still in `state`: with its velocities zero, or the
    /// controller's monitors would rightly say that positions do not follow them.
    ///
    /// # Errors
    /// The controller's refusal, once waiting does not help.
    pub fn start(
        session: &'s mut Session<T>,
        period_us: u64,
        schema_hash: u64,
        state: &RawState,
        recorder: Option<&'s mut Recorder>,
    ) -> Result<Self, HilError> {
        session.pace(true)?;
        let (last, stats) = (state.clone(), TickStats::default());
        let mut this = Self { session, period_us, time_us: 0, tick: 0, last, stats, recorder };
        let mut standing = state.clone();
        standing.joint_velocity.fill(0.0);
        standing.base_linear_velocity.fill(0.0);
        standing.base_angular_velocity.fill(0.0);
        this.persist(&standing, |session| session.arm(schema_hash))?;
        this.persist(&standing, Session::run)?;
        Ok(this)
    }

    /// Sends the standing state until `command` is taken.
    fn persist(
        &mut self,
        state: &RawState,
        command: impl Fn(&mut Session<T>) -> Result<(), LinkError>,
    ) -> Result<(), HilError> {
        for tick in 0.. {
            self.exchange(state)?;
            match command(self.session) {
                Ok(()) => break,
                Err(LinkError::Refused { refusal: Some(Refusal::Dwell | Refusal::Pose), .. })
                    if tick < READY_TICKS => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends a state at the next period's time, whatever state the controller is in.
    pub(crate) fn exchange(&mut self, state: &RawState) -> Result<Action, HilError> {
        self.time_us += self.period_us;
        self.last.clone_from(state);
        let state = RawState { time_us: self.time_us, ..state.clone() };
        let action = self.session.tick(&state)?;
        if let Some(recorder) = &mut self.recorder {
            recorder.tick(&state, &action).map_err(|source| HilError::Recording {
                file: recorder.path().display().to_string(),
                source,
            })?;
        }
        Ok(action)
    }

    /// One tick: what the robot measured in, one command per joint out.
    ///
    /// # Errors
    /// The link's, or that the controller fell back.
    pub fn tick(&mut self, state: &RawState) -> Result<(Vec<JointCommand>, Action), HilError> {
        let before = Instant::now();
        let action = self.exchange(state)?;
        if action.state != State::Running as u8 {
            return Err(HilError::FellBack {
                tick: self.tick,
                state: State::from_code(action.state).unwrap_or_default(),
                cause: Cause::from_code(action.cause).unwrap_or_default(),
            });
        }
        self.tick += 1;
        self.stats.ticks += 1;
        self.stats.round_trip_us.push(before.elapsed().as_secs_f64() * 1e6);
        self.stats.on_controller_us.push(action.tick_us.into());
        self.stats.limited += u64::from(action.limited != 0);
        Ok((joint_commands(&action), action))
    }

    /// The link between two ticks.
    pub(crate) fn session(&mut self) -> &mut Session<T> {
        self.session
    }

    /// Stops the policy and waits, with the simulation standing still, until the controller has damped.
    ///
    /// # Errors
    /// The link's.
    pub fn finish(mut self) -> Result<TickStats, HilError> {
        match self.session.stop() {
            // It fell back by itself before.
            Ok(()) | Err(LinkError::Refused { refusal: Some(Refusal::State), .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let last = self.last.clone();
        for _ in 0..READY_TICKS {
            if self.exchange(&last)?.state != State::Damping as u8 {
                break;
            }
        }
        Ok(self.stats)
    }
}

/// Figures of a task run on a controller.
#[derive(Clone, Debug)]
pub struct TaskRun {
    /// Sum of the task's rewards.
    pub total_reward: f64,
    /// The success condition held at the end.
    pub success: bool,
    /// Hash over raw states and commands of every tick.
    pub hash: u64,
    /// Reward of each step.
    pub rewards: Vec<f32>,
    /// Position of each joint per step, rad (m).
    pub joint_positions: Vec<Vec<f32>>,
    /// Raw action per step.
    pub actions: Vec<Vec<f32>>,
    /// Timing.
    pub stats: TickStats,
    /// Misses that the controller counted.
    pub misses: u32,
    /// Deepest stack that the controller saw, bytes; 0: not measured.
    pub stack_bytes: u32,
}

/// Runs a task for `ticks` control periods on a controller that already has the image. `each_tick` sees the
/// environment after every step. An episode that terminates ends the run.
///
/// # Errors
/// As [`Loop::tick`].
pub fn run_task<T: Transport>(
    session: &mut Session<T>,
    environment: &mut TaskEnvironment,
    schema_hash: u64,
    seed: u64,
    ticks: u64,
    recorder: Option<&mut Recorder>,
    mut each_tick: impl FnMut(u64, &TaskEnvironment),
) -> Result<TaskRun, HilError> {
    let mut observation = vec![0.0; environment.observation_len()];
    environment.reset(seed, &mut observation);
    let period_us = (environment.contract().control_period_s * 1e6).round() as u64;
    let mut control = Loop::start(session, period_us, schema_hash, environment.raw_state(), recorder)?;
    let mut hash = TrajectoryHash::default();
    let (mut rewards, mut joint_positions, mut actions) = (Vec::new(), Vec::new(), Vec::new());
    for tick in 0..ticks {
        let state = environment.raw_state().clone();
        let (commands, action) = control.tick(&state)?;
        hash.update(&state.joint_position);
        hash.update(&state.joint_velocity);
        for command in &commands {
            hash.update(&[command.position, command.velocity, command.torque, command.kp, command.kd]);
        }
        joint_positions.push(state.joint_position.to_vec());
        actions.push(action.proposed.to_vec());
        let step = environment.step_commands(&action.proposed, &commands, &mut observation);
        rewards.push(step.reward);
        each_tick(tick, environment);
        if step.terminated {
            break;
        }
    }
    let stats = control.finish()?;
    let telemetry = session.observe()?;
    Ok(TaskRun {
        total_reward: rewards.iter().map(|&r| f64::from(r)).sum(),
        success: environment.success(),
        hash: hash.value(),
        rewards,
        joint_positions,
        actions,
        stats,
        misses: telemetry.misses,
        stack_bytes: telemetry.stack_bytes,
    })
}
