//! Rerun recordings, read back with Rerun's own reader: they hold what an identical run saw and did.
#![cfg(feature = "viewer")]

mod common;

use common::cart_pole;
use rerun::archetypes::{DepthImage, Image, Scalars, SegmentationImage, Transform3D};
use rerun::log::Chunk;
use rerun::{ChunkStore, ChunkStoreConfig, ComponentDescriptor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use tendon_sim::tasks::{TaskEnvironment, find};
use tendon_sim::{Camera, Environment, Rng, render};

/// Size of the task's view, pixels.
const PICTURE: [usize; 2] = [160, 120];

/// A recording that `tendon sim` wrote; the file goes with it.
struct Recording {
    file: PathBuf,
    chunks: Vec<Arc<Chunk>>,
    entities: BTreeSet<String>,
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Recording {
    fn of_sim(task: &str, arguments: &[&str]) -> Self {
        let file = std::env::temp_dir().join(format!("tendon-{task}-{}.rrd", std::process::id()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tendon"));
        let output =
            command.args(["sim", "--task", task, "--rrd"]).arg(&file).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut reader = std::fs::File::open(&file).unwrap();
        let stores = ChunkStore::from_rrd_reader(&ChunkStoreConfig::ALL_DISABLED, &mut reader).unwrap();
        let store = stores.values().find(|store| store.id().is_recording()).unwrap();
        let entities = store.all_entities().into_iter().map(|path| path.to_string());
        let entities = entities.filter(|name| !name.starts_with("/__")).collect();
        Self { file, chunks: store.iter_physical_chunks().cloned().collect(), entities }
    }

    /// What `read` finds of a component, by tick. Checks that `sim_time` runs beside `tick`.
    fn rows<T>(
        &self,
        period_s: f64,
        entity: &str,
        component: &ComponentDescriptor,
        read: impl Fn(&Chunk) -> Vec<T>,
    ) -> BTreeMap<i64, T> {
        let mut rows = BTreeMap::new();
        for chunk in self.chunks.iter().filter(|chunk| chunk.entity_path().to_string() == entity) {
            let times = |timeline: &'static str| {
                let indices = chunk.iter_component_indices(timeline.into(), component.component);
                indices.map(|(time, _)| time.as_i64()).collect::<Vec<_>>()
            };
            let (ticks, nanoseconds, values) = (times("tick"), times("sim_time"), read(chunk));
            assert_eq!((ticks.len(), nanoseconds.len()), (values.len(), values.len()), "{entity}");
            for ((tick, ns), value) in ticks.into_iter().zip(nanoseconds).zip(values) {
                assert!((ns as f64 - tick as f64 * period_s * 1e9).abs() < 2.0, "{entity}: {tick} {ns}");
                assert!(rows.insert(tick, value).is_none(), "{entity} twice at {tick}");
            }
        }
        rows
    }

    fn scalars(&self, period_s: f64, entity: &str) -> BTreeMap<i64, Vec<f32>> {
        let descriptor = Scalars::descriptor_scalars();
        self.rows(period_s, entity, &descriptor, |chunk| {
            let rows = chunk.iter_slices::<f64>(descriptor.component);
            rows.map(|row| row.iter().map(|&v| v as f32).collect()).collect()
        })
    }

    fn bytes(&self, period_s: f64, entity: &str, descriptor: &ComponentDescriptor) -> BTreeMap<i64, Vec<u8>> {
        self.rows(period_s, entity, descriptor, |chunk| {
            let rows = chunk.iter_slices::<&[u8]>(descriptor.component);
            rows.map(|row| row.iter().flat_map(|buffer| buffer.as_slice().to_vec()).collect()).collect()
        })
    }
}

/// The run that `tendon sim --agent random` makes, beside its recording.
struct Twin {
    environment: TaskEnvironment,
    observation: Vec<f32>,
    action: Vec<f32>,
    rng: Rng,
}

impl Twin {
    fn of(task: &str, seed: u64) -> Self {
        let mut environment = find(task).unwrap().make().unwrap();
        let mut observation = vec![0.0; environment.observation_len()];
        environment.reset(seed, &mut observation);
        let action = vec![0.0; environment.action_len()];
        Self { environment, observation, action, rng: Rng::new(seed, 9) }
    }

    fn period_s(&self) -> f64 {
        self.environment.contract().control_period_s
    }

    fn draw(&mut self) {
        self.action.iter_mut().for_each(|a| *a = self.rng.uniform(-1.0, 1.0));
    }

    /// The recording's pictures of this tick are what this camera sees.
    fn sees(&self, recording: &Recording, tick: i64, entity: &str, camera: &Camera) {
        let image = render(&self.environment.scene(), camera);
        let of = |part: &str, descriptor: &ComponentDescriptor| {
            recording.bytes(self.period_s(), &format!("/world/{entity}/{part}"), descriptor).remove(&tick)
        };
        assert_eq!(of("rgb", &Image::descriptor_buffer()).unwrap(), image.rgb, "{entity} {tick}");
        let depth: Vec<u8> = image.depth.iter().flat_map(|d| d.to_le_bytes()).collect();
        assert_eq!(of("depth", &DepthImage::descriptor_buffer()).unwrap(), depth, "{entity} {tick}");
        let shapes: Vec<u8> = image.segmentation.iter().flat_map(|s| s.to_le_bytes()).collect();
        assert_eq!(of("segmentation", &SegmentationImage::descriptor_buffer()).unwrap(), shapes);
        // Up in the picture is up in the world: the camera's second axis points down.
        let descriptor = Transform3D::descriptor_mat3x3();
        let axes = recording.rows(self.period_s(), &format!("/world/{entity}"), &descriptor, |chunk| {
            chunk.iter_slices::<[f32; 9]>(descriptor.component).map(<[_]>::to_vec).collect()
        });
        let [right, down, forward] = camera.axes();
        assert_eq!(axes[&tick][0].to_vec(), [right, down, forward].concat());
        assert!(down[2] <= 0.0);
    }
}

#[test]
fn a_recording_of_the_hopper_holds_bodies_view_observations_and_actions_on_one_timeline() {
    let recording = Recording::of_sim("hopper", &["--agent", "random", "--seed", "3", "--seconds", "0.5"]);
    let mut twin = Twin::of("hopper", 3);
    let period_s = twin.period_s();
    let shapes = twin.environment.scene().shapes.len();
    let mut expected: BTreeSet<String> = (0..shapes).map(|i| format!("/world/shape_{i}")).collect();
    expected.extend(["/world", "/joint_position", "/observation", "/action", "/reward"].map(String::from));
    expected.extend(["", "/rgb", "/depth", "/segmentation"].map(|part| format!("/world/camera{part}")));
    assert_eq!(recording.entities, expected);

    let curves = ["observation", "action", "joint_position", "reward"];
    let [observations, actions, positions, rewards] =
        curves.map(|name| recording.scalars(period_s, &format!("/{name}")));
    let translation = Transform3D::descriptor_translation();
    let poses: Vec<_> = (0..shapes)
        .map(|index| {
            recording.rows(period_s, &format!("/world/shape_{index}"), &translation, |chunk| {
                chunk.iter_slices::<[f32; 3]>(translation.component).map(|row| row[0]).collect()
            })
        })
        .collect();
    let steps = rewards.len() as i64;
    assert!(steps > 10, "the hopper fell at once");
    let every = (0.1 / period_s).round() as i64;
    for tick in 0..=steps {
        for (index, placed) in twin.environment.scene().shapes.iter().enumerate() {
            assert_eq!(poses[index][&tick], placed.position, "shape {index} after {tick} steps");
        }
        if tick % every == 0 {
            twin.sees(&recording, tick, "camera", &twin.environment.camera(PICTURE));
        }
        if tick == steps {
            break;
        }
        twin.draw();
        assert_eq!(observations[&tick], twin.observation);
        assert_eq!(actions[&tick], twin.action);
        assert_eq!(positions[&tick], *twin.environment.raw_state().joint_position);
        let step = twin.environment.step(&twin.action, &mut twin.observation);
        assert_eq!(rewards[&(tick + 1)], [step.reward]);
    }
    assert_eq!((observations.len() as i64, actions.len() as i64), (steps, steps));
    assert!(poses.iter().all(|rows| rows.len() as i64 == steps + 1));
    let pictures = recording.bytes(period_s, "/world/camera/rgb", &Image::descriptor_buffer());
    assert_eq!(pictures.len() as i64, steps / every + 1);
}

#[test]
fn what_a_policy_sees_by_its_camera_is_the_recorded_picture() {
    let recording =
        Recording::of_sim("planar-sweep", &["--agent", "random", "--seed", "5", "--seconds", "1"]);
    let mut twin = Twin::of("planar-sweep", 5);
    let period_s = twin.period_s();
    let pictures = recording.bytes(period_s, "/world/eye/rgb", &Image::descriptor_buffer());
    assert_eq!(pictures.len(), 11, "ten a second, and the first");
    let observations = recording.scalars(period_s, "/observation");
    for tick in 0..20 {
        if let Some(picture) = pictures.get(&tick) {
            let eye = twin.environment.observed_camera().unwrap();
            twin.sees(&recording, tick, "eye", &eye);
            // The task observes red, 8 x 8 means of 6 x 6 pixels, times 2, behind four numbers of joints.
            let red = |row: usize, column: usize| f32::from(picture[3 * (48 * row + column)]) / 255.0;
            for (index, seen) in observations[&tick][4..68].iter().enumerate() {
                let (row, column) = (index / 8 * 6, index % 8 * 6);
                let cells = (0..36).map(|i| red(row + i / 6, column + i % 6));
                assert!((2.0 * cells.sum::<f32>() / 36.0 - seen).abs() < 1e-5, "{tick} {index}");
            }
        }
        twin.draw();
        assert_eq!(recording.scalars(period_s, "/action")[&tick], twin.action);
        twin.environment.step(&twin.action, &mut twin.observation);
    }
}

#[test]
fn a_policy_on_a_controller_is_recorded_too() {
    let (image, _, _) = cart_pole(1);
    let file = std::env::temp_dir().join(format!("tendon-viewer-{}.tnd", std::process::id()));
    std::fs::write(&file, &*image).unwrap();
    let path = file.to_str().unwrap();
    let recording =
        Recording::of_sim("cart-pole", &["--agent", "policy", "--image", path, "--seconds", "0.5"]);
    std::fs::remove_file(&file).unwrap();
    let twin = Twin::of("cart-pole", 1);
    let observations = recording.scalars(twin.period_s(), "/observation");
    assert_eq!(observations[&0], twin.observation);
    let actions = recording.scalars(twin.period_s(), "/action");
    assert_eq!(actions.len(), observations.len());
    assert!(actions.values().any(|action| action[0] != 0.0));
}
