//! Every operator in a network of its own: compiled and run by the runtime, against tract.

mod common;

use common::check;
use tendon_compiler::parity::ImageRunner;
use tendon_compiler::sample::{
    Hidden, Sample, float_attribute, float_tensor, int_attribute, int_tensor, ints_attribute, mlp, model,
    node, operators, tensor_attribute,
};
use tendon_compiler::{Options, compile, supported_operators};
use tendon_wire::image::{binary, opcode, pool, reduce, unary};
use tract_onnx::pb::{NodeProto, TensorProto};

/// Deterministic weights without structure.
fn weights(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7919 + 13) % 101) as f32 / 50.0 - 1.0).collect()
}

/// A file `x [1, n_in] -> y [1, n_out]`.
fn file(nodes: Vec<NodeProto>, tensors: Vec<TensorProto>, n_in: usize, n_out: usize, opset: i64) -> Vec<u8> {
    model(nodes, tensors, ("x", &[1, n_in]), ("y", &[1, n_out]), opset)
}

fn agrees(name: &str, onnx: &[u8]) -> Vec<u8> {
    let (compiled, report) = check(onnx, 64);
    assert!(report.passed(), "{name}: {report}");
    println!("{name}: {report}");
    compiled.image.to_vec()
}

/// Opcodes of the image's operators.
fn opcodes(onnx: &[u8]) -> Vec<u8> {
    let compiled = compile(onnx, &Options::default()).unwrap();
    let runner = ImageRunner::new(&compiled.image).unwrap();
    runner.policy().network.operators().iter().map(|operator| operator.opcode).collect()
}

#[test]
fn gemm_and_matmul_agree_with_tract() {
    for (n_in, n_out) in [(1, 1), (3, 5), (8, 4), (13, 64)] {
        for trans_b in [0, 1] {
            let shape = if trans_b == 1 { [n_out, n_in] } else { [n_in, n_out] };
            let gemm = node(
                "Gemm",
                &["x", "w", "b"],
                &["y"],
                vec![
                    float_attribute("alpha", 0.5),
                    float_attribute("beta", 2.0),
                    int_attribute("transB", trans_b),
                ],
            );
            let tensors = vec![
                float_tensor("w", &shape, &weights(n_in * n_out)),
                float_tensor("b", &[n_out], &weights(n_out)),
            ];
            agrees("Gemm", &file(vec![gemm], tensors, n_in, n_out, 13));
        }
        let nodes =
            vec![node("MatMul", &["x", "w"], &["p"], vec![]), node("Add", &["b", "p"], &["y"], vec![])];
        let tensors = vec![
            float_tensor("w", &[n_in, n_out], &weights(n_in * n_out)),
            float_tensor("b", &[n_out], &weights(n_out)),
        ];
        let onnx = file(nodes, tensors, n_in, n_out, 13);
        agrees("MatMul + Add", &onnx);
        assert_eq!(opcodes(&onnx), [1], "the bias is part of the Gemm");
    }
}

#[test]
fn elementwise_operators_agree_with_tract() {
    let plain = [
        "Abs",
        "Elu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Neg",
        "Relu",
        "Selu",
        "Sigmoid",
        "Tanh",
    ];
    for op in plain {
        agrees(op, &file(vec![node(op, &["x"], &["y"], vec![])], vec![], 7, 7, 14));
    }
    for op in ["Elu", "LeakyRelu", "Selu", "HardSigmoid"] {
        let alpha = vec![float_attribute("alpha", 0.3)];
        agrees(op, &file(vec![node(op, &["x"], &["y"], alpha)], vec![], 7, 7, 14));
    }
    let bounds = vec![float_attribute("min", -0.5), float_attribute("max", 0.25)];
    agrees("Clip 6", &file(vec![node("Clip", &["x"], &["y"], bounds)], vec![], 5, 5, 6));
    let tensors = vec![float_tensor("low", &[], &[-0.5]), float_tensor("high", &[], &[0.25])];
    agrees(
        "Clip 11",
        &file(vec![node("Clip", &["x", "low", "high"], &["y"], vec![])], tensors.clone(), 5, 5, 13),
    );
    agrees(
        "Clip low",
        &file(vec![node("Clip", &["x", "low"], &["y"], vec![])], tensors[..1].to_vec(), 5, 5, 13),
    );
    agrees(
        "Clip high",
        &file(vec![node("Clip", &["x", "", "high"], &["y"], vec![])], tensors[1..].to_vec(), 5, 5, 13),
    );
    agrees("Max", &file(vec![node("Max", &["x", "low"], &["y"], vec![])], tensors[..1].to_vec(), 5, 5, 13));
    agrees("Min", &file(vec![node("Min", &["x", "high"], &["y"], vec![])], tensors[1..].to_vec(), 5, 5, 13));
    let swish = vec![node("Sigmoid", &["x"], &["s"], vec![]), node("Mul", &["s", "x"], &["y"], vec![])];
    let onnx = file(swish, vec![], 6, 6, 13);
    agrees("Swish", &onnx);
    assert_eq!(opcodes(&onnx), [2], "x * sigmoid(x) is one activation");
}

