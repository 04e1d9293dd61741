//! Random damage on the line: the drivers never panic, never take what cannot be, and find back.

use std::f32::consts::PI;
use tendon_drivers::dynamixel::{self, DynamixelBus, Follow};
use tendon_drivers::feetech::{self, FeetechBus};
use tendon_drivers::sim::{Bench, Bus, Mount, Noise, Protocol, SimPort};
use tendon_drivers::{Calibration, JointBus, JointCommand, Timing};

const BAUD: u32 = 1_000_000;
const START: [f32; 3] = [0.5, -0.3, 0.1];
/// Half an encoder count, and rounding.
const NOISE_FREE: f32 = 1e-3;

fn world(protocol: Protocol, seed: u64) -> (SimPort, Box<dyn JointBus>) {
    let model = if protocol == Protocol::Dynamixel { 1020 } else { 777 };
    let calibration = Calibration::new(PI, 1, [-1.5, 1.5]).unwrap();
    let mounts = [1, 2, 3].map(|id| Mount { id, model, calibration, gains: [6.0, 0.3] });
    let bench = Bench::new(&START, &[[-1.6, 1.6]; 3]);
    let port = SimPort::new(Bus::new(protocol, &mounts, Box::new(bench), BAUD, seed));
    let (clock, timing) = (port.clock(), Timing::new(BAUD));
    let bus: Box<dyn JointBus> = if protocol == Protocol::Dynamixel {
        let joints = [1, 2, 3].map(|id| dynamixel::Joint { id, calibration, follow: Follow::Position });
        Box::new(DynamixelBus::open(port.clone(), timing, &joints, 0, &clock).unwrap())
    } else {
        let joints = [1, 2, 3].map(|id| feetech::Joint { id, calibration, model: &feetech::MODELS[0] });
        Box::new(FeetechBus::open(port.clone(), timing, &joints, &clock).unwrap())
    };
    (port, bus)
}

/// Ticks under noise with the joints standing still; how many read whole, how many states were wrong, and by how
/// much at most.
fn shake(protocol: Protocol, noise: Noise, ticks: u32, seed: u64) -> (u32, u32, f32) {
    let (port, mut bus) = world(protocol, seed);
    let clock = port.clock();
    assert!(bus.read(u64::MAX, &clock).unwrap());
    port.with(|world| world.bus.noise = noise);
    let (mut whole, mut wrong, mut worst) = (0, 0, 0.0f32);
    for _ in 0..ticks {
        let end = clock() + 10_000;
        whole += u32::from(bus.read(clock() + 8_000, &clock).unwrap());
        bus.write(&[JointCommand::default(); 3]).unwrap();
        for (state, start) in bus.states().iter().zip(START) {
            let error = (state.position - start).abs();
            worst = worst.max(error);
            wrong += u32::from(error > NOISE_FREE);
        }
        port.wait_us(end.saturating_sub(clock()));
    }
    // The line is good again: the first read is whole and true.
    port.with(|world| world.bus.noise = Noise::default());
    port.wait_us(20_000);
    assert!(bus.read(clock() + 8_000, &clock).unwrap(), "{protocol:?} {noise:?} seed {seed}: not found back");
    for (state, start) in bus.states().iter().zip(START) {
        assert!((state.position - start).abs() < NOISE_FREE);
    }
    (whole, wrong, worst)
}

#[test]
fn a_few_damaged_bytes_cost_no_tick_at_all() {
    for protocol in [Protocol::Dynamixel, Protocol::Feetech] {
        let noise = Noise { drop: 2e-4, flip: 2e-4, insert: 2e-4 };
        let (whole, _, _) = shake(protocol, noise, 2_000, 3);
        assert!(whole >= 1_990, "{protocol:?}: {whole} of 2000 ticks were whole");
    }
}

#[test]
fn under_any_noise_dynamixel_states_stay_true() {
    for (seed, share) in [(1, 0.002), (2, 0.01), (3, 0.05), (4, 0.2), (5, 0.5)] {
        let noise = Noise { drop: share, flip: share, insert: share };
        let (_, wrong, worst) = shake(Protocol::Dynamixel, noise, 1_000, seed);
        // CRC-16: one in 65536 damaged packets passes; none of these seeds meets one.
        assert_eq!(wrong, 0, "noise {share}: off by {worst} rad");
    }
}

#[test]
fn under_any_noise_feetech_states_are_off_by_no_more_than_a_motor_could_move() {
    for (seed, share) in [(1, 0.002), (2, 0.01), (3, 0.05), (4, 0.2), (5, 0.5)] {
        let noise = Noise { drop: share, flip: share, insert: share };
        let (_, wrong, worst) = shake(Protocol::Feetech, noise, 1_000, seed);
        println!("noise {share}: {wrong} of 3000 states wrong, at most {worst:.3} rad");
        // An 8-bit sum lets damage through; `track` bounds what it does until the next good packet: 0.1 rad plus
        // 8 rad/s since the last reading.
        assert!(worst < 1.5, "noise {share}: off by {worst} rad");
        assert!(wrong < 30, "noise {share}: {wrong} wrong");
    }
}

#[test]
fn a_line_of_random_bytes_never_panics_and_is_never_believed() {
    for protocol in [Protocol::Dynamixel, Protocol::Feetech] {
        let (port, mut bus) = world(protocol, 9);
        let clock = port.clock();
        assert!(bus.read(u64::MAX, &clock).unwrap());
        // Every byte of every answer is replaced, and as many come between.
        port.with(|world| world.bus.noise = Noise { drop: 0.5, flip: 1.0, insert: 0.9 });
        for _ in 0..2_000 {
            assert!(!bus.read(clock() + 5_000, &clock).unwrap());
            port.wait_us(5_000);
        }
        for (state, start) in bus.states().iter().zip(START) {
            assert!((state.position - start).abs() < NOISE_FREE, "{protocol:?} {state:?}");
        }
    }
}
