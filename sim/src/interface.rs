//! Between a world and a policy: the runtime's observation, action mapping and envelope, fed from simulation.

use tendon_runtime::spec::{CompiledContract, ContractSpec, SpecError};
use tendon_runtime::{
    Envelope, JointCommand, MAX_JOINTS, ObservationBuilder, RawState, StateFault, check_state, map_action,
};

use crate::robot::{Robot, Site};
use crate::world::World;

/// A contract that does not fit the robot.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The contract itself does not hold.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Too many joints for the wire.
    #[error(
        "{robot}: {count} joints, the link carries at most {MAX_JOINTS}; fix the joints the policy does not need"
    )]
    TooManyJoints {
        /// Model name.
        robot: String,
        /// Joints found.
        count: usize,
    },
    /// Contract and robot name different joints.
    #[error(
        "contract joint {index} is \"{contract}\", the robot {robot} has \"{found}\" there; correct name or robot_index"
    )]
    Joint {
        /// Place in the contract.
        index: usize,
        /// Name in the contract.
        contract: String,
        /// Model name.
        robot: String,
        /// Name at that place of the robot.
        found: String,
    },
    /// No such site.
    #[error("{robot}: no site \"{site}\" for the IMU; the file has {known}")]
    Imu {
        /// Model name.
        robot: String,
        /// Name asked for.
        site: String,
        /// Names there are.
        known: String,
    },
}

/// One policy's view of one world. It measures the raw state as the robot's sensors would, and everything after that
/// is the runtime's own code, the same that runs on the controller.
pub struct PolicyInterface {
    contract: CompiledContract,
    builder: ObservationBuilder,
    envelope: Envelope,
    history: Vec<f32>,
    last_action: Vec<f32>,
    imu: Option<Site>,
    raw: RawState,
    commands: Vec<JointCommand>,
}

impl PolicyInterface {
    /// Fits `spec` to `robot`. `imu` names the site of the inertial sensor; without it the base itself is measured.
    ///
    /// # Errors
    /// The contract does not hold, or names other joints than the robot has.
    pub fn new(spec: &ContractSpec, robot: &Robot, imu: Option<&str>) -> Result<Self, InterfaceError> {
        let contract = spec.compile()?;
        let count = robot.joints.len();
        if count > MAX_JOINTS {
            return Err(InterfaceError::TooManyJoints { robot: robot.name.clone(), count });
        }
        for (index, (joint, record)) in spec.joints.iter().zip(contract.view().joints).enumerate() {
            let found = robot.joints.get(record.robot_index as usize).map_or("nothing", |j| j.name.as_str());
            if found != joint.name || spec.joints.len() != count {
                return Err(InterfaceError::Joint {
                    index,
                    contract: joint.name.clone(),
                    robot: robot.name.clone(),
                    found: found.to_owned(),
                });
            }
        }
        let imu = match imu {
            None => None,
            Some(name) => Some(robot.site(name).cloned().ok_or_else(|| InterfaceError::Imu {
                robot: robot.name.clone(),
                site: name.to_owned(),
                known: robot.sites.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
            })?),
        };
        let header = contract.view().header;
        let (history, actions) = (header.history_len as usize, usize::from(header.n_actions));
        Ok(Self {
            builder: ObservationBuilder::default(),
            envelope: Envelope::default(),
            history: vec![0.0; history],
            last_action: vec![0.0; actions],
            imu,
            raw: RawState::default(),
            commands: vec![JointCommand::default(); count],
            contract,
        })
    }

    /// Length of an observation, `n_obs`.
    #[must_use]
    pub fn observation_len(&self) -> usize {
        self.contract.view().header.n_observation as usize
    }

    /// Length of a raw action, `n_act`.
    #[must_use]
    pub fn action_len(&self) -> usize {
        self.last_action.len()
    }

    /// The compiled contract.
    #[must_use]
    pub fn contract(&self) -> &CompiledContract {
        &self.contract
    }

    /// The raw state of the last observation, as it goes over the wire.
    #[must_use]
    pub fn raw_state(&self) -> &RawState {
        &self.raw
    }

    /// The same, for what happens to it on its way: noise, delay, loss.
    pub(crate) fn raw_state_mut(&mut self) -> &mut RawState {
        &mut self.raw
    }

    /// The last raw action, `[n_act]`; zero at the start of an episode.
    #[must_use]
    pub fn last_action(&self) -> &[f32] {
        &self.last_action
    }

    /// Starts an episode: histories, last action and rate limits forget the past.
    pub fn reset(&mut self, world: &World) {
        self.builder.reset();
        self.history.fill(0.0);
        self.last_action.fill(0.0);
        self.raw = RawState::default();
        let (position, _) = self.measured(world);
        self.envelope.reset(&position);
    }

    /// Measures the world into [`PolicyInterface::raw_state`]; `command`, `preference` and `sensors` are the
    /// contract's.
    pub fn measure(&mut self, world: &World, command: &[f32], preference: &[f32], sensors: &[f32]) {
        let motion = match &self.imu {
            Some(site) => world.site_motion(site),
            None => world.base_motion(),
        };
        let joints = 0..self.commands.len();
        self.raw.sequence = self.raw.sequence.wrapping_add(1);
        self.raw.time_us = world.time_us();
        self.raw.base_orientation = motion.quaternion;
        self.raw.base_angular_velocity = motion.angular_velocity;
        self.raw.base_linear_velocity = motion.linear_velocity;
        self.raw.joint_position = joints.clone().map(|i| world.joint_position(i)).collect();
        self.raw.joint_velocity = joints.map(|i| world.joint_velocity(i)).collect();
        self.raw.command = command.iter().copied().collect();
        self.raw.preference = preference.iter().copied().collect();
        self.raw.sensors = sensors.iter().copied().collect();
    }

    /// Builds the observation `[n_obs]` of the measured raw state.
    ///
    /// # Errors
    /// The raw state has wrong counts or is not finite: the simulation diverged.
    pub fn observe(&mut self, observation: &mut [f32]) -> Result<(), StateFault> {
        let contract = self.contract.view();
        check_state(&contract, &self.raw)?;
        self.builder.build(&contract, &self.raw, &self.last_action, &mut self.history, observation)
    }

    /// Maps a raw action `[n_act]` through the envelope to commands in the robot's joint order, `[n_joints]`.
    pub fn act(&mut self, world: &World, action: &[f32]) -> &[JointCommand] {
        // As on the controller, an action that is not finite is none: the envelope damps, the last one stays.
        if action.iter().all(|a| a.is_finite()) {
            self.last_action.copy_from_slice(action);
        }
        let (position, velocity) = self.measured(world);
        let contract = self.contract.view();
        let mut commands = map_action(&contract, action);
        self.envelope.apply(&contract, &position, &velocity, &mut commands);
        for (record, command) in contract.joints.iter().zip(commands) {
            self.commands[record.robot_index as usize] = command;
        }
        &self.commands
    }

    /// Joint positions and velocities in the policy's order.
    fn measured(&self, world: &World) -> (Vec<f32>, Vec<f32>) {
        let joints = self.contract.view().joints.iter().map(|j| j.robot_index as usize);
        joints.map(|i| (world.joint_position(i), world.joint_velocity(i))).unzip()
    }
}
