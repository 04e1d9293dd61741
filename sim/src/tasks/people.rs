//! People who walk to and fro by the social force model (Helbing and Molnar 1995) and give way to the robot.

use serde::Deserialize;
use tendon_runtime::math;

use crate::scene::{Placed, Shape};
use crate::seed::Rng;

/// Time in which a person takes up the velocity he wants, s (the paper's tau).
const RELAXATION_S: f32 = 0.5;
/// Acceleration at contact, m/s^2, and its range, m, with the radii taken into the distance (Helbing, Farkas and
/// Vicsek 2000 scale it so, by a mass of 80 kg).
const REPULSION_M_S2: f32 = 8.0;
const RANGE_M: f32 = 0.4;
/// Weight of what is behind; in front it is 1 (the paper's c).
const BEHIND: f32 = 0.5;
/// No one walks faster than this times his desired speed (the paper's v_max).
const FASTEST: f32 = 1.3;
/// Steps of the model per control period.
const SUBSTEPS: usize = 4;
const HEIGHT_M: f32 = 1.7;

/// People around the robot; where they begin, how fast they want to go and where to, is drawn from the seed.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeopleSpec {
    /// How many, at most 32.
    pub count: usize,
    /// They walk within this distance of the origin along x and y, m.
    pub room: f32,
    /// Desired speeds, m/s.
    pub speed: [f32; 2],
    /// Radius of a person, m.
    pub radius: f32,
    /// Radius of the robot, m.
    pub robot_radius: f32,
}

/// Most people: their forces grow with the square of their number.
pub(super) const MAX_PEOPLE: usize = 32;

/// One person.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Person {
    pub(crate) position: [f32; 2],
    pub(crate) velocity: [f32; 2],
    goals: [[f32; 2]; 2],
    speed: f32,
    /// Acceleration that the robot causes, m/s^2.
    pub(crate) disturbance: f32,
    /// Between the surfaces of person and robot, m.
    pub(crate) distance: f32,
}

/// The people of one environment.
#[derive(Clone, Debug)]
pub(crate) struct People {
    spec: PeopleSpec,
    /// By number.
    people: Vec<Person>,
    /// By distance from the robot, nearest first.
    pub(crate) nearest: Vec<Person>,
}

impl People {
    pub(crate) fn new(spec: PeopleSpec) -> Self {
        Self { spec, people: Vec::new(), nearest: Vec::new() }
    }

    /// Draws everyone anew, nobody nearer than 1 m to the robot.
    pub(crate) fn start(&mut self, rng: &mut Rng, robot: [f32; 2]) {
        let PeopleSpec { count, room, speed, .. } = self.spec;
        self.people.clear();
        for _ in 0..count {
            let mut place = || [rng.uniform(-room, room), rng.uniform(-room, room)];
            let mut position = place();
            for _ in 0..100 {
                if length(minus(position, robot)) > 1.0 {
                    break;
                }
                position = place();
            }
            let goals = [place(), position];
            let speed = rng.uniform(speed[0], speed[1]);
            self.people.push(Person { position, goals, speed, ..Person::default() });
        }
        self.sort(robot);
    }

    /// One control period, the robot standing where it is.
    pub(crate) fn advance(&mut self, period_s: f32, robot: [f32; 2]) {
        let dt = period_s / SUBSTEPS as f32;
        for _ in 0..SUBSTEPS {
            for index in 0..self.people.len() {
                let person = self.people[index];
                let wish = minus(person.goals[0], person.position);
                let away = length(wish).max(1e-3);
                let heading = [wish[0] / away, wish[1] / away];
                let mut force: [f32; 2] =
                    std::array::from_fn(|i| (person.speed * heading[i] - person.velocity[i]) / RELAXATION_S);
                for (other, neighbour) in self.people.iter().enumerate() {
                    if other != index {
                        let push =
                            repulsion(person.position, heading, neighbour.position, 2.0 * self.spec.radius);
                        force = [force[0] + push[0], force[1] + push[1]];
                    }
                }
                let touch = self.spec.radius + self.spec.robot_radius;
                let push = repulsion(person.position, heading, robot, touch);
                force = [force[0] + push[0], force[1] + push[1]];
                let person = &mut self.people[index];
                person.disturbance = length(push);
                for i in 0..2 {
                    person.velocity[i] += force[i] * dt;
                }
                let speed = length(person.velocity);
                let limit = FASTEST * person.speed / speed.max(FASTEST * person.speed);
                for i in 0..2 {
                    person.velocity[i] *= limit;
                    person.position[i] += person.velocity[i] * dt;
                }
                if away < 0.3 {
                    person.goals.swap(0, 1);
                }
            }
        }
        self.sort(robot);
    }

