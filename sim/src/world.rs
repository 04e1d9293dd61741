//! One running simulation of one robot.

mod perturb;
mod sense;

use std::sync::Arc;

use rapier3d::dynamics::{Multibody, MultibodyLink, RigidBody, RigidBodyHandle, RigidBodySet};
use rapier3d::math::{Pose, Rotation, Vector};

use tendon_runtime::JointCommand;

use crate::dynamics::Dynamics;
use crate::robot::{Body, Joint, JointKind, Keyframe, Robot, Site};
use crate::scene::{Placed, Scene, Visual};
use crate::servo::servo_torque;
use crate::state::{PhysicsState, Workspace};
use crate::terrain::Terrain;

/// Motion of a frame, as an ideal inertial sensor there would report it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FrameMotion {
    /// Rotation `world_from_frame` as a quaternion (w, x, y, z).
    pub quaternion: [f32; 4],
    /// Velocity of the frame's origin, in the frame, m/s.
    pub linear_velocity: [f32; 3],
    /// Angular velocity in the frame, rad/s.
    pub angular_velocity: [f32; 3],
    /// Direction of gravity in the frame, unit length.
    pub projected_gravity: [f32; 3],
}

/// A robot in motion. The same calls give the same bits, on any thread.
pub struct World {
    robot: Arc<Robot>,
    state: PhysicsState,
    /// What moves the robot; `None`: rapier's own solver.
    dynamics: Option<Dynamics>,
    workspace: Workspace,
    /// Torque of the last physics step, `[n_joints]`.
    torque: Vec<f32>,
    /// Physics steps since the reset.
    steps: u64,
    /// What the robot stands on, where the floor is none.
    terrain: Option<Terrain>,
    /// Forces of others on sites, in the world.
    pulls: Vec<(Site, Vector)>,
}

impl World {
    /// Starts at the file's rest pose.
    #[must_use]
    pub fn new(robot: Arc<Robot>) -> Self {
        let (state, dynamics) = (robot.template.clone(), robot.dynamics.clone());
        let torque = vec![0.0; robot.joints.len()];
        Self {
            robot,
            state,
            dynamics,
            workspace: Workspace::default(),
            torque,
            steps: 0,
            terrain: None,
            pulls: Vec::new(),
        }
    }

    /// The robot being simulated.
    #[must_use]
    pub fn robot(&self) -> &Arc<Robot> {
        &self.robot
    }

    /// Back to the file's rest pose; nothing of the past remains.
    pub fn reset(&mut self) {
        self.state = self.robot.template.clone();
        self.dynamics.clone_from(&self.robot.dynamics);
        self.workspace = Workspace::default();
        self.torque.fill(0.0);
        self.steps = 0;
        self.terrain = None;
        self.pulls.clear();
    }

    /// Puts the robot into a state of its file. Call after [`World::reset`].
    pub fn apply_keyframe(&mut self, keyframe: &Keyframe) {
        if let Some((position, quaternion)) = keyframe.base {
            self.set_base_pose(position, quaternion);
        }
        let still = vec![0.0; self.robot.joints.len()];
        self.set_joint_state(&keyframe.joint_position, &still);
    }

    /// Places the free base: position in the world (m) and `world_from_base` quaternion (w, x, y, z).
    pub fn set_base_pose(&mut self, position: [f32; 3], quaternion: [f32; 4]) {
        let rotation = rotation(quaternion);
        if let Some(base) = self.robot.base.and_then(|b| self.state.bodies.get_mut(b)) {
            let pose = Pose::from_parts(position.into(), rotation);
            base.set_position(pose, true);
            if let (Some(dynamics), Some(base)) = (&mut self.dynamics, self.robot.base) {
                dynamics.set_pose(base, &pose);
            }
        }
        self.propagate();
    }

    /// Sets positions and velocities of all joints, `[n_joints]` each, in rad (m) and rad/s (m/s).
    pub fn set_joint_state(&mut self, position: &[f32], velocity: &[f32]) {
        if let Some(dynamics) = &mut self.dynamics {
            dynamics.set_joints(position, velocity);
            return dynamics.place(&mut self.state);
        }
        for (joint, (&q, &dq)) in self.robot.joints.iter().zip(position.iter().zip(velocity)) {
            let Some((multibody, link_id)) = self.state.multibody_joints.get_mut(joint.slot.handle) else {
                continue;
            };
            if let Some(link) = multibody.link_mut(link_id) {
                let displacement = q - joint.slot.reference - coordinate(joint, link);
                link.joint.apply_displacement(&[displacement]);
            }
            multibody.generalized_velocity_mut()[joint.slot.velocity_index] = dq;
        }
        self.propagate();
    }

