//! The table of quantities: what a task file can reward, sense, report, or make a condition of.
//!
//! Names are those of legged_gym (Rudin et al. 2022) and Isaac Lab where they have one. A new quantity is one row.

use std::f32::consts::PI;

use tendon_runtime::math;

use super::people::Person;
use super::track::{Track, rotate};
use crate::robot::{Body, Site};
use crate::world::World;

/// Force above which a body touches something, N.
pub(crate) const CONTACT_N: f32 = 1.0;
/// Commands below this speed mean standing, m/s.
const STANDING_M_S: f32 = 0.1;
/// Share of a joint's range that `dof_pos_limits` leaves free.
const SOFT_LIMIT: f32 = 0.9;

/// A step as the task sees it, after the physics.
pub(crate) struct Seen<'a> {
    pub(crate) world: &'a World,
    pub(crate) track: &'a Track,
    /// Raw action clipped to +-1, `[n_act]`.
    pub(crate) action: &'a [f32],
    /// The one before.
    pub(crate) previous_action: &'a [f32],
    /// And before that.
    pub(crate) older_action: &'a [f32],
    /// `[n_commands]`
    pub(crate) command: &'a [f32],
    /// Nearest first.
    pub(crate) people: &'a [Person],
    /// Of the partner's hand on the load, N.
    pub(crate) partner_force: [f32; 3],
    /// Of the task's camera, row by row.
    pub(crate) pixels: &'a [f32],
}

/// What a task file says about one use of a quantity, names resolved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args {
    pub(crate) joints: Vec<usize>,
    pub(crate) bodies: Vec<Body>,
    pub(crate) site: Option<Site>,
    pub(crate) to: Option<Site>,
    pub(crate) nth: usize,
    pub(crate) axis: usize,
    pub(crate) target: f32,
    pub(crate) sigma: f32,
    /// Soft position limits and torque limits of `joints`.
    pub(crate) limits: Vec<[f32; 2]>,
    pub(crate) torque_limits: Vec<f32>,
    pub(crate) velocity_limits: Vec<f32>,
    /// In the base's heading frame, m.
    pub(crate) point: [f32; 2],
}

/// What a quantity needs of its [`Args`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Feet,
    VelocityCommand,
    Site,
    SiteAndPoint,
    TwoSites,
    People,
    OneBody,
    Bodies,
    BodyAndPoint,
    SiteAndBody,
    OneJoint,
    Points,
    SiteAndBodies,
    Partner,
    Camera,
}

/// One row of the table.
pub(crate) struct Quantity {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) needs: Needs,
    /// `target` and `sigma` where the file gives none.
    pub(crate) defaults: [f32; 2],
    pub(crate) value: fn(&Seen<'_>, &Args) -> f32,
}

macro_rules! quantities {
    ($($name:literal [$unit:literal] $needs:ident ($target:expr, $sigma:expr) $doc:literal = $value:expr;)*) => {
        /// Every quantity.
        pub(crate) const QUANTITIES: &[Quantity] = &[$(Quantity {
            name: $name, unit: $unit, doc: $doc, needs: Needs::$needs, defaults: [$target, $sigma], value: $value,
        },)*];
    };
}

