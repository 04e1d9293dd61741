//! Pictures of the robots: `cargo run --release -p tendon-sim --example thumbnails -- FOLDER`.
use tendon_sim::*;
fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for (file, target, distance, azimuth, elevation, key) in [
        ("models/robots/cart_pole.xml", [0.0, 0.0, 0.8], 4.0, 0.5, 0.15, None),
        ("models/robots/reacher.xml", [0.1, 0.0, 0.1], 1.2, -1.2, 0.7, None),
        ("models/robots/hopper.xml", [0.0, 0.0, 0.7], 3.2, -1.2, 0.15, None),
        ("../shared/real/go1_scene_flat.xml", [0.0, 0.0, 0.2], 1.6, -1.0, 0.25, Some("home")),
    ] {
        let robot = Robot::from_file(format!("{root}/{file}"), RobotOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let mut world = World::new(robot.clone());
        if let Some(k) = key.and_then(|k| robot.keyframe(k)) { world.apply_keyframe(k); }
        let t = std::time::Instant::now();
        let image = render(&world.scene(), &Camera::orbit(target, distance, azimuth, elevation, [480, 360]));
        println!("{} {:?}", robot.name, t.elapsed());
        image.write_png(format!("{folder}/{}.png", robot.name.replace(' ', "_"))).unwrap();
    }
}
