//! MJCF through rapier3d-mjcf, with the settings measured on a walking Go1 (docs/sim.md).

use std::collections::HashMap;
use std::path::Path;

use rapier3d::dynamics::{CoefficientCombineRule, RigidBodyBuilder};
use rapier3d::geometry::{ColliderBuilder, ColliderHandle};
use rapier3d::math::{Pose, Vector};
use rapier3d_mjcf::mjcf_rs::body::{Geom, GeomType, Joint as MjcfJointDef, JointType};
use rapier3d_mjcf::mjcf_rs::extras::{Actuator as MjcfActuator, ActuatorKind};
use rapier3d_mjcf::mjcf_rs::{Model, Tristate};
use rapier3d_mjcf::{MjcfDofKind, MjcfLoaderOptions, MjcfMultibodyOptions, MjcfRobot};

use super::check::Checked;
use super::error::{LoadError, Place};
use super::finish::{self, JointSpec, Parts};
use super::hfield;
use super::mesh::{self, LoadedMesh};
use super::softness::{Attributes, PairAttributes};
use crate::dynamics::{Details, GeomDetails, Softness};
use crate::robot::{Actuator, Body, JointKind, Keyframe, Robot, RobotOptions, Site};
use crate::scene::{self, Visual};
use crate::state::PhysicsState;
use crate::terrain::Terrain;

/// Most bodies: the multibody solver's dense mass matrix grows with their square.
const MAX_BODIES: usize = 1000;

