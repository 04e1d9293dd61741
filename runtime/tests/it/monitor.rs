use crate::world::spec;
use fastrand::Rng;
use tendon_runtime::monitor::{Monitors, channel};
use tendon_runtime::spec::{CompiledContract, ContractSpec, MonitorAction, MonitorsSpec, SensorMonitorSpec};
use tendon_runtime::{RawState, math};
use tendon_wire::image::monitor;

const DT: f32 = 0.02;

/// The contract of these tests with the default monitors, and both sensors watched.
fn watched() -> ContractSpec {
    let sensor = |name: &str| SensorMonitorSpec {
        name: name.into(),
        range: Some([-2.0, 2.0]),
        jump: Some(0.5),
        noise: Some(0.2),
        stuck_s: Some(0.2),
    };
    let mut spec = spec();
    spec.monitors = MonitorsSpec {
        joint_noise: 0.25,
        turn_noise: 0.05,
        sensors: vec![sensor("left"), sensor("right")],
        ..MonitorsSpec::default()
    };
    spec
}

/// A robot that swings its joints, turns and sways, as its sensors see it at tick `tick`.
fn moving(tick: u32) -> RawState {
    let t = tick as f32 * DT;
    let mut state = RawState { time_us: u64::from(tick + 1) * 20_000, ..RawState::default() };
    for joint in 0..3 {
        let (sin, cos) = math::sin_cos(3.0 * t + joint as f32);
        state.joint_position.push(0.5 * sin).unwrap();
        state.joint_velocity.push(1.5 * cos).unwrap();
    }
    // Yaw of 0.6 sin(2 t).
    let (sway, rate) = math::sin_cos(2.0 * t);
    let (sin, cos) = math::sin_cos(0.3 * sway);
    state.base_orientation = [cos, 0.0, 0.0, sin];
    state.base_angular_velocity = [0.0, 0.0, 1.2 * rate];
    state.base_linear_velocity = [0.3 * sway, 0.1 * rate, 0.0];
    state.command.resize(2, 0.0).unwrap();
    state.preference.resize(1, 0.0).unwrap();
    state.sensors.extend_from_slice(&[sway, rate]).unwrap();
    state
}

/// The monitors of a robot whose motors follow.
struct Bench {
    contract: CompiledContract,
    monitors: Monitors,
}

impl Bench {
    fn new(spec: &ContractSpec) -> Self {
        Self { contract: spec.compile().unwrap(), monitors: Monitors::default() }
    }

    /// One tick; the motors give what swings as the joints do.
    fn see(&mut self, state: &RawState, torque: f32) -> u16 {
        self.monitors.begin();
        self.monitors.observe(&self.contract.view(), state, [torque; 3].into_iter());
        self.monitors.alarms()
    }

    fn verdict(&self) -> Option<usize> {
        self.monitors.verdict(&self.contract.view())
    }
}

type Fault = fn(&mut RawState, &RawState, &mut Rng);

/// Ticks from a fault at tick 100 to the alarm of `monitor` on `channel`, within 100.
fn latency(fault: Fault, monitor: usize, channel: u16) -> Option<u32> {
    let mut bench = Bench::new(&watched());
    let mut rng = Rng::with_seed(4);
    let last = moving(99);
    for tick in 0..200 {
        let mut state = moving(tick);
        if tick >= 100 {
            fault(&mut state, &last, &mut rng);
        }
        let alarms = bench.see(&state, math::sin_cos(3.0 * tick as f32 * DT).0);
        assert!(tick >= 100 || alarms == 0, "false alarm {alarms:b} in tick {tick}");
        if alarms >> monitor & 1 == 1 && bench.monitors.last() == (monitor as u8, channel) {
            return Some(tick - 100);
        }
    }
    None
}

#[test]
fn a_healthy_robot_raises_no_alarm() {
    let mut bench = Bench::new(&watched());
    for tick in 0..20_000 {
        let alarms = bench.see(&moving(tick), math::sin_cos(3.0 * tick as f32 * DT).0);
        assert_eq!(alarms, 0, "tick {tick}: {:?}", bench.monitors.last());
    }
    assert_eq!(bench.monitors.last().0, u8::MAX);
}

#[test]
fn a_robot_that_stands_still_raises_no_alarm() {
    let mut bench = Bench::new(&watched());
    let mut state = moving(0);
    state.joint_velocity.iter_mut().for_each(|v| *v = 0.0);
    state.base_angular_velocity = [0.0; 3];
    for tick in 1..2000 {
        state.time_us = tick * 20_000;
        assert_eq!(bench.see(&state, 1.0), 0, "tick {tick}: {:?}", bench.monitors.last());
    }
}

