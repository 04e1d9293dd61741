//! Records of the contract: joints, observation terms, actions, limits and monitors.

use bytemuck::{Pod, Zeroable};

/// Start of the contract section. The counts say how many records of each kind follow, in the
/// order joints, terms, actions, profiles, sensors, values (`f32`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct ContractHeader {
    /// Control period.
    pub period_us: u32,
    /// [`JointRecord`]s, in the policy's order.
    pub n_joints: u16,
    /// [`TermRecord`]s.
    pub n_terms: u16,
    /// [`ActionRecord`]s: one per element of the raw action.
    pub n_actions: u16,
    /// Length of the command in the raw state.
    pub n_commands: u16,
    /// Length of the preference inputs in the raw state.
    pub n_preferences: u16,
    /// Length of the task's own sensors in the raw state.
    pub n_sensors: u16,
    /// Length of the observation, history included.
    pub n_observation: u32,
    /// `f32` of history.
    pub history_len: u32,
    /// `f32` values behind the records.
    pub n_values: u32,
    /// Age of a raw state beyond which it counts as stale.
    pub state_timeout_us: u32,
    /// Silence of the host after which the controller falls back.
    pub heartbeat_timeout_us: u32,
    /// How long the last setpoint is held before damping starts.
    pub hold_us: u32,
    /// How long damping lasts before the state is left.
    pub damp_us: u32,
    /// Healthy raw states required before arming and before running.
    pub dwell_us: u32,
    /// Largest distance to the default pose at which `Run` is taken, rad or m.
    pub ready_tolerance: f32,
    /// Speed of the way to the default pose, rad/s or m/s.
    pub ready_velocity: f32,
    /// Most motoring power of all joints together, W.
    pub power_budget: f32,
    /// [`ProfileRecord`]s; 0: one that leaves the limits as they are.
    pub n_profiles: u16,
    /// Profile after boot and with a new contract.
    pub default_profile: u16,
    /// Thresholds and actions of the monitors.
    pub monitors: MonitorRecord,
}

/// Limits for a way of operating: of each kind `min(limit * scale, cap)`, in the order of [`limit`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct ProfileRecord {
    /// Name, UTF-8, zero-padded.
    pub name: [u8; 16],
    /// Share of the joint's limit, above 0 and at most 1.
    pub scale: [f32; limit::COUNT],
    /// Absolute limit, in the joint's own unit; [`f32::MAX`]: none.
    pub cap: [f32; limit::COUNT],
}

/// Places in [`ProfileRecord::scale`] and [`ProfileRecord::cap`].
pub mod limit {
    /// rad/s or m/s; also of position setpoints.
    pub const VELOCITY: usize = 0;
    /// rad/s2 or m/s2.
    pub const ACCELERATION: usize = 1;
    /// rad/s3 or m/s3.
    pub const JERK: usize = 2;
    /// N m or N.
    pub const TORQUE: usize = 3;
    /// N m/s or N/s.
    pub const TORQUE_RATE: usize = 4;
    /// W, of all joints together.
    pub const POWER: usize = 5;
    /// How many there are.
    pub const COUNT: usize = 6;
    /// Names, in order.
    pub const NAMES: [&str; COUNT] = ["velocity", "acceleration", "jerk", "torque", "torque_rate", "power"];
}

