//! What an episode changes of a loaded robot: pushes, masses, friction, forces of others.

use rapier3d::dynamics::MassProperties;
use rapier3d::math::{Pose, Vector};

use super::{World, rotation};
use crate::robot::{Body, Site};
use crate::terrain::Terrain;

impl World {
    /// Moves a body that is not jointed to anything.
    pub fn set_body_pose(&mut self, body: &Body, position: [f32; 3], quaternion: [f32; 4]) {
        if let Some(rigid) = self.state.bodies.get_mut(body.handle) {
            let pose = Pose::from_parts(position.into(), rotation(quaternion));
            rigid.set_position(pose, true);
            if let Some(dynamics) = &mut self.dynamics {
                dynamics.set_pose(body.handle, &pose);
                dynamics.place(&mut self.state);
                dynamics.invalidate();
            }
        }
    }

    /// Velocity of joint `index`, rad/s (m/s); the others keep theirs.
    pub fn set_joint_velocity(&mut self, index: usize, velocity: f32) {
        if let Some(dynamics) = &mut self.dynamics {
            return dynamics.set_joint_velocity(index, f64::from(velocity));
        }
        let slot = self.robot.joints[index].slot;
        if let Some(multibody) = self.state.multibody_joints.get_multibody_mut(slot.multibody) {
            multibody.generalized_velocity_mut()[slot.velocity_index] = velocity;
        }
    }

    /// Linear velocity of the free base in the world, m/s; zero for a robot without one.
    #[must_use]
    pub fn base_velocity(&self) -> [f32; 3] {
        let Some(base) = self.robot.base else { return [0.0; 3] };
        let Some(body) = self.state.bodies.get(base) else { return [0.0; 3] };
        self.body_velocity(base, body).0.into()
    }

    /// Linear velocity of the free base in the world, m/s; joints and turns keep theirs.
    pub fn set_base_velocity(&mut self, velocity: [f32; 3]) {
        let Some(base) = self.robot.base else { return };
        if let Some(dynamics) = &mut self.dynamics {
            return dynamics.set_linear_velocity(base, velocity);
        }
        match self.state.multibody_joints.rigid_body_link(base).map(|link| (link.multibody, link.id)) {
            Some((index, _)) => {
                if let Some(multibody) = self.state.multibody_joints.get_multibody_mut(index) {
                    for (to, from) in multibody.generalized_velocity_mut().iter_mut().zip(velocity) {
                        *to = from;
                    }
                }
            }
            None => {
                if let Some(body) = self.state.bodies.get_mut(base) {
                    body.set_linvel(velocity.into(), true);
                }
            }
        }
    }

    /// Adds `added_kg` to a body and moves its centre of mass by `com` in the body's frame, m; its inertia about the
    /// centre of mass grows with its mass.
    pub fn perturb_mass(&mut self, body: &Body, added_kg: f32, com: [f32; 3]) {
        let Some(rigid) = self.state.bodies.get_mut(body.handle) else { return };
        let now = rigid.mass_properties().local_mprops;
        let mass = now.mass();
        if mass <= 0.0 {
            return;
        }
        // Never less than a tenth: a range that takes all of a body's mass away must not end the simulation.
        let factor = ((mass + added_kg) / mass).max(0.1);
        let inertia = now.principal_inertia() * factor;
        let changed = MassProperties::with_principal_inertia_frame(
            now.local_com + Vector::from(com),
            mass * factor,
            inertia,
            now.principal_inertia_local_frame,
        );
        for &collider in rigid.colliders() {
            if let Some(collider) = self.state.colliders.get_mut(collider) {
                collider.set_mass_properties(MassProperties::default());
            }
        }
        rigid.set_additional_mass_properties(changed, true);
        rigid.recompute_mass_properties_from_colliders(&self.state.colliders);
        if let Some(dynamics) = &mut self.dynamics {
            dynamics.invalidate();
        }
    }

    /// Mass of a body, kg.
    #[must_use]
    pub fn body_mass(&self, body: &Body) -> f32 {
        self.state.bodies.get(body.handle).map_or(0.0, |b| b.mass_properties().local_mprops.mass())
    }

    /// Centre of mass of a body in its own frame, m.
    #[must_use]
    pub fn body_com(&self, body: &Body) -> [f32; 3] {
        self.state
            .bodies
            .get(body.handle)
            .map_or([0.0; 3], |b| b.mass_properties().local_mprops.local_com.into())
    }

    /// Someone's force on a site in every physics step from now on, in the world, N; replaces the one before at this site.
    pub fn set_site_force(&mut self, site: &Site, force: [f32; 3]) {
        let force = Vector::from(force);
        match self.pulls.iter_mut().find(|(held, _)| held.name == site.name) {
            Some((_, pull)) => *pull = force,
            None => self.pulls.push((site.clone(), force)),
        }
    }

    /// Puts the ground under the robot, where it was loaded with [`RobotOptions::terrain_friction`]; else nothing. Call
    /// after [`World::reset`], which takes it away.
    ///
    /// [`RobotOptions::terrain_friction`]: crate::RobotOptions::terrain_friction
    pub fn set_terrain(&mut self, terrain: &Terrain) {
        let collider = self.robot.terrain.and_then(|handle| self.state.colliders.get_mut(handle));
        let Some(collider) = collider else { return };
        collider.set_shape(terrain.shape().clone());
        self.terrain = Some(terrain.clone());
        if let Some(dynamics) = &mut self.dynamics {
            dynamics.invalidate();
        }
    }

    /// Multiplies every coefficient of friction.
    pub fn scale_friction(&mut self, factor: f32) {
        for (_, collider) in self.state.colliders.iter_mut() {
            collider.set_friction(collider.friction() * factor);
        }
        if let Some(dynamics) = &mut self.dynamics {
            dynamics.invalidate();
        }
    }
}
