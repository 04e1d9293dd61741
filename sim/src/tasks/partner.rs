//! A simulated partner who holds the other end of a load: a point mass that walks, and a hand that yields.
//!
//! The hand is a spring and a damper (impedance control, Hogan 1985); who holds it takes up the velocity he wants with a
//! time constant, as in the social force model (Helbing and Molnar 1995), and is moved by the hand.

use serde::Deserialize;

use super::TaskError;
use super::people;
use super::plan::Resolver;
use super::randomise::Draw;
use crate::robot::Site;
use crate::scene::Placed;
use crate::seed::Rng;
use crate::world::World;

/// Purpose of the random stream that draws partners.
const PARTNER_STREAM: u64 = 16;
/// Time in which the partner takes up the velocity he wants, s.
const RELAXATION_S: f32 = 0.5;
/// Within this distance he slows down, m.
const SLOWING_M: f32 = 0.5;
const RADIUS_M: f32 = 0.25;

/// The partner. The first two commands say where the middle of the load is to go; he knows it as far as `lead` says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartnerSpec {
    /// Site of the load that he holds.
    pub site: String,
    /// Site in the middle of the load.
    pub middle: String,
    /// Mass that he moves, kg.
    pub mass: f32,
    /// Of his hand, N/m.
    pub stiffness: f32,
    /// Of his hand, N s/m.
    pub damping: f32,
    /// Speed at which he walks to the goal, m/s, drawn per episode.
    pub speed: [f32; 2],
    /// 0: goes where he is pulled; 1: walks to the goal by himself; drawn per episode.
    pub lead: [f32; 2],
}

pub(super) fn check(resolver: &Resolver<'_>, spec: &PartnerSpec) -> Result<[Site; 2], TaskError> {
    let field = |name: &str| format!("partner.{name}");
    for (name, value, most) in
        [("mass", spec.mass, 1e3), ("stiffness", spec.stiffness, 1e4), ("damping", spec.damping, 1e4)]
    {
        let least = if name == "mass" { 1.0 } else { 0.0 };
        if !(least..=most).contains(&value) {
            return Err(resolver.fault(&field(name), format!("is {value}: give {least} to {most}")));
        }
    }
    for (name, range, most) in [("speed", spec.speed, 5.0), ("lead", spec.lead, 1.0)] {
        let [low, high] = resolver.range(&field(name), range)?;
        if low < 0.0 || high > most {
            return Err(
                resolver.fault(&field(name), format!("is [{low}, {high}]: give values of 0 to {most}"))
            );
        }
    }
    if resolver.spec.commands.inputs.len() < 2 {
        return Err(resolver.fault("partner", "needs two commands that say where the load goes: add them"));
    }
    Ok([resolver.site(&field("site"), &spec.site)?, resolver.site(&field("middle"), &spec.middle)?])
}

/// The partner of one environment.
#[derive(Clone, Debug)]
pub(super) struct Partner {
    spec: PartnerSpec,
    hand: Site,
    middle: Site,
    position: [f32; 2],
    velocity: [f32; 2],
    speed: f32,
    lead: f32,
    /// On the load, in the world, N.
    pub(super) force: [f32; 3],
}

impl Partner {
    pub(super) fn new(spec: PartnerSpec, [hand, middle]: [Site; 2]) -> Self {
        let nothing = [0.0; 2];
        Self {
            spec,
            hand,
            middle,
            position: nothing,
            velocity: nothing,
            speed: 0.0,
            lead: 0.0,
            force: [0.0; 3],
        }
    }

    /// Takes hold of the load where it is.
    pub(super) fn start(&mut self, seed: u64, world: &World, draws: &mut Vec<Draw>) {
        let mut rng = Rng::new(seed, PARTNER_STREAM);
        let [x, y, _] = world.site_position(&self.hand);
        (self.position, self.velocity, self.force) = ([x, y], [0.0; 2], [0.0; 3]);
        let mut draw = |name, [low, high]: [f32; 2]| {
            let value = rng.uniform(low, high);
            draws.push(Draw { name, index: 0, value });
            value
        };
        self.speed = draw("partner_speed", self.spec.speed);
        self.lead = draw("partner_lead", self.spec.lead);
    }

    /// Begins a control period: the hand's force for all of it, and the partner's motion under its reaction.
    pub(super) fn act(&mut self, world: &mut World, goal: &[f32], period_s: f32) {
        let end = world.site_position(&self.hand);
        let end_velocity = world.site_velocity(&self.hand);
        let middle = world.site_position(&self.middle);
        for axis in 0..2 {
            self.force[axis] = self.spec.stiffness * (self.position[axis] - end[axis])
                + self.spec.damping * (self.velocity[axis] - end_velocity[axis]);
        }
        world.set_site_force(&self.hand, self.force);
        // He walks as the middle of the load has to move.
        let way: [f32; 2] = std::array::from_fn(|axis| goal.get(axis).copied().unwrap_or(0.0) - middle[axis]);
        let distance = (way[0] * way[0] + way[1] * way[1]).sqrt();
        let speed = self.lead * self.speed * (distance / SLOWING_M).min(1.0);
        for axis in 0..2 {
            let wish = speed * way[axis] / distance.max(1e-3);
            // Who is only pulled brakes as he walks: he does not glide on.
            let acceleration =
                (wish - self.velocity[axis]) / RELAXATION_S - self.force[axis] / self.spec.mass;
            self.velocity[axis] += acceleration * period_s;
            self.position[axis] += self.velocity[axis] * period_s;
        }
    }

    pub(super) fn shapes(&self) -> [Placed; 2] {
        people::shapes(self.position, RADIUS_M, [0.25, 0.50, 0.45])
    }
}
