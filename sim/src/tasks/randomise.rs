//! Domain randomisation: what differs from episode to episode, in legged_gym's names, drawn from the episode's seed.

use serde::Deserialize;
use tendon_runtime::{JointCommand, RawState};

use super::TaskError;
use super::camera::FIELD_OF_VIEW;
use super::plan::{Plan, Resolver};
use crate::render::Randomisation;
use crate::robot::{Body, Robot};
use crate::seed::Rng;
use crate::world::World;

/// Purposes of the random streams of an episode's seed.
const PHYSICS_STREAM: u64 = 11;
const LINK_STREAM: u64 = 12;
const NOISE_STREAM: u64 = 13;
const PUSH_STREAM: u64 = 14;
/// Longest delay, control periods.
const MAX_DELAY: usize = 16;

/// Ranges to draw from. Without any of them every episode has the robot of the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomisationSpec {
    /// Factor on every coefficient of friction.
    pub friction: Option<[f32; 2]>,
    /// Added to the base's mass, kg.
    pub added_mass: Option<[f32; 2]>,
    /// Moves the base's centre of mass along each axis, m.
    pub base_com: Option<[f32; 2]>,
    /// Factor on the mass of every other body, one draw each.
    pub mass_factor: Option<[f32; 2]>,
    /// Factor on the position gain, one draw per joint with an action.
    pub kp_factor: Option<[f32; 2]>,
    /// Factor on the velocity gain, one draw per joint with an action.
    pub kd_factor: Option<[f32; 2]>,
    /// Factor on what a motor gives of the torque it is told, one draw per joint with an action.
    pub motor_strength: Option<[f32; 2]>,
    /// Time from a command to its motor, s; one draw per episode.
    pub action_delay_s: Option<[f32; 2]>,
    /// Age of what the policy sees, s, in whole control periods; one draw per episode.
    pub observation_delay_s: Option<[f32; 2]>,
    /// Share of commands lost on their way: the motors follow the one before.
    pub action_loss: f32,
    /// Share of raw states lost on their way: the policy sees the one before.
    pub observation_loss: f32,
    /// Time between pushes, s.
    pub push_interval_s: Option<f32>,
    /// A push sets the base's horizontal velocity, each axis up to this, m/s.
    pub max_push_vel_xy: f32,
    /// Even noise on what sensors measure.
    pub noise: NoiseSpec,
    /// Light, colours and place of the policy's camera.
    pub camera: Option<Randomisation>,
}

/// Half widths of the even noise on raw states.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NoiseSpec {
    /// Factor on all of them.
    pub noise_level: f32,
    /// Joint positions, rad (m).
    pub dof_pos: f32,
    /// Joint velocities, rad/s (m/s).
    pub dof_vel: f32,
    /// Base linear velocity, m/s.
    pub lin_vel: f32,
    /// Base angular velocity, rad/s.
    pub ang_vel: f32,
    /// Direction of gravity, by turning the base's orientation about x and y, rad.
    pub gravity: f32,
    /// The task's own sensors, in their units.
    pub sensors: f32,
}

impl Default for NoiseSpec {
    fn default() -> Self {
        Self {
            noise_level: 1.0,
            dof_pos: 0.0,
            dof_vel: 0.0,
            lin_vel: 0.0,
            ang_vel: 0.0,
            gravity: 0.0,
            sensors: 0.0,
        }
    }
}

/// One number drawn for an episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// What it is, as in the task file.
    pub name: &'static str,
    /// Index of joint, body or axis, or three times a shape's and the channel; 0 where there is only one.
    pub index: usize,
    /// The value.
    pub value: f32,
}

/// The randomisation of one environment.
pub(crate) struct Randomiser {
    spec: RandomisationSpec,
    base: Option<Body>,
    others: Vec<Body>,
    driven: Vec<usize>,
    push_steps: Option<u32>,
    period_s: f32,
    substeps: usize,
    pub(crate) draws: Vec<Draw>,
    /// Factors on kp, kd and torque, `[n_joints]`.
    gains: Vec<[f32; 3]>,
    link: Rng,
    noise: Rng,
    push: Rng,
    /// Substeps between a command and its motor.
    action_delay: usize,
    /// Commands on their way, newest first.
    commands: Vec<Vec<JointCommand>>,
    observation_delay: usize,
    /// Raw states on their way, newest first.
    states: Vec<RawState>,
}