    /// Runs `steps` physics steps with the motors following `commands`, `[n_joints]`.
    pub fn step(&mut self, commands: &[JointCommand], steps: usize) {
        if self.dynamics.is_some() {
            return self.step_reduced(commands, steps);
        }
        for _ in 0..steps {
            self.apply(commands);
            self.state.step(&mut self.workspace);
            self.steps += 1;
        }
    }

    fn step_reduced(&mut self, commands: &[JointCommand], steps: usize) {
        let Some(dynamics) = &mut self.dynamics else { return };
        for _ in 0..steps {
            dynamics.begin(&self.state);
            for (site, force) in &self.pulls {
                dynamics.push_site(site, *force);
            }
            for (joint, (command, torque)) in commands.iter().zip(&mut self.torque).enumerate() {
                let (position, velocity) = (dynamics.joint_position(joint), dynamics.joint_velocity(joint));
                *torque = servo_torque(command, position as f32, velocity as f32);
                dynamics.push(joint, f64::from(*torque));
            }
            dynamics.step();
            self.steps += 1;
        }
        dynamics.write_poses(&mut self.state);
    }

    /// Simulated time since the reset, us.
    #[must_use]
    pub fn time_us(&self) -> u64 {
        (self.steps as f64 * f64::from(self.robot.timestep_s) * 1e6).round() as u64
    }

    /// Position of joint `index`, rad (m).
    #[must_use]
    pub fn joint_position(&self, index: usize) -> f32 {
        if let Some(dynamics) = &self.dynamics {
            return dynamics.joint_position(index) as f32;
        }
        let joint = &self.robot.joints[index];
        self.link(joint).map_or(0.0, |(_, link)| coordinate(joint, link) + joint.slot.reference)
    }

    /// Velocity of joint `index`, rad/s (m/s).
    #[must_use]
    pub fn joint_velocity(&self, index: usize) -> f32 {
        if let Some(dynamics) = &self.dynamics {
            return dynamics.joint_velocity(index) as f32;
        }
        let joint = &self.robot.joints[index];
        self.link(joint)
            .map_or(0.0, |(multibody, _)| multibody.generalized_velocity()[joint.slot.velocity_index])
    }

    /// Torque the motor of joint `index` gave in the last physics step, N m (N).
    #[must_use]
    pub fn joint_torque(&self, index: usize) -> f32 {
        self.torque[index]
    }

    /// Position of the free base in the world (m) and its quaternion `world_from_base` (w, x, y, z); the world's
    /// origin for a robot without one.
    #[must_use]
    pub fn base_pose(&self) -> ([f32; 3], [f32; 4]) {
        match self.robot.base.and_then(|b| self.state.bodies.get(b)) {
            Some(base) => (base.translation().into(), wxyz(*base.rotation())),
            None => ([0.0; 3], [1.0, 0.0, 0.0, 0.0]),
        }
    }

    /// Motion of the free base about its own origin; at rest for a robot without one.
    #[must_use]
    pub fn base_motion(&self) -> FrameMotion {
        self.robot.base.and_then(|base| self.frame_motion(base, &Pose::IDENTITY)).unwrap_or(FrameMotion {
            quaternion: [1.0, 0.0, 0.0, 0.0],
            projected_gravity: [0.0, 0.0, -1.0],
            ..FrameMotion::default()
        })
    }

    /// Motion of a site, as an inertial sensor mounted there would report it.
    #[must_use]
    pub fn site_motion(&self, site: &Site) -> FrameMotion {
        self.frame_motion(site.body, &site.body_from_site).unwrap_or_default()
    }

    /// Position of a site in the world, m.
    #[must_use]
    pub fn site_position(&self, site: &Site) -> [f32; 3] {
        let pose = self.state.bodies.get(site.body).map(|body| *body.position() * site.body_from_site);
        pose.map_or([0.0; 3], |p| p.translation.into())
    }

    /// Position of a body's frame in the world (m) and its quaternion `world_from_body` (w, x, y, z).
    #[must_use]
    pub fn body_pose(&self, body: &Body) -> ([f32; 3], [f32; 4]) {
        match self.state.bodies.get(body.handle) {
            Some(body) => (body.translation().into(), wxyz(*body.rotation())),
            None => ([0.0; 3], [1.0, 0.0, 0.0, 0.0]),
        }
    }