pub(super) fn load(
    path: &Path,
    folder: Option<&Path>,
    mut checked: Checked,
    options: RobotOptions,
) -> Result<Robot, LoadError> {
    let here = folder.unwrap_or(Path::new("."));
    let mut model = Model::from_str(&checked.text, here)
        .map_err(|e| LoadError::new(path, "model", "", e.to_string(), "correct the element it names"))?;
    let attributes = Attributes::read(path, &checked);
    validate(path, &model, &attributes, &checked)?;
    let paired = paired(path, &mut model, &attributes)?;
    let assets = Assets {
        fields: hfield::read(path, folder, &mut model, &attributes, &checked)?,
        meshes: mesh::read(path, folder, &model, &attributes, &mut checked)?,
    };
    // rapier's loader couples the joints of every fixed tendon; one that nothing pulls at only measures.
    let Model { tendons, actuators, .. } = &mut model;
    tendons.retain(|tendon| tendon.name.is_some() && actuators.iter().any(|a| a.tendon == tendon.name));

    let loader = MjcfLoaderOptions {
        skip_plane_geoms: false,
        collider_blueprint: ColliderBuilder::default()
            .density(0.0)
            .friction_combine_rule(CoefficientCombineRule::Min),
        rigid_body_blueprint: RigidBodyBuilder::dynamic().can_sleep(false),
        ..MjcfLoaderOptions::default()
    };
    let mut robot = MjcfRobot::from_model(&model, loader, here);
    for body in robot.bodies.iter_mut().filter(|body| !body.is_intermediate) {
        let geoms = &model.bodies[body.mjcf_body_id].body.geoms;
        let solid = geoms.iter().filter(|geom| assets.has_collider(geom));
        for (geom, collider) in solid.zip(&mut body.colliders) {
            if let Some(field) = assets.field(geom) {
                collider.set_shape(field.shape().clone());
                collider.set_position(Pose::from(geom.pose) * Terrain::pose());
            }
        }
    }
    // A robot jointed to the world makes the world's body a link of its multibody, and then disabled self contacts
    // would let it fall through the floor: the world's geoms become colliders without a body.
    let surroundings = std::mem::take(&mut robot.bodies[0].colliders);
    let timestep = options.timestep_s.unwrap_or(model.option.timestep as f32);
    let mut state = PhysicsState::new(robot.gravity, timestep);
    let handles = robot.clone().insert_using_multibody_joints(
        &mut state.bodies,
        &mut state.colliders,
        &mut state.multibody_joints,
        &mut state.impulse_joints,
        MjcfMultibodyOptions::DISABLE_SELF_CONTACTS,
    );
    let surroundings: Vec<_> =
        surroundings.into_iter().map(|collider| state.colliders.insert(collider)).collect();
    let mut details = details(&model, &attributes);
    let handle_of = |mjcf_id: usize| {
        let index = robot.bodies.iter().position(|b| b.mjcf_body_id == mjcf_id && !b.is_intermediate)?;
        handles.bodies.get(index)?.as_ref().map(|h| h.body)
    };

    let mut named = HashMap::new();
    for (index, body) in robot.bodies.iter().enumerate().filter(|(_, body)| !body.is_intermediate) {
        let colliders = match body.mjcf_body_id {
            0 => surroundings.clone(),
            _ => handles.bodies[index]
                .as_ref()
                .map_or(Vec::new(), |h| h.colliders.iter().map(|c| c.handle).collect()),
        };
        put_geoms(&model, &attributes, &assets, body.mjcf_body_id, &colliders, &mut details, &mut named);
    }
    for pair in paired {
        if let [Some(&one), Some(&other)] = [&pair.geoms[0], &pair.geoms[1]].map(|name| named.get(name)) {
            details.pairs.insert((one, other), pair.touch);
        }
    }

    let mut joints = Vec::new();
    for dof in &robot.qpos_dofs {
        let (Some(index), MjcfDofKind::Hinge | MjcfDofKind::Slide) = (dof.joint, dof.kind) else { continue };
        let Some(handle) = handles.joints[index].joint else {
            return Err(LoadError::new(
                path,
                "<joint>",
                "",
                "closes a kinematic loop",
                "use <equality><connect>",
            ));
        };
        let name = robot.joints[index].name.clone();
        let definition = joint_definition(&model, index, &robot);
        details.joints.push(joint_softness(&attributes, index, &robot));
        joints.push(JointSpec {
            actuator: name.as_deref().and_then(|n| actuator(&model, n)),
            name,
            kind: if dof.kind == MjcfDofKind::Hinge { JointKind::Hinge } else { JointKind::Slide },
            range: definition.and_then(|d| limits(d, model.compiler.autolimits)),
            damping: robot.joints[index].damping_per_dof,
            armature: robot.joints[index].armature_per_dof,
            friction_loss: robot.joints[index].frictionloss_per_dof,
            reference: dof.reference,
            handle,
            parent: handles.joints[index].link1,
            child: handles.joints[index].link2,
            place: place_of_joint(&attributes, &model, index, &robot),
        });
    }
    let base = robot
        .qpos_dofs
        .iter()
        .find(|d| d.kind == MjcfDofKind::Free)
        .and_then(|d| handles.bodies[d.body].as_ref())
        .map(|h| h.body);
    let bodies = model
        .bodies_iter()
        .filter_map(|(id, entry)| {
            let name = entry.body.name.clone().unwrap_or_else(|| format!("body{id}"));
            Some(Body { name, handle: handle_of(id)? })
        })
        .collect();
    let sites = model
        .bodies
        .iter()
        .enumerate()
        .flat_map(|(id, entry)| entry.body.sites.iter().map(move |site| (id, site)))
        .filter_map(|(id, site)| {
            Some(Site {
                name: site.name.clone()?,
                body: handle_of(id)?,
                body_from_site: Pose::from(site.pose),
            })
        })
        .collect();
    let unsupported = std::mem::take(&mut checked.unsupported);
    let robot = finish::finish(
        path,
        options,
        Parts {
            name: model.name.clone().unwrap_or_else(|| path.display().to_string()),
            joints,
            bodies,
            sites,
            keyframes: keyframes(&model, &robot),
            unsupported,
            base,
            visuals: visuals(&model, &assets, handle_of),
            details,
            state,
        },
    )?;
    validate_actuators(path, &model, &checked)?;
    Ok(robot)
}

/// What geoms name of `<asset>`.
struct Assets {
    fields: HashMap<String, Terrain>,
    meshes: HashMap<String, LoadedMesh>,
}

impl Assets {
    fn field(&self, geom: &Geom) -> Option<&Terrain> {
        self.fields.get(geom.hfield.as_ref().filter(|_| geom.type_ == GeomType::Hfield)?)
    }