/// Checks what the camera sees against the camera.
fn check_camera(resolver: &Resolver<'_>, spec: &Randomisation) -> Result<(), TaskError> {
    let Some(camera) = &resolver.spec.camera else {
        let problem = "randomises a camera that is not there: add a table [camera], or remove it";
        return Err(resolver.fault("randomisation.camera", problem));
    };
    let field = |name: &str| format!("randomisation.camera.{name}");
    for (name, range) in spec.ranges() {
        let Some(range) = range else { continue };
        let [low, high] = resolver.range(&field(name), range)?;
        let distance = (0..3).map(|i| (camera.target[i] - camera.position[i]).powi(2)).sum::<f32>().sqrt();
        let view = camera.field_of_view;
        let most = match name {
            "light_brightness" => [0.0, 100.0],
            "camera_position" | "camera_target" => [-0.25 * distance, 0.25 * distance],
            "field_of_view" => [FIELD_OF_VIEW[0] - view, FIELD_OF_VIEW[1] - view],
            "light_direction" => [-100.0, 100.0],
            _ => [-1.0, 1.0],
        };
        if low < most[0] || high > most[1] {
            let problem = format!("is [{low}, {high}]: give a range within {} to {}", most[0], most[1]);
            return Err(resolver.fault(&field(name), problem));
        }
    }
    if !(0.0..=1.0).contains(&spec.texture_share) {
        let problem = format!("is {}: give a share of 0 to 1", spec.texture_share);
        return Err(resolver.fault(&field("texture_share"), problem));
    }
    Ok(())
}

/// Checks the ranges against each other and the robot.
pub(super) fn check(resolver: &Resolver<'_>, spec: &RandomisationSpec) -> Result<(), TaskError> {
    let factors = [
        ("friction", spec.friction),
        ("mass_factor", spec.mass_factor),
        ("kp_factor", spec.kp_factor),
        ("kd_factor", spec.kd_factor),
        ("motor_strength", spec.motor_strength),
        ("action_delay_s", spec.action_delay_s),
        ("observation_delay_s", spec.observation_delay_s),
    ];
    let field = |name: &str| format!("randomisation.{name}");
    for (name, range) in factors {
        let Some(range) = range else { continue };
        let [low, _] = resolver.range(&field(name), range)?;
        if low < 0.0 {
            return Err(resolver.fault(&field(name), format!("begins at {low}: give at least 0")));
        }
    }
    for (name, range) in [("added_mass", spec.added_mass), ("base_com", spec.base_com)] {
        if let Some(range) = range {
            resolver.range(&field(name), range)?;
        }
    }
    let longest = MAX_DELAY as f32 * resolver.spec.control_period_s as f32;
    for (name, range) in
        [("action_delay_s", spec.action_delay_s), ("observation_delay_s", spec.observation_delay_s)]
    {
        if let Some([_, high]) = range.filter(|[_, high]| *high > longest) {
            let problem =
                format!("ends at {high}, above {MAX_DELAY} control periods ({longest} s): shorten it");
            return Err(resolver.fault(&field(name), problem));
        }
    }
    for (name, share) in [("action_loss", spec.action_loss), ("observation_loss", spec.observation_loss)] {
        if !(0.0..1.0).contains(&share) {
            return Err(
                resolver.fault(&field(name), format!("is {share}: give a share of 0 or more, below 1"))
            );
        }
    }
    if let Some(camera) = &spec.camera {
        check_camera(resolver, camera)?;
    }
    let period_s = resolver.spec.control_period_s as f32;
    if let Some(interval_s) = spec.push_interval_s.filter(|s| !(*s >= period_s)) {
        let problem = format!("is {interval_s}: give at least one control period ({period_s} s)");
        return Err(resolver.fault(&field("push_interval_s"), problem));
    }
    Ok(())
}