    /// Whether every joint and the base are finite. A simulation that is not has diverged and must be cut.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        let (position, quaternion) = self.base_pose();
        let joints =
            (0..self.robot.joints.len()).flat_map(|i| [self.joint_position(i), self.joint_velocity(i)]);
        joints.chain(position).chain(quaternion).all(f32::is_finite)
    }

    /// Mechanical energy of all bodies, J: kinetic plus potential above z = 0. Rotor inertia is not counted.
    #[must_use]
    pub fn energy(&self) -> f32 {
        let gravity = self.state.gravity;
        self.state
            .bodies
            .iter()
            .filter(|(_, body)| body.is_dynamic())
            .map(|(handle, body)| {
                let (linear, angular) = self.body_velocity(handle, body);
                let inertia = body.mass_properties().effective_angular_inertia();
                let kinetic = 0.5 * (body.mass() * linear.length_squared() + angular.dot(inertia * angular));
                kinetic - body.mass() * gravity.dot(body.center_of_mass())
            })
            .sum()
    }

    /// The shapes of the world where they are now.
    #[must_use]
    pub fn scene(&self) -> Scene {
        let shapes = self.robot.visuals.iter().map(|visual| {
            let pose = self.pose_of(visual);
            Placed {
                shape: visual.shape.clone(),
                position: pose.translation.into(),
                rotation: wxyz(pose.rotation),
                color: visual.color,
            }
        });
        let ground = self.terrain.iter().filter_map(Terrain::placed);
        Scene { shapes: shapes.chain(ground).collect(), ..Scene::default() }
    }

    /// Index of the terrain in [`World::scene`].
    pub(crate) fn terrain_shape(&self) -> Option<usize> {
        self.terrain.as_ref().and_then(Terrain::placed).map(|_| self.robot.visuals.len())
    }

    /// Least and largest corner of a box about the robot's shapes, m; of all shapes but planes where its base is fixed.
    pub(crate) fn bounds(&self) -> [[f32; 3]; 2] {
        let moves = |visual: &&Visual| {
            let body = visual.body.and_then(|b| self.state.bodies.get(b));
            !self.robot.has_free_base() || body.is_some_and(|b| b.is_dynamic())
        };
        let mut bounds: Option<[Vector; 2]> = None;
        for visual in self.robot.visuals.iter().filter(moves) {
            let Some([low, high]) = visual.shape.bounds() else { continue };
            let pose = self.pose_of(visual);
            for corner in 0..8 {
                let at = |axis: usize| if corner >> axis & 1 == 0 { low[axis] } else { high[axis] };
                let point = pose * Vector::new(at(0), at(1), at(2));
                let [a, b] = bounds.unwrap_or([point; 2]);
                bounds = Some([a.min(point), b.max(point)]);
            }
        }
        bounds.unwrap_or_default().map(Into::into)
    }

    fn pose_of(&self, visual: &Visual) -> Pose {
        let body = visual.body.and_then(|b| self.state.bodies.get(b));
        body.map_or(Pose::IDENTITY, |b| *b.position()) * visual.body_from_shape
    }

    /// Turns commands into forces on the two bodies of each joint for the next physics step.
    fn apply(&mut self, commands: &[JointCommand]) {
        for (site, _) in &self.pulls {
            if let Some(body) = self.state.bodies.get_mut(site.body) {
                body.reset_forces(false);
                body.reset_torques(false);
            }
        }
        for joint in &self.robot.joints {
            for handle in [joint.slot.parent, joint.slot.child] {
                if let Some(body) = self.state.bodies.get_mut(handle) {
                    body.reset_forces(false);
                    body.reset_torques(false);
                }
            }
        }
        for (site, force) in &self.pulls {
            if let Some(body) = self.state.bodies.get_mut(site.body) {
                let point = (*body.position() * site.body_from_site).translation;
                body.add_force_at_point(*force, point, true);
            }
        }
        for (index, (joint, command)) in self.robot.joints.iter().zip(commands).enumerate() {
            let Some((multibody, link)) = link_of(&self.state, joint) else { continue };
            let position = coordinate(joint, link) + joint.slot.reference;
            let velocity = multibody.generalized_velocity()[joint.slot.velocity_index];
            let torque = servo_torque(command, position, velocity);
            self.torque[index] = torque;
            let parent_rotation =
                self.state.bodies.get(joint.slot.parent).map_or(Rotation::IDENTITY, |b| *b.rotation());
            let axis = parent_rotation * link.joint().data.local_frame1.rotation * Vector::X;
            push(&mut self.state.bodies, joint, axis * torque);
        }
    }

    fn frame_motion(&self, handle: RigidBodyHandle, body_from_frame: &Pose) -> Option<FrameMotion> {
        let body = self.state.bodies.get(handle)?;
        let world_from_frame = *body.position() * *body_from_frame;
        let frame_from_world = world_from_frame.rotation.inverse();
        let (linear, angular) = self.body_velocity(handle, body);
        let arm = world_from_frame.translation - body.center_of_mass();
        Some(FrameMotion {
            quaternion: wxyz(world_from_frame.rotation),
            linear_velocity: (frame_from_world * (linear + angular.cross(arm))).into(),
            angular_velocity: (frame_from_world * angular).into(),
            projected_gravity: (frame_from_world * -Vector::Z).into(),
        })
    }

    /// Velocity of a body's centre of mass and its angular velocity, in the world.
    ///
    /// From the generalized velocities: the rigid bodies of a rapier multibody still carry the velocities from
    /// before the last step.
    fn body_velocity(&self, handle: RigidBodyHandle, body: &RigidBody) -> (Vector, Vector) {
        if let Some(dynamics) = &self.dynamics {
            return dynamics.body_velocity(handle).unwrap_or_default();
        }
        let joints = &self.state.multibody_joints;
        let link = joints.rigid_body_link(handle).map(|link| (link.multibody, link.id));
        let Some((multibody, id)) = link.and_then(|(index, id)| Some((joints.get_multibody(index)?, id)))
        else {
            return (body.linvel(), body.angvel());
        };
        let jacobian = multibody.body_jacobian(id);
        let mut spatial = [0.0f32; 6];
        for (column, speed) in jacobian.column_iter().zip(multibody.generalized_velocity().iter()) {
            for (sum, entry) in spatial.iter_mut().zip(column.iter()) {
                *sum += entry * speed;
            }
        }
        let [x, y, z, a, b, c] = spatial;
        (Vector::new(x, y, z), Vector::new(a, b, c))
    }

    fn link(&self, joint: &Joint) -> Option<(&Multibody, &MultibodyLink)> {
        link_of(&self.state, joint)
    }

    /// Moves the bodies to where base and joint coordinates say.
    fn propagate(&mut self) {
        if let Some(dynamics) = &mut self.dynamics {
            return dynamics.place(&mut self.state);
        }
        let mut previous = None;
        for joint in &self.robot.joints {
            if previous == Some(joint.slot.multibody) {
                continue;
            }
            previous = Some(joint.slot.multibody);
            if let Some(multibody) = self.state.multibody_joints.get_multibody_mut(joint.slot.multibody) {
                multibody.forward_kinematics(&self.state.bodies, true);
                multibody.update_rigid_bodies(&mut self.state.bodies, true);
            }
        }
    }
}