    fn mesh(&self, geom: &Geom) -> Option<&LoadedMesh> {
        self.meshes.get(geom.mesh.as_ref().filter(|_| geom.type_ == GeomType::Mesh)?)
    }

    /// Whether the reader makes a collider of the geom.
    fn has_collider(&self, geom: &Geom) -> bool {
        mesh::collides(geom)
            && match geom.type_ {
                GeomType::Mesh => self.mesh(geom).is_some_and(|mesh| mesh.is_solid),
                GeomType::Hfield => self.field(geom).is_some(),
                GeomType::Sdf => false,
                _ => true,
            }
    }
}

/// Settings of the model and pairs of bodies that never touch.
fn details(model: &Model, attributes: &Attributes) -> Details {
    let excluded = model.contact.excludes.iter().filter_map(|pair| {
        let (a, b) = (model.body_id_by_name(&pair.body1)?, model.body_id_by_name(&pair.body2)?);
        Some((a.min(b), a.max(b)))
    });
    Details {
        cone: attributes.cone,
        impratio: attributes.impratio,
        explicit_damping: attributes.explicit_damping,
        excluded: excluded.collect(),
        ..Details::default()
    }
}

/// A bit that no file can set: geoms that touch nothing but in pairs get it, so that the reader makes colliders of them.
const PAIRED: u32 = 1 << 31;

/// The `<pair>`s, whose geoms are there.
fn paired<'a>(
    path: &Path,
    model: &mut Model,
    attributes: &'a Attributes,
) -> Result<&'a [PairAttributes], LoadError> {
    for pair in &attributes.pairs {
        for name in &pair.geoms {
            let mut geoms = model.bodies.iter_mut().flat_map(|entry| &mut entry.body.geoms);
            let Some(geom) = geoms.find(|geom| geom.name.as_ref() == Some(name)) else {
                let error =
                    LoadError::new(path, "<pair> geom", name, "is no geom of the model", "correct its name");
                return Err(error.at(Some(&pair.place)));
            };
            if !mesh::collides(geom) {
                geom.conaffinity = PAIRED;
            }
        }
        if !matches!(pair.touch.condim, 1 | 3 | 4 | 6) {
            return Err(condim(path, "<pair> condim", pair.touch.condim).at(Some(&pair.place)));
        }
    }
    Ok(&attributes.pairs)
}

fn condim(path: &Path, field: impl Into<String>, value: u32) -> LoadError {
    LoadError::new(path, field, value, "not a dimension of contacts", "give 1, 3, 4 or 6")
}

/// Contact attributes of a body's colliders; rapier makes one of every geom that collides and has a shape for it.
fn put_geoms(
    model: &Model,
    attributes: &Attributes,
    assets: &Assets,
    id: usize,
    colliders: &[ColliderHandle],
    details: &mut Details,
    named: &mut HashMap<String, ColliderHandle>,
) {
    let body = &model.bodies[id].body;
    let soft = attributes.body(id, body);
    let solid: Vec<usize> = (0..body.geoms.len()).filter(|&g| assets.has_collider(&body.geoms[g])).collect();
    if solid.len() != colliders.len() {
        return;
    }
    // A body without joints moves with the one it hangs on.
    let weld = |mut id: usize| {
        while id != 0 && model.bodies[id].body.joints.is_empty() {
            id = model.bodies[id].parent.unwrap_or(0);
        }
        id
    };
    let mine = weld(id);
    let above = weld(model.bodies[mine].parent.unwrap_or(0));
    for (&geom, &collider) in solid.iter().zip(colliders) {
        let (softness, mix) = soft.map_or((Softness::default(), 1.0), |a| a.geoms[geom]);
        named.extend(body.geoms[geom].name.clone().map(|name| (name, collider)));
        let Geom { contype, conaffinity, condim, friction, priority, margin, .. } = body.geoms[geom];
        let geom = GeomDetails {
            body: id,
            weld: mine,
            above,
            contype,
            conaffinity: conaffinity & !PAIRED,
            condim,
            friction,
            priority,
            mix,
            margin: margin.max(0.0),
            softness,
        };
        details.geoms.insert(collider, geom);
    }
}