#[test]
fn every_channel_that_breaks_is_named() {
    let cases: [(&str, Fault, usize, u16, u32); 20] = [
        (
            "position stuck",
            |s, last, _| s.joint_position[1] = last.joint_position[1],
            monitor::STUCK,
            channel::POSITION + 1,
            20,
        ),
        ("position off", |s, _, _| s.joint_position[1] = 0.0, monitor::OFF, channel::POSITION + 1, 20),
        ("position jump", |s, _, _| s.joint_position[2] += 1.0, monitor::JUMP, channel::POSITION + 2, 0),
        (
            "position noise",
            |s, _, r| s.joint_position[0] += 0.4 * (r.f32() - 0.5),
            monitor::NOISE,
            channel::POSITION,
            20,
        ),
        (
            "velocity stuck",
            |s, last, _| s.joint_velocity[1] = last.joint_velocity[1],
            monitor::STUCK,
            channel::VELOCITY + 1,
            40,
        ),
        ("velocity off", |s, _, _| s.joint_velocity[2] = 0.0, monitor::OFF, channel::VELOCITY + 2, 40),
        ("velocity jump", |s, _, _| s.joint_velocity[0] += 30.0, monitor::JUMP, channel::VELOCITY, 0),
        (
            "velocity noise",
            |s, _, r| s.joint_velocity[0] += 20.0 * (r.f32() - 0.5),
            monitor::NOISE,
            channel::POSITION,
            20,
        ),
        (
            "orientation stuck",
            |s, last, _| s.base_orientation = last.base_orientation,
            monitor::STUCK,
            channel::ORIENTATION,
            40,
        ),
        (
            "orientation jump",
            |s, _, _| s.base_orientation = [0.0, 1.0, 0.0, 0.0],
            monitor::JUMP,
            channel::ORIENTATION,
            0,
        ),
        ("gyro off", |s, _, _| s.base_angular_velocity = [0.0; 3], monitor::OFF, channel::GYRO, 40),
        (
            "gyro stuck",
            |s, last, _| s.base_angular_velocity = last.base_angular_velocity,
            monitor::STUCK,
            channel::GYRO,
            60,
        ),
        ("gyro jump", |s, _, _| s.base_angular_velocity[0] = 40.0, monitor::JUMP, channel::GYRO, 0),
        (
            "gyro noise",
            |s, _, r| s.base_angular_velocity[1] += 30.0 * (r.f32() - 0.5),
            monitor::NOISE,
            channel::ORIENTATION,
            30,
        ),
        ("linear off", |s, _, _| s.base_linear_velocity = [0.0; 3], monitor::OFF, channel::LINEAR, 15),
        (
            "linear stuck",
            |s, last, _| s.base_linear_velocity = last.base_linear_velocity,
            monitor::STUCK,
            channel::LINEAR,
            15,
        ),
        ("linear jump", |s, _, _| s.base_linear_velocity[0] += 4.0, monitor::JUMP, channel::LINEAR, 0),
        ("sensor out of range", |s, _, _| s.sensors[1] = 2.5, monitor::JUMP, channel::SENSOR + 1, 0),
        ("sensor stuck", |s, last, _| s.sensors[0] = last.sensors[0], monitor::STUCK, channel::SENSOR, 15),
        ("clock stuck", |s, last, _| s.time_us = last.time_us, monitor::AGE, channel::CLOCK, 5),
    ];
    for (name, fault, monitor, channel, within) in cases {
        let found = latency(fault, monitor, channel);
        println!("{name}: {found:?} ticks");
        assert!(found.is_some_and(|found| found <= within), "{name}: {found:?} of {within} ticks");
    }
}

#[test]
fn a_joint_that_does_not_move_while_its_torque_swings_does_not_respond() {
    let mut bench = Bench::new(&watched());
    let mut state = moving(0);
    state.joint_velocity.iter_mut().for_each(|v| *v = 0.0);
    state.base_angular_velocity = [0.0; 3];
    let mut alarm = None;
    for tick in 0..50 {
        state.time_us += 20_000;
        // Of 6 N m.
        let alarms = bench.see(&state, if tick % 2 == 0 { 2.0 } else { -2.0 });
        if alarms >> monitor::RESPONSE & 1 == 1 {
            alarm.get_or_insert(tick);
        }
    }
    assert_eq!(alarm, Some(4), "each tick swings by two thirds of the limit");
    assert_eq!(bench.verdict(), None, "by default it is counted");
    let mut idle = Bench::new(&watched());
    (0..50).for_each(|_| {
        assert_eq!(idle.see(&state, 3.0) >> monitor::RESPONSE & 1, 0, "a constant load is none")
    });
}

