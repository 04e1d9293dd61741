//! Broken sensors and actuators in closed loop: a fault on one channel from one tick on, the simulated robot, the
//! controller with its monitors, and an oracle that checks every command.
//!
//! Seeds and times are arguments: the same fault gives the same run, bit for bit.

use crate::link::{LinkError, Session, Transport, joint_commands};
use std::collections::VecDeque;
use std::sync::Arc;
use tendon_runtime::oracle::{Oracle, Violation};
use tendon_runtime::spec::{CompiledContract, ContractSpec, SpecError};
use tendon_runtime::{Cause, JointCommand, Profile, RawState, Refusal, State, check_state};
use tendon_sim::tasks::TaskEnvironment;
use tendon_sim::{Environment, InterfaceError, PolicyInterface, Rng, Robot, World};
use tendon_wire::message::Action;

/// Ticks given to a controller for getting ready.
const READY_TICKS: u32 = 2000;
/// Purpose of the random stream of noise.
const NOISE_STREAM: u64 = 0xfa17;

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Position of robot joint `i`.
    JointPosition(usize),
    /// Velocity of robot joint `i`.
    JointVelocity(usize),
    /// Orientation of the base.
    Orientation,
    /// Angular velocity of the base.
    Gyro,
    /// Linear velocity of the base.
    LinearVelocity,
    /// The task's own sensor `i`.
    Sensor(usize),
    /// Clock of the sensors.
    Clock,
    /// Motor of robot joint `i`.
    Actuator(usize),
}

/// How it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sensor gives zeros; a motor gives no torque.
    Off,
    /// A sensor gives its last value for ever; a joint is blocked where it is.
    Stuck,
    /// Uniform noise of the magnitude on every element.
    Noise,
    /// Off by the magnitude from one tick to the next.
    Jump,
    /// Off by what grows to the magnitude within 50 ticks.
    Bias,
    /// What was true so many ticks ago as the magnitude says.
    Delay,
    /// A motor gives the share of its torque that the magnitude says.
    Weak,
    /// A motor gives its torque limit, whatever it is told.
    Runaway,
}

impl Kind {
    /// Faults that sensors have.
    pub const SENSOR: [Self; 6] = [Self::Off, Self::Stuck, Self::Noise, Self::Jump, Self::Bias, Self::Delay];
    /// Faults that motors have.
    pub const ACTUATOR: [Self; 4] = [Self::Off, Self::Stuck, Self::Weak, Self::Runaway];
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// Where.
    pub channel: Channel,
    /// How.
    pub kind: Kind,
    /// Tick in Running from which it is there.
    pub from_tick: u64,
    /// In the channel's unit; see [`Kind`].
    pub magnitude: f32,
    /// Of the noise.
    pub seed: u64,
}

impl Fault {
    /// A fault of a size that a robot on legs or wheels notices.
    #[must_use]
    pub fn new(channel: Channel, kind: Kind, from_tick: u64, seed: u64) -> Self {
        let size = match channel {
            Channel::JointPosition(_) => 0.5,
            Channel::JointVelocity(_) => 10.0,
            Channel::Orientation => 0.5,
            Channel::Gyro => 5.0,
            Channel::LinearVelocity => 2.0,
            Channel::Sensor(_) => 1.0,
            Channel::Clock | Channel::Actuator(_) => 0.3,
        };
        let magnitude = match kind {
            Kind::Delay => 5.0,
            Kind::Weak => 0.3,
            _ => size,
        };
        Self { channel, kind, from_tick, magnitude, seed }
    }

