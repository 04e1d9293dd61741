//! Everything rapier needs to continue a simulation, in one value that can be copied.

use rapier3d::dynamics::{
    CCDSolver, ImpulseJointSet, IntegrationParameters, IslandManager, MultibodyJointSet, RigidBodySet,
    SoftBodySet,
};
use rapier3d::geometry::{BroadPhaseBvh, ColliderSet, NarrowPhase};
use rapier3d::math::Vector;
use rapier3d::pipeline::PhysicsPipeline;

/// A physics state. A clone continues exactly as the original would: resets are copies, so an episode cannot depend
/// on the one before it.
#[derive(Clone)]
pub(crate) struct PhysicsState {
    pub(crate) gravity: Vector,
    pub(crate) parameters: IntegrationParameters,
    pub(crate) islands: IslandManager,
    pub(crate) broad_phase: BroadPhaseBvh,
    pub(crate) narrow_phase: NarrowPhase,
    pub(crate) bodies: RigidBodySet,
    pub(crate) colliders: ColliderSet,
    pub(crate) impulse_joints: ImpulseJointSet,
    pub(crate) multibody_joints: MultibodyJointSet,
}

impl PhysicsState {
    /// An empty world with the settings measured in docs/sim.md: one solver iteration per step.
    pub(crate) fn new(gravity: Vector, timestep_s: f32) -> Self {
        let mut parameters = IntegrationParameters { dt: timestep_s, ..Default::default() };
        // Multibody cost is nearly linear in iterations, and a walking Go1 tracks as well with one.
        parameters.num_solver_iterations = 1;
        Self {
            gravity,
            parameters,
            islands: IslandManager::new(),
            broad_phase: BroadPhaseBvh::default(),
            narrow_phase: NarrowPhase::new(),
            bodies: RigidBodySet::new(),
            colliders: ColliderSet::new(),
            impulse_joints: ImpulseJointSet::new(),
            multibody_joints: MultibodyJointSet::new(),
        }
    }

    /// Advances by one time step.
    pub(crate) fn step(&mut self, workspace: &mut Workspace) {
        workspace.pipeline.step(
            self.gravity,
            &self.parameters,
            &mut self.islands,
            &mut self.broad_phase,
            &mut self.narrow_phase,
            &mut self.bodies,
            &mut self.colliders,
            &mut self.impulse_joints,
            &mut self.multibody_joints,
            &mut workspace.soft_bodies,
            &mut workspace.ccd,
            &(),
            &(),
        );
    }
}

/// Scratch memory of the pipeline, renewed with every reset because it caches selections by address of history.
pub(crate) struct Workspace {
    pipeline: PhysicsPipeline,
    soft_bodies: SoftBodySet,
    ccd: CCDSolver,
}

impl Default for Workspace {
    fn default() -> Self {
        Self { pipeline: PhysicsPipeline::new(), soft_bodies: SoftBodySet::new(), ccd: CCDSolver::new() }
    }
}
