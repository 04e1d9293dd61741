//! The contract: what the policy observes, what its actions mean, and what limits hold.

use tendon_wire::image::{
    ActionRecord, ContractHeader, JointRecord, MonitorRecord, ProfileRecord, SensorRecord, TERM_VALUES,
    TermRecord, mode, monitor, monitor_action, signal,
};
use tendon_wire::message::{MAX_COMMANDS, MAX_JOINTS, MAX_OBSERVATION, MAX_PREFERENCES, MAX_SENSORS};

/// Profiles of a contract.
pub const MAX_PROFILES: usize = 16;

/// A checked view of the contract section. Joints are in the policy's order.
#[derive(Clone, Copy, Debug)]
pub struct Contract<'a> {
    /// Periods, counts, timeouts.
    pub header: &'a ContractHeader,
    /// `[n_joints]`
    pub joints: &'a [JointRecord],
    /// Observation terms in order.
    pub terms: &'a [TermRecord],
    /// `[n_actions]`
    pub actions: &'a [ActionRecord],
    /// In the contract's order; empty: the joints' limits alone.
    pub profiles: &'a [ProfileRecord],
    /// `[n_sensors]`
    pub sensors: &'a [SensorRecord],
    /// Scales, offsets and clips of the terms.
    pub values: &'a [f32],
}

/// What is wrong with a contract: the field, the row it stands in, the value found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContractError {
    /// Field.
    pub field: &'static str,
    /// Joint, term or action; 0 for the header.
    pub row: usize,
    /// The value found.
    pub value: f32,
    /// What it has to be.
    pub expected: &'static str,
}

impl core::fmt::Display for ContractError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "contract: {} (row {}) is {}: expected {}", self.field, self.row, self.value, self.expected)
    }
}

impl core::error::Error for ContractError {}

impl<'a> Contract<'a> {
    /// Splits the bytes of the contract section into records, without looking at their meaning.
    /// `None` when the counts do not give exactly the length, or the bytes are not aligned to 8.
    #[must_use]
    pub fn split(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(size_of::<ContractHeader>())?;
        let header: &ContractHeader = bytemuck::try_from_bytes(head).ok()?;
        let (joints, rest) =
            rest.split_at_checked(usize::from(header.n_joints) * size_of::<JointRecord>())?;
        let (terms, rest) = rest.split_at_checked(usize::from(header.n_terms) * size_of::<TermRecord>())?;
        let (actions, rest) =
            rest.split_at_checked(usize::from(header.n_actions) * size_of::<ActionRecord>())?;
        let (profiles, rest) =
            rest.split_at_checked(usize::from(header.n_profiles) * size_of::<ProfileRecord>())?;
        let (sensors, values) =
            rest.split_at_checked(usize::from(header.n_sensors) * size_of::<SensorRecord>())?;
        let contract = Self {
            header,
            joints: bytemuck::try_cast_slice(joints).ok()?,
            terms: bytemuck::try_cast_slice(terms).ok()?,
            actions: bytemuck::try_cast_slice(actions).ok()?,
            profiles: bytemuck::try_cast_slice(profiles).ok()?,
            sensors: bytemuck::try_cast_slice(sensors).ok()?,
            values: bytemuck::try_cast_slice(values).ok()?,
        };
        (contract.values.len() == header.n_values as usize).then_some(contract)
    }

    /// Checks what the records mean: finite numbers, ordered limits, a permutation of joints, terms
    /// that add up to the observation.
    ///
    /// # Errors
    /// The first field that does not hold.
    pub fn check(&self) -> Result<(), ContractError> {
        check_header(self)?;
        for (row, joint) in self.joints.iter().enumerate() {
            check_joint(self, row, joint)?;
        }
        check_terms(self)?;
        for (row, action) in self.actions.iter().enumerate() {
            check_action(self, row, action)?;
        }
        for (row, profile) in self.profiles.iter().enumerate() {
            check_profile(row, profile)?;
        }
        check_monitors(&self.header.monitors)?;
        for (row, sensor) in self.sensors.iter().enumerate() {
            for (field, value) in [("sensor jump", sensor.jump), ("sensor noise", sensor.noise)] {
                if !(value.is_finite() && value > 0.0) {
                    return fail(field, row, value, "finite and positive");
                }
            }
            if !(sensor.low.is_finite() && sensor.high.is_finite() && sensor.low < sensor.high) {
                return fail("sensor range", row, sensor.low, "finite and ordered");
            }
        }
        Ok(())
    }

    /// Elements of a signal.
    #[must_use]
    pub fn signal_len(&self, signal: u8) -> Option<usize> {
        Some(match signal {
            signal::BASE_LINEAR_VELOCITY | signal::BASE_ANGULAR_VELOCITY | signal::PROJECTED_GRAVITY => 3,
            signal::BASE_ORIENTATION => 4,
            signal::JOINT_POSITION
            | signal::JOINT_POSITION_RELATIVE
            | signal::JOINT_VELOCITY
            | signal::JOINT_SIN
            | signal::JOINT_COS => self.joints.len(),
            signal::LAST_ACTION => self.actions.len(),
            signal::COMMAND => self.header.n_commands.into(),
            signal::PREFERENCE => self.header.n_preferences.into(),
            signal::SENSOR => self.header.n_sensors.into(),
            _ => return None,
        })
    }

