//! What rewards and privileged observations read of a world beyond what a robot's own sensors give.

use rapier3d::math::{Pose, Vector};

use super::{FrameMotion, World, rotation};
use crate::robot::{Body, Site};

impl World {
    /// Motion of a body about its own origin, in its own frame.
    #[must_use]
    pub fn body_motion(&self, body: &Body) -> FrameMotion {
        self.frame_motion(body.handle, &Pose::IDENTITY).unwrap_or_default()
    }

    /// Velocity of a site in the world, m/s.
    #[must_use]
    pub fn site_velocity(&self, site: &Site) -> [f32; 3] {
        let motion = self.site_motion(site);
        (rotation(motion.quaternion) * Vector::from(motion.linear_velocity)).into()
    }

    /// Height of the ground at a point of the world, m: of the terrain, or of a floor at 0.
    #[must_use]
    pub fn ground(&self, x: f32, y: f32) -> f32 {
        self.terrain.as_ref().map_or(0.0, |terrain| terrain.height(x, y))
    }

    /// Linear momentum of all bodies, kg m/s.
    #[must_use]
    pub fn momentum(&self) -> [f32; 3] {
        let moving = self.state.bodies.iter().filter(|(_, body)| body.is_dynamic());
        moving.map(|(handle, body)| self.body_velocity(handle, body).0 * body.mass()).sum::<Vector>().into()
    }

    /// Sum of the magnitudes of the contact forces on a body in the last physics step, N; zero where nothing touches.
    #[must_use]
    pub fn contact_force(&self, body: &Body) -> f32 {
        if let Some(dynamics) = &self.dynamics {
            return dynamics.contact_force(body.handle);
        }
        let Some(rigid) = self.state.bodies.get(body.handle) else { return 0.0 };
        let pairs = rigid.colliders().iter().flat_map(|&c| self.state.narrow_phase.contact_pairs_with(c));
        let impulse: f32 = pairs.map(|pair| pair.total_impulse_magnitude()).sum();
        impulse / self.state.parameters.dt
    }
}