quantities! {
    // Legged robots, legged_gym's names.
    "tracking_lin_vel" [""] VelocityCommand (0.0, 0.25) "exp(-|v*_xy - v_xy|^2 / sigma), velocities in the base frame" = |s, a| math::exp(-s.lin_vel_error_squared() / a.sigma);
    "tracking_ang_vel" [""] VelocityCommand (0.0, 0.25) "exp(-(w*_z - w_z)^2 / sigma)" = |s, a| math::exp(-s.ang_vel_error().powi(2) / a.sigma);
    "lin_vel_z" ["m^2/s^2"] Nothing (0.0, 1.0) "v_z^2 of the base" = |s, _| s.track.base.linear_velocity[2].powi(2);
    "ang_vel_xy" ["rad^2/s^2"] Nothing (0.0, 1.0) "w_x^2 + w_y^2 of the base" = |s, _| { let w = s.track.base.angular_velocity; w[0] * w[0] + w[1] * w[1] };
    "orientation" [""] Nothing (0.0, 1.0) "g_x^2 + g_y^2, gravity's direction in the base frame" = |s, _| { let g = s.track.base.projected_gravity; g[0] * g[0] + g[1] * g[1] };
    "base_height" ["m^2"] Nothing (0.0, 1.0) "(height of the base - target)^2" = |s, a| (s.track.height - a.target).powi(2);
    "torques" ["N^2 m^2"] Nothing (0.0, 1.0) "sum of tau^2" = |s, a| a.joints.iter().map(|&i| s.world.joint_torque(i).powi(2)).sum();
    "dof_vel" ["rad^2/s^2"] Nothing (0.0, 1.0) "sum of dq^2" = |s, a| a.joints.iter().map(|&i| s.track.joint_velocity[i].powi(2)).sum();
    "dof_acc" ["rad^2/s^4"] Nothing (0.0, 1.0) "sum of (change of dq per control period)^2" = |s, a| a.joints.iter().map(|&i| ((s.track.joint_velocity[i] - s.track.last_velocity[i]) / s.track.period_s).powi(2)).sum();
    "action_rate" [""] Nothing (0.0, 1.0) "sum of (a - a')^2" = |s, _| s.action.iter().zip(s.previous_action).map(|(a, b)| (a - b) * (a - b)).sum();
    "action_smoothness" [""] Nothing (0.0, 1.0) "sum of (a - 2 a' + a'')^2" = |s, _| s.action.iter().zip(s.previous_action).zip(s.older_action).map(|((a, b), c)| (a - 2.0 * b + c).powi(2)).sum();
    "collision" [""] Bodies (0.0, 1.0) "number of `bodies` that touch something" = |s, a| a.bodies.iter().filter(|b| s.world.contact_force(b) > CONTACT_N).count() as f32;
    "termination" [""] Nothing (0.0, 1.0) "1 in the step that ends the episode by rule" = |s, _| f32::from(u8::from(s.track.terminated));
    "alive" [""] Nothing (0.0, 1.0) "1 in every step" = |_, _| 1.0;
    "dof_pos_limits" ["rad"] Nothing (0.0, 1.0) "sum of what joints are beyond 90 % of their range" = |s, a| a.joints.iter().zip(&a.limits).map(|(&i, l)| beyond(s.track.joint_position[i], soft(*l))).sum();
    "dof_vel_limits" ["rad/s"] Nothing (0.0, 1.0) "sum of what speeds are beyond their limits" = |s, a| a.joints.iter().zip(&a.velocity_limits).map(|(&i, l)| (s.track.joint_velocity[i].abs() - l).max(0.0)).sum();
    "torque_limits" ["N m"] Nothing (0.0, 1.0) "sum of what torques are beyond 90 % of their limits" = |s, a| a.joints.iter().zip(&a.torque_limits).map(|(&i, l)| (s.world.joint_torque(i).abs() - SOFT_LIMIT * l).max(0.0)).sum();
    "feet_air_time" ["s"] Feet (0.5, 1.0) "at each touch-down: time in the air - target; nothing while standing is asked" = |s, a| if s.is_standing() { 0.0 } else { s.track.feet.iter().filter(|f| f.landed).map(|f| f.air_time_s - a.target).sum() };
    "feet_contact_forces" ["N"] Feet (400.0, 1.0) "sum of what foot forces are beyond target" = |s, a| s.track.feet.iter().map(|f| (f.force_n - a.target).max(0.0)).sum();
    "feet_slip" ["m^2/s^2"] Feet (0.0, 1.0) "sum of squared horizontal speeds of feet that touch" = |s, _| s.track.feet.iter().filter(|f| f.touches).map(|f| f.speed_squared).sum();
    "feet_distance" ["m"] Feet (0.2, 1.0) "what the first two feet are nearer than target, horizontally" = |s, a| match s.track.feet.as_slice() { [l, r, ..] => (a.target - ((l.position[0] - r.position[0]).powi(2) + (l.position[1] - r.position[1]).powi(2)).sqrt()).max(0.0), _ => 0.0 };
    "single_stance" [""] Feet (0.0, 1.0) "1 where exactly one foot touches; 1 while standing is asked" = |s, _| f32::from(u8::from(s.is_standing() || s.track.feet.iter().filter(|f| f.touches).count() == 1));
    "stand_still" ["rad"] Nothing (0.0, 1.0) "sum of |q - default| while standing is asked" = |s, a| if s.is_standing() { s.deviation(a, f32::abs) } else { 0.0 };
    "joint_deviation" ["rad"] Nothing (0.0, 1.0) "sum of |q - default|" = |s, a| s.deviation(a, f32::abs);
    "pose" ["rad^2"] Nothing (0.0, 1.0) "sum of (q - default)^2" = |s, a| s.deviation(a, |d| d * d);
    "energy" ["W"] Nothing (0.0, 1.0) "sum of |tau dq|" = |s, a| a.joints.iter().map(|&i| (s.world.joint_torque(i) * s.track.joint_velocity[i]).abs()).sum();
    "standing" [""] Nothing (0.0, 0.05) "exp(-(v^2 of the base) / sigma)" = |s, a| { let v = s.track.base.linear_velocity; math::exp(-(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]) / a.sigma) };

    // Motion of the base.
    "forward_velocity" ["m/s"] Nothing (1e6, 1.0) "velocity of the base along the world's x, at most target" = |s, a| s.track.world_velocity[0].clamp(-a.target, a.target);
    "speed" ["m/s"] Nothing (0.0, 1.0) "velocity of the base along its x" = |s, _| s.track.base.linear_velocity[0];
    "sideways" ["m/s"] Nothing (0.0, 1.0) "velocity of the base along its y" = |s, _| s.track.base.linear_velocity[1];
    "yaw_rate" ["rad/s"] Nothing (0.0, 1.0) "turn of the base about its z" = |s, _| s.track.base.angular_velocity[2];
    "distance" ["m"] Nothing (0.0, 1.0) "how far the base has come along the world's x" = |s, _| s.track.base_position[0] - s.track.start_position[0];
    "mean_speed" ["m/s"] Nothing (0.0, 1.0) "distance over time" = |s, _| (s.track.base_position[0] - s.track.start_position[0]) / s.track.time_s.max(1e-3);
    "displacement" ["m"] Nothing (0.0, 1.0) "horizontal distance of the base from its start" = |s, _| s.displacement();
    "progress" [""] VelocityCommand (0.0, 1.0) "horizontal distance of the base from its start, over the distance commanded so far; 1 while standing is asked" = |s, _| if s.track.commanded_m > STANDING_M_S * s.track.time_s { s.displacement() / s.track.commanded_m } else { 1.0 };
    "height_scan" ["m"] Points (0.5, 1.0) "height of the base - height of the ground at a point beside it - target, between -sigma and sigma; one value per point" = |s, a| s.height_scan(a);
    "height" ["m"] Nothing (0.0, 1.0) "height of the base above the ground" = |s, _| s.track.height;
    "lin_vel_error" ["m/s"] VelocityCommand (0.0, 1.0) "|v*_xy - v_xy|" = |s, _| s.lin_vel_error_squared().sqrt();
    "ang_vel_error" ["rad/s"] VelocityCommand (0.0, 1.0) "|w*_z - w_z|" = |s, _| s.ang_vel_error().abs();
    "upright" [""] Nothing (0.0, 1.0) "cosine of the angle between the base's z and the vertical" = |s, _| -s.track.base.projected_gravity[2];
    "contact" [""] Bodies (0.0, 1.0) "1 where any of `bodies` touches something" = |s, a| f32::from(u8::from(a.bodies.iter().any(|b| s.world.contact_force(b) > CONTACT_N)));

    // Joints.
    "joint_position" ["rad"] OneJoint (0.0, 1.0) "q" = |s, a| s.joint(a);
    "joint_speed" ["rad/s"] Nothing (0.0, 1.0) "norm of dq" = |s, a| a.joints.iter().map(|&i| s.track.joint_velocity[i].powi(2)).sum::<f32>().sqrt();
    "joint_square" [""] Nothing (0.0, 1.0) "sum of ((q - target) / sigma)^2" = |s, a| a.joints.iter().map(|&i| ((s.track.joint_position[i] - a.target) / a.sigma).powi(2)).sum();
    "joint_fraction" [""] OneJoint (0.0, 1.0) "(q - target) / sigma, between 0 and 1" = |s, a| ((s.joint(a) - a.target) / a.sigma).clamp(0.0, 1.0);
    "joint_angle" ["rad"] OneJoint (0.0, 1.0) "q - target, between -pi and pi" = |s, a| s.angle(a);
    "joint_upright" [""] OneJoint (0.0, 1.0) "(1 + cos(q - target)) / 2" = |s, a| 0.5 * (1.0 + math::sin_cos(s.angle(a)).1);
    "speed_near_upright" [""] OneJoint (0.0, 4.0) "((1 + cos(q - target)) / 2)^4 min((dq / sigma)^2, 2): speed matters only near the top" = |s, a| (0.5 * (1.0 + math::sin_cos(s.angle(a)).1)).powi(4) * a.joints.first().map_or(0.0, |&i| (s.track.joint_velocity[i] / a.sigma).powi(2).min(2.0));

    // Points, sites and objects.
    "target_offset" ["m"] SiteAndPoint (0.0, 1.0) "target - site, along `axis`" = |s, a| s.target(a.axis) - s.site(a)[a.axis];
    "target_distance" ["m"] SiteAndPoint (0.0, 1.0) "|target - site|" = |s, a| s.distance_to_target(s.site(a));
    "reached" [""] SiteAndPoint (0.0, 0.05) "exp(-(|target - site| / sigma)^2)" = |s, a| math::exp(-(s.distance_to_target(s.site(a)) / a.sigma).powi(2));
    "site_position" ["m"] Site (0.0, 1.0) "position of the site in the world, along `axis`" = |s, a| s.site(a)[a.axis];
    "site_down" [""] Site (0.0, 1.0) "how far the site's x points down, -1 to 1" = |s, a| a.site.as_ref().map_or(0.0, |site| s.world.site_motion(site).projected_gravity[0]);
    "site_offset" ["m"] TwoSites (0.0, 1.0) "site `to` - site, along `axis`" = |s, a| s.to(a)[a.axis] - s.site(a)[a.axis];
    "site_distance" ["m"] TwoSites (0.0, 1.0) "|site `to` - site|" = |s, a| distance(s.to(a), s.site(a));
    "reaching_site" [""] TwoSites (0.0, 0.1) "1 - tanh(|site `to` - site| / sigma)" = |s, a| 1.0 - math::tanh(distance(s.to(a), s.site(a)) / a.sigma);
    "body_position" ["m"] OneBody (0.0, 1.0) "position of the body in the world, along `axis`" = |s, a| s.body(a)[a.axis];
    "body_offset" ["m"] SiteAndBody (0.0, 1.0) "body - site, along `axis`" = |s, a| s.body(a)[a.axis] - s.site(a)[a.axis];
    "body_distance" ["m"] SiteAndBody (0.0, 1.0) "|body - site|" = |s, a| distance(s.body(a), s.site(a));
    "reaching_object" [""] SiteAndBody (0.0, 0.1) "1 - tanh(|body - site| / sigma)" = |s, a| 1.0 - math::tanh(distance(s.body(a), s.site(a)) / a.sigma);
    "object_target_offset" ["m"] BodyAndPoint (0.0, 1.0) "target - body, along `axis`" = |s, a| s.target(a.axis) - s.body(a)[a.axis];
    "object_distance" ["m"] BodyAndPoint (0.0, 1.0) "|target - body|" = |s, a| s.distance_to_target(s.body(a));
    "object_goal_tracking" [""] BodyAndPoint (0.0, 0.1) "1 - tanh(|target - body| / sigma)" = |s, a| 1.0 - math::tanh(s.distance_to_target(s.body(a)) / a.sigma);
    "nearest_body" ["m"] SiteAndBodies (0.0, 1.0) "horizontal distance from the site to the nearest of `bodies`" = |s, a| a.bodies.iter().map(|b| horizontal(s.world.body_pose(b).0, s.site(a))).fold(f32::INFINITY, f32::min);
    "bodies_beyond" [""] Bodies (0.0, 1.0) "share of `bodies` whose position along `axis` is above target" = |s, a| a.bodies.iter().filter(|b| s.world.body_pose(b).0[a.axis] > a.target).count() as f32 / a.bodies.len() as f32;
    "bodies_short" ["m"] Bodies (0.0, 1.0) "mean of what `bodies` lack to target along `axis`" = |s, a| a.bodies.iter().map(|b| (a.target - s.world.body_pose(b).0[a.axis]).max(0.0)).sum::<f32>() / a.bodies.len() as f32;
    "bodies_spread" ["m"] Bodies (0.0, 1.0) "largest horizontal distance between two of `bodies`" = |s, a| s.spread(a);
    "bodies_speed" ["m/s"] Bodies (0.0, 1.0) "sum of the horizontal speeds of `bodies`" = |s, a| a.bodies.iter().map(|b| { let m = s.world.body_motion(b); let [x, y, _] = rotate(m.quaternion, m.linear_velocity); (x * x + y * y).sqrt() }).sum();
    "camera" [""] Camera (0.0, 1.0) "a pixel of the task's camera, 0 to 1 (depth: m); one value per pixel" = |s, a| s.pixels.get(a.nth).copied().unwrap_or(0.0);
    "partner_pull" ["N"] Partner (0.0, 1.0) "force of the partner's hand on the load, along `axis`" = |s, a| s.partner_force[a.axis];
    "partner_force" ["N"] Partner (0.0, 1.0) "magnitude of the force of the partner's hand on the load" = |s, _| distance(s.partner_force, [0.0; 3]);
    "contact_force" ["N"] Bodies (0.0, 1.0) "sum of the contact forces on `bodies`" = |s, a| a.bodies.iter().map(|b| s.world.contact_force(b)).sum();

    // People.
    "person_distance" ["m"] People (0.0, 1.0) "between the surfaces of the robot and of the nth nearest person" = |s, a| s.person(a).distance;
    "person_offset" ["m"] People (0.0, 1.0) "nth nearest person - base, along `axis`" = |s, a| if a.axis < 2 { s.person(a).position[a.axis] - s.track.base_position[a.axis] } else { 0.0 };
    "person_velocity" ["m/s"] People (0.0, 1.0) "velocity of the nth nearest person, along `axis`" = |s, a| if a.axis < 2 { s.person(a).velocity[a.axis] } else { 0.0 };
    "person_disturbance" ["m/s^2"] People (0.0, 1.0) "sum of the accelerations that the robot's nearness causes in people" = |s, _| s.people.iter().map(|p| p.disturbance).sum();
}