#[test]
fn arithmetic_agrees_with_tract_for_every_kind_of_operand() {
    for op in ["Add", "Sub", "Mul", "Div"] {
        for (shape, values) in [
            (&[][..], vec![1.7]),
            (&[6][..], weights(6)),
            (&[1, 6][..], weights(6)),
            (&[1, 1][..], vec![-0.6]),
        ] {
            let values: Vec<f32> = values.iter().map(|v| v + 0.013).collect();
            for inputs in [["x", "c"], ["c", "x"]] {
                let tensors = vec![float_tensor("c", shape, &values)];
                // Behind a shifted sigmoid, so that dividing by it is well-conditioned.
                let nodes = vec![
                    node("Sigmoid", &["x"], &["s"], vec![]),
                    node(op, &inputs.map(|name| if name == "x" { "s" } else { name }), &["y"], vec![]),
                ];
                agrees(op, &file(nodes, tensors, 6, 6, 14));
            }
        }
        let nodes = vec![
            node("Sigmoid", &["x"], &["s"], vec![]),
            node("Tanh", &["x"], &["t"], vec![]),
            node(op, &["t", "s"], &["y"], vec![]),
        ];
        agrees(op, &file(nodes, vec![], 6, 6, 14));
        let nodes = vec![node("Sigmoid", &["x"], &["s"], vec![]), node(op, &["s", "s"], &["y"], vec![])];
        agrees(op, &file(nodes, vec![], 6, 6, 14));
        let nodes = vec![node(op, &["c", "d"], &["e"], vec![]), node("Add", &["x", "e"], &["y"], vec![])];
        let tensors = vec![float_tensor("c", &[6], &weights(6)), float_tensor("d", &[1, 1], &[0.7])];
        agrees(op, &file(nodes, tensors, 6, 6, 14));
    }
}

