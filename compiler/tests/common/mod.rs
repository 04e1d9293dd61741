//! Real inputs beside the checkout, and the comparison every test makes.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;
use tendon_compiler::parity::{ImageRunner, OnnxRunner, Report, TOLERANCE, compare, random_inputs};
use tendon_compiler::{Compiled, Options, compile};

/// Content of a real input; `None`, with a line that says so, when the folder is not there.
pub(crate) fn real(name: &str) -> Option<Vec<u8>> {
    let folder = std::env::var_os("TENDON_REAL")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/real"), PathBuf::from);
    let path = folder.join(name);
    let bytes = std::fs::read(&path).ok();
    if bytes.is_none() {
        println!("SKIPPED: {} is not there (set TENDON_REAL to the folder of real inputs)", path.display());
    }
    bytes
}

/// A contract of this repository.
pub(crate) fn contract(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/contracts").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// Compiles as a bare network and compares with tract on random inputs.
pub(crate) fn check(onnx: &[u8], rows: usize) -> (Compiled, Report) {
    let compiled = compile(onnx, &Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let reference = OnnxRunner::new(onnx).unwrap_or_else(|error| panic!("{error}"));
    let mut image = ImageRunner::new(&compiled.image).unwrap();
    let inputs = random_inputs(reference.n_inputs(), rows, 7);
    let report = compare(&inputs, &[], TOLERANCE, |x| reference.run(x), |x| image.run(x)).unwrap();
    (compiled, report)
}
