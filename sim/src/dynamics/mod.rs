//! Reduced-coordinate dynamics of robots: what rapier's multibodies do with dense matrices, along the tree instead.
//!
//! rapier keeps loading, shapes, masses, poses and collision geometry; this module computes joint accelerations and
//! contact forces. docs/sim.md has the equations, `cargo xtask bench fidelity` compares with MuJoCo.

mod constraint;
mod contact;
mod details;
mod factor;
mod heights;
mod inertia;
mod newton;
mod softness;
mod tree;

use rapier3d::dynamics::RigidBodyHandle;
use rapier3d::math::{Pose, Vector};
use rapier3d::parry::glamx::{DPose3, DVec3};

use crate::robot::{Joint, JointSlot, Site};
use crate::state::PhysicsState;
use constraint::{JointRow, Rows, Weights};
use contact::Contacts;
use inertia::{Motion, Spatial};
use newton::Newton;
use tree::{Kind, Tree, wide};

pub(crate) use details::{Details, GeomDetails, Touch};
pub(crate) use softness::{Cone, Softness};

/// A robot's state in joint coordinates.
#[derive(Clone)]
pub(crate) struct Dynamics {
    tree: Tree,
    motion: Motion,
    contacts: Contacts,
    rows: Rows,
    weights: Weights,
    newton: Newton,
    /// Degree of freedom of each joint of the robot.
    dofs: Vec<usize>,
    reference: Vec<f64>,
    joints: Vec<JointRow>,
    damping: Vec<f64>,
    /// What damping adds to the inertia at the end of a step.
    implicit: Vec<f64>,
    armature: Vec<f64>,
    /// Stiffness and rest position of the file's springs.
    spring: Vec<(f64, f64)>,
    gravity: DVec3,
    dt: f64,
    force: Vec<f64>,
    /// Masses, friction or poses of fixed shapes may have changed.
    stale: bool,
}

impl Dynamics {
    /// `None`: the world holds what only rapier's own solver moves.
    pub(crate) fn read(state: &PhysicsState, joints: &[Joint], details: &Details) -> Option<Self> {
        let tree = Tree::read(state)?;
        let motion = Motion::new(&tree);
        let mut this = Self {
            contacts: Contacts::read(state, &tree, details),
            rows: Rows::default(),
            weights: Weights::default(),
            newton: Newton::new(&tree),
            dofs: Vec::new(),
            reference: Vec::new(),
            joints: Vec::new(),
            damping: vec![0.0; tree.n],
            implicit: vec![0.0; tree.n],
            armature: vec![0.0; tree.n],
            spring: vec![(0.0, 0.0); tree.n],
            gravity: state.gravity.as_dvec3(),
            dt: f64::from(state.parameters.dt),
            force: vec![0.0; tree.n],
            stale: true,
            motion,
            tree,
        };
        for (index, joint) in joints.iter().enumerate() {
            let [limit, dry] = details.joints.get(index).copied().unwrap_or_default();
            let link = this.link(joint.slot.child)?;
            let Link1 { dof, kind } = this.single(link)?;
            let reference = f64::from(joint.slot.reference);
            this.dofs.push(dof);
            this.reference.push(reference);
            this.joints.push(JointRow {
                dof,
                range: joint.range.map(|range| range.map(|q| f64::from(q) - reference)),
                friction_loss: f64::from(joint.friction_loss),
                limit,
                dry,
            });
            this.damping[dof] = f64::from(joint.damping);
            this.armature[dof] = f64::from(joint.armature);
            if !details.explicit_damping {
                this.implicit[dof] = this.dt * this.damping[dof];
            }
            let (stiffness, rest) = spring(state, &joint.slot, kind);
            this.spring[dof] = (f64::from(stiffness), f64::from(rest));
        }
        for (index, link) in this.tree.links.iter().enumerate() {
            if link.parent.is_none() {
                this.motion.poses[index] = wide(state.bodies.get(link.handle)?.position());
            }
        }
        this.motion.place(&this.tree);
        this.weigh();
        Some(this)
    }

