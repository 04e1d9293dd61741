//! Kinematics, bias forces (recursive Newton-Euler) and mass matrix (composite rigid bodies): Featherstone, Rigid Body
//! Dynamics Algorithms (2008), tables 5.1 and 6.2.
//!
//! All spatial quantities are along the world's axes about one point, the origin of the first moving link, so that
//! inertias of a subtree add up without transforms.

use rapier3d::parry::glamx::{DMat3, DPose3, DQuat, DVec3};

use super::tree::{Kind, Tree};

/// A motion `(angular, linear)` of the point at the reference, or a force `(moment about it, force)`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spatial {
    pub(super) angular: DVec3,
    pub(super) linear: DVec3,
}

impl Spatial {
    pub(super) fn dot(self, other: Self) -> f64 {
        self.angular.dot(other.angular) + self.linear.dot(other.linear)
    }

    fn add_scaled(&mut self, other: Self, factor: f64) {
        self.angular += other.angular * factor;
        self.linear += other.linear * factor;
    }

    /// Velocity of a point at `offset` from the reference.
    pub(super) fn at(self, offset: DVec3) -> DVec3 {
        self.linear + self.angular.cross(offset)
    }
}

/// Inertia about the reference: mass, mass times centre, second moments.
#[derive(Clone, Copy, Debug, Default)]
struct Inertia {
    mass: f64,
    moment: DVec3,
    second: DMat3,
}

impl Inertia {
    fn times(&self, motion: Spatial) -> Spatial {
        Spatial {
            angular: self.second * motion.angular + self.moment.cross(motion.linear),
            linear: motion.linear * self.mass - self.moment.cross(motion.angular),
        }
    }

    fn add(&mut self, other: &Self) {
        self.mass += other.mass;
        self.moment += other.moment;
        self.second += other.second;
    }
}

/// Positions and everything that follows from positions and velocities in one instant.
#[derive(Clone, Debug)]
pub(super) struct Motion {
    /// Joint coordinates; those of free roots are not used.
    pub(super) q: Vec<f64>,
    /// Generalized velocities. A free root has the world's linear velocity of its origin, then its angular velocity.
    pub(super) dq: Vec<f64>,
    /// `world_from_link`.
    pub(super) poses: Vec<DPose3>,
    /// The point that spatial quantities refer to.
    pub(super) reference: DVec3,
    /// Motion of each degree of freedom at unit speed.
    pub(super) axes: Vec<Spatial>,
    inertias: Vec<Inertia>,
    /// Of the links, as of the last [`Motion::assemble`].
    pub(super) velocities: Vec<Spatial>,
    forces: Vec<Spatial>,
    /// Mass matrix, sparse as in `factor`.
    pub(super) matrix: Vec<f64>,
}

impl Motion {
    pub(super) fn new(tree: &Tree) -> Self {
        let (n, links) = (tree.n, tree.links.len());
        Self {
            q: vec![0.0; n],
            dq: vec![0.0; n],
            poses: vec![DPose3::IDENTITY; links],
            reference: DVec3::ZERO,
            axes: vec![Spatial::default(); n],
            inertias: vec![Inertia::default(); links],
            velocities: vec![Spatial::default(); links],
            forces: vec![Spatial::default(); links],
            matrix: vec![0.0; tree.entries()],
        }
    }

    /// Poses of all links from the joint coordinates and the poses of the roots.
    pub(super) fn place(&mut self, tree: &Tree) {
        if let Some(first) = tree.links.iter().position(|link| link.kind != Kind::Fixed) {
            // The reference follows the first moving link; for a robot on a rail its parent serves as well.
            self.reference = self.poses[tree.links[first].parent.unwrap_or(first)].translation;
        }
        for (index, link) in tree.links.iter().enumerate() {
            let Some(parent) = link.parent else {
                if link.kind == Kind::Free {
                    let arm = self.poses[index].translation - self.reference;
                    for (k, axis) in [DVec3::X, DVec3::Y, DVec3::Z].into_iter().enumerate() {
                        self.axes[link.dof + k] = Spatial { angular: DVec3::ZERO, linear: axis };
                        self.axes[link.dof + 3 + k] = Spatial { angular: axis, linear: arm.cross(axis) };
                    }
                }
                continue;
            };
            let joint = self.poses[parent] * link.parent_from_joint;
            self.poses[index] = match link.kind {
                Kind::Hinge => {
                    let (sin, cos) = libm::sincos(0.5 * self.q[link.dof]);
                    let axis = joint.rotation * DVec3::X;
                    let arm = joint.translation - self.reference;
                    self.axes[link.dof] = Spatial { angular: axis, linear: arm.cross(axis) };
                    joint * DPose3::from_rotation(DQuat::from_xyzw(sin, 0.0, 0.0, cos)) * link.joint_from_link
                }
                Kind::Slide => {
                    let axis = joint.rotation * DVec3::X;
                    self.axes[link.dof] = Spatial { angular: DVec3::ZERO, linear: axis };
                    let travel = DVec3::X * self.q[link.dof];
                    joint * DPose3::from_translation(travel) * link.joint_from_link
                }
                Kind::Fixed | Kind::Free => joint * link.joint_from_link,
            };
        }
    }