    /// Every channel of a robot with every fault that it can have.
    #[must_use]
    pub fn every(contract: &ContractSpec, from_tick: u64, seed: u64) -> Vec<Self> {
        let joints = 0..contract.joints.len();
        let mut channels: Vec<Channel> = joints.clone().map(Channel::JointPosition).collect();
        channels.extend(joints.clone().map(Channel::JointVelocity));
        channels.extend([Channel::Orientation, Channel::Gyro, Channel::LinearVelocity]);
        channels.extend((0..contract.sensors.len()).map(Channel::Sensor));
        let sensors = channels.iter().flat_map(|&channel| Kind::SENSOR.map(|kind| (channel, kind)));
        let motors = joints.filter(|&joint| {
            let found = contract.joints.iter().enumerate();
            found
                .map(|(i, j)| (j.robot_index.unwrap_or(i as u32) as usize, j))
                .any(|(place, j)| place == joint && j.torque_limit > 0.0)
        });
        let motors = motors.flat_map(|joint| Kind::ACTUATOR.map(|kind| (Channel::Actuator(joint), kind)));
        let all = sensors.chain([(Channel::Clock, Kind::Stuck)]).chain(motors);
        all.map(|(channel, kind)| Self::new(channel, kind, from_tick, seed)).collect()
    }
}

/// Puts a fault into what is measured and into what the motors are told.
#[derive(Clone, Debug)]
pub struct Injector {
    fault: Fault,
    random: Rng,
    past: VecDeque<RawState>,
    /// Where a blocked joint stands.
    blocked_at: Option<f32>,
}

impl Injector {
    /// Of one fault.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self { fault, random: Rng::new(fault.seed, NOISE_STREAM), past: VecDeque::new(), blocked_at: None }
    }

    /// What the sensors say at `tick` of what is true.
    pub fn sense(&mut self, tick: u64, state: &mut RawState) {
        let fault = self.fault;
        let truth = state.clone();
        if tick < fault.from_tick {
            let most = if fault.kind == Kind::Delay { fault.magnitude.max(1.0) as usize } else { 1 };
            self.past.push_back(truth);
            if self.past.len() > most {
                self.past.pop_front();
            }
            return;
        }
        let past = match fault.kind {
            Kind::Delay => {
                self.past.push_back(truth);
                self.past.pop_front()
            }
            _ => self.past.front().cloned(),
        };
        let past = past.unwrap_or_else(|| state.clone());
        if fault.channel == Channel::Clock {
            state.time_us = past.time_us;
            return;
        }
        let grown = ((tick - fault.from_tick + 1) as f32 / 50.0).min(1.0) * fault.magnitude;
        let before = elements(&mut past.clone(), fault.channel).to_vec();
        for (place, before) in elements(state, fault.channel).iter_mut().zip(before) {
            match fault.kind {
                Kind::Off => *place = 0.0,
                Kind::Stuck | Kind::Delay => *place = before,
                Kind::Noise => *place += self.random.uniform(-fault.magnitude, fault.magnitude),
                Kind::Jump => *place += fault.magnitude,
                Kind::Bias => *place += grown,
                Kind::Weak | Kind::Runaway => {}
            }
        }
        if fault.channel == Channel::Orientation && fault.kind != Kind::Off {
            // What such a sensor gives out is a unit quaternion whatever it believes.
            let size = state.base_orientation.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-6);
            state.base_orientation.iter_mut().for_each(|v| *v /= size);
        }
    }

    /// What the motors do at `tick` of what they are told, robot's order; `truth`: where the joints are.
    pub fn actuate(
        &mut self,
        tick: u64,
        truth: &RawState,
        contract: &ContractSpec,
        commands: &mut [JointCommand],
    ) {
        let Fault { channel: Channel::Actuator(joint), kind, from_tick, magnitude, .. } = self.fault else {
            return;
        };
        let (Some(command), Some(&q)) = (commands.get_mut(joint), truth.joint_position.get(joint)) else {
            return;
        };
        if tick < from_tick {
            return;
        }
        let own = contract.joints.iter().enumerate();
        let own = own.map(|(i, j)| (j.robot_index.unwrap_or(i as u32) as usize, j.torque_limit));
        let limit = own.into_iter().find(|(place, _)| *place == joint).map_or(0.0, |(_, limit)| limit);
        *command = match kind {
            Kind::Off => JointCommand::default(),
            Kind::Stuck => {
                let position = *self.blocked_at.get_or_insert(q);
                let kp = 20.0 * limit;
                JointCommand {
                    position,
                    kp,
                    kd: 0.01 * kp,
                    torque_limit: 5.0 * limit,
                    ..JointCommand::default()
                }
            }
            Kind::Runaway => JointCommand { torque: limit, torque_limit: limit, ..JointCommand::default() },
            _ => JointCommand {
                kp: command.kp * magnitude,
                kd: command.kd * magnitude,
                torque: command.torque * magnitude,
                torque_limit: command.torque_limit * magnitude,
                ..*command
            },
        };
    }
}

