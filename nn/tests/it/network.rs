//! Encoders with dense layers behind them.

use crate::reference::{agrees, agrees_with_differences, draws, normal, weigh};
use tendon_nn::{Activation, Conv2d, Encoder, Gru, Mlp, Network, Sequences, Transformer};

const STEPS: usize = 6;
const WIDTH: usize = 3;

/// One of each kind, of nine inputs or, behind images, of 52.
fn networks() -> Vec<Network> {
    let head = |inputs| Mlp::new(&[inputs, 10, 2], Activation::Tanh, Activation::None);
    let first = Conv2d {
        height: 5,
        width: 5,
        channels: 2,
        outputs: 4,
        kernel: 2,
        stride: 1,
        activation: Activation::Tanh,
    };
    let second = Conv2d { height: 4, width: 4, channels: 4, outputs: 3, kernel: 3, stride: 1, ..first };
    vec![
        Network::dense(head(9)),
        Network::new(9, Encoder::Gru(Gru::new(9, 7)), head(7)),
        Network::new(52, Encoder::Conv(vec![first, second]), head(12 + 2)),
        Network::new(9, Encoder::Transformer(Transformer::new(9, 4, 8, 2, 1)), head(8)),
        Network::new(9, Encoder::Transformer(Transformer::new(9, 1, 8, 2, 1)), head(8)),
    ]
}

struct Case {
    network: Network,
    parameters: Vec<f32>,
    input: Vec<f32>,
    start: Vec<f32>,
    resets: Vec<bool>,
    d: Vec<f32>,
}

impl Case {
    fn sequences(&self) -> Sequences<'_> {
        Sequences { input: &self.input, start: &self.start, resets: &self.resets }
    }
}

fn cases() -> impl Iterator<Item = Case> {
    networks().into_iter().map(|network| {
        let mut parameters = network.initialise(1.0, &mut normal(1));
        parameters.iter_mut().zip(draws(2, network.parameter_count())).for_each(|(p, d)| *p += 0.1 * d);
        Case {
            parameters,
            input: draws(3, STEPS * WIDTH * network.inputs()),
            start: draws(4, WIDTH * network.memory_len()),
            resets: (0..STEPS * WIDTH).map(|i| i % 5 == 3).collect(),
            d: draws(5, STEPS * WIDTH * network.outputs()),
            network,
        }
    })
}

#[test]
fn gradients_through_encoder_and_head_agree_with_finite_differences() {
    for case in cases() {
        let (weights, mut workspace) = (case.network.weights(&case.parameters), case.network.workspace());
        let mut gradient = vec![0.0; case.parameters.len()];
        weights.forward(case.sequences(), &mut workspace);
        weights.backward(case.sequences(), &case.d, &mut workspace, &mut gradient);
        agrees_with_differences(&case.parameters, &gradient, 3, |p| {
            weigh(case.network.weights(p).forward(case.sequences(), &mut workspace), &case.d)
        });
    }
}

#[test]
fn steps_one_by_one_have_the_bits_of_the_whole_sequence_and_memory_is_forgotten_at_resets() {
    for case in cases() {
        let (weights, mut workspace) = (case.network.weights(&case.parameters), case.network.workspace());
        let (inputs, outputs, len) =
            (case.network.inputs(), case.network.outputs(), case.network.memory_len());
        let whole = weights.forward(case.sequences(), &mut workspace).to_vec();
        let mut memory = case.start.clone();
        for (t, expected) in whole.chunks(WIDTH * outputs).enumerate() {
            let rows = t * WIDTH..(t + 1) * WIDTH;
            for (s, reset) in case.resets[rows.clone()].iter().enumerate() {
                if *reset {
                    memory[s * len..(s + 1) * len].fill(0.0);
                }
            }
            let mut output = vec![0.0; WIDTH * outputs];
            weights.step(
                &case.input[rows.start * inputs..rows.end * inputs],
                &mut memory,
                &mut output,
                &mut workspace,
            );
            assert_eq!(output, expected, "{:?}, step {t}", case.network.encoder());
        }
    }
}

#[test]
fn sequences_of_one_step_have_the_gradient_of_rows_on_their_own() {
    for case in cases() {
        let (weights, mut workspace) = (case.network.weights(&case.parameters), case.network.workspace());
        let rows = STEPS * WIDTH;
        let (all_new, nothing) = (vec![true; rows], vec![0.0; rows * case.network.memory_len()]);
        let mut gradient = |sequences: Sequences<'_>| {
            let mut gradient = vec![0.0; case.parameters.len()];
            weights.forward(sequences, &mut workspace);
            weights.backward(sequences, &case.d, &mut workspace, &mut gradient);
            gradient
        };
        // Episodes of one step: whether they follow each other in a sequence or stand side by side is the same.
        let followed = gradient(Sequences { resets: &all_new, ..case.sequences() });
        let beside = gradient(Sequences { input: &case.input, start: &nothing, resets: &all_new });
        agrees(&followed, &beside);
    }
}
