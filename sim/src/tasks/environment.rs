//! Any task as an [`Environment`].

use std::sync::Arc;

use super::camera::Eye;
use super::partner::Partner;
use super::people::People;
use super::plan::{Figure, Memory, Plan};
use super::quantity::Seen;
use super::randomise::{Draw, Randomiser};
use super::spec::{TaskSpec, ViewSpec};
use super::track::Track;
use super::{TaskDefinition, TaskError};
use crate::environment::{Environment, Step};
use crate::interface::PolicyInterface;
use crate::render::{Camera, Drawn};
use crate::robot::Keyframe;
use crate::scene::{Placed, Scene, Shape};
use crate::seed::Rng;
use crate::world::World;
use tendon_runtime::RawState;
use tendon_runtime::spec::ContractSpec;

/// Purpose of the random stream that starts episodes and draws their commands.
const RESET_STREAM: u64 = 1;
/// Draws of a command in a ring before its middle is taken: enough for any ring worth the name.
const RING_TRIES: usize = 1000;

/// A task being run: physics, observation and action through the runtime, reward by term.
pub struct TaskEnvironment {
    world: World,
    interface: PolicyInterface,
    spec: ContractSpec,
    task: TaskSpec,
    plan: Arc<Plan>,
    keyframe: Option<Keyframe>,
    track: Track,
    randomiser: Randomiser,
    people: Option<People>,
    partner: Option<Partner>,
    eye: Option<Eye>,
    /// Of the running episode.
    looks: Option<Drawn>,
    rng: Rng,
    steps: u32,
    command: Vec<f32>,
    preference: Vec<f32>,
    sensors: Vec<f32>,
    action: Vec<f32>,
    previous_action: Vec<f32>,
    older_action: Vec<f32>,
    joint_start: [Vec<f32>; 2],
    terms: Vec<f32>,
    weights: Vec<f32>,
    reward_names: Vec<String>,
    metric_names: Vec<String>,
    metrics: Vec<f32>,
    /// Of terminations, metrics, conditions of success and the curriculum's, in this order.
    memories: Vec<Memory>,
    /// Of the next episode.
    level: f32,
    /// Of the running episode.
    running_level: f32,
    /// Episodes change the level.
    climbs: bool,
    total_reward: f32,
    success: bool,
    diverged: bool,
    divergences: u64,
    last_episode: Option<Episode>,
}

/// Figures of an episode that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// Sum of rewards.
    pub total_reward: f32,
    /// Steps.
    pub steps: u32,
    /// The task's success condition held in the last step.
    pub success: bool,
    /// The simulation was cut because it was no longer finite, or moved faster than anything can.
    pub diverged: bool,
    /// Name of the condition that ended it by rule.
    pub ended_by: Option<String>,
    /// Physical metrics of the last step, in the order of [`Environment::metric_names`].
    pub metrics: Vec<f32>,
    /// Difficulty it was started with, 0 to 1.
    pub level: f32,
    /// Everything that was drawn for it beside its start.
    pub draws: Vec<Draw>,
}

/// One reward term: the reward is the sum of `weight * value`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RewardTerm<'a> {
    /// The field's name for it.
    pub name: &'a str,
    /// Weight in use, per step.
    pub weight: f32,
}

