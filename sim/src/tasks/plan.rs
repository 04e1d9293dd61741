//! A task file with all its names resolved against the robot: what an environment runs from.

use std::path::Path;

use super::TaskError;
use super::fault::SpecFault;
use super::nearest::{matches, unknown};
use super::people::MAX_PEOPLE;
use super::quantity::{Args, Needs, QUANTITIES, Quantity, Seen};
use super::spec::{Over, TaskSpec, Term};
use crate::robot::{Body, Robot, Site};

/// Everything of a task that does not change from step to step.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) period_s: f32,
    pub(crate) substeps: usize,
    pub(crate) max_steps: u32,
    pub(crate) base: Option<Body>,
    pub(crate) feet: Vec<Body>,
    /// Joints that have an action.
    pub(crate) driven: Vec<usize>,
    pub(crate) default_position: Vec<f32>,
    pub(crate) velocity_command: [Option<usize>; 3],
    /// Slide of a planar robot's base along x, which pushes move.
    pub(crate) planar_x: Option<usize>,
    pub(crate) rewards: Vec<Use>,
    pub(crate) sensors: Vec<Use>,
    pub(crate) privileged: Vec<Use>,
    pub(crate) terminations: Vec<Figure>,
    pub(crate) metrics: Vec<Figure>,
    pub(crate) success: Vec<Figure>,
    /// Raise the level of the next episode.
    pub(crate) promote: Vec<Figure>,
    /// Lower it.
    pub(crate) demote: Vec<Figure>,
    /// Joints with the ranges that their starts are drawn from, in order of drawing.
    pub(crate) start_positions: Vec<(usize, [f32; 2])>,
    pub(crate) start_velocities: Vec<(usize, [f32; 2])>,
    pub(crate) start_bodies: Vec<(Body, [f32; 2], [f32; 2])>,
    /// Where the partner holds the load, and its middle.
    pub(crate) partner_sites: Option<[Site; 2]>,
}

/// A quantity in use.
#[derive(Clone)]
pub(crate) struct Use {
    pub(crate) name: String,
    pub(crate) weight: f32,
    pub(crate) args: Args,
    pub(crate) quantity: &'static Quantity,
}

impl std::fmt::Debug for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} ({:?})", self.name, self.quantity.name, self.args)
    }
}

impl Use {
    pub(crate) fn value(&self, seen: &Seen<'_>) -> f32 {
        (self.quantity.value)(seen, &self.args)
    }
}

/// A quantity over time, and the condition on it.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) of: Use,
    over: Over,
    condition: Condition,
    for_steps: u32,
}

#[derive(Clone, Copy, Debug)]
struct Condition {
    above: f32,
    below: f32,
    within: f32,
    beyond: f32,
}

impl Condition {
    fn holds(&self, value: f32) -> bool {
        value > self.above && value < self.below && value.abs() < self.within && value.abs() > self.beyond
    }
}

/// What a [`Figure`] remembers of an episode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    sum: f32,
    steps: u32,
    max: f32,
    held: u32,
}

impl Figure {
    /// Takes in one step; gives the figure and whether its condition holds.
    pub(crate) fn advance(&self, seen: &Seen<'_>, memory: &mut Memory) -> (f32, bool) {
        let now = self.of.value(seen);
        memory.max = if memory.steps == 0 { now } else { memory.max.max(now) };
        memory.steps += 1;
        let value = match self.over {
            Over::Step => now,
            Over::Mean => {
                memory.sum += now;
                memory.sum / memory.steps as f32
            }
            Over::Max => memory.max,
            Over::Share => {
                memory.sum += f32::from(u8::from(self.condition.holds(now)));
                memory.sum / memory.steps as f32
            }
        };
        let holds = self.condition.holds(value);
        memory.held = if holds { memory.held + 1 } else { 0 };
        (value, holds && memory.held >= self.for_steps)
    }
}

/// Resolves names and checks every field that TOML alone cannot.
pub(super) struct Resolver<'a> {
    pub(super) file: &'a Path,
    pub(super) spec: &'a TaskSpec,
    pub(super) robot: &'a Robot,
}

