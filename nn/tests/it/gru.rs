//! Recurrent units.

use crate::reference::{agrees, agrees_with_differences, constant, draws, normal, tracked, values, weigh};
use burn::tensor::activation::sigmoid;
use tendon_nn::{Gru, Sequences};

const STEPS: usize = 6;

struct Case {
    gru: Gru,
    parameters: Vec<f32>,
    input: Vec<f32>,
    start: Vec<f32>,
    resets: Vec<bool>,
    /// d loss / d states.
    d: Vec<f32>,
    width: usize,
}

fn case(inputs: usize, hidden: usize, width: usize) -> Case {
    let gru = Gru::new(inputs, hidden);
    let mut parameters = gru.initialise(&mut normal(1));
    parameters.iter_mut().zip(draws(2, gru.parameter_count())).for_each(|(p, d)| *p += 0.1 * d);
    Case {
        gru,
        parameters,
        input: draws(3, STEPS * width * inputs),
        start: draws(4, width * hidden),
        resets: (0..STEPS * width).map(|i| i % 5 == 3).collect(),
        d: draws(5, STEPS * width * hidden),
        width,
    }
}

impl Case {
    fn sequences(&self) -> Sequences<'_> {
        Sequences { input: &self.input, start: &self.start, resets: &self.resets }
    }

    fn gradients(&self) -> (Vec<f32>, Vec<f32>) {
        let (weights, mut workspace) =
            (self.gru.weights(&self.parameters), self.gru.workspace(self.width, STEPS));
        let (mut gradient, mut d_input) = (vec![0.0; self.parameters.len()], vec![0.0; self.input.len()]);
        weights.forward(self.sequences(), &mut workspace);
        weights.backward(self.sequences(), &self.d, &mut workspace, &mut gradient, Some(&mut d_input));
        (gradient, d_input)
    }
}

#[test]
fn gradients_through_time_agree_with_burn_and_stop_at_resets() {
    for (inputs, hidden, width) in [(13, 64, 7), (5, 9, 1), (48, 64, 16)] {
        let case = case(inputs, hidden, width);
        let (gradient, d_input) = case.gradients();
        let (gru, p) = (case.gru, &case.parameters);
        let w = tracked(&p[gru.input_weights()], [inputs, 3 * hidden]);
        let b = tracked(&p[gru.input_biases()], [1, 3 * hidden]);
        let u = tracked(&p[gru.state_weights()], [hidden, 3 * hidden]);
        let c = tracked(&p[gru.state_biases()], [1, 3 * hidden]);
        let x = tracked(&case.input, [STEPS * width, inputs]);
        let mut h = constant(&case.start, [width, hidden]);
        let mut loss = constant(&[0.0], [1]);
        let mut states = Vec::new();
        for t in 0..STEPS {
            let rows = t * width..(t + 1) * width;
            let kept: Vec<f32> = case.resets[rows.clone()].iter().map(|r| f32::from(u8::from(!r))).collect();
            let before = h * constant(&kept, [width, 1]);
            let xg = x.clone().slice([rows.clone(), 0..inputs]).matmul(w.clone()) + b.clone();
            let hg = before.clone().matmul(u.clone()) + c.clone();
            let gate = |of: &burn::tensor::Tensor<2>, i: usize| {
                of.clone().slice([0..width, i * hidden..(i + 1) * hidden])
            };
            let r = sigmoid(gate(&xg, 0) + gate(&hg, 0));
            let z = sigmoid(gate(&xg, 1) + gate(&hg, 1));
            let n = (gate(&xg, 2) + r * gate(&hg, 2)).tanh();
            h = n.clone() + z * (before - n);
            let d = &case.d[rows.start * hidden..rows.end * hidden];
            loss = loss + (h.clone() * constant(d, [width, hidden])).sum();
            states.extend(values(h.clone()));
        }
        let mut of = loss.backward();
        let reference = [w, b, u, c].map(|p| values(p.grad_remove(&mut of).unwrap())).concat();
        agrees(&gradient, &reference);
        agrees(&d_input, &values(x.grad_remove(&mut of).unwrap()));
        let mut workspace = gru.workspace(width, STEPS);
        agrees(gru.weights(p).forward(case.sequences(), &mut workspace), &states);
    }
}

#[test]
fn gradients_through_time_agree_with_finite_differences() {
    let case = case(4, 10, 3);
    let (gradient, _) = case.gradients();
    let mut workspace = case.gru.workspace(case.width, STEPS);
    agrees_with_differences(&case.parameters, &gradient, 3, |p| {
        weigh(case.gru.weights(p).forward(case.sequences(), &mut workspace), &case.d)
    });
}

#[test]
fn steps_one_by_one_have_the_bits_of_the_whole_sequence() {
    let case = case(13, 64, 5);
    let weights = case.gru.weights(&case.parameters);
    let (mut whole, mut single) = (case.gru.workspace(5, STEPS), case.gru.workspace(5, 1));
    let states = weights.forward(case.sequences(), &mut whole);
    let mut state = case.start.clone();
    for (t, expected) in states.chunks(5 * 64).enumerate() {
        let step = Sequences {
            input: &case.input[t * 5 * 13..(t + 1) * 5 * 13],
            start: &state.clone(),
            resets: &case.resets[t * 5..(t + 1) * 5],
        };
        state = weights.forward(step, &mut single).to_vec();
        assert_eq!(state, expected);
    }
}