impl TaskEnvironment {
    pub(super) fn new(definition: &TaskDefinition) -> Result<Self, TaskError> {
        let TaskDefinition { spec: task, robot, contract, plan, keyframe } = definition;
        let interface = PolicyInterface::new(contract, robot, task.imu.as_deref())?;
        let (n_act, n) = (interface.action_len(), robot.joints.len());
        Ok(Self {
            world: World::new(Arc::clone(robot)),
            track: Track::new(plan),
            randomiser: Randomiser::new(&task.randomisation, robot, plan),
            people: task.people.map(People::new),
            partner: task
                .partner
                .clone()
                .zip(plan.partner_sites.clone())
                .map(|(p, sites)| Partner::new(p, sites)),
            eye: task.camera.map(Eye::new),
            looks: None,
            rng: Rng::new(0, RESET_STREAM),
            keyframe: keyframe.clone(),
            steps: 0,
            command: contract.commands.iter().map(|c| c.default).collect(),
            preference: contract.preferences.iter().map(|p| p.default).collect(),
            sensors: vec![0.0; contract.sensors.len()],
            action: vec![0.0; n_act],
            previous_action: vec![0.0; n_act],
            older_action: vec![0.0; n_act],
            joint_start: [vec![0.0; n], vec![0.0; n]],
            terms: vec![0.0; plan.rewards.len()],
            weights: plan.rewards.iter().map(|t| t.weight).collect(),
            reward_names: plan.rewards.iter().map(|t| t.name.clone()).collect(),
            metric_names: plan.metrics.iter().map(|m| m.of.name.clone()).collect(),
            metrics: vec![0.0; plan.metrics.len()],
            memories: vec![
                Memory::default();
                plan.terminations.len()
                    + plan.metrics.len()
                    + plan.success.len()
                    + plan.promote.len()
                    + plan.demote.len()
            ],
            level: 1.0,
            running_level: 1.0,
            climbs: false,
            total_reward: 0.0,
            success: false,
            diverged: false,
            divergences: 0,
            last_episode: None,
            interface,
            spec: contract.clone(),
            task: task.clone(),
            plan: Arc::clone(plan),
        })
    }

    /// The contract a policy for this task is exported with.
    #[must_use]
    pub fn contract(&self) -> &ContractSpec {
        &self.spec
    }