#[test]
fn a_joint_that_pushes_with_all_its_torque_and_does_not_move_is_stalled() {
    let mut state = moving(0);
    state.joint_velocity.iter_mut().for_each(|v| *v = 0.0);
    state.base_angular_velocity = [0.0; 3];
    let first = |torque: f32| {
        let mut bench = Bench::new(&watched());
        let mut state = state.clone();
        (0..100).find(|_| {
            state.time_us += 20_000;
            bench.see(&state, torque) >> monitor::RESPONSE & 1 == 1
        })
    };
    assert!(first(5.9).is_some_and(|tick| (5..16).contains(&tick)), "{:?}", first(5.9));
    assert_eq!(first(4.0), None, "two thirds of the limit are a load to carry");
}

#[test]
fn a_joint_far_beyond_its_velocity_limit_runs_away() {
    let mut bench = Bench::new(&watched());
    let (mut q, dq) = (0.0, 13.0); // limit 8
    for tick in 0..3 {
        let mut state = moving(0);
        state.time_us = (tick + 1) * 20_000;
        q += dq * DT;
        (state.joint_position[1], state.joint_velocity[1]) = (q, dq);
        let alarms = bench.see(&state, 0.0);
        // robot_index of the policy's joint 2.
        assert!(tick == 0 || alarms >> monitor::RESPONSE & 1 == 1);
    }
    assert_eq!(bench.monitors.last(), (monitor::RESPONSE as u8, channel::RESPONSE + 1));
}

#[test]
fn acts_after_as_many_ticks_as_the_contract_asks_for() {
    let mut spec = watched();
    spec.monitors.jump.needed = 3;
    let mut bench = Bench::new(&spec);
    let mut verdicts = Vec::new();
    for tick in 0..100 {
        let mut state = moving(tick);
        // A spike every fifth tick: a jump there and one back.
        if tick % 5 == 4 {
            state.joint_position[0] += 1.0;
        }
        bench.see(&state, 0.0);
        verdicts.push(bench.verdict());
    }
    let first = verdicts.iter().position(Option::is_some);
    assert_eq!((first, verdicts[9]), (Some(9), Some(monitor::JUMP)), "{verdicts:?}");
    assert_eq!(verdicts[11], None, "only a tick with an alarm acts");
}

#[test]
fn what_the_contract_turns_off_is_neither_counted_nor_acted_upon() {
    for (action, counted, acts) in
        [(MonitorAction::Off, 0, false), (MonitorAction::Count, 1, false), (MonitorAction::FallBack, 1, true)]
    {
        let mut spec = watched();
        spec.monitors.jump.action = action;
        spec.monitors.noise.action = MonitorAction::Off;
        let mut bench = Bench::new(&spec);
        bench.see(&moving(0), 0.0);
        let mut state = moving(1);
        state.joint_position[0] += 1.0;
        bench.see(&state, 0.0);
        assert_eq!(bench.monitors.count(monitor::JUMP), counted, "{action:?}");
        assert_eq!(bench.verdict().is_some(), acts, "{action:?}");
    }
}

#[test]
fn numbers_near_the_end_of_f32_are_alarms_and_poison_nothing() {
    let mut bench = Bench::new(&watched());
    bench.see(&moving(0), 0.0);
    for value in [f32::MAX, f32::MIN, 1e30] {
        let mut state = moving(1);
        state.joint_position.iter_mut().for_each(|v| *v = value);
        state.joint_velocity.iter_mut().for_each(|v| *v = -value);
        state.base_angular_velocity = [value; 3];
        state.base_linear_velocity = [value; 3];
        state.sensors.iter_mut().for_each(|v| *v = value);
        assert!(bench.see(&state, f32::MAX) >> monitor::JUMP & 1 == 1);
    }
    for tick in 2..150 {
        bench.see(&moving(tick), 0.0);
    }
    for tick in 150..300 {
        assert_eq!(bench.see(&moving(tick), 0.0), 0, "{:?}", bench.monitors.last());
    }
}

#[test]
fn a_robot_without_a_sensor_clock_is_not_called_late() {
    let mut bench = Bench::new(&watched());
    for tick in 0..100 {
        let state = RawState { time_us: 0, ..moving(tick) };
        assert_eq!(bench.see(&state, 0.0), 0);
    }
}
