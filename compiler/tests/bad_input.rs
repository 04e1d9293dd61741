//! Truncated, flipped, oversized and foreign bytes: an error or a still valid result, never a panic.

mod common;

use tendon_compiler::parity::{ImageRunner, OnnxRunner};
use tendon_compiler::sample::{
    Hidden, float_tensor, int_attribute, int_tensor, mlp, model, node, with_metadata,
};
use tendon_compiler::{CompileError, Compiled, ContractChoice, ImportError, Options, compile, inspect};
use tendon_runtime::{AlignedBytes, Image};
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// Deterministic picks.
struct Picks(u64);

impl Picks {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A file with many operators, so that flips reach every lowering.
fn rich() -> Vec<u8> {
    let nodes = vec![
        node("Sub", &["x", "mean"], &["c"], vec![]),
        node("Gemm", &["c", "w", "b"], &["h"], vec![int_attribute("transB", 1)]),
        node("Sigmoid", &["h"], &["g"], vec![]),
        node("Mul", &["h", "g"], &["a"], vec![]),
        node("Split", &["a", "parts"], &["p", "q"], vec![int_attribute("axis", -1)]),
        node("Clip", &["p", "low"], &["k"], vec![]),
        node("Concat", &["q", "k"], &["j"], vec![int_attribute("axis", 1)]),
        node("Slice", &["j", "start", "end", "axis"], &["l"], vec![]),
        node("Reshape", &["l", "shape"], &["r"], vec![]),
        node("MatMul", &["r", "v"], &["m"], vec![]),
        node("Flatten", &["m"], &["y"], vec![]),
    ];
    let tensors = vec![
        float_tensor("mean", &[3], &[0.1, 0.2, 0.3]),
        float_tensor("w", &[6, 3], &[0.25; 18]),
        float_tensor("b", &[6], &[0.5; 6]),
        float_tensor("v", &[4, 2], &[0.125; 8]),
        float_tensor("low", &[], &[-1.0]),
        int_tensor("parts", &[2, 4]),
        int_tensor("start", &[1]),
        int_tensor("end", &[5]),
        int_tensor("axis", &[1]),
        int_tensor("shape", &[1, 1, -1]),
    ];
    let onnx = model(nodes, tensors, ("x", &[1, 3]), ("y", &[1, 2]), 13);
    with_metadata(with_metadata(onnx, "joint_names", "a,b"), "other", "text")
}

fn bare(onnx: &[u8]) -> Result<Compiled, CompileError> {
    compile(onnx, &Options { contract: ContractChoice::Bare, ..Options::default() })
}

/// Whatever compiles runs and can be inspected.
fn survives(onnx: &[u8]) -> bool {
    match bare(onnx) {
        Ok(compiled) => {
            let mut runner = ImageRunner::new(&compiled.image).unwrap();
            let n = runner.policy().network.plan().n_inputs as usize;
            runner.run(&vec![0.5; n]).unwrap();
            inspect::inspect(&compiled.image, None).unwrap();
            true
        }
        Err(error) => {
            assert!(!error.to_string().contains("fault of the compiler"), "{error}");
            false
        }
    }
}

#[test]
fn every_truncation_of_an_onnx_file_is_an_error_or_a_whole_network() {
    let onnx = rich();
    assert!(survives(&onnx));
    let whole = (0..onnx.len()).filter(|&length| survives(&onnx[..length])).count();
    // Metadata stands behind the graph: cutting exactly between entries leaves a valid file.
    assert!(whole <= 2, "{whole}");
}

#[test]
fn flipped_bits_of_an_onnx_file_never_panic() {
    let onnx = rich();
    let mut picks = Picks(1);
    let mut alive = 0;
    for _ in 0..20_000 {
        let mut bytes = onnx.clone();
        for _ in 0..=picks.below(3) {
            let at = picks.below(bytes.len());
            bytes[at] ^= 1 << picks.below(8);
        }
        alive += u32::from(survives(&bytes));
    }
    println!("{alive} of 20000 flipped files still compile");
}

#[test]
fn spliced_bytes_of_an_onnx_file_never_panic() {
    let onnx = rich();
    let mut picks = Picks(2);
    for _ in 0..10_000 {
        let mut bytes = onnx.clone();
        let (from, to) = (picks.below(bytes.len()), picks.below(bytes.len()));
        let length = picks.below(24).min(bytes.len() - from);
        let part = bytes[from..from + length].to_vec();
        if picks.below(2) == 0 {
            bytes.splice(to..to, part);
        } else {
            bytes.drain(from..from + length);
        }
        survives(&bytes);
    }
}

#[test]
fn tract_is_reached_only_behind_the_own_checks_and_its_panics_become_errors() {
    let onnx = rich();
    let mut picks = Picks(3);
    std::panic::set_hook(Box::new(|_| {}));
    for _ in 0..300 {
        let mut bytes = onnx.clone();
        let at = picks.below(bytes.len());
        bytes[at] ^= 1 << picks.below(8);
        if let Ok(runner) = OnnxRunner::new(&bytes) {
            let _ = runner.run(&vec![0.5; runner.n_inputs()]);
        }
    }
    let _ = std::panic::take_hook();
}

#[test]
fn flipped_and_truncated_images_never_panic() {
    let image = bare(&mlp(&[5, 9, 3], Hidden::Tanh, 1)).unwrap().image;
    for length in 0..image.len() {
        assert!(inspect::inspect(&AlignedBytes::new(&image[..length]), None).is_err(), "length {length}");
    }
    let mut picks = Picks(4);
    for round in 0..20_000 {
        let mut bytes = image.clone();
        let at = picks.below(bytes.len());
        bytes.as_mut_slice()[at] ^= 1 << picks.below(8);
        if round % 2 == 0 {
            assert!(Image::parse(&bytes).is_err(), "the CRC finds every single flip");
            continue;
        }
        // With a CRC that fits, as a malicious writer has it.
        let crc = tendon_wire::CRC32C.checksum(&bytes[8..]);
        bytes.as_mut_slice()[4..8].copy_from_slice(&crc.to_le_bytes());
        if let Ok(mut runner) = ImageRunner::new(&bytes) {
            let n = runner.policy().network.plan().n_inputs as usize;
            let _ = runner.run(&vec![0.5; n]);
            let _ = inspect::inspect(&bytes, None);
        }
    }
}

fn message(nodes: Vec<NodeProto>, tensors: Vec<TensorProto>) -> String {
    bare(&model(nodes, tensors, ("x", &[1, 4]), ("y", &[1, 4]), 13)).unwrap_err().to_string()
}

#[test]
fn an_unknown_operator_is_named_with_its_node_and_the_next_step() {
    let text = message(vec![node("NonMaxSuppression", &["x"], &["y"], vec![])], vec![]);
    assert!(
        text.starts_with("operator `NonMaxSuppression` (node `make_y`) is not supported: export without it"),
        "{text}"
    );
    assert!(text.contains("Gemm"));
    let mut foreign = node("Relu", &["x"], &["y"], vec![]);
    foreign.domain = "com.example".into();
    assert!(message(vec![foreign], vec![]).contains("`com.example::Relu`"));
}

#[test]
fn names_that_are_twice_there_undefined_or_circular_are_errors() {
    let relu = |from: &str, to: &str| node("Relu", &[from], &[to], vec![]);
    assert!(message(vec![relu("x", "y"), relu("x", "y")], vec![]).contains("`y` is defined twice"));
    assert!(message(vec![relu("z", "y")], vec![]).contains("reads `z`, which nothing defines"));
    assert!(message(vec![relu("y", "z"), relu("z", "y")], vec![]).contains("depends on its own output"));
    assert!(message(vec![relu("x", "z")], vec![]).contains("reads `y`"));
    let unsorted = model(vec![relu("z", "y"), relu("x", "z")], vec![], ("x", &[1, 4]), ("y", &[1, 4]), 13);
    assert!(bare(&unsorted).is_ok(), "nodes may stand in any order");
}

#[test]
fn tensors_that_do_not_hold_are_named() {
    let add = || vec![node("Add", &["x", "c"], &["y"], vec![])];
    assert!(message(add(), vec![float_tensor("c", &[5], &[0.0; 4])]).contains("tensor `c` has 4 elements"));
    assert!(message(add(), vec![float_tensor("c", &[3], &[0.0; 3])]).contains("do not broadcast"));
    assert!(message(add(), vec![float_tensor("c", &[4], &[f32::NAN; 4])]).contains("is NaN"));
    let huge = TensorProto { dims: vec![i64::MAX, i64::MAX], ..float_tensor("c", &[], &[1.0]) };
    assert!(message(add(), vec![huge]).contains("more than"));
    let negative = TensorProto { dims: vec![-1], ..float_tensor("c", &[], &[1.0]) };
    assert!(message(add(), vec![negative]).contains("dimension -1"));
    let external = TensorProto { data_location: Some(1), ..float_tensor("c", &[4], &[0.0; 4]) };
    assert!(message(add(), vec![external]).contains("save the model as one file"));
}

#[test]
fn shapes_without_a_lowering_say_what_to_do() {
    let text = |op, inputs: &[&str], tensors| message(vec![node(op, inputs, &["y"], vec![])], tensors);
    assert!(text("MatMul", &["x", "x"], vec![]).contains("the shapes do not fit"));
    assert!(
        text("Gemm", &["x", "w"], vec![float_tensor("w", &[3, 4], &[0.0; 12])])
            .contains("the shapes do not fit")
    );
    assert!(
        text("Reshape", &["x", "x"], vec![]).contains("must be constant integers: export with fixed shapes")
    );
    assert!(text("Tile", &["x", "n"], vec![int_tensor("n", &[1 << 40, 1])]).contains("more than"));
    let nodes = vec![
        node("Unsqueeze", &["x", "last"], &["z"], vec![]),
        node("Unsqueeze", &["x", "last"], &["w"], vec![]),
        node("Conv", &["z", "w"], &["y"], vec![]),
    ];
    assert!(
        message(nodes, vec![int_tensor("last", &[-1])])
            .contains("weights are computed: export them as initializers")
    );
    let onnx = model(vec![node("Relu", &["x"], &["y"], vec![])], vec![], ("x", &[8, 4]), ("y", &[8, 4]), 13);
    assert!(bare(&onnx).is_ok(), "a batch is a dimension as others");
}

#[test]
fn files_that_are_no_onnx_are_refused() {
    assert!(matches!(bare(&[]), Err(CompileError::Import(ImportError::Missing { field: "graph" }))));
    assert!(bare(b"PK\x03\x04 this is a zip").is_err());
    assert!(bare(&vec![0; tendon_compiler::MAX_FILE + 1]).unwrap_err().to_string().contains("file length"));
}

#[test]
fn networks_beyond_an_image_are_refused_with_the_limit() {
    let text = bare(&mlp(&[1024, 2300, 4], Hidden::Relu, 1)).unwrap_err().to_string();
    assert!(text.contains("limit") || text.contains("make the network smaller"), "{text}");
}

/// A field of a protobuf message that holds bytes.
fn field(number: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut len = body.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(body);
    out
}

#[test]
fn graphs_nested_in_thousands_of_if_nodes_are_refused_at_once() {
    // Graph { node: Node { op_type: "If", attribute: { name: "then_branch", g: Graph { ... } } } }
    let mut graph = Vec::new();
    for _ in 0..5000 {
        let attribute = [field(1, b"then_branch"), field(6, &graph)].concat();
        graph = field(1, &[field(4, b"If"), field(5, &attribute)].concat());
    }
    let started = std::time::Instant::now();
    let error = bare(&field(7, &graph)).unwrap_err();
    assert!(error.to_string().contains("nesting of graphs"), "{error}");
    // Four orders of magnitude above what it takes: a quadratic walk would not pass.
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn thousands_of_if_nodes_in_a_row_are_compiled_or_refused_with_the_limit() {
    let body = |name: String, op: &str, from: &str| GraphProto {
        name: name.clone(),
        node: vec![node(op, &[from], &[&name], vec![])],
        output: vec![ValueInfoProto { name, ..Default::default() }],
        ..Default::default()
    };
    for (count, fits) in [(300, true), (20_000, false)] {
        let zero = float_tensor("zero", &[1, 1], &[0.0]);
        let mut nodes = vec![node("Greater", &["x", "zero"], &["g"], vec![])];
        let mut value = "x".to_string();
        for i in 0..count {
            let branch = |name: &str, op: &str| AttributeProto {
                name: name.into(),
                r#type: AttributeType::Graph as i32,
                g: Some(body(format!("{name}{i}"), op, &value)),
                ..Default::default()
            };
            let both = vec![branch("then_branch", "Neg"), branch("else_branch", "Abs")];
            let next = if i + 1 == count { "y".to_string() } else { format!("v{i}") };
            nodes.push(node("If", &["g"], &[&next], both));
            value = next;
        }
        match bare(&model(nodes, vec![zero], ("x", &[1, 1]), ("y", &[1, 1]), 17)) {
            Ok(_) => assert!(fits, "{count}"),
            Err(error) => assert!(!fits && error.to_string().contains("the limit is"), "{count}: {error}"),
        }
    }
}
