//! The arena of the test networks is as small as any could be, within 5%.

use tendon_compiler::sample::{Cell, Hidden, conv_encoder, mlp, operators, random_network, recurrent};
use tendon_compiler::{Compiled, ContractChoice, Options, compile};

#[test]
fn the_arena_is_within_five_percent_of_the_lower_bound() {
    let bare = Options { contract: ContractChoice::Bare, golden_vectors: 1, ..Options::default() };
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("13-64-64-4".into(), mlp(&[13, 64, 64, 4], Hidden::Relu, 1)),
        ("48-512-256-128-12".into(), mlp(&[48, 512, 256, 128, 12], Hidden::Swish, 1)),
        ("LSTM 47-64 + 32".into(), recurrent(Cell::Lstm, 47, 64, 32, 12, 1)),
        ("GRU 48-64".into(), recurrent(Cell::Gru, 48, 64, 0, 12, 1)),
        ("Conv encoder".into(), conv_encoder(64, &[8, 16, 32], 32, 1)),
    ];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/roundtrip");
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "onnx") {
            files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    files.extend((1..=200).map(random_network));
    let mut compiled: Vec<(String, Compiled)> = Vec::new();
    for (name, onnx) in files {
        let one = compile(&onnx, &bare).unwrap_or_else(|error| panic!("{name}: {error}"));
        compiled.push((name, one));
    }
    compiled.extend(operators().into_iter().map(|sample| {
        let one = sample.compile().unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        (sample.name, one)
    }));
    let share = |one: &Compiled| one.arena.planned as f64 / one.arena.lower_bound.max(1) as f64;
    let (mut over, mut worst) = (Vec::new(), 1.0f64);
    for (name, one) in &compiled {
        worst = worst.max(share(one));
        if share(one) > 1.05 {
            over.push(format!("{name}: {:?}", one.arena));
        }
    }
    println!("{} networks, at worst {worst:.3} times the lower bound", compiled.len());
    assert!(over.is_empty(), "{} of {}:\n{}", over.len(), compiled.len(), over.join("\n"));
}