fn joint_softness(attributes: &Attributes, index: usize, robot: &MjcfRobot) -> [Softness; 2] {
    let (id, before) = count_of_joint(index, robot);
    let found = attributes.bodies.get(id).and_then(|body| body.joints.get(before));
    found.copied().unwrap_or_default()
}

/// Least size of a shape: squares of smaller ones vanish in `f32`, and parry asserts that they do not.
pub(super) const SMALLEST_M: f64 = 1e-6;

/// Refuses what parses but has no physical meaning, before rapier divides by it.
fn validate(path: &Path, model: &Model, attributes: &Attributes, checked: &Checked) -> Result<(), LoadError> {
    let timestep = model.option.timestep;
    if !(1e-5..=0.1).contains(&timestep) {
        return Err(LoadError::new(
            path,
            "<option> timestep",
            timestep,
            "outside 1e-5..0.1 s",
            "use 0.002 to 0.005",
        )
        .at(checked.place("option", "")));
    }
    if model.bodies.len() > MAX_BODIES {
        return Err(LoadError::new(
            path,
            "<body>",
            model.bodies.len(),
            format!("more than {MAX_BODIES} bodies"),
            "split the scene",
        ));
    }
    for (id, entry) in model.bodies.iter().enumerate() {
        let body = &entry.body;
        let known = attributes.body(id, body);
        let place = known.and_then(|a| a.place.as_ref());
        let element = format!("<body {}>", body.name.as_deref().unwrap_or("without a name"));
        if let Some(inertial) = &body.inertial
            && inertial.mass <= 0.0
        {
            return Err(LoadError::new(
                path,
                format!("{element} <inertial> mass"),
                inertial.mass,
                "not above zero",
                "give the body its mass in kg, or remove <inertial> to derive it from its geoms",
            )
            .at(place));
        }
        for (nth, geom) in body.geoms.iter().enumerate() {
            let place = known.and_then(|a| a.geom_places.get(nth));
            validate_geom(path, &element, geom, id == 0).map_err(|e| e.at(place))?;
        }
        for (nth, joint) in body.joints.iter().enumerate() {
            let place = known.and_then(|a| a.joint_places.get(nth));
            let moves = matches!(joint.type_, JointType::Hinge | JointType::Slide);
            let length: f64 = joint.axis.iter().map(|a| a * a).sum();
            if moves && length < 1e-12 {
                return Err(LoadError::new(
                    path,
                    format!("{element} <joint> axis"),
                    format!("{:?}", joint.axis),
                    "has no direction",
                    "give a non-zero axis",
                )
                .at(place));
            }
            if joint.damping < 0.0 || joint.armature < 0.0 || joint.frictionloss < 0.0 {
                return Err(LoadError::new(
                    path,
                    format!("{element} <joint {}>", joint.name.as_deref().unwrap_or("")),
                    "",
                    "negative damping, armature or frictionloss",
                    "these take energy away: give values of at least 0",
                )
                .at(place));
            }
        }
    }
    Ok(())
}

/// rapier's reader would leave such a joint without its motor.
fn validate_actuators(path: &Path, model: &Model, checked: &Checked) -> Result<(), LoadError> {
    for actuator in &model.actuators {
        if let Some(joint) = &actuator.joint
            && model.joint_by_name(joint).is_none()
        {
            let field = format!("<actuator> <{:?}> joint", actuator.kind).to_lowercase();
            let error = LoadError::new(path, field, joint, "is no joint of the model", "correct its name");
            return Err(error.at(checked.place("actuator", joint)));
        }
    }
    Ok(())
}