#[test]
fn shape_operators_agree_with_tract() {
    let split = |opset, extra: Vec<TensorProto>, inputs: &[&str], attributes| {
        let nodes = vec![
            node("Split", inputs, &["a", "b"], attributes),
            node("Tanh", &["b"], &["t"], vec![]),
            node("Concat", &["t", "a"], &["y"], vec![int_attribute("axis", -1)]),
        ];
        agrees("Split", &file(nodes, extra, 6, 6, opset));
    };
    split(11, vec![], &["x"], vec![int_attribute("axis", -1)]);
    split(11, vec![], &["x"], vec![int_attribute("axis", 1), ints_attribute("split", &[2, 4])]);
    split(13, vec![int_tensor("s", &[5, 1])], &["x", "s"], vec![int_attribute("axis", 1)]);

    let window = [("starts", 1), ("ends", 4), ("axes", 1)];
    let attributes = window.map(|(name, value)| ints_attribute(name, &[value])).to_vec();
    agrees("Slice 9", &file(vec![node("Slice", &["x"], &["y"], attributes)], vec![], 6, 3, 9));
    let tensors = vec![int_tensor("s", &[-4]), int_tensor("e", &[i64::MAX]), int_tensor("a", &[-1])];
    agrees("Slice 13", &file(vec![node("Slice", &["x", "s", "e", "a"], &["y"], vec![])], tensors, 6, 4, 13));

    let through = |name: &str, nodes: Vec<NodeProto>, tensors: Vec<TensorProto>, opset| {
        let mut nodes = nodes;
        nodes.push(node("Relu", &["r"], &["q"], vec![]));
        nodes.push(node("Reshape", &["q", "flat"], &["y"], vec![]));
        let mut tensors = tensors;
        tensors.push(int_tensor("flat", &[1, -1]));
        agrees(name, &file(nodes, tensors, 6, 6, opset));
    };
    through(
        "Reshape",
        vec![node("Reshape", &["x", "s"], &["r"], vec![])],
        vec![int_tensor("s", &[0, 2, -1])],
        13,
    );
    through("Flatten", vec![node("Flatten", &["x"], &["r"], vec![int_attribute("axis", 1)])], vec![], 13);
    through("Squeeze", vec![node("Squeeze", &["x", "a"], &["r"], vec![])], vec![int_tensor("a", &[0])], 13);
    through(
        "Squeeze 11",
        vec![node("Squeeze", &["x"], &["r"], vec![ints_attribute("axes", &[0])])],
        vec![],
        11,
    );
    through(
        "Unsqueeze",
        vec![node("Unsqueeze", &["x", "a"], &["r"], vec![])],
        vec![int_tensor("a", &[1, -1])],
        13,
    );
    through(
        "Transpose",
        vec![node("Transpose", &["x"], &["r"], vec![ints_attribute("perm", &[1, 0])])],
        vec![],
        13,
    );
    through("Cast", vec![node("Cast", &["x"], &["r"], vec![int_attribute("to", 1)])], vec![], 13);
    through("Dropout", vec![node("Dropout", &["x"], &["r"], vec![])], vec![], 13);
    let value = vec![tensor_attribute("value", float_tensor("", &[6], &weights(6)))];
    through(
        "Constant",
        vec![node("Constant", &[], &["c"], value), node("Mul", &["x", "c"], &["r"], vec![])],
        vec![],
        13,
    );
    // The batch size as PyTorch's exporter carries it into a Reshape.
    let nodes = vec![
        node("Shape", &["x"], &["s"], vec![]),
        node("Gather", &["s", "zero"], &["n"], vec![int_attribute("axis", 0)]),
        node("Concat", &["n", "rest"], &["t"], vec![int_attribute("axis", 0)]),
        node("Reshape", &["x", "t"], &["r"], vec![]),
    ];
    through("Shape, Gather", nodes, vec![int_tensor("zero", &[0]), int_tensor("rest", &[3, 2])], 13);
    let nodes = vec![node("Concat", &["x", "c"], &["y"], vec![int_attribute("axis", 1)])];
    agrees("Concat", &file(nodes, vec![float_tensor("c", &[1, 3], &weights(3))], 6, 9, 13));
}

#[test]
fn samples_use_every_operator_of_the_runtime_and_every_kind_of_it() {
    let mut seen = std::collections::BTreeSet::new();
    for sample in operators() {
        let compiled = sample.compile().unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        let mut runner = ImageRunner::new(&compiled.image).unwrap();
        assert!(runner.run(&weights(Sample::N_INPUTS)).is_ok(), "{}", sample.name);
        let kinds =
            runner.policy().network.operators().iter().map(|operator| (operator.opcode, operator.kind));
        seen.extend(kinds);
    }
    let expected = |code: u8| match code {
        opcode::GEMM | opcode::CONV => 0..=unary::ELU,
        opcode::UNARY => 0..=unary::LAST,
        opcode::BINARY => 0..=binary::LAST,
        opcode::REDUCE => 0..=reduce::LAST,
        opcode::POOL => 0..=pool::LAST,
        opcode::ARG => 0..=3,
        opcode::TOP | opcode::TAKE | opcode::SOFTMAX => 0..=1,
        opcode::CUMULATE => 0..=7,
        opcode::SCATTER => 0..=9,
        opcode::GEMM_8W16A => 0..=2,
        _ => 0..=0,
    };
    let all = (1..=opcode::NAMES.len() as u8).flat_map(|code| expected(code).map(move |kind| (code, kind)));
    let missing: Vec<String> = all
        .filter(|pair| !seen.contains(pair))
        .map(|(code, kind)| format!("{} {kind}", opcode::NAMES[code as usize - 1]))
        .collect();
    assert!(missing.is_empty(), "no sample uses {}", missing.join(", "));
    // Transposed, one A, one B.
    for kind in [0, 1, 2, 4] {
        assert!(seen.contains(&(opcode::MATMUL, kind)), "no sample has a MatMul of kind {kind}");
    }
}