    /// Names and weights of the reward terms.
    pub fn reward_terms(&self) -> impl Iterator<Item = RewardTerm<'_>> {
        self.reward_names.iter().zip(&self.weights).map(|(name, &weight)| RewardTerm { name, weight })
    }

    /// Unweighted reward terms of the last step, `[n_terms]`; kept over a reset.
    #[must_use]
    pub fn reward_values(&self) -> &[f32] {
        &self.terms
    }

    /// Weights in use, `[n_terms]`: a user's taste may differ from the defaults.
    pub fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
    }

    /// Physical metrics of the last step; kept over a reset.
    #[must_use]
    pub fn physical(&self) -> &[f32] {
        &self.metrics
    }

    /// Whether the success condition held in the last step.
    #[must_use]
    pub fn success(&self) -> bool {
        self.success
    }

    /// Figures of the last episode that ended.
    #[must_use]
    pub fn last_episode(&self) -> Option<&Episode> {
        self.last_episode.as_ref()
    }

    /// Everything drawn for the running episode beside its start.
    #[must_use]
    pub fn draws(&self) -> &[Draw] {
        &self.randomiser.draws
    }

    /// Episodes cut so far because the simulation diverged.
    #[must_use]
    pub fn divergences(&self) -> u64 {
        self.divergences
    }

    /// Steps after which an episode is cut.
    #[must_use]
    pub fn max_steps(&self) -> u32 {
        self.plan.max_steps
    }

    /// The raw state behind the last observation, as it goes over the wire.
    #[must_use]
    pub fn raw_state(&self) -> &RawState {
        self.interface.raw_state()
    }

    /// The command in force, `[n_commands]`.
    #[must_use]
    pub fn command(&self) -> &[f32] {
        &self.command
    }

    /// The simulated world, to look at.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The shapes to draw, with the task's marks (a target), in the looks of the episode.
    #[must_use]
    pub fn scene(&self) -> Scene {
        let mut scene = self.plain_scene();
        if let Some(looks) = &self.looks {
            looks.paint(&mut scene);
        }
        scene
    }

    fn plain_scene(&self) -> Scene {
        let mut scene = self.world.scene();
        if let (Some(radius), [x, y, rest @ ..]) = (self.task.commands.marker_radius, self.command.as_slice())
        {
            scene.shapes.push(Placed {
                shape: Shape::Sphere { radius },
                position: [*x, *y, rest.first().copied().unwrap_or(self.task.commands.marker_height)],
                rotation: [1.0, 0.0, 0.0, 0.0],
                color: [0.15, 0.65, 0.30],
            });
        }
        scene.shapes.extend(self.people.iter().flat_map(People::shapes));
        scene.shapes.extend(self.partner.iter().flat_map(Partner::shapes));
        scene
    }

    /// The camera that shows the task, `[width, height]` pixels.
    #[must_use]
    pub fn camera(&self, size: [usize; 2]) -> Camera {
        let view = self.task.view;
        let at = self.view_origin();
        let target = view.target.unwrap_or_default();
        let target = std::array::from_fn(|i| target[i] + at[i]);
        Camera::orbit(target, view.distance.unwrap_or(1.0), view.azimuth, view.elevation, size)
    }

    /// The camera whose pixels the policy observes, if the task has one; before the mean over its cells is taken.
    #[must_use]
    pub fn observed_camera(&self) -> Option<Camera> {
        let mut camera = self.eye.as_ref()?.camera();
        if let Some(looks) = &self.looks {
            looks.aim(&mut camera);
        }
        Some(camera)
    }

    fn draw_looks(&mut self, seed: u64) -> Option<Drawn> {
        let spec = self.task.randomisation.camera?;
        let terrain = self.world.terrain_shape();
        let shapes = self.plain_scene().shapes;
        let is_ground =
            (0..).zip(&shapes).map(|(i, placed)| placed.shape == Shape::Plane || terrain == Some(i));
        let draws = &mut self.randomiser.draws;
        Some(spec.draw(is_ground, seed, |name, index, value| draws.push(Draw { name, index, value })))
    }

    /// What the target of the view is relative to.
    fn view_origin(&self) -> [f32; 3] {
        let [x, y, _] =
            if self.task.view.follow.unwrap_or(false) { self.track.base_position } else { [0.0; 3] };
        [x, y, self.world.ground(x, y)]
    }

    /// The view of the task, what is left out chosen so that the robot as it stands now fits into a picture.
    pub(super) fn fit_view(&mut self) -> ViewSpec {
        if self.task.view.target.is_none() {
            self.task.view.follow.get_or_insert(self.world.robot().has_free_base());
        }
        let [low, high] = self.world.bounds();
        let (at, half) = (self.view_origin(), [0, 1, 2].map(|i| 0.5 * (high[i] - low[i])));
        let middle = std::array::from_fn(|i| low[i] + half[i] - at[i]);
        let radius = half.iter().map(|h| h * h).sum::<f32>().sqrt().max(1e-3);
        let view = self.task.view;
        // A tenth is left about the ball that holds the robot.
        let distance = 1.1 * radius / (0.5 * Camera::FIELD_OF_VIEW).sin();
        ViewSpec { target: view.target.or(Some(middle)), distance: view.distance.or(Some(distance)), ..view }
    }

    /// Takes commands from elsewhere (a controller on a wire) instead of an action, and writes the next observation.
    pub fn step_commands(
        &mut self,
        action: &[f32],
        commands: &[tendon_runtime::JointCommand],
        observation: &mut [f32],
    ) -> Step {
        self.partner_acts();
        self.randomiser.drive(&mut self.world, commands);
        self.finish_step(action, observation)
    }

    fn partner_acts(&mut self) {
        if let Some(partner) = &mut self.partner {
            partner.act(&mut self.world, &self.command, self.plan.period_s);
        }
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            world: &self.world,
            track: &self.track,
            action: &self.action,
            previous_action: &self.previous_action,
            older_action: &self.older_action,
            command: &self.command,
            people: self.people.as_ref().map_or(&[], |people| &people.nearest),
            partner_force: self.partner.as_ref().map_or([0.0; 3], |partner| partner.force),
            pixels: self.eye.as_ref().map_or(&[], |eye| &eye.pixels),
        }
    }

    /// Draws commands from the part of their ranges that the level allows.
    fn draw_command(&mut self) {
        let commands = &self.task.commands;
        let share = commands.curriculum.map_or(1.0, |easy| easy + (1.0 - easy) * self.running_level);
        if let ([a, b, ..], Some([near, far])) = (self.command.as_mut_slice(), commands.ring) {
            // Rejection gives an even density over the ring.
            (*a, *b) = (0.5 * (near + far), 0.0);
            for _ in 0..RING_TRIES {
                let point = [self.rng.uniform(-far, far), self.rng.uniform(-far, far)];
                if (near * near..far * far).contains(&(point[0] * point[0] + point[1] * point[1])) {
                    (*a, *b) = (point[0], point[1]);
                    break;
                }
            }
        }
        let drawn = if commands.ring.is_some() { 2 } else { 0 };
        for (value, input) in self.command.iter_mut().zip(&commands.inputs).skip(drawn) {
            // About the default, so that a narrow range is an easy one.
            let [low, high] = input.range;
            let center = input.default;
            *value = self.rng.uniform(center + (low - center) * share, center + (high - center) * share);
        }
        if commands.zero_share > 0.0 && self.rng.uniform(0.0, 1.0) < commands.zero_share {
            self.command.fill(0.0);
        }
    }

    /// Puts the robot where the episode begins.
    fn place(&mut self) {
        let plan = Arc::clone(&self.plan);
        let start = &self.task.start;
        let rng = &mut self.rng;
        let [position, velocity] = &mut self.joint_start;
        position.copy_from_slice(&plan.default_position);
        velocity.fill(0.0);
        if let Some((at, quaternion)) = self.keyframe.as_ref().and_then(|k| k.base) {
            let [mut x, mut y, mut z] = at;
            if let Some(terrain) = &self.task.terrain {
                let start = [-terrain.start, terrain.start];
                (x, y) = (x + draw(rng, start), y + draw(rng, start));
                z += highest(&self.world, x, y);
            }
            let height = draw(rng, start.height);
            let half = 0.5 * draw(rng, start.yaw);
            let (sin, cos) = tendon_runtime::math::sin_cos(half);
            let [w, i, j, k] = quaternion;
            // Turn about the world's z first.
            let turned = [cos * w - sin * k, cos * i - sin * j, cos * j + sin * i, cos * k + sin * w];
            self.world.set_base_pose([x, y, z + height], turned);
            if start.linear_velocity != [0.0; 2] {
                let v = [0, 1, 2].map(|_| draw(rng, start.linear_velocity));
                self.world.set_base_velocity(v);
            }
        }
        for &(joint, range) in &plan.start_positions {
            position[joint] += draw(rng, range);
        }
        for &(joint, range) in &plan.start_velocities {
            velocity[joint] += draw(rng, range);
        }
        self.world.set_joint_state(position, velocity);
        for (body, x, y) in &plan.start_bodies {
            let ([_, _, z], quaternion) = self.world.body_pose(body);
            let (x, y) = (draw(rng, *x), draw(rng, *y));
            self.world.set_body_pose(body, [x, y, z + highest(&self.world, x, y)], quaternion);
        }
    }

    fn measure(&mut self) {
        if let Some(camera) = self.observed_camera()
            && let Some(mut eye) = self.eye.take()
        {
            eye.look(&self.scene(), &camera);
            self.eye = Some(eye);
        }
        let mut sensors = std::mem::take(&mut self.sensors);
        let seen = self.seen();
        for (value, sensor) in sensors.iter_mut().zip(&self.plan.sensors) {
            *value = sensor.value(&seen);
        }
        self.sensors = sensors;
        self.interface.measure(&self.world, &self.command, &self.preference, &self.sensors);
        self.randomiser.sense(self.interface.raw_state_mut());
    }

    fn finish_step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
        std::mem::swap(&mut self.older_action, &mut self.previous_action);
        self.previous_action.copy_from_slice(&self.action);
        for (to, from) in self.action.iter_mut().zip(action) {
            *to = if from.is_nan() { 0.0 } else { from.clamp(-1.0, 1.0) };
        }
        self.steps += 1;
        let plan = Arc::clone(&self.plan);
        let commands = &self.task.commands;
        if let Some(every) = commands.resampling_time_s
            && self.steps.is_multiple_of(((every / plan.period_s).round() as u32).max(1))
        {
            self.draw_command();
        }
        // A diverged simulation ends here; the learner keeps the last finite observation and no reward.
        self.diverged = !self.world.is_finite() || self.is_exploding();
        if !self.diverged {
            self.track.advance(&self.world, &plan, &self.command);
            let [x, y, _] = self.track.base_position;
            if let Some(people) = &mut self.people {
                people.advance(plan.period_s, [x, y]);
            }
            self.measure();
            self.diverged = self.interface.observe(observation).is_err();
        }
        let is_out = self.is_out_of_bounds();
        let mut step =
            Step { truncated: self.diverged || is_out || self.steps >= plan.max_steps, ..Step::default() };
        let mut ended_by = None;
        if self.diverged {
            self.divergences += 1;
            self.success = false;
        } else {
            let mut memories = std::mem::take(&mut self.memories);
            let mut values = std::mem::take(&mut self.metrics);
            let (ends, rest) = memories.split_at_mut(plan.terminations.len());
            let (metrics, rest) = rest.split_at_mut(plan.metrics.len());
            let (success, rest) = rest.split_at_mut(plan.success.len());
            let (promote, demote) = rest.split_at_mut(plan.promote.len());
            let seen = self.seen();
            for (figure, memory) in plan.terminations.iter().zip(ends) {
                if figure.advance(&seen, memory).1 {
                    ended_by.get_or_insert(figure.of.name.as_str());
                }
            }
            let mut holds = true;
            for (figure, memory) in plan.success.iter().zip(success) {
                holds &= figure.advance(&seen, memory).1;
            }
            let all = |figures: &[Figure], memories: &mut [Memory]| {
                let pairs = figures.iter().zip(memories);
                pairs.fold(true, |all, (figure, memory)| figure.advance(&seen, memory).1 && all)
            };
            let moves = [all(&plan.promote, promote), all(&plan.demote, demote)];
            let fallen = ended_by.is_some();
            if holds && self.task.success.ends && !fallen {
                ended_by = Some("success");
            }
            for ((figure, memory), value) in plan.metrics.iter().zip(metrics).zip(&mut values) {
                *value = figure.advance(&seen, memory).0;
            }
            self.metrics = values;
            self.memories = memories;
            self.success = holds && !fallen;
            self.track.terminated = fallen;
            step.terminated = ended_by.is_some();
            step.truncated &= !step.terminated;
            step.reward = self.reward();
            if self.climbs && (step.terminated || step.truncated) {
                self.climb(moves);
            }
        }
        self.total_reward += step.reward;
        if step.terminated || step.truncated {
            self.last_episode = Some(Episode {
                total_reward: self.total_reward,
                steps: self.steps,
                success: self.success,
                diverged: self.diverged,
                ended_by: ended_by.or(is_out.then_some(OUT_OF_BOUNDS)).map(str::to_owned),
                metrics: self.metrics.clone(),
                level: self.running_level,
                draws: self.randomiser.draws.clone(),
            });
        }
        self.randomiser.push(&mut self.world, self.steps, plan.planar_x);
        step
    }

    fn reward(&mut self) -> f32 {
        let mut terms = std::mem::take(&mut self.terms);
        let seen = self.seen();
        let (mut sum, mut ending) = (0.0, 0.0);
        for ((value, term), weight) in terms.iter_mut().zip(&self.plan.rewards).zip(&self.weights) {
            *value = term.value(&seen);
            match term.quantity.name {
                "termination" => ending += *value * weight,
                _ => sum += *value * weight,
            }
        }
        self.terms = terms;
        (if self.task.only_positive_rewards { sum.max(0.0) } else { sum }) + ending
    }

    /// Moves the level by how the episode ended: conditions of the curriculum for up and down.
    fn climb(&mut self, [promote, demote]: [bool; 2]) {
        let Some(curriculum) = &self.task.curriculum else { return };
        let is_up = if curriculum.promote.is_empty() { self.success } else { promote };
        let is_down = if curriculum.demote.is_empty() { !self.success } else { demote };
        if is_up {
            self.level = self.running_level + curriculum.step;
            if self.level > 1.0 + 1e-4 {
                // As in legged_gym: who can do it all meets everything, so that nothing is forgotten.
                self.level = self.rng.uniform(0.0, 1.0);
            }
        } else if is_down {
            self.level = self.running_level - curriculum.step;
        }
        self.level = self.level.clamp(0.0, 1.0);
    }

    /// The base left its tile (Isaac Lab's `terrain_out_of_bounds`).
    fn is_out_of_bounds(&self) -> bool {
        let Some(terrain) = &self.task.terrain else { return false };
        let [x, y, _] = self.track.base_position;
        x.abs().max(y.abs()) > 0.5 * terrain.terrain_length
    }

    /// Faster than any joint that the contract allows, by a factor that no servo explains.
    fn is_exploding(&self) -> bool {
        let limit = |i: usize| EXPLODING * self.spec.joints[i].velocity_limit.max(10.0);
        (0..self.spec.joints.len()).any(|i| self.world.joint_velocity(i).abs() > limit(i))
            || self.world.base_velocity().iter().any(|v| v.abs() > EXPLODING_BASE_M_S)
    }
}

