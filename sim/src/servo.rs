//! The motor model: a proportional-derivative servo with feed-forward and a torque limit.

use tendon_runtime::JointCommand;

/// Torque at `position` and `velocity`: `clamp(kp (q* - q) + kd (dq* - dq) + tau, -limit, limit)`.
///
/// Recomputed every physics step, so it acts as a servo with the bandwidth of the physics, not of the policy. Zero
/// where the command is not a number or the limit is not positive: a motor without a valid order is limp.
#[must_use]
pub fn servo_torque(command: &JointCommand, position: f32, velocity: f32) -> f32 {
    let torque = command.kp * (command.position - position)
        + command.kd * (command.velocity - velocity)
        + command.torque;
    let limit = command.torque_limit;
    if torque.is_nan() || limit.is_nan() || limit <= 0.0 { 0.0 } else { torque.clamp(-limit, limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVO: JointCommand =
        JointCommand { position: 1.0, velocity: 0.0, kp: 10.0, kd: 2.0, torque: 0.5, torque_limit: 100.0 };

    #[test]
    fn sums_spring_damper_and_feed_forward() {
        assert_eq!(servo_torque(&SERVO, 0.4, 1.0), 10.0 * 0.6 - 2.0 + 0.5);
    }

    #[test]
    fn cannot_exceed_its_limit() {
        let command = JointCommand { torque_limit: 3.0, ..SERVO };
        assert_eq!(servo_torque(&command, -100.0, 0.0), 3.0);
        assert_eq!(servo_torque(&command, 100.0, 0.0), -3.0);
    }

    #[test]
    fn is_limp_without_a_valid_order() {
        for limit in [f32::NAN, 0.0, -1.0] {
            assert_eq!(servo_torque(&JointCommand { torque_limit: limit, ..SERVO }, 0.0, 0.0), 0.0);
        }
        assert_eq!(servo_torque(&JointCommand { position: f32::NAN, ..SERVO }, 0.0, 0.0), 0.0);
    }
}