fn elements(state: &mut RawState, channel: Channel) -> &mut [f32] {
    fn one(values: &mut [f32], index: usize) -> &mut [f32] {
        values.get_mut(index).map_or(&mut [], std::slice::from_mut)
    }
    match channel {
        Channel::JointPosition(index) => one(&mut state.joint_position, index),
        Channel::JointVelocity(index) => one(&mut state.joint_velocity, index),
        Channel::Orientation => &mut state.base_orientation,
        Channel::Gyro => &mut state.base_angular_velocity,
        Channel::LinearVelocity => &mut state.base_linear_velocity,
        Channel::Sensor(index) => one(&mut state.sensors, index),
        Channel::Clock | Channel::Actuator(_) => &mut [],
    }
}

/// A simulated robot.
pub trait Plant {
    /// What is true now.
    fn state(&mut self) -> RawState;
    /// Lets the motors follow `commands`, robot's order, for one control period. `proposed`: the raw action behind them.
    fn apply(&mut self, proposed: &[f32], commands: &[JointCommand]);
}

/// A task's robot.
pub struct TaskPlant {
    environment: TaskEnvironment,
    observation: Vec<f32>,
    action: Vec<f32>,
}

impl TaskPlant {
    /// Starts an episode.
    #[must_use]
    pub fn new(mut environment: TaskEnvironment, seed: u64) -> Self {
        let mut observation = vec![0.0; environment.observation_len()];
        let action = vec![0.0; environment.action_len()];
        environment.reset(seed, &mut observation);
        Self { environment, observation, action }
    }

    /// What a policy sees of the state after the last period, `[n_obs]`.
    #[must_use]
    pub fn observation(&self) -> &[f32] {
        &self.observation
    }
}

impl Plant for TaskPlant {
    fn state(&mut self) -> RawState {
        self.environment.raw_state().clone()
    }

    fn apply(&mut self, proposed: &[f32], commands: &[JointCommand]) {
        self.action.fill(0.0);
        self.action.iter_mut().zip(proposed).for_each(|(to, from)| *to = *from);
        let _ = self.environment.step_commands(&self.action, commands, &mut self.observation);
    }
}

/// A walking robot under a constant command.
pub struct WalkPlant {
    world: World,
    interface: PolicyInterface,
    command: Vec<f32>,
    preference: Vec<f32>,
    substeps: usize,
}

impl WalkPlant {
    /// Stands in the file's keyframe. `site`: where the IMU is.
    ///
    /// # Errors
    /// Contract and robot that do not fit.
    pub fn new(
        robot: &Arc<Robot>,
        contract: &ContractSpec,
        keyframe: &str,
        site: &str,
        command: &[f32],
    ) -> Result<Self, InterfaceError> {
        let interface = PolicyInterface::new(contract, robot, Some(site))?;
        let mut world = World::new(Arc::clone(robot));
        if let Some(keyframe) = robot.keyframe(keyframe) {
            world.apply_keyframe(keyframe);
        }
        let substeps = ((contract.control_period_s / f64::from(robot.timestep_s)).round() as usize).max(1);
        let preference = contract.preferences.iter().map(|p| p.default).collect();
        Ok(Self { world, interface, command: command.to_vec(), preference, substeps })
    }
}

