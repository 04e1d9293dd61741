mod common;
use common::{in_process, real};
use tendon::faults::{WalkPlant, run};
use tendon_compiler::{ContractChoice, Manifest, Options, compile};
use tendon_runtime::Image;
use tendon_sim::{Robot, RobotOptions};
#[test]
fn tune() {
    let Some(folder) = real() else { return };
    let onnx = std::fs::read(folder.join("go1_joystick.onnx")).unwrap();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/contracts/go1_joystick.toml")).unwrap();
    let robot = Robot::from_file(folder.join("go1_scene_flat.xml"), RobotOptions::default()).unwrap();
    let grid: &[(&str, &[f32])] = &[
        ("position_jump", &[0.05, 0.1, 0.2, 0.3, 0.5, 1.0]), ("velocity_jump", &[0.3, 0.5, 0.8, 1.0, 1.5]),
        ("joint_noise", &[0.02, 0.05, 0.1, 0.2, 0.3]), ("stuck_path", &[0.001, 0.01, 0.05, 0.1]),
        ("turn_limit", &[1.0, 2.0, 4.0, 8.0]), ("gyro_jump", &[1.0, 2.0, 4.0, 8.0, 16.0]), ("linear_jump", &[0.1, 0.2, 0.4, 0.8]),
        ("turn_noise", &[0.002, 0.005, 0.01, 0.02, 0.05]), ("linear_noise", &[0.05, 0.1, 0.2, 0.4]),
        ("stuck_turn", &[0.001, 0.01, 0.05]), ("response_path", &[0.01, 0.03, 0.1, 0.2, 0.5]), ("overspeed", &[0.4, 0.5, 0.6, 0.8, 1.0]),
        ("response_swing", &[0.5, 1.0, 1.5]),
    ];
    for (name, values) in grid {
        for value in *values {
            let text = format!("{text}\n[monitors]\n{name} = {value:?}\nage = {{ action = \"count\" }}\noff = {{ action = \"count\" }}\nstuck = {{ action = \"count\" }}\njump = {{ action = \"count\" }}\n");
            let contract = ContractChoice::Toml { file: "t", text: &text };
            let image = compile(&onnx, &Options { contract, golden_vectors: 1, ..Options::default() }).unwrap().image;
            let contract = Manifest::of_image(&image).unwrap().contract.unwrap();
            let hash = Image::parse(&image).unwrap().header().schema_hash;
            let mut all = Vec::new();
            for command in [[1.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 1.0], [-0.5, 0.3, -0.5]] {
                all.push(in_process(|session| {
                    session.upload(&image, |_| ()).unwrap();
                    let mut plant = WalkPlant::new(&robot, &contract, "home", "imu", &command).unwrap();
                    run(session, &mut plant, &contract, hash, None, 300).unwrap().false_alarms
                }));
            }
            println!("TUNE {name} {value}: {all:?}");
        }
    }
}