impl RandomisationSpec {
    /// Names of what differs, as in the task file.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let noise = NoiseSpec { noise_level: 1.0, ..self.noise } != NoiseSpec::default();
        let used = [
            ("friction", self.friction.is_some()),
            ("added_mass", self.added_mass.is_some()),
            ("base_com", self.base_com.is_some()),
            ("mass_factor", self.mass_factor.is_some()),
            ("kp_factor", self.kp_factor.is_some()),
            ("kd_factor", self.kd_factor.is_some()),
            ("motor_strength", self.motor_strength.is_some()),
            ("action_delay_s", self.action_delay_s.is_some()),
            ("observation_delay_s", self.observation_delay_s.is_some()),
            ("action_loss", self.action_loss > 0.0),
            ("observation_loss", self.observation_loss > 0.0),
            ("pushes", self.push_interval_s.is_some()),
            ("noise", noise),
            ("camera", self.camera.is_some()),
        ];
        used.into_iter().filter(|(_, used)| *used).map(|(name, _)| name).collect()
    }
}

impl Randomiser {
    pub(crate) fn new(spec: &RandomisationSpec, robot: &Robot, plan: &Plan) -> Self {
        let base = plan
            .base
            .clone()
            .or_else(|| robot.base.and_then(|h| robot.bodies.iter().find(|b| b.handle == h).cloned()));
        let others = robot.bodies.iter().filter(|b| base.as_ref().is_none_or(|base| base.handle != b.handle));
        Self {
            others: others.cloned().collect(),
            base,
            driven: plan.driven.clone(),
            push_steps: spec.push_interval_s.map(|s| ((s / plan.period_s).round() as u32).max(1)),
            period_s: plan.period_s,
            substeps: plan.substeps,
            draws: Vec::new(),
            gains: vec![[1.0; 3]; robot.joints.len()],
            link: Rng::new(0, LINK_STREAM),
            noise: Rng::new(0, NOISE_STREAM),
            push: Rng::new(0, PUSH_STREAM),
            action_delay: 0,
            commands: Vec::new(),
            observation_delay: 0,
            states: Vec::new(),
            spec: spec.clone(),
        }
    }

    /// Draws the episode's robot and applies it to a world that was just reset.
    pub(crate) fn start(&mut self, seed: u64, world: &mut World) {
        let mut rng = Rng::new(seed, PHYSICS_STREAM);
        self.draws.clear();
        let mut draw = |draws: &mut Vec<Draw>, name, index, range: [f32; 2]| {
            let value = rng.uniform(range[0], range[1]);
            draws.push(Draw { name, index, value });
            value
        };
        let spec = &self.spec;
        if let Some(range) = spec.friction {
            world.scale_friction(draw(&mut self.draws, "friction", 0, range));
        }
        if let Some(base) = &self.base
            && (spec.added_mass.is_some() || spec.base_com.is_some())
        {
            let added = spec.added_mass.map_or(0.0, |range| draw(&mut self.draws, "added_mass", 0, range));
            let com = match spec.base_com {
                Some(range) => [0, 1, 2].map(|axis| draw(&mut self.draws, "base_com", axis, range)),
                None => [0.0; 3],
            };
            world.perturb_mass(base, added, com);
        }
        if let Some(range) = spec.mass_factor {
            for (index, body) in self.others.iter().enumerate() {
                let factor = draw(&mut self.draws, "mass_factor", index, range);
                world.perturb_mass(body, world.body_mass(body) * (factor - 1.0), [0.0; 3]);
            }
        }
        let factors = [
            ("kp_factor", spec.kp_factor),
            ("kd_factor", spec.kd_factor),
            ("motor_strength", spec.motor_strength),
        ];
        for (place, (name, range)) in factors.into_iter().enumerate() {
            let Some(range) = range else { continue };
            for &joint in &self.driven {
                self.gains[joint][place] = draw(&mut self.draws, name, joint, range);
            }
        }
        self.action_delay = spec.action_delay_s.map_or(0, |range| {
            let delay = draw(&mut self.draws, "action_delay_s", 0, range);
            (delay / self.period_s * self.substeps as f32).round() as usize
        });
        self.observation_delay = spec.observation_delay_s.map_or(0, |range| {
            (draw(&mut self.draws, "observation_delay_s", 0, range) / self.period_s).round() as usize
        });
        self.link = Rng::new(seed, LINK_STREAM);
        self.noise = Rng::new(seed, NOISE_STREAM);
        self.push = Rng::new(seed, PUSH_STREAM);
        self.commands.clear();
        self.states.clear();
    }