impl Plant for WalkPlant {
    fn state(&mut self) -> RawState {
        self.interface.measure(&self.world, &self.command, &self.preference, &[]);
        self.interface.raw_state().clone()
    }

    fn apply(&mut self, _proposed: &[f32], commands: &[JointCommand]) {
        self.world.step(commands, self.substeps);
    }
}

/// What a run showed. Ticks count from the first in Running.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Ticks run.
    pub ticks: u64,
    /// Ticks from the fault to the first alarm or fall-back after it; `None`: not noticed.
    pub detected_after: Option<u64>,
    /// Ticks from the fault to the fall-back.
    pub fell_back_after: Option<u64>,
    /// Why it fell back.
    pub cause: Cause,
    /// State at the end.
    pub state: State,
    /// Monitors (bits) that raised an alarm after the fault.
    pub alarms: u16,
    /// Alarms and fall-backs before the fault: false ones.
    pub false_alarms: u64,
    /// Commands that broke a promise of the envelope, or torque where there must be none; the first few.
    pub violations: Vec<Violation>,
    /// How many there were.
    pub broken: u64,
    /// Largest true speed of a joint after the fault, as a share of its velocity limit.
    pub fastest: f32,
    /// Furthest that a joint truly was outside its position limits after the fault, rad or m.
    pub furthest_out: f32,
}

impl Outcome {
    /// No promise was broken.
    #[must_use]
    pub fn limits_held(&self) -> bool {
        self.broken == 0
    }
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The contract.
    #[error(transparent)]
    Contract(#[from] SpecError),
    /// The controller does not start.
    #[error("the controller did not get to Running within {READY_TICKS} ticks: {0}")]
    Start(String),
}

/// Runs a policy on a controller that already has its image, for `ticks` control periods from Running on, with a fault
/// in it. `None`: a run in which nothing breaks.
///
/// # Errors
/// The link, or a controller that does not start.
pub fn run<T: Transport>(
    session: &mut Session<T>,
    plant: &mut dyn Plant,
    contract: &ContractSpec,
    schema_hash: u64,
    fault: Option<Fault>,
    ticks: u64,
) -> Result<Outcome, FaultError> {
    let compiled = contract.compile()?;
    let mut watch = Watch::new(&compiled);
    watch.profile = Profile::of(&compiled.view(), session.identity()?.profile).unwrap_or_default();
    let period_us = u64::from(compiled.view().header.period_us);
    let mut injector = fault.map(Injector::new);
    let mut outcome = Outcome::default();
    session.pace(true)?;
    let mut time_us = 0;
    // The simulation stands still until the controller runs.
    let standing = plant.state();
    type Command<T> = fn(&mut Session<T>, u64) -> Result<(), LinkError>;
    let commands: [Command<T>; 2] = [|session, hash| session.arm(hash), |session, _| session.run()];
    for command in commands {
        let mut left = READY_TICKS;
        loop {
            time_us += period_us;
            let state = RawState { time_us, ..standing.clone() };
            let action = session.tick(&state)?;
            watch.check(&compiled, &state, &action, &mut outcome);
            match command(session, schema_hash) {
                Ok(()) => break,
                Err(LinkError::Refused { refusal: Some(Refusal::Dwell | Refusal::Pose), .. }) if left > 0 => {
                    left -= 1
                }
                Err(error) => return Err(FaultError::Start(error.to_string())),
            }
        }
        if watch.state == State::Idle || watch.state == State::Fault {
            watch.armed(&standing, &compiled);
        }
    }
    let from = fault.map_or(u64::MAX, |fault| fault.from_tick);
    for tick in 0..ticks {
        time_us += period_us;
        let truth = plant.state();
        let mut state = RawState { time_us, ..truth.clone() };
        if let Some(injector) = &mut injector {
            injector.sense(tick, &mut state);
        }
        let action = session.tick(&state)?;
        watch.check(&compiled, &state, &action, &mut outcome);
        let fell = action.state != State::Running as u8;
        if tick < from {
            outcome.false_alarms += u64::from(action.alarms != 0 || fell);
        } else {
            outcome.alarms |= action.alarms;
            if action.alarms != 0 || fell {
                outcome.detected_after.get_or_insert(tick - from);
            }
            if fell && outcome.fell_back_after.is_none() {
                outcome.fell_back_after = Some(tick - from);
                outcome.cause = Cause::from_code(action.cause).unwrap_or_default();
            }
            watch.motion(&compiled, &truth, &mut outcome);
        }
        let mut commands = joint_commands(&action);
        if let Some(injector) = &mut injector {
            injector.actuate(tick, &truth, contract, &mut commands);
        }
        plant.apply(&action.proposed, &commands);
        outcome.ticks += 1;
        outcome.state = State::from_code(action.state).unwrap_or_default();
    }
    Ok(outcome)
}

/// The oracle beside the controller.
struct Watch {
    oracle: Oracle,
    profile: Profile,
    state: State,
    /// Last measurement that the controller took, policy order.
    position: Vec<f32>,
    velocity: Vec<f32>,
}

impl Watch {
    fn new(compiled: &CompiledContract) -> Self {
        let n = compiled.view().joints.len();
        Self {
            oracle: Oracle::new(&compiled.view()),
            profile: Profile::default(),
            state: State::Idle,
            position: vec![0.0; n],
            velocity: vec![0.0; n],
        }
    }

