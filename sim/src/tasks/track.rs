//! What is followed from step to step, read once per step and shared by all quantities.

use super::plan::Plan;
use super::quantity::CONTACT_N;
use crate::world::{FrameMotion, World};

/// The motion of one episode so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    pub(crate) period_s: f32,
    pub(crate) time_s: f32,
    /// Of the body that counts as the base.
    pub(crate) base: FrameMotion,
    pub(crate) base_position: [f32; 3],
    pub(crate) start_position: [f32; 3],
    /// Of the base, in the world.
    pub(crate) world_velocity: [f32; 3],
    /// Of the base above the ground.
    pub(crate) height: f32,
    pub(crate) joint_position: Vec<f32>,
    pub(crate) joint_velocity: Vec<f32>,
    /// One control period ago.
    pub(crate) last_velocity: Vec<f32>,
    pub(crate) default_position: Vec<f32>,
    /// Commands that are velocities x, y and turn.
    pub(crate) velocity_command: [Option<usize>; 3],
    /// Length of the way that the velocity commands of the episode asked for, m.
    pub(crate) commanded_m: f32,
    pub(crate) feet: Vec<Foot>,
    pub(crate) terminated: bool,
}

/// One foot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Foot {
    pub(crate) touches: bool,
    touched: bool,
    grounded: bool,
    /// Touches in this step after having been in the air.
    pub(crate) landed: bool,
    /// Length of the flight that goes on or that just ended.
    pub(crate) air_time_s: f32,
    pub(crate) force_n: f32,
    pub(crate) position: [f32; 3],
    /// Of its horizontal velocity.
    pub(crate) speed_squared: f32,
}

impl Track {
    pub(crate) fn new(plan: &Plan) -> Self {
        let n = plan.default_position.len();
        Self {
            period_s: plan.period_s,
            joint_position: vec![0.0; n],
            joint_velocity: vec![0.0; n],
            last_velocity: vec![0.0; n],
            default_position: plan.default_position.clone(),
            velocity_command: plan.velocity_command,
            feet: vec![Foot::default(); plan.feet.len()],
            ..Self::default()
        }
    }

    /// Begins an episode in the state that `world` is in.
    pub(crate) fn start(&mut self, world: &World, plan: &Plan) {
        self.feet.fill(Foot { touches: true, touched: true, grounded: true, ..Foot::default() });
        (self.time_s, self.commanded_m, self.terminated) = (0.0, 0.0, false);
        self.read(world, plan);
        self.last_velocity.copy_from_slice(&self.joint_velocity);
        self.start_position = self.base_position;
    }

    /// Takes in one control period under `command`.
    pub(crate) fn advance(&mut self, world: &World, plan: &Plan, command: &[f32]) {
        self.time_s = (world.time_us() as f64 * 1e-6) as f32;
        std::mem::swap(&mut self.last_velocity, &mut self.joint_velocity);
        self.read(world, plan);
        let period_s = self.period_s;
        let [vx, vy, _] = self.velocity_command.map(|index| index.map_or(0.0, |i| command[i]));
        self.commanded_m += (vx * vx + vy * vy).sqrt() * period_s;
        for (foot, body) in self.feet.iter_mut().zip(&plan.feet) {
            foot.force_n = world.contact_force(body);
            foot.touches = foot.force_n > CONTACT_N;
            // As in legged_gym: a foot is on the ground in a step of contact and in the one after it.
            let grounded = foot.touches || foot.touched;
            if foot.grounded {
                foot.air_time_s = 0.0;
            }
            foot.landed = foot.air_time_s > 0.0 && grounded;
            foot.air_time_s += period_s;
            (foot.touched, foot.grounded) = (foot.touches, grounded);
            let motion = world.body_motion(body);
            foot.position = world.body_pose(body).0;
            let [vx, vy, _] = rotate(motion.quaternion, motion.linear_velocity);
            foot.speed_squared = vx * vx + vy * vy;
        }
    }

    fn read(&mut self, world: &World, plan: &Plan) {
        self.base = match &plan.base {
            Some(body) => world.body_motion(body),
            None => world.base_motion(),
        };
        self.base_position = match &plan.base {
            Some(body) => world.body_pose(body).0,
            None => world.base_pose().0,
        };
        self.world_velocity = rotate(self.base.quaternion, self.base.linear_velocity);
        self.height = self.base_position[2] - world.ground(self.base_position[0], self.base_position[1]);
        for (index, (q, dq)) in self.joint_position.iter_mut().zip(&mut self.joint_velocity).enumerate() {
            (*q, *dq) = (world.joint_position(index), world.joint_velocity(index));
        }
    }
}

/// Turns a vector by a unit quaternion (w, x, y, z).
pub(crate) fn rotate([w, x, y, z]: [f32; 4], v: [f32; 3]) -> [f32; 3] {
    // v + 2 w (u x v) + 2 u x (u x v)
    let cross = |a: [f32; 3], b: [f32; 3]| {
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    };
    let u = [x, y, z];
    let once = cross(u, v);
    let twice = cross(u, once);
    std::array::from_fn(|i| v[i] + 2.0 * (w * once[i] + twice[i]))
}