/// Joint speed over its limit that counts as a diverged simulation.
const EXPLODING: f32 = 20.0;
/// Speed of the base that counts as one.
const EXPLODING_BASE_M_S: f32 = 100.0;

/// Why an episode ended whose robot left its terrain.
const OUT_OF_BOUNDS: &str = "terrain_out_of_bounds";

/// Highest ground under a robot about (`x`, `y`).
fn highest(world: &World, x: f32, y: f32) -> f32 {
    let steps = || (-3i8..=3).map(|i| 0.1 * f32::from(i));
    let points = steps().flat_map(|dx| steps().map(move |dy| (x + dx, y + dy)));
    points.map(|(x, y)| world.ground(x, y)).fold(f32::NEG_INFINITY, f32::max)
}

fn draw(rng: &mut Rng, [low, high]: [f32; 2]) -> f32 {
    if low == high { low } else { rng.uniform(low, high) }
}

impl Environment for TaskEnvironment {
    fn observation_len(&self) -> usize {
        self.interface.observation_len()
    }

    fn action_len(&self) -> usize {
        self.interface.action_len()
    }

    fn privileged_len(&self) -> usize {
        11 + 3 * self.plan.driven.len()
            + 2 * self.plan.feet.len()
            + self.command.len()
            + self.sensors.len()
            + self.plan.privileged.len()
    }

