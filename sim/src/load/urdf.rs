//! URDF through rapier3d-urdf; limits, efforts, damping, friction, meshes and pictures, which it
//! ignores, are applied here.

use std::path::{Path, PathBuf};

use rapier3d::dynamics::{CoefficientCombineRule, RigidBodyBuilder, RigidBodyHandle};
use rapier3d::geometry::{Collider, ColliderBuilder, MeshConverter, SharedShape};
use rapier3d::math::{Pose, Rotation, Vector};
use rapier3d_urdf::urdf_rs::{self, Geometry, JointType, Link, Material};
use rapier3d_urdf::{UrdfLoaderOptions, UrdfMultibodyOptions, UrdfRobot};

use super::check::Checked;
use super::error::{LoadError, Place};
use super::finish::{self, JointSpec, Parts};
use super::mesh::{Source, is_read};
use super::mjcf::SMALLEST_M;
use crate::dynamics::Details;
use crate::robot::{Actuator, Body, JointKind, Robot, RobotOptions};
use crate::scene::{Shape, Visual};
use crate::state::PhysicsState;

const STANDARD_GRAVITY: Vector = Vector::new(0.0, 0.0, -9.81);
/// MuJoCo's default, which most published policies were trained at a multiple of.
const DEFAULT_TIMESTEP_S: f32 = 0.002;

pub(super) fn load(
    path: &Path,
    folder: Option<&Path>,
    checked: Checked,
    options: RobotOptions,
) -> Result<Robot, LoadError> {
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
    let mut visuals = Vec::new();
    let package = folder.map(package_of);
    for (link, &index) in handles.links.iter().zip(&links) {
        let place = checked.place("link", &source.links[index].name);
        let package = package.as_deref();
        let reader = Reader { path, folder, package, place, materials: &source.materials };
        for (shape, pose) in reader.solids(&source.links[index])? {
            let collider = ColliderBuilder::new(shape)
                .position(pose)
                .density(0.0)
                .friction_combine_rule(CoefficientCombineRule::Min);
            state.colliders.insert_with_parent(collider, link.body, &mut state.bodies);
        }
        let drawn = reader.visuals(&source.links[index], link.body)?;
        if drawn.is_empty() {
            let colliders = state.bodies.get(link.body).map_or(&[][..], |body| body.colliders());
            visuals.extend(colliders.iter().filter_map(|&handle| seen(state.colliders.get(handle)?)));
        }
        visuals.extend(drawn);
    }
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

/// Colour of what has no material.
const PLAIN: [f32; 3] = [0.55, 0.58, 0.62];

/// The picture of a collider.
fn seen(collider: &Collider) -> Option<Visual> {
    let (shape, pose) = Shape::from_collider(collider.shape())?;
    let body_from_collider = collider.position_wrt_parent().copied().unwrap_or_default();
    Some(Visual { body: collider.parent(), body_from_shape: body_from_collider * pose, shape, color: PLAIN })
}

/// Meshes and pictures of a link, which rapier's reader leaves out.
/// Folders from a robot file's up to its package's, at most.
const PACKAGE_DEPTH: usize = 4;

struct Reader<'a> {
    path: &'a Path,
    folder: Option<&'a Path>,
    package: Option<&'a Path>,
    place: Option<&'a Place>,
    materials: &'a [Material],
}

impl Reader<'_> {
    /// Convex hulls of the meshes that others touch, in the link.
    fn solids(&self, link: &Link) -> Result<Vec<(SharedShape, Pose)>, LoadError> {
        let mut solids = Vec::new();
        for collision in &link.collision {
            let Geometry::Mesh { filename, scale } = &collision.geometry else { continue };
            if let Some((source, file)) = self.file(link, "collision", filename)? {
                let hull = source.solid(&file, &MeshConverter::ConvexHull, vector(scale))?;
                solids.push((hull, pose(&collision.origin)));
            }
        }
        Ok(solids)
    }

    /// What `<visual>` says; meshes as their triangles.
    fn visuals(&self, link: &Link, body: RigidBodyHandle) -> Result<Vec<Visual>, LoadError> {
        let mut visuals = Vec::new();
        for visual in &link.visual {
            let shape = match &visual.geometry {
                Geometry::Box { size } => Shape::Box { half_extents: size.0.map(|side| 0.5 * side as f32) },
                Geometry::Cylinder { radius, length } => {
                    Shape::Cylinder { radius: *radius as f32, half_length: 0.5 * *length as f32 }
                }
                Geometry::Capsule { radius, length } => {
                    Shape::Capsule { radius: *radius as f32, half_length: 0.5 * *length as f32 }
                }
                Geometry::Sphere { radius } => Shape::Sphere { radius: *radius as f32 },
                Geometry::Mesh { filename, scale } => match self.file(link, "visual", filename)? {
                    Some((source, file)) => source.triangles(&file, vector(scale))?,
                    None => continue,
                },
            };
            // An element without a shape is read as a box without a size.
            if shape.bound() < SMALLEST_M as f32 {
                continue;
            }
            let color = visual.material.as_ref().and_then(|own| {
                let named = || self.materials.iter().find(|known| known.name == own.name)?.color.as_ref();
                own.color.as_ref().or_else(named)
            });
            let color = color.map_or(PLAIN, |c| [0, 1, 2].map(|i| (c.rgba.0[i] as f32).clamp(0.0, 1.0)));
            visuals.push(Visual { body: Some(body), body_from_shape: pose(&visual.origin), shape, color });
        }
        Ok(visuals)
    }

    /// The mesh file of an element; `None` where it is of a kind that is not read. It lies in the package, which
    /// `package://NAME/` means, too.
    fn file(
        &self,
        link: &Link,
        element: &str,
        written: &str,
    ) -> Result<Option<(Source<'_>, PathBuf)>, LoadError> {
        if !is_read(written) {
            return Ok(None);
        }
        let field = format!("<link {}> <{element}> mesh", link.name);
        let source = Source { path: self.path, folder: self.package, field, place: self.place.cloned() };
        let file = source.file(written, |package| match written.split_once("://") {
            Some(("package", rest)) => package.join(rest.split_once('/').map_or(rest, |(_, inside)| inside)),
            Some((_, rest)) => package.join(rest),
            None => self.folder.unwrap_or(package).join(written),
        })?;
        Ok(Some((source, file)))
    }
}

/// The ROS package that a robot file in `folder` belongs to: the nearest folder above with a `package.xml`, as in
/// `PACKAGE/urdf/robot.urdf` beside `PACKAGE/meshes`; without one `folder` itself.
fn package_of(folder: &Path) -> PathBuf {
    let own = std::path::absolute(folder).unwrap_or_default();
    let is_package = |above: &&Path| above.join("package.xml").is_file();
    own.ancestors().take(PACKAGE_DEPTH).find(is_package).unwrap_or(folder).to_owned()
}

fn vector(scale: &Option<urdf_rs::Vec3>) -> Vector {
    scale.as_ref().map_or(Vector::ONE, |scale| Vector::from(scale.0.map(|s| s as f32)))
}

/// Roll about x, then pitch about y, then yaw about z, all of the frame outside.
fn pose(origin: &urdf_rs::Pose) -> Pose {
    let [roll, pitch, yaw] = origin.rpy.0.map(|angle| angle as f32);
    let rotation =
        Rotation::from_rotation_z(yaw) * Rotation::from_rotation_y(pitch) * Rotation::from_rotation_x(roll);
    Pose::from_parts(Vector::from(origin.xyz.0.map(|x| x as f32)), rotation)
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