    /// Runs one control period: what of `commands` reaches the motors, and when.
    pub(crate) fn drive(&mut self, world: &mut World, commands: &[JointCommand]) {
        let spec = &self.spec;
        let changes_gains =
            spec.kp_factor.is_some() || spec.kd_factor.is_some() || spec.motor_strength.is_some();
        if !changes_gains && spec.action_delay_s.is_none() && spec.action_loss == 0.0 {
            world.step(commands, self.substeps);
            return;
        }
        let mut sent = if self.commands.len() > MAX_DELAY + 1 {
            self.commands.pop().unwrap_or_default()
        } else {
            Vec::new()
        };
        let lost = spec.action_loss > 0.0 && self.link.uniform(0.0, 1.0) < spec.action_loss;
        sent.clear();
        match self.commands.first() {
            Some(last) if lost => sent.extend_from_slice(last),
            _ => sent.extend(commands.iter().zip(&self.gains).map(|(command, &[kp, kd, strength])| {
                JointCommand {
                    kp: command.kp * kp * strength,
                    kd: command.kd * kd * strength,
                    torque: command.torque * strength,
                    ..*command
                }
            })),
        }
        self.commands.insert(0, sent);
        let (periods, late) = (self.action_delay / self.substeps, self.action_delay % self.substeps);
        // Before the first command has arrived the motors follow it already: a robot starts holding its pose.
        let oldest = self.commands.len() - 1;
        if late > 0 {
            world.step(&self.commands[(periods + 1).min(oldest)], late);
        }
        world.step(&self.commands[periods.min(oldest)], self.substeps - late);
    }

    /// Pushes the base where it is time to.
    pub(crate) fn push(&mut self, world: &mut World, step: u32, planar_x: Option<usize>) {
        let Some(every) = self.push_steps else { return };
        if step == 0 || !step.is_multiple_of(every) {
            return;
        }
        let limit = self.spec.max_push_vel_xy;
        let velocity = [self.push.uniform(-limit, limit), self.push.uniform(-limit, limit)];
        for (index, &value) in velocity.iter().enumerate() {
            self.draws.push(Draw { name: "push_vel_xy", index, value });
        }
        match planar_x {
            Some(joint) => world.set_joint_velocity(joint, velocity[0]),
            None => {
                let z = world.base_velocity()[2];
                world.set_base_velocity([velocity[0], velocity[1], z]);
            }
        }
    }

    /// Turns what was measured into what arrives: noise, delay, loss.
    pub(crate) fn sense(&mut self, raw: &mut RawState) {
        self.add_noise(raw);
        if self.spec.observation_loss == 0.0 && self.observation_delay == 0 {
            return;
        }
        let lost =
            self.spec.observation_loss > 0.0 && self.noise.uniform(0.0, 1.0) < self.spec.observation_loss;
        let arrived = match self.states.first() {
            Some(last) if lost => last.clone(),
            _ => raw.clone(),
        };
        self.states.insert(0, arrived);
        self.states.truncate(MAX_DELAY + 1);
        let oldest = self.states.len() - 1;
        raw.clone_from(&self.states[self.observation_delay.min(oldest)]);
    }

    fn add_noise(&mut self, raw: &mut RawState) {
        let spec = self.spec.noise;
        let rng = &mut self.noise;
        let mut add = |values: &mut [f32], half: f32| {
            let half = half * spec.noise_level;
            if half > 0.0 {
                for value in values {
                    *value += rng.uniform(-half, half);
                }
            }
        };
        add(&mut raw.joint_position, spec.dof_pos);
        add(&mut raw.joint_velocity, spec.dof_vel);
        add(&mut raw.base_linear_velocity, spec.lin_vel);
        add(&mut raw.base_angular_velocity, spec.ang_vel);
        add(&mut raw.sensors, spec.sensors);
        let mut turn = [0.0; 2];
        add(&mut turn, spec.gravity);
        if turn != [0.0; 2] {
            // Half angles: to first order, then to unit length again.
            let [w, x, y, z] = raw.base_orientation;
            let (a, b) = (0.5 * turn[0], 0.5 * turn[1]);
            let turned = [w - x * a - y * b, x + w * a - z * b, y + w * b + z * a, z + x * b - y * a];
            let length = turned.iter().map(|v| v * v).sum::<f32>().sqrt();
            raw.base_orientation = turned.map(|v| v / length);
        }
    }
}