    fn privileged(&self, out: &mut [f32]) {
        let track = &self.track;
        let joints = self.plan.driven.iter();
        let seen = self.seen();
        let values = track
            .base
            .linear_velocity
            .into_iter()
            .chain(track.base.angular_velocity)
            .chain(track.base.projected_gravity)
            .chain([track.height, self.running_level])
            .chain(joints.clone().map(|&i| track.joint_position[i] - track.default_position[i]))
            .chain(joints.clone().map(|&i| track.joint_velocity[i]))
            .chain(joints.map(|&i| self.world.joint_torque(i)))
            .chain(track.feet.iter().map(|f| f32::from(u8::from(f.touches))))
            .chain(track.feet.iter().map(|f| f.air_time_s))
            .chain(self.command.iter().copied())
            .chain(self.sensors.iter().copied())
            .chain(self.plan.privileged.iter().map(|quantity| quantity.value(&seen)));
        for (to, from) in out.iter_mut().zip(values) {
            *to = from;
        }
    }

    fn reset(&mut self, seed: u64, observation: &mut [f32]) {
        self.rng = Rng::new(seed, RESET_STREAM);
        self.world.reset();
        self.running_level = self.level;
        self.randomiser.start(seed, &mut self.world);
        if let Some(terrain) = &self.task.terrain
            && let Some(ground) = terrain.draw(seed, self.running_level, &mut self.randomiser.draws)
        {
            self.world.set_terrain(&ground);
        }
        self.place();
        self.draw_command();
        self.interface.reset(&self.world);
        self.action.fill(0.0);
        self.previous_action.fill(0.0);
        self.older_action.fill(0.0);
        self.memories.fill(Memory::default());
        (self.steps, self.total_reward, self.success, self.diverged) = (0, 0.0, false, false);
        let plan = Arc::clone(&self.plan);
        self.track.start(&self.world, &plan);
        let [x, y, _] = self.track.base_position;
        if let Some(people) = &mut self.people {
            people.start(&mut self.rng, [x, y]);
        }
        if let Some(partner) = &mut self.partner {
            partner.start(seed, &self.world, &mut self.randomiser.draws);
        }
        self.looks = self.draw_looks(seed);
        self.measure();
        if self.interface.observe(observation).is_err() {
            observation.fill(0.0);
        }
    }

    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
        self.partner_acts();
        let commands = self.interface.act(&self.world, action);
        self.randomiser.drive(&mut self.world, commands);
        self.finish_step(action, observation)
    }

    fn metric_names(&self) -> &[String] {
        &self.metric_names
    }

    fn metrics(&self) -> &[f32] {
        &self.metrics
    }

    fn success(&self) -> bool {
        self.success
    }

    fn level(&self) -> f32 {
        self.level
    }

    fn set_level(&mut self, level: f32) {
        self.level = level.clamp(0.0, 1.0);
    }

    fn start_curriculum(&mut self) {
        if self.task.curriculum.is_some() {
            (self.climbs, self.level) = (true, 0.0);
        }
    }
}