fn validate_geom(path: &Path, element: &str, geom: &Geom, on_world: bool) -> Result<(), LoadError> {
    let field = format!("{element} <geom {}>", geom.name.as_deref().unwrap_or("without a name"));
    if !matches!(geom.condim, 1 | 3 | 4 | 6) {
        return Err(condim(path, field + " condim", geom.condim));
    }
    if let Some(bad) = geom.friction.iter().find(|mu| **mu < 0.0) {
        return Err(LoadError::new(
            path,
            field + " friction",
            bad,
            "negative",
            "give coefficients of at least 0",
        ));
    }
    if geom.type_ == GeomType::Plane {
        return match on_world {
            true => Ok(()),
            false => {
                Err(LoadError::new(path, field, "plane", "a plane cannot move", "attach it to <worldbody>"))
            }
        };
    }
    let needed = match geom.type_ {
        GeomType::Sphere => 1,
        GeomType::Capsule | GeomType::Cylinder if geom.fromto.is_some() => 1,
        GeomType::Capsule | GeomType::Cylinder => 2,
        GeomType::Box if geom.fromto.is_some() => 2,
        GeomType::Box | GeomType::Ellipsoid => 3,
        GeomType::Plane | GeomType::Mesh | GeomType::Hfield | GeomType::Sdf => 0,
    };
    if let Some(size) = geom.size[..needed].iter().find(|size| **size < SMALLEST_M) {
        return Err(LoadError::new(path, field + " size", size, "below 1e-6 m", "give half sizes in m"));
    }
    if let Some([ax, ay, az, bx, by, bz]) = geom.fromto {
        let length = [ax - bx, ay - by, az - bz].into_iter().map(|v| v * v).sum::<f64>().sqrt();
        if length < SMALLEST_M {
            return Err(LoadError::new(
                path,
                field + " fromto",
                length,
                "shorter than 1e-6 m",
                "give two points",
            ));
        }
    }
    Ok(())
}

/// The definition behind the rapier joint `index`: names may be missing, so it is found by counting.
fn joint_definition<'a>(model: &'a Model, index: usize, robot: &MjcfRobot) -> Option<&'a MjcfJointDef> {
    let (mjcf_id, before) = count_of_joint(index, robot);
    model.bodies[mjcf_id].body.joints.iter().filter(|j| j.type_ != JointType::Free).nth(before)
}

fn place_of_joint(attributes: &Attributes, model: &Model, index: usize, robot: &MjcfRobot) -> Option<Place> {
    let (id, before) = count_of_joint(index, robot);
    let body = &model.bodies[id].body;
    let (nth, _) = body.joints.iter().enumerate().filter(|(_, j)| j.type_ != JointType::Free).nth(before)?;
    attributes.body(id, body)?.joint_places.get(nth).cloned()
}

/// The body of the rapier joint `index`, and how many joints of that body come before it.
fn count_of_joint(index: usize, robot: &MjcfRobot) -> (usize, usize) {
    let body = |joint: usize| robot.bodies[robot.joints[joint].link2].mjcf_body_id;
    (body(index), (0..index).filter(|&other| body(other) == body(index)).count())
}

fn limits(joint: &MjcfJointDef, autolimits: bool) -> Option<[f32; 2]> {
    let limited = match joint.limited {
        Tristate::True => true,
        Tristate::False => false,
        Tristate::Auto => autolimits,
    };
    joint.range.filter(|_| limited).map(|r| r.map(|v| v as f32))
}

fn actuator(model: &Model, joint: &str) -> Option<Actuator> {
    let actuator: &MjcfActuator = model.actuators.iter().find(|a| a.joint.as_deref() == Some(joint))?;
    let gear = actuator.gear[0].abs();
    let torque_limit = match (actuator.force_range, actuator.ctrl_range, actuator.kind) {
        (Some(force), _, _) => force[0].abs().max(force[1].abs()),
        // A motor's control is its torque before the gear.
        (None, Some(ctrl), ActuatorKind::Motor) => ctrl[0].abs().max(ctrl[1].abs()) * gear,
        _ => f64::from(f32::MAX),
    };
    let (kp, kd) = match actuator.kind {
        ActuatorKind::Position => (actuator.kp.unwrap_or(1.0), actuator.kv.unwrap_or(0.0)),
        ActuatorKind::Velocity => (0.0, actuator.kv.unwrap_or(1.0)),
        _ => (0.0, 0.0),
    };
    Some(Actuator { kp: kp as f32, kd: kd as f32, torque_limit: torque_limit as f32 })
}

