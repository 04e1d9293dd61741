//! A loaded robot: its joints in order, frames and looks. Immutable, shared by all worlds that simulate it.

use std::path::Path;
use std::sync::Arc;

use rapier3d::dynamics::{MultibodyIndex, MultibodyJointHandle, RigidBodyHandle};
use rapier3d::geometry::ColliderHandle;
use rapier3d::math::Pose;

use crate::dynamics::Dynamics;
use crate::load::{self, LoadError, Unsupported};
use crate::scene::Visual;
use crate::state::PhysicsState;

/// Physics settings that are not the robot file's to choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct RobotOptions {
    /// Length of one physics step in seconds; `None` takes the file's `<option timestep>` (URDF: 0.002).
    pub timestep_s: Option<f32>,
    /// Floor for robots whose file has none: a half-space at z = 0 with this friction coefficient.
    pub floor_friction: Option<f32>,
    /// A height field with this friction coefficient in place of every floor, for [`World::set_terrain`]; flat and 1 m
    /// wide before that.
    ///
    /// [`World::set_terrain`]: crate::World::set_terrain
    pub terrain_friction: Option<f32>,
    /// What computes motion.
    pub engine: Engine,
}

/// What computes the motion of a robot. Both load, place and collide through rapier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Reduced coordinates for a robot that is alone with fixed surroundings, rapier's solver otherwise.
    #[default]
    Auto,
    /// rapier's multibody solver.
    Rapier,
    /// Joint coordinates along the tree, contacts as MuJoCo models them (docs/sim.md).
    Reduced,
}

/// How a joint moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JointKind {
    /// Turns about its axis; radians and newton metres.
    Hinge,
    /// Moves along its axis; metres and newtons.
    Slide,
}

/// What the file says about the motor of a joint. The contract decides how it is driven.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Actuator {
    /// Position gain of a position servo, N m/rad (N/m).
    pub kp: f32,
    /// Velocity gain, N m s/rad (N s/m).
    pub kd: f32,
    /// Largest magnitude of torque (force).
    pub torque_limit: f32,
}

/// One movable joint with one degree of freedom.
#[derive(Clone, Debug)]
pub struct Joint {
    /// The file's name, or `joint<index>` where it has none.
    pub name: String,
    /// Hinge or slide.
    pub kind: JointKind,
    /// Mechanical limits in joint coordinates; `None` for a continuous joint.
    pub range: Option<[f32; 2]>,
    /// Viscous damping, N m s/rad (N s/m).
    pub damping: f32,
    /// Rotor inertia seen at the joint, kg m^2 (kg).
    pub armature: f32,
    /// Dry friction, N m (N).
    pub friction_loss: f32,
    /// The motor, if the file gives the joint one.
    pub actuator: Option<Actuator>,
    pub(crate) slot: JointSlot,
}

/// Where a joint lives inside rapier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JointSlot {
    pub(crate) multibody: MultibodyIndex,
    pub(crate) handle: MultibodyJointHandle,
    pub(crate) link_id: usize,
    /// First generalized velocity of the joint.
    pub(crate) velocity_index: usize,
    pub(crate) parent: RigidBodyHandle,
    pub(crate) child: RigidBodyHandle,
    /// The file's coordinate minus rapier's (MJCF `ref`).
    pub(crate) reference: f32,
}

/// A named frame fixed to a body.
#[derive(Clone, Debug)]
pub struct Site {
    /// The file's name.
    pub name: String,
    pub(crate) body: RigidBodyHandle,
    pub(crate) body_from_site: Pose,
}

/// A named rigid body.
#[derive(Clone, Debug)]
pub struct Body {
    /// The file's name, or `body<index>`.
    pub name: String,
    pub(crate) handle: RigidBodyHandle,
}

/// A named initial state of the file.
#[derive(Clone, Debug)]
pub struct Keyframe {
    /// The file's name.
    pub name: String,
    /// Position and quaternion (w, x, y, z) of the free base, if the robot has one.
    pub base: Option<([f32; 3], [f32; 4])>,
    /// Joint positions, `[n_joints]`.
    pub joint_position: Vec<f32>,
}

/// A robot and its surroundings, ready to be simulated any number of times.
pub struct Robot {
    /// The file's model name.
    pub name: String,
    /// Joints in the file's order: the order of every `[n_joints]` array.
    pub joints: Vec<Joint>,
    /// Bodies in the file's order.
    pub bodies: Vec<Body>,
    /// Named frames in the file's order.
    pub sites: Vec<Site>,
    /// Named initial states.
    pub keyframes: Vec<Keyframe>,
    /// What the file asks for and the simulation leaves out.
    pub unsupported: Vec<Unsupported>,
    /// Length of one physics step, s.
    pub timestep_s: f32,
    pub(crate) base: Option<RigidBodyHandle>,
    /// The height field that [`RobotOptions::terrain_friction`] asked for.
    pub(crate) terrain: Option<ColliderHandle>,
    pub(crate) visuals: Vec<Visual>,
    pub(crate) template: PhysicsState,
    /// `None`: rapier's solver moves the template.
    pub(crate) dynamics: Option<Dynamics>,
}

impl Robot {
    /// Loads an MJCF (`<mujoco>`) or URDF (`<robot>`) file; includes must lie in its folder.
    ///
    /// # Errors
    /// [`LoadError`] names the file, the field, the value and the next step. No input makes it panic.
    pub fn from_file(path: impl AsRef<Path>, options: RobotOptions) -> Result<Arc<Self>, LoadError> {
        load::robot_from_file(path.as_ref(), options).map(Arc::new)
    }

    /// Loads a robot from MJCF text, called `name` in errors; it cannot include files.
    ///
    /// # Errors
    /// As [`Robot::from_file`].
    pub fn from_mjcf(name: &str, text: &str, options: RobotOptions) -> Result<Arc<Self>, LoadError> {
        load::robot_from_mjcf(name, text, options).map(Arc::new)
    }

    /// Loads a robot from URDF text, called `name` in errors.
    ///
    /// # Errors
    /// As [`Robot::from_file`].
    pub fn from_urdf(name: &str, text: &str, options: RobotOptions) -> Result<Arc<Self>, LoadError> {
        load::robot_from_urdf(name, text, options).map(Arc::new)
    }

    /// Index of the joint called `name`.
    #[must_use]
    pub fn joint(&self, name: &str) -> Option<usize> {
        self.joints.iter().position(|j| j.name == name)
    }

    /// The frame called `name`.
    #[must_use]
    pub fn site(&self, name: &str) -> Option<&Site> {
        self.sites.iter().find(|s| s.name == name)
    }

    /// The body called `name`.
    #[must_use]
    pub fn body(&self, name: &str) -> Option<&Body> {
        self.bodies.iter().find(|b| b.name == name)
    }

    /// The initial state called `name`.
    #[must_use]
    pub fn keyframe(&self, name: &str) -> Option<&Keyframe> {
        self.keyframes.iter().find(|k| k.name == name)
    }

    /// Whether the robot's root moves freely (legged robots) rather than being fixed to the world.
    #[must_use]
    pub fn has_free_base(&self) -> bool {
        self.base.is_some()
    }
}
