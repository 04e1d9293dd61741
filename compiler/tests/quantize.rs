//! Dense layers with 8-bit weights and 16-bit activations.

mod common;

use tendon_compiler::parity::{ImageRunner, random_inputs};
use tendon_compiler::sample::{Hidden, mlp};
use tendon_compiler::{Compiled, ContractChoice, Options, compile};
use tendon_wire::image::opcode;

fn quantized(onnx: &[u8], rows: &[Vec<f32>]) -> Compiled {
    let options = Options { contract: ContractChoice::Bare, quantize: Some(rows), ..Options::default() };
    compile(onnx, &options).unwrap()
}

/// Root mean square difference of two images over that of the first.
fn difference(a: &[u8], b: &[u8], rows: &[Vec<f32>]) -> f64 {
    let (mut a, mut b) = (ImageRunner::new(a).unwrap(), ImageRunner::new(b).unwrap());
    let (mut sum, mut size) = (0.0, 0.0);
    for row in rows {
        for (x, y) in a.run(row).unwrap().iter().zip(b.run(row).unwrap()) {
            sum += f64::from(x - y).powi(2);
            size += f64::from(*x).powi(2);
        }
    }
    (sum / size).sqrt()
}

#[test]
fn actions_stay_close_on_inputs_that_were_not_recorded() {
    for hidden in [Hidden::Relu, Hidden::Tanh] {
        for sizes in [&[13, 64, 64, 4][..], &[48, 128, 128, 12], &[7, 5, 3]] {
            let onnx = mlp(sizes, hidden, 3);
            let plain = compile(&onnx, &Options::default()).unwrap();
            let small = quantized(&onnx, &random_inputs(sizes[0], 200, 1));
            let report = small.quantization.unwrap();
            assert_eq!(report.layers.len(), sizes.len() - 1);
            let error = difference(&plain.image, &small.image, &random_inputs(sizes[0], 200, 2));
            println!("{sizes:?} {hidden:?}: {error:.2e} (recorded {:.2e})", report.output);
            assert!(error < 0.012, "{sizes:?} {hidden:?}: {error}");
            assert!(
                report.layers.iter().all(|layer| layer.clipped == 0.0 && layer.weights < 0.01),
                "{report:?}"
            );
        }
    }
}

#[test]
fn neighbouring_layers_pass_integers_and_the_image_is_a_quarter() {
    let onnx = mlp(&[48, 128, 128, 12], Hidden::Relu, 3);
    let rows = random_inputs(48, 50, 1);
    let plain = compile(&onnx, &Options { golden_vectors: 1, ..Options::default() }).unwrap();
    let small = quantized(&onnx, &rows);
    let runner = ImageRunner::new(&small.image).unwrap();
    let opcodes: Vec<u8> = runner.policy().network.operators().iter().map(|op| op.opcode).collect();
    assert_eq!(opcodes, [opcode::QUANTIZE, opcode::GEMM_8W16A, opcode::GEMM_8W16A, opcode::GEMM_8W16A]);
    assert!(small.image.len() * 3 < plain.image.len(), "{} {}", small.image.len(), plain.image.len());
}

#[test]
fn sums_never_leave_32_bits() {
    // 2048 inputs of one sign: with full weights the sum would be 2048 * 127 * 32767.
    let onnx = mlp(&[2048, 8, 2], Hidden::Relu, 1);
    let rows = vec![vec![1.0; 2048], vec![-1.0; 2048]];
    let plain = compile(&onnx, &Options::default()).unwrap();
    let small = quantized(&onnx, &rows);
    let error = difference(&plain.image, &small.image, &rows);
    assert!(error < 0.05, "{error}");
}

#[test]
fn a_run_of_another_policy_is_refused() {
    let onnx = mlp(&[13, 8, 4], Hidden::Relu, 1);
    for rows in [vec![], vec![vec![0.0; 12]]] {
        let options = Options { quantize: Some(&rows), ..Options::default() };
        let text = compile(&onnx, &options).unwrap_err().to_string();
        assert!(text.contains("the network takes 13: record a run of this policy"), "{text}");
    }
}