    /// Velocity of a link: of its point at the reference.
    pub(super) fn velocity(&self, tree: &Tree, link: usize) -> Spatial {
        let mut sum = Spatial::default();
        if let Some(tip) = tree.links[link].tip {
            for &k in tree.chain(tip) {
                sum.add_scaled(self.axes[usize::from(k)], self.dq[usize::from(k)]);
            }
        }
        sum
    }

    /// Subtracts gyroscopic, centrifugal and gravity forces from `force`, and fills the mass matrix with `added` on
    /// its diagonal.
    pub(super) fn assemble(&mut self, tree: &Tree, gravity: DVec3, added: &[f64], force: &mut [f64]) {
        for (index, link) in tree.links.iter().enumerate() {
            let rotation = DMat3::from_quat(self.poses[index].rotation);
            let center = self.poses[index] * link.com - self.reference;
            let about_center = rotation * link.inertia * rotation.transpose();
            let outer = DMat3::from_cols(center * center.x, center * center.y, center * center.z);
            let shift = DMat3::from_diagonal(DVec3::splat(center.length_squared())) - outer;
            let inertia = Inertia {
                mass: link.mass,
                moment: center * link.mass,
                second: about_center + shift * link.mass,
            };
            let (mut velocity, mut acceleration) = match link.parent {
                Some(parent) => (self.velocities[parent], self.forces[parent]),
                None => (Spatial::default(), Spatial { angular: DVec3::ZERO, linear: -gravity }),
            };
            match link.kind {
                Kind::Fixed => {}
                Kind::Hinge | Kind::Slide => {
                    let mut own = Spatial::default();
                    own.add_scaled(self.axes[link.dof], self.dq[link.dof]);
                    // The axis moves with the parent.
                    acceleration.angular += velocity.angular.cross(own.angular);
                    acceleration.linear +=
                        velocity.angular.cross(own.linear) + velocity.linear.cross(own.angular);
                    velocity.add_scaled(own, 1.0);
                }
                Kind::Free => {
                    for k in link.dof..link.dof + 6 {
                        velocity.add_scaled(self.axes[k], self.dq[k]);
                    }
                    // Axes keep their directions; those of rotation move with the origin.
                    let of_origin = DVec3::from_slice(&self.dq[link.dof..link.dof + 3]);
                    acceleration.linear += of_origin.cross(velocity.angular);
                }
            }
            self.velocities[index] = velocity;
            // Accelerations of the parents are needed until all children have theirs: forces come after.
            self.forces[index] = acceleration;
            self.inertias[index] = inertia;
        }
        for ((force, &velocity), inertia) in self.forces.iter_mut().zip(&self.velocities).zip(&self.inertias)
        {
            let momentum = inertia.times(velocity);
            let mut sum = inertia.times(*force);
            sum.angular += velocity.angular.cross(momentum.angular) + velocity.linear.cross(momentum.linear);
            sum.linear += velocity.angular.cross(momentum.linear);
            *force = sum;
        }
        for (index, link) in tree.links.iter().enumerate().rev() {
            let (carried, inertia) = (self.forces[index], self.inertias[index]);
            for k in link.dof..link.dof + link.kind.dofs() {
                force[k] -= self.axes[k].dot(carried);
                let momentum = inertia.times(self.axes[k]);
                let row = &mut self.matrix[tree.row(k)];
                for (entry, &j) in row.iter_mut().zip(tree.chain(k)) {
                    *entry = self.axes[usize::from(j)].dot(momentum);
                }
                row[0] += added[k];
            }
            if let Some(parent) = link.parent {
                self.forces[parent].add_scaled(carried, 1.0);
                self.inertias[parent].add(&inertia);
            }
        }
    }

    /// Moves positions by the velocities over `dt`.
    pub(super) fn integrate(&mut self, tree: &Tree, dt: f64) {
        for (index, link) in tree.links.iter().enumerate() {
            let k = link.dof;
            match link.kind {
                Kind::Fixed => {}
                Kind::Hinge | Kind::Slide => self.q[k] += dt * self.dq[k],
                Kind::Free => {
                    let pose = &mut self.poses[index];
                    pose.translation += DVec3::from_slice(&self.dq[k..k + 3]) * dt;
                    let turn = DVec3::from_slice(&self.dq[k + 3..k + 6]) * dt;
                    let angle = turn.length();
                    let (sin, cos) = libm::sincos(0.5 * angle);
                    // sin(a/2)/a tends to 1/2.
                    let axis = turn * if angle > 1e-12 { sin / angle } else { 0.5 };
                    pose.rotation =
                        (DQuat::from_xyzw(axis.x, axis.y, axis.z, cos) * pose.rotation).normalize();
                }
            }
        }
    }
}
