//! URDF through rapier3d-urdf; limits, efforts, damping and friction, which it ignores, are applied here.

use std::path::Path;

use rapier3d::dynamics::{CoefficientCombineRule, RigidBodyBuilder};
use rapier3d::geometry::ColliderBuilder;
use rapier3d::math::Vector;
use rapier3d_urdf::urdf_rs::{self, JointType};
use rapier3d_urdf::{UrdfLoaderOptions, UrdfMultibodyOptions, UrdfRobot};

use super::check::Checked;
use super::error::LoadError;
use super::finish::{self, JointSpec, Parts};
use super::mjcf::SMALLEST_M;
use crate::dynamics::Details;
use crate::robot::{Actuator, Body, JointKind, Robot, RobotOptions};
use crate::scene::{Shape, Visual};
use crate::state::PhysicsState;

const STANDARD_GRAVITY: Vector = Vector::new(0.0, 0.0, -9.81);
/// MuJoCo's default, which most published policies were trained at a multiple of.
const DEFAULT_TIMESTEP_S: f32 = 0.002;

pub(super) fn load(path: &Path, checked: Checked, options: RobotOptions) -> Result<Robot, LoadError> {
    let source = urdf_rs::read_from_string(&checked.text)
        .map_err(|e| LoadError::new(path, "model", "", e.to_string(), "correct the element it names"))?;
    validate(path, &source, &checked)?;
    let loader = UrdfLoaderOptions {
        collider_blueprint: ColliderBuilder::default()
            .density(0.0)
            .friction_combine_rule(CoefficientCombineRule::Min),
        rigid_body_blueprint: RigidBodyBuilder::dynamic().can_sleep(false),
        ..UrdfLoaderOptions::default()
    };
    let robot = UrdfRobot::from_robot(&source, loader, path.parent().unwrap_or(Path::new(".")));
    let mut state = PhysicsState::new(STANDARD_GRAVITY, options.timestep_s.unwrap_or(DEFAULT_TIMESTEP_S));
    let links: Vec<usize> = robot.links.iter().map(|l| l.urdf_link_index).collect();
    let sources: Vec<usize> = robot.joints.iter().map(|j| j.source_urdf_joint_index()).collect();
    let handles = robot.insert_using_multibody_joints(
        &mut state.bodies,
        &mut state.colliders,
        &mut state.multibody_joints,
        UrdfMultibodyOptions::DISABLE_SELF_CONTACTS,
    );
    let mut joints = Vec::new();
    for (handle, &index) in handles.joints.iter().zip(&sources) {
        let joint = &source.joints[index];
        let kind = match joint.joint_type {
            JointType::Revolute | JointType::Continuous => JointKind::Hinge,
            JointType::Prismatic => JointKind::Slide,
            _ => continue,
        };
        let Some(inserted) = handle.joint else {
            return Err(LoadError::new(
                path,
                format!("<joint {}>", joint.name),
                "",
                "closes a loop",
                "cut the loop",
            )
            .at(checked.place("joint", &joint.name)));
        };
        let limited = joint.joint_type != JointType::Continuous && joint.limit.lower < joint.limit.upper;
        let dynamics = joint.dynamics.as_ref();
        let effort = if joint.limit.effort > 0.0 { joint.limit.effort as f32 } else { f32::MAX };
        joints.push(JointSpec {
            name: Some(joint.name.clone()),
            kind,
            range: limited.then_some([joint.limit.lower as f32, joint.limit.upper as f32]),
            damping: dynamics.map_or(0.0, |d| d.damping as f32),
            armature: 0.0,
            friction_loss: dynamics.map_or(0.0, |d| d.friction as f32),
            actuator: Some(Actuator { kp: 0.0, kd: 0.0, torque_limit: effort }),
            reference: 0.0,
            handle: inserted,
            parent: handle.link1,
            child: handle.link2,
            place: checked.place("joint", &joint.name).cloned(),
        });
    }
    let bodies: Vec<Body> = handles
        .links
        .iter()
        .zip(&links)
        .map(|(link, &index)| Body { name: source.links[index].name.clone(), handle: link.body })
        .collect();
    let base = handles.links.iter().map(|l| l.body).find(|&body| {
        state.bodies.get(body).is_some_and(|b| b.is_dynamic())
            && handles.joints.iter().all(|j| j.link2 != body)
    });
    let visuals = handles
        .links
        .iter()
        .flat_map(|link| link.colliders.iter())
        .filter_map(|c| {
            let collider = state.colliders.get(c.handle)?;
            let (shape, pose) = Shape::from_collider(collider.shape())?;
            let body_from_collider = collider.position_wrt_parent().copied().unwrap_or_default();
            Some(Visual {
                body: collider.parent(),
                body_from_shape: body_from_collider * pose,
                shape,
                color: [0.55, 0.58, 0.62],
            })
        })
        .collect();
    finish::finish(
        path,
        options,
        Parts {
            name: source.name.clone(),
            joints,
            bodies,
            sites: Vec::new(),
            keyframes: Vec::new(),
            unsupported: checked.unsupported,
            base,
            visuals,
            details: Details::default(),
            state,
        },
    )
}

fn validate(path: &Path, robot: &urdf_rs::Robot, checked: &Checked) -> Result<(), LoadError> {
    let known = |name: &str| robot.links.iter().any(|l| l.name == name);
    for joint in &robot.joints {
        let place = checked.place("joint", &joint.name);
        for (field, link) in [("<parent> link", &joint.parent.link), ("<child> link", &joint.child.link)] {
            if !known(link) {
                let field = format!("<joint {}> {field}", joint.name);
                return Err(LoadError::new(
                    path,
                    field,
                    link,
                    "no such link",
                    "declare the link or correct its name",
                )
                .at(place));
            }
        }
        if matches!(joint.joint_type, JointType::Floating | JointType::Planar | JointType::Spherical) {
            let field = format!("<joint {}> type", joint.name);
            let kind = format!("{:?}", joint.joint_type);
            return Err(LoadError::new(
                path,
                field,
                kind,
                "not supported",
                "split it into revolute and prismatic joints",
            )
            .at(place));
        }
    }
    for link in &robot.links {
        let place = checked.place("link", &link.name);
        let mass = link.inertial.mass.value;
        if mass < 0.0 {
            return Err(LoadError::new(
                path,
                format!("<link {}> mass", link.name),
                mass,
                "negative",
                "give its mass in kg",
            )
            .at(place));
        }
        for collision in &link.collision {
            let sizes: Vec<f64> = match &collision.geometry {
                urdf_rs::Geometry::Box { size } => size.0.to_vec(),
                urdf_rs::Geometry::Cylinder { radius, length }
                | urdf_rs::Geometry::Capsule { radius, length } => {
                    vec![*radius, *length]
                }
                urdf_rs::Geometry::Sphere { radius } => vec![*radius],
                urdf_rs::Geometry::Mesh { .. } => Vec::new(),
            };
            if let Some(size) = sizes.iter().find(|s| **s < SMALLEST_M) {
                let field = format!("<link {}> <collision> size", link.name);
                let error = LoadError::new(path, field, size, "below 1e-6 m", "give sizes in m");
                return Err(error.at(place));
            }
        }
    }
    Ok(())
}
