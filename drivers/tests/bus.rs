//! Both serial drivers against servos that are simulated byte by byte.

use std::f32::consts::{PI, TAU};
use tendon_drivers::dynamixel::{self, DynamixelBus, Follow};
use tendon_drivers::feetech::{self, FeetechBus};
use tendon_drivers::sim::{Bench, Bus, Mount, Protocol, SimPort};
use tendon_drivers::{BusError, Calibration, Counters, Echo, Faults, JointBus, JointCommand, Timing};

const BAUD: u32 = 1_000_000;
const TICK_US: u64 = 10_000;
const START: [f32; 3] = [0.5, -0.3, 0.1];
const BOTH: [Protocol; 2] = [Protocol::Dynamixel, Protocol::Feetech];

/// Three servos, mounted differently; the second turns the other way.
fn mounting(joint: usize) -> Calibration {
    Calibration::new([PI, 2.0, 4.0][joint], [1, -1, 1][joint], [-1.5, 1.5]).unwrap()
}

fn world(protocol: Protocol) -> SimPort {
    let model = match protocol {
        Protocol::Dynamixel => 1020,
        Protocol::Feetech => 777,
    };
    let mount =
        |joint: usize| Mount { id: joint as u8 + 1, model, calibration: mounting(joint), gains: [6.0, 0.3] };
    let mounts: Vec<Mount> = (0..3).map(mount).collect();
    let bench = Bench::new(&START, &[[-1.6, 1.6]; 3]);
    SimPort::new(Bus::new(protocol, &mounts, Box::new(bench), BAUD, 7))
}

fn try_open(port: &SimPort, timing: Timing) -> Result<Box<dyn JointBus>, BusError> {
    let clock = port.clock();
    match port.with(|world| world.bus.protocol()) {
        Protocol::Dynamixel => {
            let joints = [0, 1, 2].map(|joint| dynamixel::Joint {
                id: joint as u8 + 1,
                calibration: mounting(joint),
                follow: Follow::Position,
            });
            Ok(Box::new(DynamixelBus::open(port.clone(), timing, &joints, 100_000, &clock)?))
        }
        Protocol::Feetech => {
            let joints = [0, 1, 2].map(|joint| feetech::Joint {
                id: joint as u8 + 1,
                calibration: mounting(joint),
                model: &feetech::MODELS[0],
            });
            Ok(Box::new(FeetechBus::open(port.clone(), timing, &joints, &clock)?))
        }
    }
}

fn open(port: &SimPort) -> Box<dyn JointBus> {
    try_open(port, Timing::new(BAUD)).unwrap()
}

fn truth(port: &SimPort, joint: usize) -> [f32; 3] {
    port.with(|world| world.bus.robot.joint(joint))
}

fn any_torque(port: &SimPort) -> bool {
    port.with(|world| world.bus.servos.iter().any(|servo| servo.torque_on(world.bus.protocol())))
}

/// Reads, writes, and lets the rest of the tick pass. The result of the read.
fn tick(port: &SimPort, bus: &mut dyn JointBus, commands: &[JointCommand]) -> bool {
    let clock = port.clock();
    let end = clock() + TICK_US;
    let all = bus.read(clock() + TICK_US / 2, &clock).unwrap();
    bus.write(commands).unwrap();
    port.wait_us(end.saturating_sub(clock()));
    all
}

fn hold(position: f32) -> JointCommand {
    JointCommand { position, kp: 6.0, kd: 0.3, torque_limit: 1.0, ..JointCommand::default() }
}

#[test]
fn states_are_what_the_joints_do_whatever_their_mounting() {
    for protocol in BOTH {
        let port = world(protocol);
        let mut bus = open(&port);
        assert!(tick(&port, &mut *bus, &[]));
        for (joint, state) in bus.states().iter().enumerate() {
            assert!((state.position - START[joint]).abs() < TAU / 4096.0, "{protocol:?} {joint} {state:?}");
        }
        assert_eq!(bus.counters(), Counters { requests: bus.counters().requests, ..Counters::default() });
    }
}