    /// What constraints meet in this pose.
    fn weigh(&mut self) {
        let Self { tree, motion, weights, armature, force, .. } = self;
        motion.assemble(tree, DVec3::ZERO, armature, force);
        let mut inverse = vec![0.0; tree.n];
        factor::factorise(tree, &mut motion.matrix, &mut inverse);
        // `J M^-1 J'` of one row.
        let meets = |row: &mut [f64]| -> f64 {
            factor::half_solve(tree, &motion.matrix, row);
            row.iter().zip(&inverse).map(|(x, inverse)| x * x * inverse).sum()
        };
        let mut row = vec![0.0; tree.n];
        weights.dofs = vec![0.0; tree.n];
        for dof in 0..tree.n {
            row.fill(0.0);
            row[dof] = 1.0;
            weights.dofs[dof] = meets(&mut row);
        }
        weights.links = vec![0.0; tree.links.len()];
        for (index, link) in tree.links.iter().enumerate() {
            let center = motion.poses[index] * link.com - motion.reference;
            for axis in [DVec3::X, DVec3::Y, DVec3::Z] {
                row.fill(0.0);
                for &k in tree.moving(index) {
                    row[usize::from(k)] = motion.axes[usize::from(k)].at(center).dot(axis);
                }
                weights.links[index] += meets(&mut row) / 3.0;
            }
        }
        force.fill(0.0);
    }

    /// Number of robots and loose objects that move.
    pub(crate) fn trees(&self) -> usize {
        self.tree
            .links
            .iter()
            .enumerate()
            .filter(|(index, link)| link.root == *index && self.moves(*index))
            .count()
    }

    fn moves(&self, root: usize) -> bool {
        self.tree.links.iter().any(|link| link.root == root && link.tip.is_some())
    }

    /// Masses, friction or poses of fixed shapes in rapier's sets were changed.
    pub(crate) fn invalidate(&mut self) {
        self.stale = true;
    }

    pub(crate) fn joint_position(&self, joint: usize) -> f64 {
        self.motion.q[self.dofs[joint]] + self.reference[joint]
    }

    pub(crate) fn joint_velocity(&self, joint: usize) -> f64 {
        self.motion.dq[self.dofs[joint]]
    }

    pub(crate) fn set_joint_velocity(&mut self, joint: usize, velocity: f64) {
        self.motion.dq[self.dofs[joint]] = velocity;
    }

    /// Sets all joints; call [`Dynamics::place`] afterwards.
    pub(crate) fn set_joints(&mut self, position: &[f32], velocity: &[f32]) {
        for (joint, (&q, &dq)) in position.iter().zip(velocity).enumerate().take(self.dofs.len()) {
            let dof = self.dofs[joint];
            self.motion.q[dof] = f64::from(q) - self.reference[joint];
            self.motion.dq[dof] = f64::from(dq);
        }
        self.newton.forget();
    }

    /// Moves a free root; call [`Dynamics::place`] afterwards.
    pub(crate) fn set_pose(&mut self, body: RigidBodyHandle, pose: &Pose) {
        if let Some(link) = self.link(body).filter(|&link| self.tree.links[link].parent.is_none()) {
            self.motion.poses[link] = wide(pose);
        }
        self.newton.forget();
    }

    /// Sets the linear velocity of a free root's origin, in the world.
    pub(crate) fn set_linear_velocity(&mut self, body: RigidBodyHandle, velocity: [f32; 3]) {
        let Some(link) = self.link(body).map(|link| &self.tree.links[link]) else { return };
        if link.kind == Kind::Free {
            for (to, from) in self.motion.dq[link.dof..].iter_mut().zip(velocity) {
                *to = f64::from(from);
            }
        }
    }

    /// Moves all bodies to where the coordinates say.
    pub(crate) fn place(&mut self, state: &mut PhysicsState) {
        self.motion.place(&self.tree);
        self.write_poses(state);
    }

    /// Velocity of a body's centre of mass and its angular velocity, in the world; `None` for bodies that cannot move.
    pub(crate) fn body_velocity(&self, body: RigidBodyHandle) -> Option<(Vector, Vector)> {
        let index = self.link(body)?;
        let motion: Spatial = self.motion.velocity(&self.tree, index);
        let center = self.motion.poses[index] * self.tree.links[index].com - self.motion.reference;
        Some((motion.at(center).as_vec3(), motion.angular.as_vec3()))
    }

