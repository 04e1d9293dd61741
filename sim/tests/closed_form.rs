//! Physics against closed forms: energy, period, servo step response, free fall, dry friction.

use std::f32::consts::TAU;

use tendon_sim::{Engine, JointCommand, Robot, RobotOptions, World};

fn world(text: &str) -> World {
    let robot = Robot::from_mjcf("test.xml", text, RobotOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    World::new(robot)
}

/// A point-like mass on a rod of 0.5 m.
const PENDULUM: &str = r#"<mujoco model="pendulum"><compiler angle="radian"/><option timestep="0.002"/><worldbody>
  <body name="bob"><joint name="pin" axis="0 1 0"/>
    <inertial pos="0 0 -0.5" mass="1" diaginertia="1e-6 1e-6 1e-6"/></body></worldbody></mujoco>"#;

#[test]
fn free_pendulum_keeps_its_energy() {
    let mut world = world(PENDULUM);
    world.set_joint_state(&[2.0], &[0.0]);
    let swing = 9.81 * 0.5 * (1.0 - 2.0f32.cos());
    let mut drift = 0.0f32;
    let start = world.energy();
    for _ in 0..5000 {
        world.step(&[], 1);
        drift = drift.max((world.energy() - start).abs() / swing);
    }
    println!("energy drift {drift}");
    assert!(drift < 0.02, "energy drifts by {drift} of the swing's energy in 10 s");
}

#[test]
fn small_swings_have_the_period_of_the_formula() {
    let mut world = world(PENDULUM);
    world.set_joint_state(&[0.05], &[0.0]);
    let mut crossings = Vec::new();
    let mut last = world.joint_position(0);
    for step in 1..5000 {
        world.step(&[], 1);
        let now = world.joint_position(0);
        if last < 0.0 && now >= 0.0 {
            crossings.push(step as f32 * 0.002);
        }
        last = now;
    }
    let period = (crossings[crossings.len() - 1] - crossings[0]) / (crossings.len() - 1) as f32;
    let expected = TAU * (0.5f32 / 9.81).sqrt();
    assert!((period - expected).abs() / expected < 0.003, "period {period} s, formula {expected} s");
}

/// Inertia 0.1 kg m^2 about a vertical axis: gravity does nothing.
const FLYWHEEL: &str = r#"<mujoco model="flywheel"><compiler angle="radian"/><option timestep="0.002"/><worldbody>
  <body name="disc"><joint name="axle" axis="0 0 1" DAMPING/>
    <inertial pos="0 0 0" mass="1" diaginertia="0.05 0.05 0.09"/></body></worldbody></mujoco>"#;

fn flywheel(joint: &str) -> World {
    world(&FLYWHEEL.replace("DAMPING", joint))
}

#[test]
fn servo_step_response_follows_the_second_order_formula() {
    let mut world = flywheel(r#"armature="0.01""#);
    let (kp, kd, inertia) = (10.0f32, 0.8f32, 0.1f32);
    let command = JointCommand { position: 1.0, kp, kd, torque_limit: 1e3, ..JointCommand::default() };
    let (frequency, damping) = ((kp / inertia).sqrt(), kd / (2.0 * (kp * inertia).sqrt()));
    let damped = frequency * (1.0 - damping * damping).sqrt();
    let mut worst = 0.0f32;
    for step in 1..=1000 {
        world.step(&[command], 1);
        let t = step as f32 * 0.002;
        let envelope = (-damping * frequency * t).exp();
        let expected =
            1.0 - envelope * ((damped * t).cos() + damping * frequency / damped * (damped * t).sin());
        worst = worst.max((world.joint_position(0) - expected).abs());
    }
    assert!(worst < 0.02, "differs from the formula by {worst} rad");
}

#[test]
fn viscous_damping_decays_with_its_time_constant() {
    let mut world = flywheel(r#"damping="0.18""#);
    world.set_joint_state(&[0.0], &[3.0]);
    world.step(&[JointCommand::default()], 250);
    let expected = 3.0 * (-0.18f32 / 0.09 * 0.5).exp();
    assert!(
        (world.joint_velocity(0) - expected).abs() < 0.01,
        "{} rad/s, not {expected}",
        world.joint_velocity(0)
    );
}

#[test]
fn a_joint_without_damping_is_not_damped() {
    let mut world = flywheel("");
    world.set_joint_state(&[0.0], &[3.0]);
    world.step(&[JointCommand::default()], 1000);
    assert!((world.joint_velocity(0) - 3.0).abs() < 1e-3, "{} rad/s", world.joint_velocity(0));
}

/// With MuJoCo's default `solimpfriction` of 0.9 a held joint creeps, here at 5e-3 rad/s, in MuJoCo as well.
#[test]
fn dry_friction_holds_below_its_bound_and_slips_above() {
    let mut world = flywheel(r#"frictionloss="0.5" solimpfriction="0.999 0.999""#);
    let push = |torque| JointCommand { torque, torque_limit: 10.0, ..JointCommand::default() };
    world.step(&[push(0.45)], 500);
    assert!(world.joint_velocity(0).abs() < 1e-3, "slips at {} rad/s", world.joint_velocity(0));
    world.step(&[push(0.68)], 500);
    let expected = (0.68 - 0.5) / 0.09;
    assert!(
        (world.joint_velocity(0) - expected).abs() < 0.1,
        "{} rad/s, not {expected}",
        world.joint_velocity(0)
    );
}

#[test]
fn free_body_falls_as_it_should_and_turns_undamped() {
    let mut world = world(
        r#"<mujoco><option timestep="0.002"/><worldbody><body name="box" pos="0 0 10"><freejoint/>
           <inertial pos="0 0 0" mass="2" diaginertia="0.1 0.1 0.1"/>
           <body pos="0 0 0"><joint name="j" axis="0 0 1"/><inertial pos="0 0 0" mass="1e-3" diaginertia="1e-5 1e-5 1e-5"/></body>
           </body></worldbody></mujoco>"#,
    );
    world.step(&[JointCommand::default()], 500);
    let fallen = 10.0 - world.base_pose().0[2];
    assert!((fallen - 4.905).abs() < 0.02, "fell {fallen} m in 1 s");
    let velocity = world.base_motion().linear_velocity[2];
    assert!((velocity + 9.81).abs() < 0.01, "falls at {velocity} m/s after 1 s");
}

#[test]
fn reaction_of_a_motor_keeps_angular_momentum() {
    let mut world = world(
        r#"<mujoco><option timestep="0.002" gravity="0 0 0"/><worldbody><body name="hull"><freejoint/>
           <inertial pos="0 0 0" mass="2" diaginertia="0.1 0.1 0.1"/>
           <body pos="0 0 0"><joint name="wheel" axis="0 0 1"/><inertial pos="0 0 0" mass="1" diaginertia="0.02 0.02 0.05"/></body>
           </body></worldbody></mujoco>"#,
    );
    world.step(&[JointCommand { torque: 0.2, torque_limit: 1.0, ..JointCommand::default() }], 500);
    let hull = world.base_motion().angular_velocity[2];
    let wheel = hull + world.joint_velocity(0);
    // rapier's multibody loses 0.3 % of the momentum exchanged.
    assert!((0.1 * hull + 0.05 * wheel).abs() < 2e-3, "hull {hull} rad/s, wheel {wheel} rad/s");
    assert!((0.1 * hull + 0.2).abs() < 2e-3, "0.2 N m for 1 s, hull {hull} rad/s");
}

#[test]
fn a_reset_world_repeats_itself_bit_for_bit() {
    let mut world = world(PENDULUM);
    let mut run = || {
        world.reset();
        world.set_joint_state(&[2.0], &[0.3]);
        world.step(&[], 700);
        (world.joint_position(0).to_bits(), world.joint_velocity(0).to_bits())
    };
    assert_eq!(run(), run());
}

/// Two point-like masses on rods of 0.5 m: chaotic, so only its energy has a closed form.
#[test]
fn free_double_pendulum_keeps_its_energy() {
    let mut world = world(
        r#"<mujoco><compiler angle="radian"/><option timestep="0.001"/><worldbody>
           <body name="upper"><joint name="a" axis="0 1 0"/><inertial pos="0 0 -0.5" mass="1" diaginertia="1e-3 1e-3 1e-3"/>
           <body name="lower" pos="0 0 -0.5"><joint name="b" axis="0 1 0"/><inertial pos="0 0 -0.5" mass="1" diaginertia="1e-3 1e-3 1e-3"/>
           </body></body></worldbody></mujoco>"#,
    );
    world.set_joint_state(&[1.5, 0.5], &[0.0, 0.0]);
    let start = world.energy();
    let swing = 9.81 * (2.0 * 0.5 * (1.0 - 1.5f32.cos()) + 0.5 * (1.0 - 2.0f32.cos()));
    let mut drift = 0.0f32;
    for _ in 0..5000 {
        world.step(&[], 1);
        drift = drift.max((world.energy() - start).abs() / swing);
    }
    println!("double pendulum: energy drift {drift}");
    assert!(drift < 0.05, "energy drifts by {drift} of the swing's energy in 5 s");
}

/// A free body on the floor; the second, light body only makes it a robot with a joint.
fn on_the_floor(height: f32, geom: &str) -> World {
    world(&format!(
        r#"<mujoco><option timestep="0.002"/><worldbody><geom type="plane" size="0 0 1" friction="0.5"/>
           <body name="thing" pos="0 0 {height}"><freejoint/>{geom}</body></worldbody></mujoco>"#
    ))
}

/// MuJoCo 4.0 slides 0.4060 m as well.
#[test]
fn a_sliding_box_stops_after_the_distance_of_the_formula() {
    let mut world = on_the_floor(0.1, r#"<geom type="box" size="0.3 0.3 0.1" mass="2" friction="0.5"/>"#);
    world.step(&[], 200);
    let x = world.base_pose().0[0];
    world.set_base_velocity([2.0, 0.0, 0.0]);
    world.step(&[], 1000);
    let slid = world.base_pose().0[0] - x;
    // v^2 / (2 mu g)
    let expected = 4.0 / (2.0 * 0.5 * 9.81);
    println!("slid {slid} m, formula {expected} m");
    assert!((slid - expected).abs() < 0.01 * expected, "slid {slid} m, formula {expected} m");
    assert!(world.base_velocity()[0].abs() < 1e-2);
}

/// A box that slides askew to the axes: a round cone brakes it by Coulomb's law, MuJoCo's default pyramid, with a face
/// towards it there, by a coefficient smaller by sqrt(2).
#[test]
fn the_file_chooses_the_shape_of_the_friction_cone() {
    for (cone, factor) in [("elliptic", 1.0), ("pyramidal", std::f32::consts::SQRT_2)] {
        let mut world = world(&format!(
            r#"<mujoco><option timestep="0.002" cone="{cone}"/><worldbody><geom type="plane" size="0 0 1" friction="0.5"/>
               <body pos="0 0 0.1"><freejoint/><geom type="box" size="0.3 0.3 0.1" mass="2" friction="0.5"/></body></worldbody></mujoco>"#
        ));
        world.step(&[], 200);
        let start = world.base_pose().0;
        world.set_base_velocity([SQRT_2_M_S, SQRT_2_M_S, 0.0]);
        world.step(&[], 1000);
        let end = world.base_pose().0;
        let slid = (end[0] - start[0]).hypot(end[1] - start[1]);
        let expected = factor * 4.0 / (2.0 * 0.5 * 9.81);
        assert!((slid - expected).abs() < 0.02 * expected, "{cone}: slid {slid} m, formula {expected} m");
    }
}

/// 2 m/s along the diagonal.
const SQRT_2_M_S: f32 = std::f32::consts::SQRT_2;

/// The distance that a box slides says which coefficient the contact had.
#[test]
fn friction_is_the_larger_coefficient_or_that_of_the_higher_priority() {
    for (floor, thing, expected) in [
        (r#"friction="0.2""#, r#"friction="0.5""#, 0.5),
        (r#"friction="0.2" priority="1""#, r#"friction="0.5""#, 0.2),
        (r#"friction="0.2" priority="1""#, r#"friction="0.5" priority="2""#, 0.5),
        (r#"friction="0.9" condim="1" priority="1""#, r#"friction="0.5""#, 0.0),
    ] {
        let mut world = world(&format!(
            r#"<mujoco><option timestep="0.002"/><worldbody><geom type="plane" size="0 0 1" {floor}/>
               <body pos="0 0 0.1"><freejoint/><geom type="box" size="0.3 0.3 0.1" mass="2" {thing}/></body></worldbody></mujoco>"#
        ));
        world.step(&[], 200);
        world.set_base_velocity([3.0, 0.0, 0.0]);
        // MuJoCo's convex cone lets a fast box hop: on the mean its force is friction times weight.
        world.step(&[], 200);
        let braked = (3.0 - world.base_velocity()[0]) / (9.81 * 0.4);
        assert!((braked - expected).abs() < 0.02, "{floor} {thing}: coefficient {braked}, not {expected}");
    }
}

/// A ball that spins on its lowest point, held upright by its joints: the floor brakes it by `mu_spin m g`.
#[test]
fn a_spinning_ball_slows_down_by_torsional_friction() {
    for cone in ["elliptic", "pyramidal"] {
        for (condim, coefficient) in [(3, 0.0), (4, 0.01), (6, 0.01)] {
            let mut world = world(&format!(
                r#"<mujoco><option timestep="0.002" cone="{cone}"/><worldbody>
                   <geom type="plane" size="0 0 1" friction="1 0.001 0.0001"/><body pos="0 0 0.1">
                   <joint name="lift" type="slide" axis="0 0 1"/><joint name="spin" axis="0 0 1"/>
                   <inertial pos="0 0 0" mass="1" diaginertia="0.004 0.004 0.004"/>
                   <geom size="0.1" condim="{condim}" friction="1 0.01 0.0001"/></body></worldbody></mujoco>"#
            ));
            assert!(world.robot().unsupported.is_empty(), "{:?}", world.robot().unsupported);
            world.step(&[], 200);
            let q = [world.joint_position(0), world.joint_position(1)];
            world.set_joint_state(&q, &[0.0, 10.0]);
            world.step(&[], 100);
            let braked = (10.0 - world.joint_velocity(1)) / 0.2;
            let expected = coefficient * 9.81 / 0.004;
            let error = (braked - expected).abs();
            assert!(error < 0.01 * expected + 1e-4, "{cone} {condim}: {braked} rad/s^2, formula {expected}");
            world.step(&[], 400);
            let left = world.joint_velocity(1);
            assert_eq!(left.abs() < 0.01, coefficient > 0.0, "{cone} {condim}: {left} rad/s after a second");
        }
    }
}

/// A ball that rolls without slipping: rolling friction `mu_roll m g` against the turning slows it down by
/// `mu_roll g / (7/5 r)`; where the cone is a pyramid the edge that keeps it from slipping takes its share.
#[test]
fn a_rolling_ball_slows_down_by_rolling_friction() {
    for (cone, edge) in [("elliptic", 0.0), ("pyramidal", 0.01)] {
        for (condim, coefficient) in [(4, 0.0), (6, 0.01f32)] {
            let mut world = world(&format!(
                r#"<mujoco><option timestep="0.002" cone="{cone}"/><worldbody><geom type="plane" size="0 0 1"/>
                   <body pos="0 0 0.1"><freejoint/><geom size="0.1" mass="1" condim="{condim}" friction="1 0.005 0.01"/>
                   </body></worldbody></mujoco>"#
            ));
            world.step(&[], 200);
            world.set_base_velocity([2.0, 0.0, 0.0]);
            world.step(&[], 150);
            let before = world.base_velocity()[0];
            world.step(&[], 250);
            let braked = (before - world.base_velocity()[0]) / 0.5;
            let expected = coefficient * 9.81 / (1.4 * 0.1 + edge);
            let error = (braked - expected).abs();
            assert!(error < 0.02 * expected + 2e-3, "{cone} {condim}: {braked} m/s^2, formula {expected}");
            world.step(&[], 1000);
            let (x, speed) = (world.base_pose().0[0], world.base_velocity()[0]);
            // A pyramid's soft edges let it creep. MuJoCo 4.0: 1.5313 m, 0.0002 m/s and 1.7434 m, 0.0283 m/s.
            let [mujoco, creep] = if edge == 0.0 { [1.5313, 0.0002] } else { [1.7434, 0.0283] };
            if condim == 6 {
                assert!(
                    (x - mujoco).abs() < 1e-3 && (speed - creep).abs() < 1e-3,
                    "{cone}: {x} m, {speed} m/s"
                );
            } else {
                assert!(speed > 1.4, "{cone}: {speed} m/s without rolling friction");
            }
        }
    }
}

/// A pair that says nothing of something has MuJoCo's default there, not its geoms' value.
#[test]
fn a_pair_says_how_its_geoms_touch_whatever_they_say_themselves() {
    let slid = |geoms: &str, pair: &str| {
        let mut world = world(&format!(
            r#"<mujoco><option timestep="0.002"/><default><pair friction="0.4 0.4"/></default>
               <worldbody><geom name="floor" type="plane" size="0 0 1" {geoms}/><body pos="0 0 0.1"><freejoint/>
               <geom name="box" type="box" size="0.3 0.3 0.1" mass="2" {geoms}/></body></worldbody>
               <contact>{pair}</contact></mujoco>"#
        ));
        assert!(world.robot().unsupported.is_empty(), "{:?}", world.robot().unsupported);
        world.step(&[], 200);
        let start = world.base_pose().0;
        world.set_base_velocity([2.0, 0.0, 0.0]);
        world.step(&[], 1000);
        (world.base_pose().0[0] - start[0], start[2])
    };
    let formula = |mu: f32| 4.0 / (2.0 * mu * 9.81);
    for (geoms, pair, expected) in [
        ("friction=\"0.8\"", "", formula(0.8)),
        ("friction=\"0.8\"", "<pair geom1=\"box\" geom2=\"floor\"/>", formula(0.4)),
        ("friction=\"0.8\"", "<pair geom1=\"floor\" geom2=\"box\" friction=\"0.5 0.1\"/>", formula(0.5)),
        // Which of them touch is not asked of geoms in pairs.
        (
            "contype=\"0\" conaffinity=\"0\"",
            "<pair geom1=\"floor\" geom2=\"box\" friction=\"0.5 0.5\"/>",
            formula(0.5),
        ),
        ("friction=\"0.8\"", "<pair geom1=\"floor\" geom2=\"box\" condim=\"1\"/>", 4.0),
    ] {
        let (distance, height) = slid(geoms, pair);
        // The tangents of a floor are y and -x: a pyramid with two coefficients brakes along x by the second.
        let expected = if pair.contains("0.5 0.1") { formula(0.1) } else { expected };
        assert!((distance - expected).abs() < 0.02 * expected, "{pair}: {distance} m, formula {expected} m");
        assert!((height - 0.1).abs() < 1e-3, "{pair}: rests at {height} m");
    }
    let (_, height) = slid("", "<pair geom1=\"box\" geom2=\"floor\" margin=\"0.02\" gap=\"0.01\"/>");
    assert!((height - 0.12).abs() < 1e-3, "a margin holds the box up: {height} m");
}

/// A mass on a contact with `solref="-stiffness -damping"` is a spring and damper that cannot pull. With the damping
/// ratio `z` it leaves with `exp(-2 z acos(z) / sqrt(1 - z^2))` of its speed: the force is zero when `wd t = 2 acos(z)`.
#[test]
fn a_ball_bounces_with_the_restitution_that_solref_asks_for() {
    for zeta in [0.05f64, 0.2, 0.5] {
        let frequency = std::f64::consts::TAU * 25.0;
        let solref = format!("{} {}", -frequency * frequency, -2.0 * zeta * frequency);
        let geom = format!(r#"condim="1" solref="{solref}" solimp="0.95 0.95""#);
        let mut world = world(&format!(
            r#"<mujoco><option timestep="0.0001" gravity="0 0 0"/><worldbody><geom type="plane" size="0 0 1" {geom}/>
               <body pos="0 0 0.11"><freejoint/><geom type="sphere" size="0.1" mass="1" {geom}/></body></worldbody></mujoco>"#
        ));
        world.set_base_velocity([0.0, 0.0, -1.0]);
        world.step(&[], 2000);
        let speed = f64::from(world.base_velocity()[2]);
        let expected = (-2.0 * zeta * zeta.acos() / (1.0 - zeta * zeta).sqrt()).exp();
        println!("damping ratio {zeta}: leaves with {speed}, formula {expected}");
        assert!(
            (speed - expected).abs() < 0.01,
            "damping ratio {zeta}: leaves with {speed}, formula {expected}"
        );
    }
}

/// Two balls in one world, one much heavier: they part as a collision in which everything is conserved but energy.
#[test]
fn two_free_bodies_exchange_momentum() {
    let options = RobotOptions { engine: Engine::Reduced, ..RobotOptions::default() };
    let text = r#"<mujoco><option timestep="0.001" gravity="0 0 0"/><worldbody>
        <body name="a" pos="-0.2 0 0"><freejoint/><geom type="sphere" size="0.1" mass="1"/></body>
        <body name="b" pos="0.1 0.05 0"><freejoint/><geom type="sphere" size="0.1" mass="3"/></body></worldbody></mujoco>"#;
    let robot = Robot::from_mjcf("two.xml", text, options).unwrap();
    let mut world = World::new(robot);
    world.set_base_velocity([2.0, 0.0, 0.0]);
    let start = world.momentum();
    world.step(&[], 300);
    let end = world.momentum();
    let first = world.base_velocity();
    println!("momentum {start:?} to {end:?}, first {first:?}");
    assert!(first[0] < 1.5 && first[1] < -0.1, "they collide: {first:?}");
    assert!(end.iter().zip(start).all(|(e, s)| (e - s).abs() < 1e-3), "momentum {start:?} to {end:?}");
}

/// Two links that do not hang on one another stop each other; an `<exclude>` lets them through.
#[test]
fn links_of_one_robot_touch_unless_the_file_excludes_them() {
    let swing = |exclude: &str| {
        let mut world = world(&format!(
            r#"<mujoco><compiler angle="radian"/><option timestep="0.002" gravity="0 0 0"/><worldbody>
               <body name="left" pos="-0.3 0 0"><joint name="a" axis="0 0 1" damping="0.1"/><geom type="capsule" fromto="0 0 0 0 0.4 0" size="0.05" mass="1"/></body>
               <body name="right" pos="0.3 0 0"><joint name="b" axis="0 0 1" damping="0.1"/><geom type="capsule" fromto="0 0 0 0 0.4 0" size="0.05" mass="1"/></body>
               </worldbody><contact>{exclude}</contact></mujoco>"#
        ));
        let push = |torque| JointCommand { torque, torque_limit: 1.0, ..JointCommand::default() };
        world.step(&[push(-0.3), push(0.3)], 2000);
        world.joint_position(0)
    };
    // Tips meet where 0.3 - 0.4 sin(q) is a radius.
    let expected = -(0.25f32 / 0.4).asin();
    let held = swing("");
    assert!((held - expected).abs() < 0.02, "held at {held} rad, formula {expected} rad");
    assert!(swing(r#"<exclude body1="left" body2="right"/>"#) < -2.0);
}

#[test]
fn a_pushed_ball_rolls_with_five_sevenths_of_its_speed() {
    let mut world = on_the_floor(0.1, r#"<geom type="sphere" size="0.1" mass="1" friction="0.5"/>"#);
    world.step(&[], 200);
    world.set_base_velocity([1.4, 0.0, 0.0]);
    world.step(&[], 500);
    let speed = world.base_velocity()[0];
    println!("rolls at {speed} m/s");
    assert!((speed - 1.0).abs() < 0.03, "rolls at {speed} m/s, formula 1.0 m/s");
}

/// Contacts take all of the energy across them: the files' floors have no restitution.
#[test]
fn a_dropped_ball_does_not_bounce() {
    let mut world = on_the_floor(1.0, r#"<geom type="sphere" size="0.1" mass="1"/>"#);
    let mut highest_after = 0.0f32;
    let mut landed = false;
    for _ in 0..1500 {
        world.step(&[], 1);
        let z = world.base_pose().0[2];
        landed |= z < 0.11;
        if landed {
            highest_after = highest_after.max(z);
        }
    }
    assert!(landed && highest_after < 0.13, "bounces to {highest_after} m");
}

/// The integrator is of first order: at 14 rad/s, a second in, 0.04 kg m/s have come out of nothing.
#[test]
fn a_free_floating_chain_keeps_its_momentum() {
    let link = |inner: &str, name: &str| {
        format!(
            r#"<body pos="0 0 -0.3"><joint name="{name}" axis="0 1 0"/><inertial pos="0 0 -0.15" mass="1" diaginertia="0.01 0.01 0.01"/>{inner}</body>"#
        )
    };
    let chain = link(&link(&link("", "c"), "b"), "a");
    let mut world = world(&format!(
        r#"<mujoco><option timestep="0.002" gravity="0 0 0"/><worldbody><body name="root"><freejoint/>
           <inertial pos="0 0 -0.15" mass="1" diaginertia="0.01 0.01 0.01"/>{chain}</body></worldbody></mujoco>"#
    ));
    let torque = |torque| JointCommand { torque, torque_limit: 1.0, ..JointCommand::default() };
    let start = world.momentum();
    world.step(&[torque(0.1), torque(-0.2), torque(0.15)], 250);
    let end = world.momentum();
    let moved = (0..3).map(|i| world.joint_velocity(i).abs()).fold(0.0, f32::max);
    println!("momentum {start:?} to {end:?}, joints up to {moved} rad/s");
    assert!(moved > 1.0, "the motors move it");
    assert!(
        end.iter().zip(start).all(|(e, s)| (e - s).abs() < 0.02),
        "momentum {end:?} kg m/s out of nothing"
    );
}

#[test]
fn margins_of_both_shapes_lift_what_rests_by_their_sum() {
    let height = |margins: [&str; 2]| {
        let [floor, ball] = margins;
        let mut world = world(&format!(
            r#"<mujoco><option timestep="0.002"/><worldbody><geom type="plane" size="0 0 1" {floor}/>
               <body pos="0 0 0.12"><freejoint/><geom type="sphere" size="0.1" mass="1" {ball}/></body></worldbody></mujoco>"#
        ));
        world.step(&[], 1000);
        world.base_pose().0[2]
    };
    let lifted = height([r#"margin="0.002""#, r#"margin="0.005""#]) - height(["", ""]);
    assert!((lifted - 0.007).abs() < 1e-4, "lifted by {lifted} m, margins 0.007 m");
}
