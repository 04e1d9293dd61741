//! Any bytes as an ONNX file: an error, or an image that runs. Give files of models/roundtrip as a corpus.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tendon_compiler::parity::ImageRunner;
use tendon_compiler::{ContractChoice, Options, compile};

fuzz_target!(|bytes: &[u8]| {
    let options = Options { contract: ContractChoice::Bare, golden_vectors: 1, ..Options::default() };
    let Ok(compiled) = compile(bytes, &options) else { return };
    let mut runner = ImageRunner::new(&compiled.image).expect("an image that was written is admitted");
    let n = runner.policy().network.plan().n_inputs as usize;
    let found = runner.run(&vec![0.5; n]).expect("an admitted image runs");
    let count: usize = compiled.outputs.iter().map(tendon_compiler::Port::len).sum();
    assert_eq!(found.len(), count);
});