impl Resolver<'_> {
    pub(super) fn plan(&self, default_position: Vec<f32>, driven: Vec<usize>) -> Result<Plan, TaskError> {
        let (spec, robot) = (self.spec, self.robot);
        let period_s = spec.control_period_s as f32;
        if !(1e-4..=10.0).contains(&period_s) {
            return Err(self.fault("control_period_s", format!("is {period_s}: give 0.0001 to 10 s")));
        }
        if !(spec.time_limit_s >= period_s && spec.time_limit_s <= 86_400.0) {
            let problem = format!("is {}: give one control period to a day", spec.time_limit_s);
            return Err(self.fault("time_limit_s", problem));
        }
        let ratio = period_s / robot.timestep_s;
        if ratio < 0.5 || (ratio - ratio.round()).abs() > 1e-3 * ratio {
            let problem = format!(
                "{period_s} is no multiple of the physics step {}: change one of them",
                robot.timestep_s
            );
            return Err(self.fault("control_period_s", problem));
        }
        let command = |name: &str| spec.commands.inputs.iter().position(|c| c.name == name);
        let base = spec.base.as_deref().map(|name| self.body("base", name)).transpose()?;
        let mut plan = Plan {
            period_s,
            substeps: ratio.round() as usize,
            max_steps: (spec.time_limit_s / period_s).round() as u32,
            base,
            feet: self.bodies("feet", &spec.feet)?,
            driven,
            default_position,
            velocity_command: [command("lin_vel_x"), command("lin_vel_y"), command("ang_vel_yaw")],
            planar_x: robot.joint("root_x"),
            rewards: Vec::new(),
            sensors: Vec::new(),
            privileged: Vec::new(),
            terminations: Vec::new(),
            metrics: Vec::new(),
            success: Vec::new(),
            promote: Vec::new(),
            demote: Vec::new(),
            start_positions: Vec::new(),
            start_velocities: Vec::new(),
            start_bodies: Vec::new(),
            partner_sites: None,
        };
        // Before its pixels become sensors.
        if let Some(camera) = &spec.camera {
            super::camera::check(self, camera)?;
        }
        for (index, term) in spec.rewards.iter().enumerate() {
            let weight = term.weight.ok_or_else(|| {
                self.fault(&format!("rewards[{index}]"), format!("`{}` has no weight: give one", term.term))
            })?;
            let scale = if spec.rewards_per_second { period_s } else { 1.0 };
            plan.rewards.push(Use { weight: weight * scale, ..self.resolve("rewards", index, term, &plan)? });
        }
        for (index, term) in spec.sensors.iter().enumerate() {
            plan.sensors.extend(self.resolve_points("sensors", index, term, &plan)?);
        }
        for (index, term) in spec.privileged.iter().enumerate() {
            plan.privileged.extend(self.resolve_points("privileged", index, term, &plan)?);
        }
        for (index, term) in spec.terminations.iter().enumerate() {
            plan.terminations.push(self.figure("terminations", index, term, &plan, true)?);
        }
        for (index, term) in spec.metrics.iter().enumerate() {
            plan.metrics.push(self.figure("metrics", index, term, &plan, term.over == Over::Share)?);
        }
        for (index, term) in spec.success.all.iter().enumerate() {
            plan.success.push(self.figure("success.all", index, term, &plan, true)?);
        }
        if let Some(curriculum) = &spec.curriculum {
            if !(0.0..=1.0).contains(&curriculum.step) {
                return Err(self.fault("curriculum.step", format!("is {}: give 0 to 1", curriculum.step)));
            }
            for (index, term) in curriculum.promote.iter().enumerate() {
                plan.promote.push(self.figure("curriculum.promote", index, term, &plan, true)?);
            }
            for (index, term) in curriculum.demote.iter().enumerate() {
                plan.demote.push(self.figure("curriculum.demote", index, term, &plan, true)?);
            }
        }
        for (nth, start) in spec.start.joints.iter().enumerate() {
            let field = |key: &str| format!("start.joints[{nth}].{key}");
            for index in self.joints(&field("names"), &start.names)? {
                if let Some(range) = start.position {
                    plan.start_positions.push((index, self.range(&field("position"), range)?));
                }
                if let Some(range) = start.velocity {
                    plan.start_velocities.push((index, self.range(&field("velocity"), range)?));
                }
            }
        }
        for (nth, start) in spec.start.bodies.iter().enumerate() {
            let field = |key: &str| format!("start.bodies[{nth}].{key}");
            let (x, y) = (self.range(&field("x"), start.x)?, self.range(&field("y"), start.y)?);
            plan.start_bodies.push((self.body(&field("name"), &start.name)?, x, y));
        }
        for (field, range) in [
            ("start.height", spec.start.height),
            ("start.yaw", spec.start.yaw),
            ("start.linear_velocity", spec.start.linear_velocity),
        ] {
            self.range(field, range)?;
        }
        if let Some(people) = spec.people {
            self.range("people.speed", people.speed)?;
            let lengths = [people.room, people.radius, people.robot_radius, people.speed[0]];
            if people.count > MAX_PEOPLE || lengths.iter().any(|v| !(0.0..=1000.0).contains(v)) {
                return Err(self.fault("people", format!(
                    "has {lengths:?} and a count of {}: give a count of at most {MAX_PEOPLE}, speeds of at least 0, and lengths of 0 to 1000 m",
                    people.count
                )));
            }
        }
        if let Some(partner) = &spec.partner {
            plan.partner_sites = Some(super::partner::check(self, partner)?);
        }
        if let Some(terrain) = &spec.terrain {
            super::terrain::check(self, terrain)?;
        }
        super::randomise::check(self, &spec.randomisation)?;
        Ok(plan)
    }

    /// `field` has `problem`, on its line of the task file.
    pub(super) fn fault(&self, field: &str, problem: impl std::fmt::Display) -> TaskError {
        self.fault_at(field, format!("{field} {problem}"))
    }

    /// The robot has nothing of the `kind` that is called `name`.
    pub(super) fn unknown<'n>(
        &self,
        field: &str,
        kind: &str,
        name: &str,
        known: impl IntoIterator<Item = &'n str>,
    ) -> TaskError {
        self.fault_at(field, format!("{field}: {}", unknown(kind, name, known)))
    }

    fn fault_at(&self, field: &str, problem: String) -> TaskError {
        let line = self.spec.source.line(field);
        TaskError::Spec(SpecFault { line, ..SpecFault::new(self.file, problem) })
    }

    pub(super) fn range(&self, field: &str, range: [f32; 2]) -> Result<[f32; 2], TaskError> {
        let [low, high] = range;
        let usable = low.is_finite() && high.is_finite() && low <= high;
        usable.then_some(range).ok_or_else(|| {
            self.fault(field, format!("is [{low}, {high}]: write two finite numbers, the lower first"))
        })
    }

    pub(super) fn body(&self, field: &str, name: &str) -> Result<Body, TaskError> {
        self.robot.body(name).cloned().ok_or_else(|| {
            self.unknown(field, "body", name, self.robot.bodies.iter().map(|b| b.name.as_str()))
        })
    }

    fn bodies(&self, field: &str, names: &[String]) -> Result<Vec<Body>, TaskError> {
        (0..).zip(names).map(|(nth, name): (usize, _)| self.body(&format!("{field}[{nth}]"), name)).collect()
    }

    /// Joints whose names match any pattern, in the robot's order within each pattern.
    pub(super) fn joints(&self, field: &str, patterns: &[String]) -> Result<Vec<usize>, TaskError> {
        let mut found = Vec::new();
        for (nth, pattern) in patterns.iter().enumerate() {
            let before = found.len();
            for (index, joint) in self.robot.joints.iter().enumerate() {
                if matches(pattern, &joint.name) && !found.contains(&index) {
                    found.push(index);
                }
            }
            if found.len() == before && !self.robot.joints.iter().any(|j| matches(pattern, &j.name)) {
                let known = self.robot.joints.iter().map(|j| j.name.as_str());
                return Err(self.unknown(&format!("{field}[{nth}]"), "joint", pattern, known));
            }
        }
        Ok(found)
    }

    pub(super) fn site(&self, field: &str, name: &str) -> Result<Site, TaskError> {
        self.robot.site(name).cloned().ok_or_else(|| {
            self.unknown(field, "site", name, self.robot.sites.iter().map(|s| s.name.as_str()))
        })
    }

    fn figure(
        &self,
        field: &str,
        index: usize,
        term: &Term,
        plan: &Plan,
        conditional: bool,
    ) -> Result<Figure, TaskError> {
        let limits = [term.above, term.below, term.within, term.beyond];
        if conditional && limits.iter().all(Option::is_none) {
            return Err(self.fault(
                &format!("{field}[{index}]"),
                format!("`{}` has no condition: give above, below, within or beyond", term.term),
            ));
        }
        Ok(Figure {
            of: self.resolve(field, index, term, plan)?,
            over: term.over,
            condition: Condition {
                above: term.above.unwrap_or(f32::NEG_INFINITY),
                below: term.below.unwrap_or(f32::INFINITY),
                within: term.within.unwrap_or(f32::INFINITY),
                beyond: term.beyond.unwrap_or(-1.0),
            },
            for_steps: (term.for_s / plan.period_s).round() as u32,
        })
    }

    /// A quantity, or where it is taken at points one for each of them.
    fn resolve_points(
        &self,
        field: &str,
        index: usize,
        term: &Term,
        plan: &Plan,
    ) -> Result<Vec<Use>, TaskError> {
        let one = self.resolve(field, index, term, plan)?;
        let named = |(i, args)| Use { name: format!("{}_{i}", one.name), args, ..one.clone() };
        if one.quantity.needs == Needs::Camera {
            let pixels = self.spec.camera.map_or(0, |camera| camera.size[0] * camera.size[1]);
            return Ok((0..pixels).map(|nth| (nth, Args { nth, ..one.args.clone() })).map(named).collect());
        }
        if one.quantity.needs != Needs::Points {
            return Ok(vec![one]);
        }
        let points =
            term.measured_points_x.iter().flat_map(|&x| term.measured_points_y.iter().map(move |&y| [x, y]));
        Ok(points.map(|point| Args { point, ..one.args.clone() }).enumerate().map(named).collect())
    }

    fn resolve(&self, field: &str, index: usize, term: &Term, plan: &Plan) -> Result<Use, TaskError> {
        let place = |key: &str| format!("{field}[{index}].{key}");
        let quantity = QUANTITIES.iter().find(|q| q.name == term.term).ok_or_else(|| {
            self.unknown(&place("term"), "quantity", &term.term, QUANTITIES.iter().map(|q| q.name))
        })?;
        if term.axis > 2 {
            return Err(self.fault(&place("axis"), format!("is {}: give 0, 1 or 2", term.axis)));
        }
        let numbers = [
            ("weight", term.weight),
            ("above", term.above),
            ("below", term.below),
            ("within", term.within),
            ("beyond", term.beyond),
            ("target", term.target),
            ("sigma", term.sigma),
            ("for_s", Some(term.for_s)),
        ];
        for (key, value) in numbers {
            if let Some(bad) = value.filter(|v| !v.is_finite()) {
                return Err(self.fault(&place(key), format!("is {bad}: give finite numbers")));
            }
        }
        let points = term.measured_points_x.len() * term.measured_points_y.len();
        let mut places = term.measured_points_x.iter().chain(&term.measured_points_y);
        if points > MAX_SCAN || !places.all(|v| (-100.0..=100.0).contains(v)) {
            return Err(self.fault(
                &place("measured_points_x"),
                format!("and measured_points_y are {points} points: give at most {MAX_SCAN}, each within 100 m of the base"),
            ));
        }
        let sigma = term.sigma.unwrap_or(quantity.defaults[1]);
        if sigma <= 0.0 {
            return Err(self.fault(&place("sigma"), format!("is {sigma}: give one above zero")));
        }
        if term.for_s < 0.0 {
            return Err(self.fault(&place("for_s"), format!("is {}: give at least zero", term.for_s)));
        }
        let joints = match &term.joints {
            Some(patterns) => self.joints(&place("joints"), patterns)?,
            None => plan.driven.clone(),
        };
        let bodies = self.bodies(&place("bodies"), term.bodies.as_deref().unwrap_or_default())?;
        let site = term.site.as_deref().map(|name| self.site(&place("site"), name)).transpose()?;
        let to = term.to.as_deref().map(|name| self.site(&place("to"), name)).transpose()?;
        let commands = self.spec.commands.inputs.len();
        let missing = match quantity.needs {
            Needs::Feet if plan.feet.is_empty() => Some("`feet`"),
            Needs::VelocityCommand if plan.velocity_command == [None; 3] => {
                Some("a command lin_vel_x, lin_vel_y or ang_vel_yaw")
            }
            Needs::SiteAndPoint | Needs::BodyAndPoint if commands < 2 => {
                Some("two or three commands that say a point")
            }
            Needs::Site | Needs::SiteAndPoint | Needs::SiteAndBody if site.is_none() => Some("`site`"),
            Needs::People if self.spec.people.is_none_or(|p| p.count <= term.nth) => {
                Some("a table [people] with more people than `nth`")
            }
            Needs::TwoSites if site.is_none() || to.is_none() => Some("`site` and `to`"),
            Needs::OneBody | Needs::BodyAndPoint | Needs::SiteAndBody if bodies.len() != 1 => {
                Some("one body in `bodies`")
            }
            Needs::Bodies if bodies.is_empty() => Some("`bodies`"),
            Needs::Camera if self.spec.camera.is_none() => Some("a table [camera]"),
            Needs::Camera if !matches!(field, "sensors" | "privileged") => {
                Some("a place under `sensors` or `privileged`")
            }
            Needs::Partner if self.spec.partner.is_none() => Some("a table [partner]"),
            Needs::SiteAndBodies if site.is_none() || bodies.is_empty() => Some("`site` and `bodies`"),
            Needs::Points if points == 0 => Some("`measured_points_x` and `measured_points_y`"),
            Needs::Points if !matches!(field, "sensors" | "privileged") => {
                Some("a place under `sensors` or `privileged`")
            }
            Needs::OneJoint if term.joints.is_none() || joints.len() != 1 => Some("one joint in `joints`"),
            _ => None,
        };
        if let Some(missing) = missing {
            let problem = format!("`{}` needs {missing}: add it", term.term);
            return Err(self.fault(&format!("{field}[{index}]"), problem));
        }
        let wide = 1e6;
        let driven = |i: usize| &self.robot.joints[i];
        Ok(Use {
            name: term.name.clone().unwrap_or_else(|| term.term.clone()),
            weight: 0.0,
            args: Args {
                limits: joints.iter().map(|&i| driven(i).range.unwrap_or([-wide, wide])).collect(),
                torque_limits: joints
                    .iter()
                    .map(|&i| driven(i).actuator.map_or(wide, |a| a.torque_limit))
                    .collect(),
                velocity_limits: joints.iter().map(|&i| self.velocity_limit(i)).collect(),
                joints,
                bodies,
                site,
                to,
                nth: term.nth,
                axis: term.axis,
                target: term.target.unwrap_or(quantity.defaults[0]),
                sigma,
                point: [0.0; 2],
            },
            quantity,
        })
    }

    /// Of joint `index`, from the last entry of `joints` that names it.
    pub(super) fn velocity_limit(&self, index: usize) -> f32 {
        let name = &self.robot.joints[index].name;
        let own = self.spec.joints.iter().rev().filter(|j| j.names.iter().any(|p| matches(p, name)));
        own.filter_map(|j| j.velocity_limit).next().unwrap_or(DEFAULT_VELOCITY_LIMIT)
    }
}

/// Most points of a height scan.
const MAX_SCAN: usize = 1024;
/// Of joints for which nobody says one, rad/s.
const DEFAULT_VELOCITY_LIMIT: f32 = 100.0;
