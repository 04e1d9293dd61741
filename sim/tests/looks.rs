//! Cameras whose looks and place differ from episode to episode: what is drawn, that it is recorded, what it does.

mod common;

use std::sync::Arc;

use common::{rewritten, start};
use tendon_sim::Shape;
use tendon_sim::tasks::{TaskDefinition, find};

/// Every key, on the table with blocks.
const ALL: &str = "[randomisation.camera]
light_direction = [-0.6, 0.6]
light_brightness = [0.7, 1.2]
ambient_light = [-0.15, 0.15]
object_color = [-0.15, 0.15]
ground_color = [-0.1, 0.1]
texture_share = 0.5
camera_position = [-0.1, 0.1]
camera_target = [-0.05, 0.05]
field_of_view = [-0.05, 0.05]
";

fn with(table: &str) -> Result<Arc<TaskDefinition>, String> {
    rewritten("planar-sweep", |text| format!("{text}\n{table}"))
}

#[test]
fn draws_are_even_within_their_ranges_and_repeat_by_seed() {
    let mut env = with(ALL).unwrap().make().unwrap();
    let shapes = env.scene().shapes;
    let planes = shapes.iter().filter(|placed| placed.shape == Shape::Plane).count();
    let episodes = 600;
    let mut all = Vec::new();
    for seed in 0..episodes {
        start(&mut env, seed);
        all.push(env.draws().to_vec());
    }
    start(&mut env, 5);
    assert_eq!(env.draws(), all[5]);
    assert_ne!(all[5], all[6]);
    for (name, [low, high], each) in [
        ("light_direction", [-0.6, 0.6], 2),
        ("light_brightness", [0.7, 1.2], 1),
        ("ambient_light", [-0.15, 0.15], 1),
        ("object_color", [-0.15, 0.15], 3 * (shapes.len() - planes)),
        ("ground_color", [-0.1, 0.1], 3 * planes),
        ("texture_share", [0.0, 1.0], shapes.len()),
        ("camera_position", [-0.1, 0.1], 3),
        ("camera_target", [-0.05, 0.05], 3),
        ("field_of_view", [-0.05, 0.05], 1),
    ] {
        let values: Vec<f32> = all.iter().flatten().filter(|d| d.name == name).map(|d| d.value).collect();
        assert_eq!(values.len(), each * episodes as usize, "{name}");
        assert!(values.iter().all(|v| (low..=high).contains(v)), "{name}");
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n;
        // Of an even distribution: width^2 / 12; four standard errors of the mean.
        let width: f32 = high - low;
        let error = 4.0 * width / (12.0 * n).sqrt();
        assert!((mean - 0.5 * (low + high)).abs() < error, "{name}: mean {mean}");
        assert!((variance / (width * width / 12.0) - 1.0).abs() < 0.15, "{name}: variance {variance}");
    }
    let share = |name: &str| {
        let textured = all.iter().flatten().filter(|d| d.name == name).count();
        textured as f32 / (episodes as usize * shapes.len()) as f32
    };
    assert!((share("texture_side") - 0.5).abs() < 0.05, "half of the shapes have a texture");
    assert!((share("texture_grains") - 0.5 / 3.0).abs() < 0.03, "a third of them grains");
}

#[test]
fn an_episode_of_a_task_without_the_table_looks_as_its_file_says() {
    let mut env = find("planar-sweep").unwrap().make().unwrap();
    start(&mut env, 1);
    let first = (env.scene().looks, env.observed_camera());
    start(&mut env, 2);
    assert_eq!((env.scene().looks, env.observed_camera()), first);
    assert!(env.draws().is_empty());
}

/// The distance to what it looks at is in the picture of a depth camera.
#[test]
fn a_moved_camera_sees_from_where_it_was_drawn() {
    let table = "[randomisation.camera]\ncamera_position = [-0.2, 0.2]\n";
    let with_depth =
        |text: &str| format!("{}\n{table}", text.replace("channel = \"red\"", "channel = \"depth\""));
    let task = rewritten("planar-avoid", with_depth).unwrap();
    let mut env = task.make().unwrap();
    let mut different = 0;
    for seed in 0..20 {
        start(&mut env, seed);
        let camera = env.observed_camera().unwrap();
        let moved = |axis: usize| env.draws().iter().find(|d| d.name == "camera_position" && d.index == axis);
        let meant = [0.0, 0.0, 2.0];
        for axis in 0..3 {
            assert_eq!(camera.position[axis], meant[axis] + moved(axis).unwrap().value);
        }
        // The four pixels about the middle: their mean is the point looked at, where no block stands.
        let image = tendon_sim::render(&env.scene(), &camera);
        let distance = camera.position.iter().map(|x| x * x).sum::<f32>().sqrt();
        let middle = (camera.height / 2) * camera.width + camera.width / 2;
        if (image.depth[middle] - distance).abs() < 0.02 {
            different += 1;
        }
        // Looking straight down, however it is moved, the picture's right stays x within some degrees.
        assert!(camera.axes()[0][0] > 0.95, "{:?}", camera.axes());
    }
    assert!(different > 14, "{different} of 20");
}

#[test]
fn ranges_without_meaning_are_refused_with_their_line() {
    let lines = find("planar-sweep").unwrap().text.lines().count() + 2;
    for (key, expected) in [
        ("camera_position = [-1.5, 1.5]", "give a range within"),
        ("light_brightness = [-1.0, 1.0]", "give a range within 0"),
        ("field_of_view = [-0.6, 0.0]", "give a range within"),
        ("texture_share = 1.5", "give a share of 0 to 1"),
        ("object_color = [0.2, 0.1]", "the lower first"),
        ("object_color = [nan, 0.1]", "two finite numbers"),
        ("object_colour = [0.0, 0.1]", "did you mean `object_color`?"),
    ] {
        let Err(error) = with(&format!("[randomisation.camera]\n{key}\n")) else {
            panic!("{key} was accepted")
        };
        let line = format!("my.toml:{}", lines + 1);
        assert!(error.contains(expected) && error.contains(&line), "{key}: {error}");
    }
    let error = rewritten("hopper", |text| format!("{text}\n{ALL}"));
    assert!(error.err().unwrap().contains("add a table [camera]"));
}