fn keyframes(model: &Model, robot: &MjcfRobot) -> Vec<Keyframe> {
    let mut keyframes = Vec::new();
    for (index, key) in model.keyframes.iter().enumerate() {
        let mut base = None;
        let mut joint_position = Vec::new();
        let mut offset = 0;
        for dof in &robot.qpos_dofs {
            let width = dof.kind.qpos_width();
            // A short qpos leaves the rest at zero, as MuJoCo's does.
            let mut q = [0.0f32; 7];
            for (to, from) in q.iter_mut().zip(key.qpos.iter().skip(offset).take(width)) {
                *to = *from as f32;
            }
            offset += width;
            match dof.kind {
                MjcfDofKind::Free if base.is_none() => {
                    base = Some(([q[0], q[1], q[2]], [q[3], q[4], q[5], q[6]]))
                }
                MjcfDofKind::Hinge | MjcfDofKind::Slide => joint_position.push(q[0]),
                MjcfDofKind::Free | MjcfDofKind::Ball => {}
            }
        }
        let name = key.name.clone().unwrap_or_else(|| format!("key{index}"));
        keyframes.push(Keyframe { name, base, joint_position });
    }
    keyframes
}

fn visuals(
    model: &Model,
    assets: &Assets,
    handle_of: impl Fn(usize) -> Option<rapier3d::dynamics::RigidBodyHandle>,
) -> Vec<Visual> {
    let mut visuals = Vec::new();
    for (id, entry) in model.bodies.iter().enumerate() {
        for geom in &entry.body.geoms {
            let Some((shape, pose)) = shape_of(geom, assets) else { continue };
            let material =
                geom.material.as_deref().and_then(|m| model.assets.material(m)).and_then(|m| m.rgba);
            let plain = if shape == scene::Shape::Plane { 0.74 } else { 0.45 };
            let rgba = geom.rgba.or(material).unwrap_or([plain, plain, plain, 1.0]);
            if rgba[3] == 0.0 {
                continue;
            }
            // World geoms have no body when nothing is attached to the world: they stay where they are.
            visuals.push(Visual {
                body: handle_of(id),
                body_from_shape: pose,
                shape,
                color: [rgba[0] as f32, rgba[1] as f32, rgba[2] as f32],
            });
        }
    }
    visuals
}

fn shape_of(geom: &Geom, assets: &Assets) -> Option<(scene::Shape, Pose)> {
    if let Some(field) = assets.field(geom) {
        let drawn = field.placed()?.shape;
        return Some((drawn, Pose::from(geom.pose) * Terrain::pose()));
    }
    let size = geom.size.map(|s| s as f32);
    let (pose, half_length) = match geom.fromto {
        None => (Pose::from(geom.pose), size[1]),
        Some(ends) => {
            let [ax, ay, az, bx, by, bz] = ends.map(|v| v as f32);
            let (a, b) = (Vector::new(ax, ay, az), Vector::new(bx, by, bz));
            let rotation = (b - a).try_normalize().map_or(rapier3d::math::Rotation::IDENTITY, |d| {
                rapier3d::math::Rotation::from_rotation_arc(Vector::Z, d)
            });
            (Pose::from_parts((a + b) * 0.5, rotation), (b - a).length() * 0.5)
        }
    };
    let shape = match geom.type_ {
        GeomType::Plane => scene::Shape::Plane,
        GeomType::Sphere => scene::Shape::Sphere { radius: size[0] },
        GeomType::Capsule => scene::Shape::Capsule { radius: size[0], half_length },
        GeomType::Cylinder => scene::Shape::Cylinder { radius: size[0], half_length },
        GeomType::Box => {
            let depth = if geom.fromto.is_some() { half_length } else { size[2] };
            scene::Shape::Box { half_extents: [size[0], size[1], depth] }
        }
        GeomType::Ellipsoid => scene::Shape::Ellipsoid { radii: size },
        GeomType::Mesh => assets.mesh(geom)?.shape.clone(),
        GeomType::Hfield | GeomType::Sdf => return None,
    };
    Some((shape, pose))
}
