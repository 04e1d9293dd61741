//! Google's Go1 policy, trained in MuJoCo, walking in rapier through the runtime's observation, mapping and envelope.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tendon_runtime::StateFault;
use tendon_runtime::spec::{
    ActionSpec, ContractSpec, FallbackSpec, InputSpec, JointSpec, Mode, Signal, TermSpec, VERSION,
};
use tendon_sim::{LocomotionMetrics, LocomotionTask, PolicyInterface, Robot, RobotOptions, run_locomotion};
use tract_onnx::prelude::*;

/// Command and what MuJoCo 4.0.0 does with it: vx, vy, wz (`../shared/real/README.md`).
const MUJOCO: [([f32; 3], [f32; 3]); 5] = [
    ([1.0, 0.0, 0.0], [1.023, 0.014, 0.000]),
    ([0.5, 0.0, 0.0], [0.509, 0.015, 0.011]),
    ([0.0, 0.4, 0.0], [0.016, 0.366, 0.036]),
    ([0.0, 0.0, 1.0], [0.027, 0.037, 0.842]),
    ([0.0, 0.0, 0.0], [0.000, 0.000, 0.000]),
];

/// The folder of real inputs, or `None` after saying so.
fn real() -> Option<PathBuf> {
    let folder = std::env::var_os("TENDON_REAL").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/real")),
        PathBuf::from,
    );
    let there = folder.join("go1_scene_flat.xml").is_file();
    if !there {
        println!("SKIPPED: {} has no Go1; set TENDON_REAL to the folder of real inputs", folder.display());
    }
    there.then_some(folder)
}

fn contract(robot: &Robot) -> ContractSpec {
    let home = &robot.keyframe("home").unwrap().joint_position;
    let joints = robot.joints.iter().zip(home).map(|(joint, &default_position)| {
        let actuator = joint.actuator.unwrap();
        JointSpec {
            name: joint.name.clone(),
            robot_index: None,
            default_position,
            position_limits: joint.range.unwrap(),
            velocity_limit: 40.0,
            acceleration_limit: 1e6,
            jerk_limit: None,
            braking_deceleration: None,
            torque_limit: actuator.torque_limit,
            position_rate_limit: 1e6,
            torque_rate_limit: 1e6,
            kp: actuator.kp,
            kd: actuator.kd,
            damping_kd: None,
        }
    });
    let joints: Vec<JointSpec> = joints.collect();
    let actions = joints.iter().map(|joint| ActionSpec {
        joint: joint.name.clone(),
        mode: Mode::Position,
        scale: 0.5,
        offset: joint.default_position,
        clip: None,
        kp: joint.kp,
        kd: joint.kd,
    });
    let command =
        |name: &str| InputSpec { name: name.into(), unit: "m/s".into(), range: [-1.5, 1.5], default: 0.0 };
    ContractSpec {
        version: VERSION,
        robot: "go1".into(),
        control_period_s: 0.02,
        quaternion_order: Default::default(),
        commands: vec![command("vx"), command("vy"), command("wz")],
        preferences: Vec::new(),
        sensors: Vec::new(),
        actions: actions.collect(),
        joints,
        observations: vec![
            TermSpec::plain("local_linvel", Signal::BaseLinearVelocity),
            TermSpec::plain("gyro", Signal::BaseAngularVelocity),
            TermSpec::plain("gravity", Signal::ProjectedGravity),
            TermSpec::plain("joint_position", Signal::JointPositionRelative),
            TermSpec::plain("joint_velocity", Signal::JointVelocity),
            TermSpec::plain("last_action", Signal::LastAction),
            TermSpec::plain("command", Signal::Command),
        ],
        fallback: FallbackSpec::default(),
        power_budget: None,
        profiles: Vec::new(),
        default_profile: None,
        monitors: Default::default(),
        error_budget: None,
    }
}