    /// Control period in seconds.
    #[must_use]
    pub fn period_s(&self) -> f32 {
        self.header.period_us as f32 * 1e-6
    }
}

fn fail(field: &'static str, row: usize, value: f32, expected: &'static str) -> Result<(), ContractError> {
    Err(ContractError { field, row, value, expected })
}

fn check_header(contract: &Contract<'_>) -> Result<(), ContractError> {
    let h = contract.header;
    let lengths = [
        ("n_joints", usize::from(h.n_joints), contract.joints.len()),
        ("n_terms", usize::from(h.n_terms), contract.terms.len()),
        ("n_actions", usize::from(h.n_actions), contract.actions.len()),
        ("n_profiles", usize::from(h.n_profiles), contract.profiles.len()),
        ("n_sensors", usize::from(h.n_sensors), contract.sensors.len()),
        ("n_values", h.n_values as usize, contract.values.len()),
    ];
    for (field, count, length) in lengths {
        if count != length {
            return fail(field, 0, length as f32, "a count within the limits of docs/protocol.md");
        }
    }
    if !(100..=1_000_000).contains(&h.period_us) {
        return fail("period_us", 0, h.period_us as f32, "100 us to 1 s");
    }
    let counts = [
        ("n_joints", usize::from(h.n_joints), 1, MAX_JOINTS),
        ("n_terms", usize::from(h.n_terms), 1, MAX_OBSERVATION),
        ("n_actions", usize::from(h.n_actions), 1, MAX_JOINTS),
        ("n_commands", usize::from(h.n_commands), 0, MAX_COMMANDS),
        ("n_preferences", usize::from(h.n_preferences), 0, MAX_PREFERENCES),
        ("n_sensors", usize::from(h.n_sensors), 0, MAX_SENSORS),
        ("n_profiles", usize::from(h.n_profiles), 0, MAX_PROFILES),
        ("default_profile", usize::from(h.default_profile), 0, usize::from(h.n_profiles).saturating_sub(1)),
        ("n_observation", h.n_observation as usize, 1, MAX_OBSERVATION),
    ];
    for (field, count, low, high) in counts {
        if !(low..=high).contains(&count) {
            return fail(field, 0, count as f32, "a count within the limits of docs/protocol.md");
        }
    }
    let positive = [
        ("ready_tolerance", h.ready_tolerance),
        ("ready_velocity", h.ready_velocity),
        ("power_budget", h.power_budget),
    ];
    for (field, value) in positive {
        if !(value.is_finite() && value > 0.0) {
            return fail(field, 0, value, "finite and positive");
        }
    }
    Ok(())
}

fn check_joint(contract: &Contract<'_>, row: usize, joint: &JointRecord) -> Result<(), ContractError> {
    let taken = contract.joints.iter().take(row).any(|other| other.robot_index == joint.robot_index);
    if joint.robot_index as usize >= contract.joints.len() || taken {
        return fail("robot_index", row, joint.robot_index as f32, "a permutation of the joints");
    }
    let positive = [
        ("velocity_limit", joint.velocity_limit),
        ("acceleration_limit", joint.acceleration_limit),
        ("position_rate_limit", joint.position_rate_limit),
        ("torque_rate_limit", joint.torque_rate_limit),
        ("jerk_limit", joint.jerk_limit),
        ("braking_deceleration", joint.braking_deceleration),
    ];
    for (field, value) in positive {
        if !(value.is_finite() && value > 0.0) {
            return fail(field, row, value, "finite and positive");
        }
    }
    let gains = [
        ("kp", joint.kp),
        ("kd", joint.kd),
        ("damping_kd", joint.damping_kd),
        ("torque_limit", joint.torque_limit),
    ];
    for (field, value) in gains {
        if !(value.is_finite() && value >= 0.0) {
            return fail(field, row, value, "finite and not negative");
        }
    }
    if !(joint.position_min.is_finite() && joint.position_min < joint.position_max) {
        return fail("position_min", row, joint.position_min, "finite and below position_max");
    }
    if !joint.position_max.is_finite() {
        return fail("position_max", row, joint.position_max, "finite");
    }
    if !(joint.position_min..=joint.position_max).contains(&joint.default_position) {
        return fail("default_position", row, joint.default_position, "within the position limits");
    }
    Ok(())
}

