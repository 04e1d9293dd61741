//! Google's Go1 policy (`../shared/real`) walking in rapier: `cargo run --release -p tendon-sim --example go1`.
use std::convert::Infallible;
use std::time::Instant;
use tendon_sim::*;
use tract_onnx::prelude::*;

fn main() {
    let real = std::env::var("TENDON_REAL").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/real").into());
    let robot = Robot::from_file(format!("{real}/go1_scene_flat.xml"), RobotOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    for u in robot.unsupported.iter().take(5) {
        println!("{}:{} {}: {}", u.file.display(), u.line, u.element, u.effect);
    }
    for j in &robot.joints {
        println!("{} {:?} {:?} d {} a {} f {} {:?}", j.name, j.kind, j.range, j.damping, j.armature, j.friction_loss, j.actuator);
    }
    let model = tract_onnx::onnx().model_for_path(format!("{real}/go1_joystick.onnx")).unwrap().into_optimized().unwrap().into_runnable().unwrap();
    let home = robot.keyframe("home").unwrap().joint_position.clone();
    let task = LocomotionTask { keyframe: "home".into(), site: "imu".into(), control_period_s: 0.02, duration_s: 10.0, window_s: 5.0 };
    for command in [[1.0f32, 0., 0.], [0.5, 0., 0.], [0., 0.4, 0.], [0., 0., 1.0], [0., 0., 0.]] {
        let mut last = vec![0.0f32; 12];
        let start = Instant::now();
        let m = run_locomotion(&robot, &task, |world, commands| {
            let imu = world.site_motion(robot.site("imu").unwrap());
            let mut obs: Vec<f32> = Vec::new();
            obs.extend(imu.linear_velocity);
            obs.extend(imu.angular_velocity);
            obs.extend(imu.projected_gravity);
            obs.extend((0..12).map(|i| world.joint_position(i) - home[i]));
            obs.extend((0..12).map(|i| world.joint_velocity(i)));
            obs.extend(&last);
            obs.extend(command);
            let out = model.run(tvec!(Tensor::from_shape(&[1, 48], &obs).unwrap().into())).unwrap();
            last = out[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
            for (i, c) in commands.iter_mut().enumerate() {
                let joint = &robot.joints[i];
                let [low, high] = joint.range.unwrap();
                let a = joint.actuator.unwrap();
                *c = JointCommand { position: (home[i] + 0.5 * last[i]).clamp(low, high), kp: a.kp, kd: a.kd, torque_limit: a.torque_limit, ..Default::default() };
            }
            Ok::<(), Infallible>(())
        }).unwrap();
        println!("{command:?} {m:?} {:.0} us/step", start.elapsed().as_secs_f64() * 1e6 / m.steps as f64);
    }
}