fn walk(
    robot: &Arc<Robot>,
    model: &Arc<TypedRunnableModel>,
    command: [f32; 3],
    duration_s: f32,
) -> LocomotionMetrics {
    let task = LocomotionTask {
        keyframe: "home".into(),
        site: "imu".into(),
        control_period_s: 0.02,
        duration_s,
        window_s: duration_s / 2.0,
    };
    let mut interface = PolicyInterface::new(&contract(robot), robot, Some("imu")).unwrap();
    let mut observation = vec![0.0; interface.observation_len()];
    let mut started = false;
    run_locomotion(robot, &task, |world, commands| {
        if !std::mem::replace(&mut started, true) {
            interface.reset(world);
        }
        interface.measure(world, &command, &[], &[]);
        interface.observe(&mut observation)?;
        let input = Tensor::from_shape(&[1, observation.len()], &observation).unwrap();
        let output = model.run(tvec!(input.into())).unwrap();
        let action = output[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
        commands.copy_from_slice(interface.act(world, &action));
        Ok::<(), StateFault>(())
    })
    .unwrap()
}

#[test]
fn walks_as_in_mujoco_at_all_five_commands() {
    let Some(folder) = real() else { return };
    let robot = Robot::from_file(folder.join("go1_scene_flat.xml"), RobotOptions::default()).unwrap();
    let model = tract_onnx::onnx().model_for_path(folder.join("go1_joystick.onnx")).unwrap();
    let model = model.into_optimized().unwrap().into_runnable().unwrap();
    println!("command | rapier vx vy wz | MuJoCo vx vy wz | lowest z | final x y | us per step | hash");
    for (command, mujoco) in MUJOCO {
        let start = Instant::now();
        let m = walk(&robot, &model, command, 10.0);
        let us = start.elapsed().as_secs_f64() * 1e6 / m.steps as f64;
        let rapier = [m.mean_velocity[0], m.mean_velocity[1], m.mean_yaw_rate];
        println!(
            "{command:?} | {rapier:.3?} | {mujoco:.3?} | {:.3} | {:.2?} | {us:.0} | {:016x}",
            m.lowest_height,
            &m.final_position[..2],
            m.hash
        );
        assert_eq!(m.steps, 500);
        assert!(m.lowest_height > 0.25, "{command:?}: trunk down to {} m", m.lowest_height);
        for (axis, (ours, theirs)) in rapier.iter().zip(mujoco).enumerate() {
            // Within 15 % where MuJoCo moves; where it stands still, within 5 cm/s (rad/s).
            let bound = (0.15 * theirs.abs()).max(0.05);
            assert!((ours - theirs).abs() <= bound, "{command:?} axis {axis}: {ours}, MuJoCo {theirs}");
        }
        if command == [1.0, 0.0, 0.0] {
            assert!((0.9..=1.1).contains(&rapier[0]), "forward speed {}", rapier[0]);
        }
    }
    let (a, b) = (walk(&robot, &model, [1.0, 0.0, 0.0], 2.0), walk(&robot, &model, [1.0, 0.0, 0.0], 2.0));
    assert_eq!(a.hash, b.hash, "the same run twice");
}

#[test]
fn joints_follow_the_file_and_gravity_points_down() {
    let Some(folder) = real() else { return };
    let robot = Robot::from_file(folder.join("go1_scene_flat.xml"), RobotOptions::default()).unwrap();
    assert_eq!(robot.joints.len(), 12);
    assert_eq!(robot.joints[0].name, "FR_hip_joint");
    assert_eq!(robot.joints[2].range, Some([-2.818, -0.888]));
    assert!(robot.unsupported.iter().all(|u| !u.element.contains("floor")), "its priority is read");
    let mut world = tendon_sim::World::new(Arc::clone(&robot));
    world.apply_keyframe(robot.keyframe("home").unwrap());
    let imu = world.site_motion(robot.site("imu").unwrap());
    assert_eq!(imu.projected_gravity, [0.0, 0.0, -1.0]);
    for (index, q) in robot.keyframe("home").unwrap().joint_position.iter().enumerate() {
        assert!((world.joint_position(index) - q).abs() < 1e-6);
    }
}