/// Monitors: what each does when it raises an alarm, and when it does. A threshold of [`f32::MAX`] is never reached.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct MonitorRecord {
    /// [`monitor_action`], by [`monitor`].
    pub actions: [u8; 8],
    /// Ticks with an alarm among the last 16 until the action is taken, 1 to 16, by [`monitor`].
    pub needed: [u8; 8],
    /// Raw states with an unchanged sensor clock until the age alarm.
    pub age_ticks: u16,
    /// Raw states with an unchanged, formerly changing linear velocity, while joints move, until it counts as stuck.
    pub stuck_ticks: u16,
    /// A position moves at most this share of `velocity_limit` times the time between two raw states.
    pub position_jump: f32,
    /// A velocity changes between two raw states by at most this share of `velocity_limit`.
    pub velocity_jump: f32,
    /// Mean difference between a step of the position and the integral of the velocity, as a share of `velocity_limit`
    /// times the time between two raw states.
    pub joint_noise: f32,
    /// Way that a joint goes by one of its two sensors while the other stands still, until that one counts as stuck
    /// or off, rad or m.
    pub stuck_path: f32,
    /// Fastest turn of the base, rad/s.
    pub turn_limit: f32,
    /// Largest change of the angular velocity between two raw states, rad/s.
    pub gyro_jump: f32,
    /// Largest change of the linear velocity between two raw states, m/s.
    pub linear_jump: f32,
    /// Mean difference between turn of the orientation and integral of the angular velocity, rad.
    pub turn_noise: f32,
    /// Mean size of the second difference of the linear velocity, m/s.
    pub linear_noise: f32,
    /// Way that the base turns by one of its two sensors while the other stands still, rad.
    pub stuck_turn: f32,
    /// Swing of the commanded torque, in shares of `torque_limit`, ...
    pub response_swing: f32,
    /// ... during which a healthy joint moves at least so far, rad or m.
    pub response_path: f32,
    /// Share of `velocity_limit` beyond which a joint runs away.
    pub overspeed: f32,
}

/// Values of [`MonitorRecord::actions`].
pub mod monitor_action {
    /// Not watched.
    pub const OFF: u8 = 0;
    /// Alarms are counted.
    pub const COUNT: u8 = 1;
    /// The controller falls back.
    pub const FALL_BACK: u8 = 2;
}

/// Monitors: places in [`MonitorRecord::actions`], bits of `alarms` in messages.
pub mod monitor {
    /// The sensors' clock stands still.
    pub const AGE: usize = 0;
    /// A channel that had values gives only zeros while the robot moves.
    pub const OFF: usize = 1;
    /// A channel gives the same value again and again while the robot moves.
    pub const STUCK: usize = 2;
    /// Two sensors of one motion do not agree, or one flickers.
    pub const NOISE: usize = 3;
    /// A channel changed further than the robot can move.
    pub const JUMP: usize = 4;
    /// A joint does not follow its commands, or runs away.
    pub const RESPONSE: usize = 5;
    /// The observation is unlike the recorded ones.
    pub const ABSTENTION: usize = 6;
    /// How many there are.
    pub const COUNT: usize = 7;
    /// Names, in order.
    pub const NAMES: [&str; COUNT] = ["age", "off", "stuck", "noise", "jump", "response", "abstention"];
}

/// Plausibility of one of the task's own sensors.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct SensorRecord {
    /// Lowest plausible value.
    pub low: f32,
    /// Highest plausible value.
    pub high: f32,
    /// Largest change between two raw states.
    pub jump: f32,
    /// Mean size of the second difference.
    pub noise: f32,
    /// Raw states with an unchanged, formerly changing value, while joints move, until it counts as stuck; 0: never.
    pub stuck_ticks: u32,
}

/// Start of the abstention section. `f32` values follow: `low[n]`, `high[n]`, `mean[n]`, `inverse_scale[n]`, `gain[rank]`,
/// `basis[rank, n]`.
///
/// With `z = (x - mean) * inverse_scale` and `c = basis z`, the density score of an observation `x` is
/// `residual |z|^2 + sum gain c^2`, the range score the largest `|x - middle| / half` over its elements; the score is the
/// larger of `density_scale * density` and `range_scale * range`. An observation counts as unlike the recorded ones
/// when at least `needed` of the last `window` scores are above `threshold`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct AbstentionHeader {
    /// Elements of an observation.
    pub n: u32,
    /// Rows of the basis.
    pub rank: u32,
    /// Ticks looked at, 1 to 16.
    pub window: u16,
    /// Scores above the threshold among them.
    pub needed: u16,
    /// The conformal quantile.
    pub threshold: f32,
    /// Weight of what the basis does not span.
    pub residual: f32,
    /// Unit of the density score.
    pub density_scale: f32,
    /// Unit of the range score.
    pub range_scale: f32,
    /// False-alarm rate per tick that the threshold was chosen for.
    pub false_alarm: f32,
    /// Windows that the threshold was calibrated on.
    pub calibrated: u32,
    /// Observations that the statistics come from.
    pub fitted: u32,
}