#[test]
fn torque_on_moves_nothing_and_commands_are_followed_within_their_limit() {
    for protocol in BOTH {
        let port = world(protocol);
        let mut bus = open(&port);
        assert_eq!(
            bus.torque(true, &port.clock()),
            Err(BusError::Unknown { id: 1 }),
            "nothing was heard yet"
        );
        tick(&port, &mut *bus, &[]);
        bus.torque(true, &port.clock()).unwrap();
        assert!(any_torque(&port));
        for _ in 0..20 {
            tick(&port, &mut *bus, &[]);
        }
        assert!((0..3).all(|joint| (truth(&port, joint)[0] - START[joint]).abs() < 1e-3), "no step");

        let target = [0.2, 0.4, -0.6];
        let mut most = 0.0f32;
        for _ in 0..200 {
            tick(&port, &mut *bus, &target.map(hold));
            most = most.max(truth(&port, 1)[2].abs());
        }
        for joint in 0..3 {
            assert!(
                (truth(&port, joint)[0] - target[joint]).abs() < 0.02,
                "{protocol:?} {:?}",
                truth(&port, joint)
            );
        }
        assert!(most > 0.5 && most < 1.05, "{protocol:?}: torque {most} N m of at most 1");

        bus.torque(false, &port.clock()).unwrap();
        assert!(!any_torque(&port));
    }
}

#[test]
fn a_command_without_position_gain_damps_and_pushes_with_its_own_torque() {
    for protocol in BOTH {
        let port = world(protocol);
        let mut bus = open(&port);
        tick(&port, &mut *bus, &[]);
        bus.torque(true, &port.clock()).unwrap();
        let push = JointCommand { torque: 0.3, torque_limit: 1.0, ..JointCommand::default() };
        let mut torque = 0.0f32;
        for _ in 0..5 {
            tick(&port, &mut *bus, &[push, push, push]);
            torque = torque.max(truth(&port, 1)[2]);
        }
        assert!((torque - 0.3).abs() < 0.02, "{protocol:?}: {torque} N m");
        let fast = truth(&port, 0)[1];
        let damp = JointCommand { kd: 0.5, torque_limit: 1.0, ..JointCommand::default() };
        for _ in 0..5 {
            tick(&port, &mut *bus, &[damp, damp, damp]);
            let [_, velocity, torque] = truth(&port, 0);
            assert!(torque * velocity <= 1e-4, "{protocol:?}: {torque} N m drives at {velocity} rad/s");
        }
        assert!(truth(&port, 0)[1].abs() < fast / 4.0);
    }
}

#[test]
fn current_mode_applies_the_law_of_the_command() {
    let port = world(Protocol::Dynamixel);
    let joints = [dynamixel::Joint { id: 2, calibration: mounting(1), follow: Follow::Current }];
    let mut bus = DynamixelBus::open(port.clone(), Timing::new(BAUD), &joints, 0, &port.clock()).unwrap();
    tick(&port, &mut bus, &[]);
    bus.torque(true, &port.clock()).unwrap();
    bus.read(u64::MAX, &port.clock()).unwrap();
    let command = JointCommand { position: 0.0, kp: 2.0, torque_limit: 3.0, ..JointCommand::default() };
    bus.write(&[command]).unwrap();
    port.wait_us(1_000);
    let torque = truth(&port, 1)[2];
    assert!((torque - 2.0 * -START[1]).abs() < 0.03, "{torque}");
}

#[test]
fn numbers_that_are_not_finite_give_no_torque() {
    for protocol in BOTH {
        let port = world(protocol);
        let mut bus = open(&port);
        tick(&port, &mut *bus, &[]);
        bus.torque(true, &port.clock()).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let commands = [
                JointCommand { position: bad, ..hold(0.0) },
                JointCommand { torque_limit: bad.min(f32::NAN), torque: bad, kp: 0.0, ..hold(0.0) },
                JointCommand { kd: bad, kp: bad, ..hold(0.0) },
            ];
            tick(&port, &mut *bus, &commands);
            tick(&port, &mut *bus, &commands);
            for joint in 0..3 {
                // An infinite gain still has the command's own limit.
                let most = if joint == 2 && bad > 0.0 { 1.05 } else { 1e-3 };
                assert!(
                    truth(&port, joint)[2].abs() <= most,
                    "{protocol:?} {joint} {bad}: {:?}",
                    truth(&port, joint)
                );
            }
        }
    }
}

