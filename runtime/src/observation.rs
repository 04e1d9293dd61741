//! Raw robot state to the network's input: the one observation pipeline of the project.

use crate::{Contract, kernels, math};
use tendon_wire::image::{TermRecord, signal};
use tendon_wire::message::RawState;

/// Builds observations `[n_observation]`: each term in order, element by element
/// `clip(signal * scale + offset, low, high)`, with its frames of history.
///
/// After [`ObservationBuilder::reset`] the first frame fills the whole history (as Isaac Lab does).
#[derive(Clone, Debug, Default)]
pub struct ObservationBuilder {
    primed: bool,
}

/// Why a raw state is refused as a whole. Nothing is clamped into shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFault {
    /// A count differs from the contract's.
    Count(&'static str),
    /// NaN or infinite.
    NotFinite(&'static str),
    /// The orientation is no unit quaternion.
    Orientation,
    /// The caller's memory is shorter than the plan says.
    Memory,
}

impl core::fmt::Display for StateFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Count(field) => write!(f, "raw state: {field} has not the count of the contract"),
            Self::NotFinite(field) => write!(f, "raw state: {field} is not finite"),
            Self::Orientation => f.write_str("raw state: base_orientation is no unit quaternion"),
            Self::Memory => f.write_str("memory for observation or history is shorter than the plan"),
        }
    }
}

impl core::error::Error for StateFault {}

/// Checks counts, finiteness and the quaternion's norm.
///
/// # Errors
/// The first field that does not hold.
pub fn check_state(contract: &Contract<'_>, state: &RawState) -> Result<(), StateFault> {
    let n_joints = contract.joints.len();
    let fields: [(&'static str, &[f32], usize); 8] = [
        ("joint_position", &state.joint_position, n_joints),
        ("joint_velocity", &state.joint_velocity, n_joints),
        ("command", &state.command, contract.header.n_commands.into()),
        ("preference", &state.preference, contract.header.n_preferences.into()),
        ("sensors", &state.sensors, contract.header.n_sensors.into()),
        ("base_angular_velocity", &state.base_angular_velocity, 3),
        ("base_linear_velocity", &state.base_linear_velocity, 3),
        ("base_orientation", &state.base_orientation, 4),
    ];
    for (field, values, count) in fields {
        if values.len() != count {
            return Err(StateFault::Count(field));
        }
        if !values.iter().all(|v| v.is_finite()) {
            return Err(StateFault::NotFinite(field));
        }
    }
    let norm: f32 = state.base_orientation.iter().map(|v| v * v).sum();
    if (0.9..=1.1).contains(&norm) { Ok(()) } else { Err(StateFault::Orientation) }
}

impl ObservationBuilder {
    /// Forgets the history: the next state fills it.
    pub fn reset(&mut self) {
        self.primed = false;
    }

    /// Writes one observation. `state` passed [`check_state`]. `last_action`: `[n_actions]` raw;
    /// `history`: at least `history_len`, kept between calls; `observation`: at least `n_observation`.
    ///
    /// # Errors
    /// [`StateFault::Memory`] when a slice is too short.
    pub fn build(
        &mut self,
        contract: &Contract<'_>,
        state: &RawState,
        last_action: &[f32],
        history: &mut [f32],
        observation: &mut [f32],
    ) -> Result<(), StateFault> {
        let (mut history, mut observation) = (history, observation);
        for term in contract.terms {
            let width = usize::from(term.width);
            let frames = usize::from(term.history);
            let (out, rest) = observation.split_at_mut_checked(width * frames).ok_or(StateFault::Memory)?;
            observation = rest;
            if frames == 1 {
                write_term(contract, state, last_action, term, out);
                continue;
            }
            let (past, rest) = history.split_at_mut_checked(width * frames).ok_or(StateFault::Memory)?;
            history = rest;
            if self.primed {
                kernels::shift_left(past, width);
            }
            let newest = past.get_mut(width * (frames - 1)..).unwrap_or(&mut []);
            write_term(contract, state, last_action, term, newest);
            if !self.primed {
                // Every pass doubles the frames at the end that are the newest one.
                let mut filled = width;
                while filled < past.len() {
                    kernels::shift_left(past, filled);
                    filled = filled.saturating_mul(2);
                }
            }
            if term.newest_first == 0 {
                kernels::copy(past, out);
            } else {
                for frame in 0..frames {
                    let from = past.get(width * (frames - 1 - frame)..).unwrap_or(&[]);
                    let to = out.get_mut(width * frame..width * (frame + 1)).unwrap_or(&mut []);
                    kernels::copy(from, to);
                }
            }
        }
        self.primed = true;
        Ok(())
    }
}

/// One frame of one term.
fn write_term(
    contract: &Contract<'_>,
    state: &RawState,
    last_action: &[f32],
    term: &TermRecord,
    out: &mut [f32],
) {
    let width = out.len();
    let values = contract.values.get(term.values as usize..).unwrap_or(&[]);
    let (scale, rest) = values.split_at_checked(width).unwrap_or((&[], &[]));
    let (offset, rest) = rest.split_at_checked(width).unwrap_or((&[], &[]));
    let (low, high) = rest.split_at_checked(width).unwrap_or((&[], &[]));

    for (element, (place, scale)) in out.iter_mut().zip(scale).enumerate() {
        let raw = signal_value(contract, state, last_action, term.signal, usize::from(term.first) + element);
        let at = |values: &[f32]| values.get(element).copied().unwrap_or(0.0);
        *place = math::clip(raw * scale + at(offset), at(low), at(high));
    }
}

fn signal_value(
    contract: &Contract<'_>,
    state: &RawState,
    last_action: &[f32],
    signal: u8,
    index: usize,
) -> f32 {
    let joint = contract.joints.get(index);
    let of_joint = |values: &[f32]| joint.and_then(|j| values.get(j.robot_index as usize).copied());
    let position = || of_joint(&state.joint_position);
    let value = match signal {
        signal::BASE_LINEAR_VELOCITY => state.base_linear_velocity.get(index).copied(),
        signal::BASE_ANGULAR_VELOCITY => state.base_angular_velocity.get(index).copied(),
        signal::PROJECTED_GRAVITY => projected_gravity(state.base_orientation).get(index).copied(),
        signal::BASE_ORIENTATION => state.base_orientation.get(index).copied(),
        signal::JOINT_POSITION => position(),
        signal::JOINT_POSITION_RELATIVE => position().zip(joint).map(|(q, j)| q - j.default_position),
        signal::JOINT_VELOCITY => of_joint(&state.joint_velocity),
        signal::JOINT_SIN => position().map(|q| math::sin_cos(q).0),
        signal::JOINT_COS => position().map(|q| math::sin_cos(q).1),
        signal::LAST_ACTION => last_action.get(index).copied(),
        signal::COMMAND => state.command.get(index).copied(),
        signal::PREFERENCE => state.preference.get(index).copied(),
        _ => state.sensors.get(index).copied(),
    };
    value.unwrap_or(0.0)
}

/// Direction of gravity in the IMU frame: the third row of `world_from_imu`, negated.
fn projected_gravity([w, x, y, z]: [f32; 4]) -> [f32; 3] {
    [2.0 * (w * y - x * z), -2.0 * (y * z + w * x), 2.0 * (x * x + y * y) - 1.0]
}