#[test]
fn the_root_of_a_mean_square_over_all_pixels_is_global_lp_pool() {
    let nodes = vec![
        node("Reshape", &["x", "shape"], &["r"], vec![]),
        node("GlobalLpPool", &["r"], &["y"], vec![int_attribute("p", 2)]),
    ];
    let onnx =
        model(nodes, vec![int_tensor("shape", &[1, 2, 2, 2])], ("x", &[1, 8]), ("y", &[1, 2, 1, 1]), 18);
    let compiled = compile(&onnx, &Options::default()).unwrap();
    let found =
        ImageRunner::new(&compiled.image).unwrap().run(&[1.0, -2.0, 2.0, 0.0, 0.0, 3.0, -4.0, 0.0]).unwrap();
    assert_eq!(compiled.outputs[0].shape, [1, 2, 1, 1]);
    assert!((found[0] - 3.0).abs() < 1e-6 && (found[1] - 5.0).abs() < 1e-6, "{found:?}");
}

/// Operators of `docs/conformance.md` of which at least one official case passes.
fn conforming() -> Vec<&'static str> {
    let table = include_str!("../../docs/conformance.md").split("## By operator").nth(1).unwrap_or("");
    let row = |line: &'static str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (name, passed) = (cells.next()?, cells.nth(1)?);
        passed.parse::<u32>().is_ok_and(|passed| passed > 0).then_some(name)
    };
    table.lines().filter_map(row).collect()
}

#[test]
fn every_operator_of_the_registry_is_tested_here_or_by_the_official_cases() {
    let (source, official) = (include_str!("operators.rs"), conforming());
    assert!(official.len() > 150, "the table of docs/conformance.md has {} operators", official.len());
    let missing: Vec<&str> = supported_operators()
        .into_iter()
        .filter(|name| !official.contains(name) && !source.contains(&format!("\"{name}\"")))
        .collect();
    assert!(missing.is_empty(), "no test has {}", missing.join(", "));
}

#[test]
fn observation_normalization_and_swish_become_part_of_the_gemm() {
    let nodes = vec![
        node("Sub", &["x", "mean"], &["c"], vec![]),
        node("Div", &["c", "std"], &["n"], vec![]),
        node("Gemm", &["n", "w", "b"], &["h"], vec![]),
        node("Sigmoid", &["h"], &["g"], vec![]),
        node("Mul", &["h", "g"], &["a"], vec![]),
        node("Gemm", &["a", "v"], &["o"], vec![]),
        node("Split", &["o"], &["m", "s"], vec![int_attribute("axis", -1)]),
        node("Tanh", &["m"], &["y"], vec![]),
    ];
    let std: Vec<f32> = weights(9).iter().map(|w| w.abs() + 0.2).collect();
    let tensors = vec![
        float_tensor("mean", &[9], &weights(9)),
        float_tensor("std", &[9], &std),
        float_tensor("w", &[9, 16], &weights(144)),
        float_tensor("b", &[16], &weights(16)),
        float_tensor("v", &[16, 6], &weights(96)),
    ];
    let onnx = file(nodes, tensors, 9, 3, 11);
    agrees("policy", &onnx);
    let compiled = compile(&onnx, &Options::default()).unwrap();
    let runner = ImageRunner::new(&compiled.image).unwrap();
    let shapes: Vec<_> =
        runner.policy().network.operators().iter().map(|o| (o.opcode, o.n_in, o.n_out)).collect();
    assert_eq!(shapes, [(1, 9, 16), (1, 16, 3)], "two Gemm, without the rows nobody reads");
}

