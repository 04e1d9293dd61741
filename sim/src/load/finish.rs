//! The last step both formats share: clear hidden motors and damping, place joints, check masses.

use std::path::Path;

use rapier3d::dynamics::{
    CoefficientCombineRule, JointAxesMask, MultibodyJointHandle, RigidBodyHandle, SoftBodySet,
};
use rapier3d::geometry::{ColliderBuilder, ColliderHandle, SharedShape};
use rapier3d::math::{Pose, Vector};
use rapier3d::parry::utils::Array2;

use super::check::REDUCED_ONLY;
use super::error::{LoadError, Place, Unsupported};
use crate::dynamics::{Details, Dynamics};
use crate::robot::{
    Actuator, Body, Engine, Joint, JointKind, JointSlot, Keyframe, Robot, RobotOptions, Site,
};
use crate::scene::{Shape, Visual};
use crate::state::PhysicsState;
use crate::terrain::Terrain;

/// Most degrees of freedom: the multibody solver factorises a dense matrix of that size each step.
const MAX_DOFS: usize = 256;

/// A joint as the format describes it.
pub(super) struct JointSpec {
    pub(super) name: Option<String>,
    pub(super) kind: JointKind,
    pub(super) range: Option<[f32; 2]>,
    pub(super) damping: f32,
    pub(super) armature: f32,
    pub(super) friction_loss: f32,
    pub(super) actuator: Option<Actuator>,
    pub(super) reference: f32,
    pub(super) handle: MultibodyJointHandle,
    pub(super) parent: RigidBodyHandle,
    pub(super) child: RigidBodyHandle,
    pub(super) place: Option<Place>,
}

/// A robot after insertion into rapier.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) joints: Vec<JointSpec>,
    pub(super) bodies: Vec<Body>,
    pub(super) sites: Vec<Site>,
    pub(super) keyframes: Vec<Keyframe>,
    pub(super) unsupported: Vec<Unsupported>,
    pub(super) base: Option<RigidBodyHandle>,
    pub(super) visuals: Vec<Visual>,
    pub(super) details: Details,
    pub(super) state: PhysicsState,
}

