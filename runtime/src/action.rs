//! Raw network output to joint commands.

use crate::{Contract, math};
use tendon_wire::image::mode;
use tendon_wire::message::MAX_JOINTS;

/// What one actuator is told. The servo applies, at its own rate,
/// `torque = clamp(kp (position - q) + kd (velocity - dq) + torque, +-torque_limit)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JointCommand {
    /// Position setpoint, rad or m.
    pub position: f32,
    /// Velocity setpoint, rad/s or m/s.
    pub velocity: f32,
    /// Feed-forward torque or force, N m or N.
    pub torque: f32,
    /// Position gain, N m/rad or N/m.
    pub kp: f32,
    /// Velocity gain, N m s/rad or N s/m.
    pub kd: f32,
    /// Bound of the whole torque or force.
    pub torque_limit: f32,
}

/// Maps a raw action `[n_actions]` to commands, joints in the policy's order: per element
/// `setpoint = clip(action, low, high) * scale + offset`. Joints without an action hold their
/// default pose with the contract's gains (passive joints have none).
#[must_use]
pub fn map_action(contract: &Contract<'_>, action: &[f32]) -> [JointCommand; MAX_JOINTS] {
    let mut commands = [JointCommand::default(); MAX_JOINTS];
    for (command, joint) in commands.iter_mut().zip(contract.joints) {
        *command = JointCommand {
            position: joint.default_position,
            kp: joint.kp,
            kd: joint.kd,
            torque_limit: joint.torque_limit,
            ..JointCommand::default()
        };
    }
    for (record, &raw) in contract.actions.iter().zip(action) {
        let Some(command) = commands.get_mut(usize::from(record.joint)) else { continue };
        let setpoint = math::clip(raw, record.low, record.high) * record.scale + record.offset;
        (command.kp, command.kd) = (record.kp, record.kd);
        match record.mode {
            mode::POSITION => command.position = setpoint,
            mode::VELOCITY => {
                command.velocity = setpoint;
                command.kp = 0.0;
            }
            _ => {
                command.torque = setpoint;
                command.kp = 0.0;
            }
        }
    }
    commands
}
