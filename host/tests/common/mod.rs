//! Controllers, policies and real inputs for the tests of this folder.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod servo;

use std::path::{Path, PathBuf};
use tendon::link::{
    ControllerKind, InProcess, Launched, LinkError, Serial, Session, launch, launch_from, launch_stand_in,
    with_in_process,
};
use tendon_compiler::sample::{Hidden, mlp, with_metadata};
use tendon_compiler::{ContractChoice, Options, compile};
use tendon_runtime::AlignedBytes;
use tendon_runtime::spec::METADATA_KEY;
use tendon_sim::tasks::{TaskEnvironment, find};

/// A controller behind a serial port; ends with the test.
pub fn start(kind: ControllerKind) -> Option<Launched> {
    if kind == ControllerKind::StandIn {
        return Some(launch_stand_in(Path::new(env!("CARGO_BIN_EXE_tendon")), None).unwrap());
    }
    if !tendon::link::qemu_is_there() || tendon::link::firmware_path(kind).is_none() {
        println!("SKIPPED: QEMU or the firmware is missing; run `cargo xtask test`");
        return None;
    }
    Some(launch(kind).unwrap())
}

pub fn open(controller: &Launched) -> Session<Serial> {
    Session::open(Serial::open(controller.port()).unwrap()).unwrap().0
}

pub fn in_process<R>(f: impl FnOnce(&mut Session<InProcess<'_>>) -> R) -> R {
    with_in_process(4 << 20, |transport| f(&mut Session::open(transport).unwrap().0))
}

/// A cart-pole policy of random weights with its contract, and the task.
pub fn cart_pole(seed: u64) -> (AlignedBytes, u64, TaskEnvironment) {
    let environment = find("cart-pole").unwrap().make().unwrap();
    let spec = environment.contract().clone();
    let compiled = spec.compile().unwrap();
    let n_obs = compiled.view().header.n_observation as usize;
    let onnx = with_metadata(mlp(&[n_obs, 32, 1], Hidden::Tanh, seed), METADATA_KEY, &spec.to_json());
    let image = compile(&onnx, &Options::default()).unwrap().image;
    (image, compiled.schema_hash(), environment)
}

/// A network without contract.
pub fn bare(seed: u64) -> AlignedBytes {
    let onnx = mlp(&[5, 16, 2], Hidden::Relu, seed);
    compile(&onnx, &Options { contract: ContractChoice::Bare, ..Options::default() }).unwrap().image
}

/// The folder of real inputs, or `None` after saying so.
pub fn real() -> Option<PathBuf> {
    let folder = std::env::var_os("TENDON_REAL").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/real")),
        PathBuf::from,
    );
    let there = folder.join("go1_joystick.onnx").is_file();
    if !there {
        println!("SKIPPED: {} has no Go1; set TENDON_REAL to the folder of real inputs", folder.display());
    }
    there.then_some(folder)
}

/// The refusal behind an error.
pub fn refusal(result: Result<(), LinkError>) -> Option<tendon_runtime::Refusal> {
    match result {
        Err(LinkError::Refused { refusal, .. }) => refusal,
        _ => None,
    }
}

/// A controller whose flash is in a file.
pub fn start_from(kind: ControllerKind, flash: &Path) -> Option<Launched> {
    if kind == ControllerKind::StandIn {
        return Some(launch_stand_in(Path::new(env!("CARGO_BIN_EXE_tendon")), Some(flash)).unwrap());
    }
    if !tendon::link::qemu_is_there() || tendon::link::boot_stage_path(kind).is_none() {
        println!("SKIPPED: QEMU or the firmware is missing; run `cargo xtask test`");
        return None;
    }
    Some(launch_from(kind, Some(flash)).unwrap())
}

/// A folder that goes with its test.
pub struct Temporary(pub PathBuf);

impl Temporary {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tendon-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