/// One joint. Angles in rad, lengths in m.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct JointRecord {
    /// Place of the joint in the robot's raw state.
    pub robot_index: u32,
    /// Default pose.
    pub default_position: f32,
    /// Lower position limit.
    pub position_min: f32,
    /// Upper position limit.
    pub position_max: f32,
    /// Velocity limit.
    pub velocity_limit: f32,
    /// Acceleration limit of position and velocity setpoints.
    pub acceleration_limit: f32,
    /// Torque (or force) limit.
    pub torque_limit: f32,
    /// Largest change of a position setpoint per second.
    pub position_rate_limit: f32,
    /// Largest change of a torque setpoint per second.
    pub torque_rate_limit: f32,
    /// Gain that holds the default pose; 0: the joint is passive.
    pub kp: f32,
    /// Damping beside `kp`.
    pub kd: f32,
    /// Damping gain of the fallback.
    pub damping_kd: f32,
    /// Largest change of the setpoints' acceleration per second.
    pub jerk_limit: f32,
    /// Deceleration that the joint can be sure of before its position limits.
    pub braking_deceleration: f32,
}

/// One observation term: `clip(signal * scale + offset)`, per element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TermRecord {
    /// [`signal`].
    pub signal: u8,
    /// 0: oldest frame first; 1: newest first.
    pub newest_first: u8,
    /// Frames of history, at least 1.
    pub history: u16,
    /// First element of the signal.
    pub first: u16,
    /// Elements of one frame.
    pub width: u16,
    /// Where `scale[width]`, `offset[width]`, `low[width]`, `high[width]` start in the values.
    pub values: u32,
}

/// Values of [`TermRecord::signal`].
pub mod signal {
    /// Linear velocity in the IMU frame, m/s, `[3]`.
    pub const BASE_LINEAR_VELOCITY: u8 = 0;
    /// Angular velocity in the IMU frame, rad/s, `[3]`.
    pub const BASE_ANGULAR_VELOCITY: u8 = 1;
    /// Direction of gravity in the IMU frame, unit length, `[3]`.
    pub const PROJECTED_GRAVITY: u8 = 2;
    /// Orientation world_from_imu, w x y z, `[4]`.
    pub const BASE_ORIENTATION: u8 = 3;
    /// Joint positions in the policy's order, `[n_joints]`.
    pub const JOINT_POSITION: u8 = 4;
    /// The same minus the default pose.
    pub const JOINT_POSITION_RELATIVE: u8 = 5;
    /// Joint velocities, `[n_joints]`.
    pub const JOINT_VELOCITY: u8 = 6;
    /// The last raw action, `[n_actions]`.
    pub const LAST_ACTION: u8 = 7;
    /// The command, `[n_commands]`.
    pub const COMMAND: u8 = 8;
    /// The preference inputs, `[n_preferences]`.
    pub const PREFERENCE: u8 = 9;
    /// The task's own sensors, `[n_sensors]`.
    pub const SENSOR: u8 = 10;
    /// Sine of the joint positions, `[n_joints]`.
    pub const JOINT_SIN: u8 = 11;
    /// Cosine of the joint positions, `[n_joints]`.
    pub const JOINT_COS: u8 = 12;
}

/// One element of the raw action: `setpoint = clip(action, low, high) * scale + offset`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct ActionRecord {
    /// Joint in the policy's order.
    pub joint: u16,
    /// [`mode`].
    pub mode: u8,
    /// Reserved, 0.
    pub reserved: u8,
    /// Setpoint units per unit of action.
    pub scale: f32,
    /// Setpoint at action 0.
    pub offset: f32,
    /// Lower clip of the raw action.
    pub low: f32,
    /// Upper clip of the raw action.
    pub high: f32,
    /// Position gain, N m/rad or N/m.
    pub kp: f32,
    /// Velocity gain, N m s/rad or N s/m.
    pub kd: f32,
}

/// Values of [`ActionRecord::mode`].
pub mod mode {
    /// Position setpoint, rad or m.
    pub const POSITION: u8 = 0;
    /// Velocity setpoint, rad/s or m/s.
    pub const VELOCITY: u8 = 1;
    /// Torque or force, N m or N.
    pub const TORQUE: u8 = 2;
}

/// Values per element of a term: scale, offset, low, high.
pub const TERM_VALUES: usize = 4;