pub(super) fn finish(path: &Path, options: RobotOptions, mut parts: Parts) -> Result<Robot, LoadError> {
    let dt = parts.state.parameters.dt;
    if !(1e-5..=0.1).contains(&dt) {
        return Err(LoadError::new(path, "timestep", dt, "outside 1e-5..0.1 s", "use 0.002 to 0.005"));
    }
    if let Some(friction) = options.floor_friction {
        let floor = ColliderBuilder::new(SharedShape::halfspace(Vector::Z))
            .friction(friction)
            .friction_combine_rule(CoefficientCombineRule::Min);
        parts.state.colliders.insert(floor);
        parts.visuals.push(Visual {
            body: None,
            body_from_shape: Pose::IDENTITY,
            shape: Shape::Plane,
            color: [0.6; 3],
        });
    }
    let terrain = options.terrain_friction.map(|friction| put_terrain(&mut parts, friction));
    let state = &mut parts.state;
    // rapier does this in its first step only; before it every mass reads zero and centres of mass are wrong.
    for (_, body) in state.bodies.iter_mut() {
        body.recompute_mass_properties_from_colliders(&state.colliders);
    }

    // Also settles which multibodies have a free root, so that indices of velocities are final.
    let indices: Vec<_> = {
        let mut indices: Vec<_> = state
            .bodies
            .iter()
            .filter_map(|(h, _)| state.multibody_joints.rigid_body_link(h))
            .map(|l| l.multibody)
            .collect();
        indices.sort_by_key(|i| i.0.into_raw_parts());
        indices.dedup();
        indices
    };
    for &index in &indices {
        let Some(multibody) = state.multibody_joints.get_multibody_mut(index) else { continue };
        for link in multibody.links_mut() {
            // Loader's motors: the servo computes its torque itself (docs/sim.md).
            link.joint.data.motor_axes = JointAxesMask::empty();
        }
        multibody.forward_kinematics(&state.bodies, true);
        multibody.update_rigid_bodies(&mut state.bodies, true);
        // rapier puts 0.1 on every angular degree of freedom; only what the file says may damp.
        multibody.damping_mut().fill(0.0);
        if multibody.ndofs() > MAX_DOFS {
            return Err(LoadError::new(
                path,
                "joints",
                multibody.ndofs(),
                format!("more than {MAX_DOFS} degrees of freedom"),
                "split the robot",
            ));
        }
    }

    let mut joints = Vec::new();
    for (index, spec) in parts.joints.into_iter().enumerate() {
        let name = spec.name.unwrap_or_else(|| format!("joint{index}"));
        let field = format!("<joint {name}>");
        if joints.iter().any(|j: &Joint| j.name == name) {
            return Err(LoadError::new(
                path,
                field,
                "",
                "its name is taken",
                "give every joint its own name",
            )
            .at(spec.place.as_ref()));
        }
        if let Some([low, high]) = spec.range
            && low >= high
        {
            return Err(LoadError::new(
                path,
                field + " range",
                format!("{low} {high}"),
                "empty",
                "write low before high",
            )
            .at(spec.place.as_ref()));
        }
        let multibody_index = state.multibody_joints.rigid_body_link(spec.child).map(|l| l.multibody);
        let (Some(multibody), Some((body, link_id))) =
            (multibody_index, state.multibody_joints.get_mut(spec.handle))
        else {
            return Err(LoadError::new(
                path,
                field,
                "",
                "was dropped by the physics engine",
                "check its parent body",
            )
            .at(spec.place.as_ref()));
        };
        let Some(velocity_index) = body.link(link_id).map(|l| l.assembly_id()) else { continue };
        body.damping_mut()[velocity_index] = spec.damping;
        body.armature_mut()[velocity_index] = spec.armature;
        body.frictions_mut()[velocity_index] = spec.friction_loss;
        let slot = JointSlot {
            multibody,
            handle: spec.handle,
            link_id,
            velocity_index,
            parent: spec.parent,
            child: spec.child,
            reference: spec.reference,
        };
        let inertia = moved_mass(state, &slot) + spec.armature;
        if inertia.is_nan() || inertia <= 0.0 {
            return Err(LoadError::new(
                path,
                field,
                "",
                "moves no mass",
                "give the body or its children <inertial> or geoms with density",
            )
            .at(spec.place.as_ref()));
        }
        joints.push(Joint {
            name,
            kind: spec.kind,
            range: spec.range,
            damping: spec.damping,
            armature: spec.armature,
            friction_loss: spec.friction_loss,
            actuator: spec.actuator,
            slot,
        });
    }
    if joints.is_empty() && parts.base.is_none() {
        return Err(LoadError::new(
            path,
            "model",
            "",
            "nothing in it can move",
            "give a body a <joint> or <freejoint>",
        ));
    }
    if let Some(base) = parts.base {
        let mass = state.bodies.get(base).map_or(0.0, |b| b.mass_properties().local_mprops.mass());
        if mass.is_nan() || mass <= 0.0 {
            return Err(LoadError::new(
                path,
                "free body",
                "",
                "has no mass",
                "give it <inertial> or geoms with density",
            ));
        }
    }
    let dynamics = match options.engine {
        Engine::Rapier => None,
        Engine::Auto => {
            Dynamics::read(&parts.state, &joints, &parts.details).filter(|dynamics| dynamics.trees() == 1)
        }
        Engine::Reduced => Some(Dynamics::read(&parts.state, &joints, &parts.details).ok_or_else(|| {
            LoadError::new(
                path,
                "model",
                "",
                "has parts that the reduced engine does not move (ball joints, loops, couplings)",
                "load it with rapier's engine",
            )
        })?),
    };
    if dynamics.is_some() {
        parts.unsupported.retain(|left_out| !REDUCED_ONLY.contains(&left_out.effect));
    }
    Ok(Robot {
        dynamics,
        name: parts.name,
        joints,
        bodies: parts.bodies,
        sites: parts.sites,
        keyframes: parts.keyframes,
        unsupported: parts.unsupported,
        timestep_s: dt,
        base: parts.base,
        terrain,
        visuals: parts.visuals,
        template: parts.state,
    })
}

/// Takes every floor away and puts a height field in its place.
fn put_terrain(parts: &mut Parts, friction: f32) -> ColliderHandle {
    let PhysicsState { colliders, islands, bodies, .. } = &mut parts.state;
    let floors: Vec<_> = colliders
        .iter()
        .filter(|(_, c)| c.shape().as_halfspace().is_some())
        .map(|(handle, _)| handle)
        .collect();
    for floor in floors {
        colliders.remove(floor, islands, bodies, &mut SoftBodySet::new(), false);
    }
    parts.visuals.retain(|visual| visual.shape != Shape::Plane);
    let flat = SharedShape::heightfield(Array2::zeros(2, 2), Vector::ONE);
    let ground = ColliderBuilder::new(flat)
        .position(Terrain::pose())
        .friction(friction)
        .friction_combine_rule(CoefficientCombineRule::Min);
    colliders.insert(ground)
}

/// Mass of the joint's child and everything below it, kg.
fn moved_mass(state: &PhysicsState, slot: &JointSlot) -> f32 {
    let Some(multibody) = state.multibody_joints.get_multibody(slot.multibody) else { return 0.0 };
    let mut moves = vec![false; multibody.num_links()];
    let mut mass = 0.0;
    for link in multibody.links() {
        let id = link.link_id();
        moves[id] = id == slot.link_id || link.parent_id().is_some_and(|p| moves[p]);
        if moves[id] {
            mass += state
                .bodies
                .get(link.rigid_body_handle())
                .map_or(0.0, |b| b.mass_properties().local_mprops.mass());
        }
    }
    mass
}
