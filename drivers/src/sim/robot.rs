//! What the simulated servos move.

use crate::JointCommand;
use std::vec::Vec;

/// A robot behind the servos, joints in its own order.
pub trait Robot: Send {
    /// One step in which every joint follows its command's servo law.
    fn step(&mut self, drives: &[JointCommand], dt_s: f32);
    /// Position rad, velocity rad/s, torque N m that acts on joint `index`.
    fn joint(&self, index: usize) -> [f32; 3];
    /// A hand moves joint `index` to a place and holds it there for one moment.
    fn place(&mut self, index: usize, position: f32);
}

/// Joints on a bench: each an inertia with friction, for itself, between stops.
#[derive(Clone, Debug)]
pub struct Bench {
    joints: Vec<BenchJoint>,
}

#[derive(Clone, Copy, Debug)]
struct BenchJoint {
    position: f32,
    velocity: f32,
    torque: f32,
    stops: [f32; 2],
}

/// Of a joint with a small servo's gear, kg m2 and N m s/rad.
const INERTIA: f32 = 0.004;
const FRICTION: f32 = 0.02;

impl Bench {
    /// Joints at rest at `positions`, between `stops`, rad.
    #[must_use]
    pub fn new(positions: &[f32], stops: &[[f32; 2]]) -> Self {
        let joint = |(&position, &stops): (&f32, &[f32; 2])| BenchJoint {
            position,
            velocity: 0.0,
            torque: 0.0,
            stops,
        };
        Self { joints: positions.iter().zip(stops).map(joint).collect() }
    }
}

impl Robot for Bench {
    fn step(&mut self, drives: &[JointCommand], dt_s: f32) {
        for (joint, drive) in self.joints.iter_mut().zip(drives) {
            // Implicit in the damping, so that stiff gains stay calm.
            let spring = drive.kp * (drive.position - joint.position) + drive.torque;
            let damping = drive.kd + FRICTION;
            let free = (joint.velocity + dt_s / INERTIA * (spring + drive.kd * drive.velocity))
                / (1.0 + dt_s / INERTIA * (damping + dt_s * drive.kp));
            let torque = spring - dt_s * drive.kp * free + drive.kd * (drive.velocity - free);
            joint.torque = torque.clamp(-drive.torque_limit, drive.torque_limit);
            joint.velocity =
                (joint.velocity + dt_s / INERTIA * joint.torque) / (1.0 + dt_s / INERTIA * FRICTION);
            joint.position += dt_s * joint.velocity;
            let [low, high] = joint.stops;
            if joint.position < low || joint.position > high {
                joint.position = joint.position.clamp(low, high);
                joint.velocity = 0.0;
            }
        }
    }

    fn joint(&self, index: usize) -> [f32; 3] {
        self.joints.get(index).map_or([0.0; 3], |joint| [joint.position, joint.velocity, joint.torque])
    }

    fn place(&mut self, index: usize, position: f32) {
        if let Some(joint) = self.joints.get_mut(index) {
            (joint.position, joint.velocity) = (position.clamp(joint.stops[0], joint.stops[1]), 0.0);
        }
    }
}