    fn armed(&mut self, state: &RawState, compiled: &CompiledContract) {
        self.measure(compiled, state);
        self.oracle.reset(&self.position);
    }

    fn measure(&mut self, compiled: &CompiledContract, state: &RawState) {
        for (place, joint) in compiled.view().joints.iter().enumerate() {
            let at = |values: &[f32]| values.get(joint.robot_index as usize).copied().unwrap_or(0.0);
            self.position[place] = at(&state.joint_position);
            self.velocity[place] = at(&state.joint_velocity);
        }
    }

    /// Checks one answer of the controller against what it measured.
    fn check(
        &mut self,
        compiled: &CompiledContract,
        state: &RawState,
        action: &Action,
        outcome: &mut Outcome,
    ) {
        let contract = compiled.view();
        if check_state(&contract, state).is_ok() {
            self.measure(compiled, state);
        }
        self.state = State::from_code(action.state).unwrap_or_default();
        let robot = joint_commands(action);
        let ordered: Vec<JointCommand> = contract
            .joints
            .iter()
            .map(|joint| robot.get(joint.robot_index as usize).copied().unwrap_or_default())
            .collect();
        let found = if matches!(self.state, State::Ready | State::Running | State::Damping) {
            self.oracle.check(&contract, &self.profile, &self.position, &self.velocity, &ordered)
        } else {
            let limp = |c: &JointCommand| [c.kp, c.kd, c.torque, c.torque_limit] == [0.0; 4];
            match ordered.iter().position(|command| !limp(command)) {
                None => Ok(()),
                Some(joint) => {
                    let detail = format!("{:?} in {:?}", ordered[joint], self.state);
                    Err(Violation { joint: Some(joint), promise: "no torque", detail })
                }
            }
        };
        if let Err(violation) = found {
            outcome.broken += 1;
            if outcome.violations.len() < 5 {
                outcome.violations.push(violation);
            }
        }
    }

    /// What the robot truly did.
    fn motion(&self, compiled: &CompiledContract, truth: &RawState, outcome: &mut Outcome) {
        for joint in compiled.view().joints {
            let at = |values: &[f32]| values.get(joint.robot_index as usize).copied().unwrap_or(0.0);
            let (q, dq) = (at(&truth.joint_position), at(&truth.joint_velocity));
            outcome.fastest = outcome.fastest.max(dq.abs() / joint.velocity_limit);
            let out = (q - joint.position_max).max(joint.position_min - q);
            outcome.furthest_out = outcome.furthest_out.max(out);
        }
    }
}
