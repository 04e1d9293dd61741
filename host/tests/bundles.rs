//! The trained bundles of `models/trained`: each succeeds at its task on the firmware in QEMU, in lockstep, with the bits of this process.

mod common;

use common::{in_process, open, start};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tendon::hil::{TaskRun, run_task};
use tendon::link::{ControllerKind, Session, Transport};
use tendon_compiler::{Options, compile};
use tendon_runtime::{AlignedBytes, Image};
use tendon_sim::tasks::{TaskDefinition, open as open_task};

fn bundles() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/trained");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("policy.tnd").is_file())
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

fn image_of(bundle: &Path) -> AlignedBytes {
    AlignedBytes::new(&std::fs::read(bundle.join("policy.tnd")).unwrap())
}

/// The task that its `run.toml` names: a built-in one, or a file of this repository.
fn task_of(bundle: &Path) -> Arc<TaskDefinition> {
    let run: toml::Table = std::fs::read_to_string(bundle.join("run.toml")).unwrap().parse().unwrap();
    let name = run["task"].as_str().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    open_task(if name.ends_with(".toml") { file.to_str().unwrap() } else { name }, None).unwrap()
}

/// One whole episode from a seed that training did not use.
fn episode<T: Transport>(session: &mut Session<T>, bundle: &Path) -> TaskRun {
    let image = image_of(bundle);
    let task = task_of(bundle);
    let mut environment = task.make().unwrap();
    let limit = f64::from(task.spec().time_limit_s);
    let ticks = limit / environment.contract().control_period_s;
    let schema = environment.contract().compile().unwrap().schema_hash();
    session.upload(&image, |_| ()).unwrap();
    run_task(session, &mut environment, schema, 4242, ticks.round() as u64, None, |_, _| ()).unwrap()
}

#[test]
fn every_trained_bundle_succeeds_on_the_controller_with_the_bits_of_this_process() {
    for bundle in bundles() {
        let here = in_process(|session| episode(session, &bundle));
        assert!(here.success, "{}: return {}", bundle.display(), here.total_reward);
        let Some(controller) = start(ControllerKind::Qemu) else { return };
        let there = episode(&mut open(&controller), &bundle);
        assert_eq!((there.hash, there.misses), (here.hash, 0), "{}", bundle.display());
        println!("{}: return {:.1}, {} ticks", bundle.display(), there.total_reward, there.stats.ticks);
    }
}

#[test]
fn the_image_of_a_bundle_is_what_its_onnx_file_compiles_to() {
    for bundle in bundles() {
        let onnx = std::fs::read(bundle.join("policy.onnx")).unwrap();
        let compiled = compile(&onnx, &Options::default()).unwrap().image;
        let image = image_of(&bundle);
        assert_eq!(Image::parse(&image).unwrap().robot_id(), Image::parse(&compiled).unwrap().robot_id());
        assert!(*image == *compiled, "{}: compile it again", bundle.display());
    }
}
