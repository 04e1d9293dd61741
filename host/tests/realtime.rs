//! `tendon run` as a process, against simulated servos behind a pseudo-terminal that the test holds: every way out
//! takes torque away.

mod common;

use common::servo::*;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tendon::robot::{BusKind, Ended, Live, MonotonicClock, Settings, open_bus, run};
use tendon_drivers::sim::Noise;

const BOTH: [BusKind; 2] = [BusKind::Dynamixel, BusKind::Feetech];

#[test]
fn a_run_ends_by_itself_with_torque_off_on_both_buses() {
    for kind in BOTH {
        let robot = Robot::start(kind);
        let out = robot.run(&["--seconds", "1", "--command", "0.3,0,0,0,0,0.2"]).wait();
        assert!(out.good, "{kind:?}: {out:?}");
        assert!(
            out.text.contains("ended: time over")
                && out.text.contains("torque off, confirmed by every servo"),
            "{out:?}"
        );
        assert!(robot.had_torque() && !robot.any_torque());
        assert!(robot.most_torque() < 1.3, "{kind:?}: {} N m of 1.2", robot.most_torque());
    }
}

#[test]
fn sigterm_and_ctrl_c_damp_and_take_torque_away() {
    for signal in ["TERM", "INT", "HUP"] {
        let robot = Robot::start(BusKind::Dynamixel);
        let running = robot.run(&[]);
        robot.wait_for("torque", Robot::any_torque);
        std::thread::sleep(Duration::from_millis(600));
        running.signal(signal);
        let out = running.wait();
        assert!(out.good && out.text.contains("ended: stopped"), "{signal}: {out:?}");
        assert!(!robot.any_torque(), "{signal}");
    }
}

#[test]
fn a_second_signal_takes_torque_away_at_once() {
    let robot = Robot::start(BusKind::Feetech);
    let running = robot.run(&[]);
    robot.wait_for("torque", Robot::any_torque);
    std::thread::sleep(Duration::from_millis(300));
    running.signal("TERM");
    std::thread::sleep(Duration::from_millis(150));
    running.signal("TERM");
    // Hold and damping alone would take 600 ms.
    assert!(running.wait().good && !robot.any_torque());
}

#[test]
fn a_bus_that_goes_away_ends_the_run_with_an_error_and_a_warning() {
    let robot = Robot::start(BusKind::Dynamixel);
    let running = robot.run(&[]);
    robot.wait_for("torque", Robot::any_torque);
    robot.hang_up();
    let out = running.wait();
    assert!(!out.good && out.text.contains("ended: bus: the port broke"), "{out:?}");
    assert!(out.text.contains("TORQUE MAY STILL BE ON"), "nobody can have confirmed it: {out:?}");
}

#[test]
fn after_sigkill_dynamixels_stop_by_their_watchdog_and_feetech_servos_keep_their_torque() {
    for kind in BOTH {
        let robot = Robot::start(kind);
        let running = robot.run(&["--command", "1.5,0,0,0,0,0.2"]);
        robot.wait_for("torque", Robot::any_torque);
        std::thread::sleep(Duration::from_millis(400));
        running.signal("KILL");
        assert!(!running.wait().good);
        std::thread::sleep(Duration::from_millis(400));
        // What docs/drivers.md says, and no more.
        assert!(robot.any_torque());
        assert_eq!(robot.stopped(), kind == BusKind::Dynamixel, "{kind:?}");
        assert!(robot.speed() < 0.05, "{kind:?}: {} rad/s", robot.speed());
        // The next run clears it.
        let out = robot.run(&["--seconds", "0.5"]).wait();
        assert!(out.good && !robot.any_torque(), "{kind:?}: {out:?}");
    }
}

#[test]
fn a_noisy_line_costs_retries_and_not_the_run() {
    for kind in BOTH {
        let robot = Robot::start(kind);
        robot.change(|bus| bus.noise = Noise { drop: 3e-4, flip: 3e-4, insert: 0.0 });
        let out = robot.run(&["--seconds", "3"]).wait();
        assert!(out.good, "{kind:?}: {out:?}");
        assert!(!out.text.contains(" 0 retries"), "there was noise: {out:?}");
        robot.change(|bus| bus.noise = Noise::default());
        assert!(!robot.any_torque(), "{kind:?}");
    }
}

#[test]
fn a_servo_that_falls_silent_makes_the_controller_fall_back_and_torque_goes_off() {
    for kind in BOTH {
        let robot = Robot::start(kind);
        let running = robot.run(&[]);
        robot.wait_for("torque", Robot::any_torque);
        std::thread::sleep(Duration::from_millis(1200));
        robot.change(|bus| bus.servos[2].behaviour.dead = true);
        let out = running.wait();
        assert!(!out.good && out.text.contains("fell back because of StaleState"), "{kind:?}: {out:?}");
        robot.change(|bus| bus.servos[2].behaviour.dead = false);
        let others = robot.torques();
        assert!([0, 1, 3, 4, 5].iter().all(|&joint| !others[joint]), "{kind:?}: {others:?}");
        assert!(out.text.contains("servo 3 did not confirm torque off"), "{out:?}");
    }
}