#[test]
fn a_normalization_that_would_lose_precision_stays_in_steps_of_its_own() {
    let nodes = vec![
        node("Sub", &["x", "mean"], &["c"], vec![]),
        node("Div", &["c", "std"], &["n"], vec![]),
        node("MatMul", &["n", "w"], &["y"], vec![]),
    ];
    let tensors = vec![
        float_tensor("mean", &[2], &[1.0, -1.0]),
        float_tensor("std", &[2], &[1e-4, 1e-4]),
        float_tensor("w", &[2, 2], &weights(4)),
    ];
    let onnx = file(nodes, tensors, 2, 2, 13);
    agrees("small std", &onnx);
    assert_eq!(opcodes(&onnx), [3, 3, 1]);
}

#[test]
fn random_graphs_of_slices_concats_and_arithmetic_agree_with_tract() {
    // The memory plan's test: values that share storage, die early or live long.
    let mut state = 1u64;
    let mut pick = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for graph in 0..150 {
        let mut values = vec![("x".to_string(), 12usize)];
        let (mut nodes, mut tensors) = (Vec::new(), Vec::new());
        for step in 0..12 {
            let name = format!("v{step}");
            let (a, len) = values[pick(values.len())].clone();
            let partners: Vec<_> = values.iter().filter(|(_, other)| *other == len).cloned().collect();
            let (b, _) = partners[pick(partners.len())].clone();
            let len = match pick(7) {
                0 => {
                    nodes.push(node("Tanh", &[&a], &[&name], vec![]));
                    len
                }
                1 => {
                    nodes.push(node("Sub", &[&a, &b], &[&name], vec![]));
                    len
                }
                2 => {
                    nodes.push(node("Mul", &[&a, &b], &[&name], vec![]));
                    nodes.push(node("Tanh", &[&name], &[&format!("{name}t")], vec![]));
                    values.push((format!("{name}t"), len));
                    len
                }
                3 if len > 2 => {
                    let half = vec![ints_attribute("split", &[2, len as i64 - 2]), int_attribute("axis", 1)];
                    nodes.push(node("Split", &[&a], &[&name, &format!("{name}s")], half));
                    values.push((format!("{name}s"), len - 2));
                    2
                }
                4 if len < 40 => {
                    let (c, more) = values[pick(values.len())].clone();
                    nodes.push(node("Concat", &[&a, &c], &[&name], vec![int_attribute("axis", 1)]));
                    len + more
                }
                5 => {
                    let weight = format!("w{step}");
                    tensors.push(float_tensor(&weight, &[len, 5], &weights(len * 5)));
                    nodes.push(node("MatMul", &[&a, &weight], &[&name], vec![]));
                    nodes.push(node("Relu", &[&name], &[&format!("{name}r")], vec![]));
                    values.push((format!("{name}r"), 5));
                    5
                }
                _ => {
                    nodes.push(node(
                        "Clip",
                        &[&a],
                        &[&name],
                        vec![float_attribute("min", -0.4), float_attribute("max", 0.9)],
                    ));
                    len
                }
            };
            values.push((name, len));
        }
        let (last, len) = values[values.len() - 1].clone();
        nodes.push(node("Identity", &[&last], &["y"], vec![]));
        let onnx = file(nodes, tensors, 12, len, 10);
        let (_, report) = check(&onnx, 8);
        assert!(report.passed(), "graph {graph}: {report}");
    }
}

#[test]
fn arena_of_a_plain_network_is_the_two_widest_neighbours() {
    let compiled = compile(&mlp(&[13, 64, 64, 4], Hidden::Tanh, 1), &Options::default()).unwrap();
    assert_eq!(compiled.arena.planned, 128);
    assert_eq!(compiled.arena.lower_bound, 128);
}

#[test]
fn sample_networks_agree_with_tract_and_are_the_same_for_the_same_seed() {
    for (sizes, hidden) in [
        (&[13, 64, 64, 4], Hidden::Relu),
        (&[13, 64, 64, 4], Hidden::Tanh),
        (&[48, 128, 128, 12], Hidden::Relu),
        (&[48, 128, 128, 12], Hidden::Tanh),
    ] {
        let onnx = mlp(sizes, hidden, 3);
        let image = agrees("mlp", &onnx);
        assert_eq!(onnx, mlp(sizes, hidden, 3));
        assert_eq!(image, compile(&onnx, &Options::default()).unwrap().image.to_vec());
    }
}