impl Seen<'_> {
    /// Velocity asked for: x, y, turn.
    fn velocity_command(&self) -> [f32; 3] {
        self.track.velocity_command.map(|index| index.map_or(0.0, |i| self.command[i]))
    }

    fn is_standing(&self) -> bool {
        let [x, y, turn] = self.velocity_command();
        self.track.velocity_command.iter().any(Option::is_some)
            && x * x + y * y + turn * turn < STANDING_M_S.powi(2)
    }

    fn lin_vel_error_squared(&self) -> f32 {
        let ([x, y, _], v) = (self.velocity_command(), self.track.base.linear_velocity);
        (x - v[0]).powi(2) + (y - v[1]).powi(2)
    }

    fn ang_vel_error(&self) -> f32 {
        self.velocity_command()[2] - self.track.base.angular_velocity[2]
    }

    fn displacement(&self) -> f32 {
        let [x, y] = [0, 1].map(|i| self.track.base_position[i] - self.track.start_position[i]);
        (x * x + y * y).sqrt()
    }

    /// legged_gym's `measured_heights`: the grid turns with the base's heading and stays level.
    fn height_scan(&self, args: &Args) -> f32 {
        let ([x, y, z], [along, left]) = (self.track.base_position, args.point);
        let [ahead_x, ahead_y, _] = rotate(self.track.base.quaternion, [1.0, 0.0, 0.0]);
        let length = (ahead_x * ahead_x + ahead_y * ahead_y).sqrt().max(1e-6);
        let (cos, sin) = (ahead_x / length, ahead_y / length);
        let ground = self.world.ground(x + cos * along - sin * left, y + sin * along + cos * left);
        (z - ground - args.target).clamp(-args.sigma, args.sigma)
    }

    fn deviation(&self, args: &Args, size: fn(f32) -> f32) -> f32 {
        args.joints.iter().map(|&i| size(self.track.joint_position[i] - self.track.default_position[i])).sum()
    }

    fn joint(&self, args: &Args) -> f32 {
        args.joints.first().map_or(0.0, |&i| self.track.joint_position[i])
    }

    fn angle(&self, args: &Args) -> f32 {
        (self.joint(args) - args.target + PI).rem_euclid(2.0 * PI) - PI
    }

    fn site(&self, args: &Args) -> [f32; 3] {
        args.site.as_ref().map_or([0.0; 3], |site| self.world.site_position(site))
    }

    fn person(&self, args: &Args) -> Person {
        self.people.get(args.nth).copied().unwrap_or_default()
    }

    fn to(&self, args: &Args) -> [f32; 3] {
        args.to.as_ref().map_or([0.0; 3], |site| self.world.site_position(site))
    }

    fn body(&self, args: &Args) -> [f32; 3] {
        args.bodies.first().map_or([0.0; 3], |body| self.world.body_pose(body).0)
    }

    fn spread(&self, args: &Args) -> f32 {
        let at = |body| self.world.body_pose(body).0;
        let pairs =
            args.bodies.iter().enumerate().flat_map(|(i, a)| args.bodies[..i].iter().map(move |b| (a, b)));
        pairs.map(|(a, b)| horizontal(at(a), at(b))).fold(0.0, f32::max)
    }

    fn target(&self, axis: usize) -> f32 {
        self.command.get(axis).copied().unwrap_or(0.0)
    }

    /// Over as many axes as there are commands, at most three.
    fn distance_to_target(&self, point: [f32; 3]) -> f32 {
        self.command.iter().zip(point).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
    }
}

fn horizontal(a: [f32; 3], b: [f32; 3]) -> f32 {
    distance([a[0], a[1], 0.0], [b[0], b[1], 0.0])
}

fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

fn soft([low, high]: [f32; 2]) -> [f32; 2] {
    let (middle, half) = (0.5 * (low + high), 0.5 * (high - low) * SOFT_LIMIT);
    [middle - half, middle + half]
}

fn beyond(value: f32, [low, high]: [f32; 2]) -> f32 {
    (low - value).max(value - high).max(0.0)
}