#[test]
fn an_overload_stops_the_robot_and_names_the_joint() {
    for kind in BOTH {
        let robot = Robot::start(kind);
        let running = robot.run(&[]);
        robot.wait_for("torque", Robot::any_torque);
        std::thread::sleep(Duration::from_millis(1200));
        robot.change(|bus| bus.servos[1].behaviour.overload = true);
        let out = running.wait();
        assert!(!out.good && out.text.contains("servo of joint 1 reports overload"), "{kind:?}: {out:?}");
        assert!(!robot.any_torque());
    }
}

#[test]
fn the_run_ends_when_its_supervisor_is_silent() {
    let robot = Robot::start(BusKind::Dynamixel);
    let (image, contract, hash) = arm();
    let mut bus = open_bus(robot.port(), robot.calibration(), MonotonicClock).unwrap();
    let settings = Settings {
        rate_hz: None,
        seconds: None,
        command: vec![],
        profile: None,
        priority: None,
        without_priority: true,
    };
    let live = Live::default();
    live.alive_ns.store(MonotonicClock.now_ns(), Relaxed);
    let summary = run(&image, &contract, hash, &mut *bus, &settings, &live).unwrap();
    assert_eq!(summary.ended, Ended::Unsupervised);
    assert_eq!(summary.torque_off, Ok(()));
    assert!(robot.had_torque() && !robot.any_torque());
}

#[test]
fn the_bus_may_run_faster_than_the_policy_but_only_at_a_multiple_that_the_wire_carries() {
    let robot = Robot::start(BusKind::Dynamixel);
    let out = robot.run(&["--seconds", "0.5", "--rate", "200"]).wait();
    assert!(out.good && out.text.contains("bus 200 Hz, policy 50 Hz"), "{out:?}");
    let out = robot.run(&["--rate", "70"]).wait();
    assert!(!out.good && out.text.contains("--rate 70: expected a multiple"), "{out:?}");
    let mut slow = robot.calibration().clone();
    slow.baud = 57_600;
    let out = robot.run_with(&slow, &["--rate", "100"]).wait();
    assert!(!out.good && out.text.contains("raise the baud rate or lower --rate to"), "{out:?}");
    assert!(!robot.had_torque() || !robot.any_torque());
}

#[test]
fn a_profile_tightens_what_the_servos_are_told() {
    let robot = Robot::start(BusKind::Dynamixel);
    let out = robot.run(&["--seconds", "1", "--profile", "bench", "--command", "1.5,0,0,0,0,0.2"]).wait();
    assert!(out.good, "{out:?}");
    // 40% of 1.2 N m.
    assert!(robot.most_torque() < 0.52, "{} N m", robot.most_torque());
    let out = robot.run(&["--profile", "loose"]).wait();
    assert!(!out.good && out.text.contains("the contract has bench, full"), "{out:?}");
}

#[test]
fn nothing_gets_torque_without_a_calibration_for_this_robot() {
    let robot = Robot::start(BusKind::Dynamixel);
    let mut other = robot.calibration().clone();
    other.robot = "another".into();
    let out = robot.run_with(&other, &[]).wait();
    assert!(!out.good && out.text.contains("the calibration is for another"), "{out:?}");
    let mut swapped = robot.calibration().clone();
    swapped.joints.swap(0, 1);
    assert!(!robot.run_with(&swapped, &[]).wait().good);
    let mut twice = robot.calibration().clone();
    twice.joints[1].id = 1;
    let out = robot.run_with(&twice, &[]).wait();
    assert!(!out.good && out.text.contains("joint shoulder_lift: id is 1"), "{out:?}");
    let mut model = robot.calibration().clone();
    model.joints[0].sign = 0;
    assert!(robot.run_with(&model, &[]).wait().text.contains("sign: expected 1 or -1"));
    assert!(!robot.had_torque());
}

/// As root the capabilities are dropped; a user has none.
#[test]
fn without_the_privilege_realtime_is_refused_unless_allowed_and_it_is_said() {
    let robot = Robot::start(BusKind::Dynamixel);
    let Some(out) = robot.unprivileged(&["--realtime", "--seconds", "0.3"]) else { return };
    assert!(
        !out.good && out.text.contains("no real-time priority") && out.text.contains("setcap"),
        "{out:?}"
    );
    assert!(!robot.had_torque());
    let out = robot.unprivileged(&["--realtime", "--allow-no-realtime", "--seconds", "0.3"]).unwrap();
    assert!(out.good && out.text.contains("no real-time priority"), "{out:?}");
}