    fn sort(&mut self, robot: [f32; 2]) {
        let touch = self.spec.radius + self.spec.robot_radius;
        self.nearest.clone_from(&self.people);
        for person in &mut self.nearest {
            person.distance = length(minus(person.position, robot)) - touch;
        }
        self.nearest.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    }

    /// A body and a head each.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = Placed> {
        self.people.iter().flat_map(|person| shapes(person.position, self.spec.radius, [0.55, 0.35, 0.55]))
    }
}

/// Body and head of someone who stands at `position`.
pub(super) fn shapes([x, y]: [f32; 2], radius: f32, color: [f32; 3]) -> [Placed; 2] {
    let placed =
        |shape, z, color| Placed { shape, position: [x, y, z], rotation: [1.0, 0.0, 0.0, 0.0], color };
    let body = Shape::Capsule { radius, half_length: 0.5 * (HEIGHT_M - 0.3) - radius };
    [
        placed(body, 0.5 * (HEIGHT_M - 0.3), color),
        placed(Shape::Sphere { radius: 0.12 }, HEIGHT_M - 0.12, [0.85, 0.68, 0.55]),
    ]
}

/// Equations 3 and 8 of the paper with circles for ellipses: pushes `person` away from `other`.
fn repulsion(person: [f32; 2], heading: [f32; 2], other: [f32; 2], touch: f32) -> [f32; 2] {
    let away = minus(person, other);
    let distance = length(away).max(1e-3);
    let normal = [away[0] / distance, away[1] / distance];
    // Behind him a person notices less.
    let ahead = -(normal[0] * heading[0] + normal[1] * heading[1]);
    let sight = if ahead > 0.0 { 1.0 } else { BEHIND };
    let size = sight * REPULSION_M_S2 * math::exp((touch - distance) / RANGE_M);
    [size * normal[0], size * normal[1]]
}

fn minus(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
    [a[0] - b[0], a[1] - b[1]]
}

fn length([x, y]: [f32; 2]) -> f32 {
    (x * x + y * y).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: PeopleSpec =
        PeopleSpec { count: 8, room: 4.0, speed: [0.8, 1.2], radius: 0.25, robot_radius: 0.25 };

    #[test]
    fn a_person_alone_takes_up_his_speed_with_the_papers_time_constant() {
        let mut people = People::new(PeopleSpec { count: 1, ..SPEC });
        people.start(&mut Rng::new(1, 1), [100.0, 0.0]);
        people.people[0] = Person { goals: [[50.0, 0.0], [0.0, 0.0]], speed: 1.0, ..Person::default() };
        for _ in 0..25 {
            people.advance(0.02, [100.0, 0.0]);
        }
        let expected = 1.0 - (-0.5f32 / RELAXATION_S).exp();
        assert!((people.people[0].velocity[0] - expected).abs() < 0.01, "{:?}", people.people[0]);
    }

    #[test]
    fn people_keep_apart_and_from_a_robot_that_stands() {
        let mut people = People::new(SPEC);
        people.start(&mut Rng::new(3, 1), [0.0; 2]);
        let mut nearest = f32::INFINITY;
        for _ in 0..1500 {
            people.advance(0.02, [0.0; 2]);
            nearest = nearest.min(people.nearest[0].distance);
        }
        assert!(nearest > 0.0, "someone walks into the robot: {nearest} m");
    }
}