#[test]
fn a_missing_servo_costs_bounded_time_and_the_others_are_heard() {
    for protocol in BOTH {
        for dead in 0..3 {
            let port = world(protocol);
            let mut bus = open(&port);
            tick(&port, &mut *bus, &[]);
            port.with(|world| world.bus.servos[dead].behaviour.dead = true);
            port.wait_us(TICK_US);
            let clock = port.clock();
            let start = clock();
            assert!(!bus.read(start + 8_000, &clock).unwrap());
            assert!(clock() - start < 9_500, "{protocol:?}: {} us", clock() - start);
            for (joint, state) in bus.states().iter().enumerate() {
                let heard = state.at_us.unwrap() >= start;
                // With the first dead nobody answers the Sync Read: one of three retries repeats it, two ask alone.
                assert_eq!(heard, joint != dead && !(dead == 0 && joint == 2), "{protocol:?} {dead} {joint}");
            }
            assert!(bus.counters().timeouts > 0);
            // And it comes back.
            port.with(|world| world.bus.servos[dead].behaviour.dead = false);
            assert!(tick(&port, &mut *bus, &[]));
        }
    }
}

#[test]
fn an_answer_under_another_id_is_not_taken_for_that_joint() {
    for protocol in BOTH {
        let port = world(protocol);
        let mut bus = open(&port);
        tick(&port, &mut *bus, &[]);
        port.with(|world| world.bus.servos[0].behaviour.answers_as = Some(9));
        assert!(!tick(&port, &mut *bus, &[]));
        assert!(bus.counters().strays > 0, "{protocol:?}");
        assert!((bus.states()[0].position - START[0]).abs() < 0.01);
    }
}

#[test]
fn an_overload_is_reported_and_goes_away() {
    for protocol in BOTH {
        let port = world(protocol);
        let mut bus = open(&port);
        port.with(|world| world.bus.servos[1].behaviour.overload = true);
        tick(&port, &mut *bus, &[]);
        tick(&port, &mut *bus, &[]);
        let faults: Vec<Faults> = bus.states().iter().map(|state| state.faults).collect();
        assert_eq!(faults, [Faults(0), Faults(Faults::OVERLOAD), Faults(0)], "{protocol:?}");
        port.with(|world| world.bus.servos[1].behaviour.overload = false);
        tick(&port, &mut *bus, &[]);
        tick(&port, &mut *bus, &[]);
        assert!(bus.states()[1].faults.is_empty());
    }
}

#[test]
fn an_echoing_adapter_works_when_it_is_said_and_fails_at_the_start_when_not() {
    for protocol in BOTH {
        let port = world(protocol);
        port.with(|world| world.bus.echo = true);
        let timing = Timing { echo: Echo::Full, ..Timing::new(BAUD) };
        let mut bus = try_open(&port, timing).unwrap();
        assert!(tick(&port, &mut *bus, &[]));
        bus.torque(true, &port.clock()).unwrap();
        for _ in 0..50 {
            assert!(tick(&port, &mut *bus, &START.map(hold)));
        }
        assert_eq!(bus.counters().bad_echoes, 0);
        bus.torque(false, &port.clock()).unwrap();
        assert!(!any_torque(&port));

        // Not said on a line without: the first bytes of an answer are taken for a bad echo.
        let quiet = world(protocol);
        assert!(try_open(&quiet, timing).is_err(), "{protocol:?}");
    }
}