fn check_terms(contract: &Contract<'_>) -> Result<(), ContractError> {
    let (mut elements, mut stored) = (0, 0);
    for (row, term) in contract.terms.iter().enumerate() {
        let (first, width) = (usize::from(term.first), usize::from(term.width));
        let Some(length) = contract.signal_len(term.signal) else {
            return fail("signal", row, term.signal.into(), "a signal this runtime knows");
        };
        if width == 0 || first + width > length {
            return fail("width", row, width as f32, "elements that the signal has");
        }
        if term.newest_first > 1 {
            return fail("newest_first", row, term.newest_first.into(), "0 or 1");
        }
        let history = usize::from(term.history);
        if history == 0 || history > MAX_OBSERVATION {
            return fail("history", row, history as f32, "1 to 512 frames");
        }
        let start = term.values as usize;
        let values = contract.values.get(start..start.saturating_add(width * TERM_VALUES));
        let Some(values) = values else {
            return fail("values", row, term.values as f32, "a place inside the values");
        };
        for &value in values {
            if !value.is_finite() {
                return fail("scale, offset or clip", row, value, "finite");
            }
        }
        let (_, low) = values.split_at_checked(width * 2).unwrap_or_default();
        let (_, high) = low.split_at_checked(width).unwrap_or_default();
        for (&low, &high) in low.iter().zip(high) {
            if low > high {
                return fail("clip", row, low, "its lower bound at most its upper bound");
            }
        }
        elements += width * history;
        stored += if history > 1 { width * history } else { 0 };
    }
    if elements != contract.header.n_observation as usize {
        return fail("n_observation", 0, contract.header.n_observation as f32, "the sum of the terms");
    }
    if stored != contract.header.history_len as usize {
        return fail("history_len", 0, contract.header.history_len as f32, "the sum of terms with history");
    }
    Ok(())
}

fn check_action(contract: &Contract<'_>, row: usize, action: &ActionRecord) -> Result<(), ContractError> {
    let taken = contract.actions.iter().take(row).any(|other| other.joint == action.joint);
    if usize::from(action.joint) >= contract.joints.len() || taken {
        return fail("action joint", row, action.joint.into(), "a joint that no other action moves");
    }
    if action.reserved != 0 {
        return fail("action reserved", row, action.reserved.into(), "0");
    }
    if action.mode > mode::TORQUE {
        return fail("action mode", row, action.mode.into(), "position 0, velocity 1 or torque 2");
    }
    for (field, value) in [("action scale", action.scale), ("action offset", action.offset)] {
        if !value.is_finite() {
            return fail(field, row, value, "finite");
        }
    }
    for (field, value) in [("action kp", action.kp), ("action kd", action.kd)] {
        if !(value.is_finite() && value >= 0.0) {
            return fail(field, row, value, "finite and not negative");
        }
    }
    if !(action.low.is_finite() && action.high.is_finite() && action.low < action.high) {
        return fail("action clip", row, action.low, "finite and ordered");
    }
    Ok(())
}

fn check_profile(row: usize, profile: &ProfileRecord) -> Result<(), ContractError> {
    for value in profile.scale {
        if !(value > 0.0 && value <= 1.0) {
            return fail("profile scale", row, value, "above 0 and at most 1");
        }
    }
    for value in profile.cap {
        if !(value.is_finite() && value > 0.0) {
            return fail("profile cap", row, value, "finite and positive");
        }
    }
    if name_of(profile).is_empty() {
        return fail("profile name", row, 0.0, "UTF-8 of 1 to 16 bytes");
    }
    Ok(())
}

/// Name of a profile; empty when it is no UTF-8.
#[must_use]
pub(crate) fn name_of(profile: &ProfileRecord) -> &str {
    let name = profile.name.split(|&b| b == 0).next().unwrap_or(&[]);
    core::str::from_utf8(name).unwrap_or("")
}

fn check_monitors(m: &MonitorRecord) -> Result<(), ContractError> {
    for (row, (&action, &needed)) in m.actions.iter().zip(&m.needed).take(monitor::COUNT).enumerate() {
        if action > monitor_action::FALL_BACK {
            return fail("monitor action", row, action.into(), "off 0, count 1 or fall back 2");
        }
        if !(1..=16).contains(&needed) {
            return fail("monitor needed", row, needed.into(), "1 to 16 ticks");
        }
    }
    let thresholds = [
        ("position_jump", m.position_jump),
        ("velocity_jump", m.velocity_jump),
        ("joint_noise", m.joint_noise),
        ("stuck_path", m.stuck_path),
        ("turn_limit", m.turn_limit),
        ("gyro_jump", m.gyro_jump),
        ("linear_jump", m.linear_jump),
        ("turn_noise", m.turn_noise),
        ("linear_noise", m.linear_noise),
        ("stuck_turn", m.stuck_turn),
        ("response_swing", m.response_swing),
        ("response_path", m.response_path),
        ("overspeed", m.overspeed),
        ("age_ticks", m.age_ticks.into()),
        ("stuck_ticks", m.stuck_ticks.into()),
    ];
    for (field, value) in thresholds {
        if !(value.is_finite() && value > 0.0) {
            return fail(field, 0, value, "finite and positive");
        }
    }
    Ok(())
}