    /// Sum of the magnitudes of the contact forces on a body in the last step, N.
    pub(crate) fn contact_force(&self, body: RigidBodyHandle) -> f32 {
        let Some(link) = self.link(body) else { return 0.0 };
        let Contacts { found, surfaces, .. } = &self.contacts;
        let forces = self.rows.forces(found.iter().map(|c| surfaces[c.pair as usize].turns));
        let on = found.iter().zip(forces).filter(|(c, _)| c.link == link || c.other == Some(link));
        on.map(|(_, force)| DVec3::from_array(force).length()).sum::<f64>() as f32
    }

    /// Clears joint forces and takes over what changed; then [`Dynamics::push`] and [`Dynamics::step`].
    pub(crate) fn begin(&mut self, state: &PhysicsState) {
        self.force.fill(0.0);
        if self.stale {
            for link in &mut self.tree.links {
                if let Some(body) = state.bodies.get(link.handle) {
                    link.read_mass(body);
                }
            }
            self.contacts.refresh(state);
            self.stale = false;
        }
    }

    /// Adds to the force of a joint's motor.
    pub(crate) fn push(&mut self, joint: usize, force: f64) {
        self.force[self.dofs[joint]] += force;
    }

    /// Adds a force on a site, in the world; between [`Dynamics::begin`] and [`Dynamics::step`].
    pub(crate) fn push_site(&mut self, site: &Site, force: Vector) {
        let Some(link) = self.link(site.body) else { return };
        let Some(tip) = self.tree.links[link].tip else { return };
        let point = self.motion.poses[link] * wide(&site.body_from_site).translation;
        let linear = force.as_dvec3();
        let pull = Spatial { angular: (point - self.motion.reference).cross(linear), linear };
        for &k in self.tree.chain(tip) {
            self.force[usize::from(k)] += self.motion.axes[usize::from(k)].dot(pull);
        }
    }

    /// One step of semi-implicit Euler, with the joints' damping implicit in velocity, after the constraints, as
    /// MuJoCo's.
    pub(crate) fn step(&mut self) {
        let Self { tree, motion, contacts, rows, weights, newton, force, .. } = self;
        let dt = self.dt;
        for k in 0..tree.n {
            let (stiffness, rest) = self.spring[k];
            force[k] -= self.damping[k] * motion.dq[k] + stiffness * (motion.q[k] - rest);
        }
        motion.assemble(tree, self.gravity, &self.armature, force);
        contacts.find(motion);
        rows.assemble(tree, motion, weights, (&contacts.found, &contacts.surfaces), &self.joints, dt);
        newton.solve(tree, &motion.matrix, force, rows);
        for (dq, acceleration) in
            motion.dq.iter_mut().zip(newton.damped(tree, &mut motion.matrix, &self.implicit))
        {
            *dq += dt * acceleration;
        }
        motion.integrate(tree, dt);
        motion.place(tree);
    }

    /// Poses into rapier's bodies, where sensors, renderers and users look.
    pub(crate) fn write_poses(&self, state: &mut PhysicsState) {
        for (link, pose) in self.tree.links.iter().zip(&self.motion.poses) {
            if link.tip.is_some()
                && let Some(body) = state.bodies.get_mut(link.handle)
            {
                body.set_position(narrow(pose), false);
            }
        }
    }

    fn link(&self, body: RigidBodyHandle) -> Option<usize> {
        self.tree.links.iter().position(|link| link.handle == body)
    }

    fn single(&self, link: usize) -> Option<Link1> {
        let link = &self.tree.links[link];
        matches!(link.kind, Kind::Hinge | Kind::Slide).then_some(Link1 { dof: link.dof, kind: link.kind })
    }
}

/// A link with one degree of freedom.
struct Link1 {
    dof: usize,
    kind: Kind,
}

fn spring(state: &PhysicsState, slot: &JointSlot, kind: Kind) -> (f32, f32) {
    let multibody = state.multibody_joints.get_multibody(slot.multibody);
    let link = multibody.and_then(|m| m.link(slot.link_id));
    link.map_or((0.0, 0.0), |link| link.joint().spring(if kind == Kind::Slide { 0 } else { 3 }))
}

pub(super) fn narrow(pose: &DPose3) -> Pose {
    Pose::from_parts(pose.translation.as_vec3(), pose.rotation.as_quat())
}