#[test]
fn opening_refuses_a_missing_servo_a_wrong_model_and_an_id_twice() {
    let port = world(Protocol::Dynamixel);
    port.with(|world| world.bus.servos[2].behaviour.dead = true);
    assert_eq!(try_open(&port, Timing::new(BAUD)).err(), Some(BusError::Silent { id: 3 }));
    let port = world(Protocol::Feetech);
    port.with(|world| world.bus.servos[1].behaviour.dead = true);
    assert_eq!(try_open(&port, Timing::new(BAUD)).err(), Some(BusError::Silent { id: 2 }));

    let port = world(Protocol::Dynamixel);
    let joint = dynamixel::Joint { id: 1, calibration: mounting(0), follow: Follow::Position };
    let twice = DynamixelBus::open(port.clone(), Timing::new(BAUD), &[joint, joint], 0, &port.clock());
    assert_eq!(twice.err(), Some(BusError::Joints));
    let mount = Mount { id: 1, model: 9999, calibration: mounting(0), gains: [1.0, 0.0] };
    let other =
        Bus::new(Protocol::Dynamixel, &[mount], Box::new(Bench::new(&[0.0], &[[-1.0, 1.0]])), BAUD, 1);
    let port = SimPort::new(other);
    let unknown = DynamixelBus::open(port.clone(), Timing::new(BAUD), &[joint], 0, &port.clock());
    assert_eq!(unknown.err(), Some(BusError::Model { id: 1, found: 9999 }));
}

#[test]
fn the_bus_watchdog_stops_dynamixels_when_the_host_falls_silent_and_is_cleared_at_the_next_start() {
    let port = world(Protocol::Dynamixel);
    let mut bus = open(&port);
    tick(&port, &mut *bus, &[]);
    bus.torque(true, &port.clock()).unwrap();
    for _ in 0..3 {
        tick(&port, &mut *bus, &[1.5; 3].map(hold));
    }
    port.wait_us(900_000);
    let stopped = truth(&port, 1)[0];
    port.wait_us(1_000_000);
    assert!((truth(&port, 1)[0] - stopped).abs() < 1e-3 && stopped < 1.3, "it stopped on its way: {stopped}");
    assert!(any_torque(&port), "and holds there with torque on");
    // Goals are refused until somebody opens the bus anew.
    for _ in 0..50 {
        tick(&port, &mut *bus, &[0.0; 3].map(hold));
    }
    assert!((truth(&port, 1)[0] - stopped).abs() < 1e-3);
    drop(bus);
    let mut bus = open(&port);
    tick(&port, &mut *bus, &[]);
    bus.torque(true, &port.clock()).unwrap();
    for _ in 0..100 {
        tick(&port, &mut *bus, &[0.0; 3].map(hold));
    }
    assert!(truth(&port, 1)[0].abs() < 0.02);
}

#[test]
fn torque_goes_off_when_the_bus_is_dropped_even_while_unwinding() {
    for protocol in BOTH {
        for panics in [false, true] {
            let port = world(protocol);
            let mut bus = open(&port);
            tick(&port, &mut *bus, &[]);
            bus.torque(true, &port.clock()).unwrap();
            assert!(any_torque(&port));
            let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _bus = bus;
                assert!(!panics, "on purpose");
            }));
            assert_eq!(end.is_err(), panics);
            assert!(!any_torque(&port), "{protocol:?}");
        }
    }
}

#[test]
fn an_unplugged_adapter_is_an_error_at_every_call_and_no_panic() {
    for protocol in BOTH {
        let port = world(protocol);
        let mut bus = open(&port);
        tick(&port, &mut *bus, &[]);
        port.with(|world| world.unplugged = true);
        let clock = port.clock();
        let broken = |result: Result<bool, BusError>| matches!(result, Err(BusError::Port(_)));
        assert!(broken(bus.read(u64::MAX, &clock)));
        assert!(broken(bus.write(&[]).map(|()| true)));
        assert!(broken(bus.torque(false, &clock).map(|()| true)));
    }
}

#[test]
fn a_scan_finds_ids_models_and_firmware() {
    let port = world(Protocol::Dynamixel);
    let mut found = Vec::new();
    DynamixelBus::scan(port.clone(), Timing::new(BAUD), 1..=5, &port.clock(), |f| {
        found.push((f.id, f.model))
    })
    .unwrap();
    assert_eq!(found, [(1, 1020), (2, 1020), (3, 1020)]);
    let port = world(Protocol::Feetech);
    let mut found = Vec::new();
    FeetechBus::scan(port.clone(), Timing::new(BAUD), 1..=5, &port.clock(), |f| found.push((f.id, f.model)))
        .unwrap();
    assert_eq!(found, [(1, 777), (2, 777), (3, 777)]);
}