/// Action on the child, reaction on the parent.
fn push(bodies: &mut RigidBodySet, joint: &Joint, force: Vector) {
    let point = bodies.get(joint.slot.child).map_or(Vector::ZERO, RigidBody::center_of_mass);
    for (handle, force) in [(joint.slot.child, force), (joint.slot.parent, -force)] {
        let Some(body) = bodies.get_mut(handle) else { continue };
        match joint.kind {
            JointKind::Hinge => body.add_torque(force, true),
            JointKind::Slide => body.add_force_at_point(force, point, true),
        }
    }
}

fn link_of<'a>(state: &'a PhysicsState, joint: &Joint) -> Option<(&'a Multibody, &'a MultibodyLink)> {
    let multibody = state.multibody_joints.get_multibody(joint.slot.multibody)?;
    Some((multibody, multibody.link(joint.slot.link_id)?))
}

/// rapier's coordinate of a one-degree-of-freedom joint: its free axis is always x.
fn coordinate(joint: &Joint, link: &MultibodyLink) -> f32 {
    match joint.kind {
        JointKind::Hinge => link.joint().coords()[3],
        JointKind::Slide => link.joint().coords()[0],
    }
}

/// Of a quaternion (w, x, y, z) of any length above zero.
fn rotation([w, x, y, z]: [f32; 4]) -> Rotation {
    let rotation = Rotation::from_xyzw(x, y, z, w);
    if rotation.length_squared() > 1e-12 { rotation.normalize() } else { Rotation::IDENTITY }
}

fn wxyz(rotation: Rotation) -> [f32; 4] {
    [rotation.w, rotation.x, rotation.y, rotation.z]
}
