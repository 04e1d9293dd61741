//! Attention, and the blocks around it.

use crate::reference::{agrees, agrees_with_differences, constant, draws, normal, tracked, values, weigh};
use burn::tensor::Tensor;
use burn::tensor::activation::{silu, softmax};
use std::ops::Range;
use tendon_nn::Transformer;

const WINDOWS: usize = 3;

struct Case {
    shape: Transformer,
    parameters: Vec<f32>,
    input: Vec<f32>,
    d: Vec<f32>,
}

fn case(inputs: usize, window: usize, width: usize, heads: usize, blocks: usize) -> Case {
    let shape = Transformer::new(inputs, window, width, heads, blocks);
    let mut parameters = shape.initialise(&mut normal(1));
    parameters.iter_mut().zip(draws(2, shape.parameter_count())).for_each(|(p, d)| *p += 0.1 * d);
    let (input, d) = (draws(3, WINDOWS * window * inputs), draws(4, WINDOWS * width));
    Case { shape, parameters, input, d }
}

impl Case {
    fn gradients(&self) -> (Vec<f32>, Vec<f32>) {
        let (weights, mut workspace) = (self.shape.weights(&self.parameters), self.shape.workspace(WINDOWS));
        let (mut gradient, mut d_input) = (vec![0.0; self.parameters.len()], vec![0.0; self.input.len()]);
        weights.forward(&self.input, &mut workspace);
        weights.backward(&self.input, &self.d, &mut workspace, &mut gradient, Some(&mut d_input));
        (gradient, d_input)
    }
}

#[test]
fn gradients_of_transformers_agree_with_burn() {
    for (inputs, window, width, heads, blocks) in [(5, 6, 16, 4, 2), (7, 1, 8, 1, 1), (12, 9, 48, 3, 1)] {
        let case = case(inputs, window, width, heads, blocks);
        let (gradient, d_input) = case.gradients();
        let (shape, p) = (case.shape, &case.parameters);
        let rows = WINDOWS * window;
        // In the order of the parameters.
        let mut tensors: Vec<Tensor<2>> = Vec::new();
        let mut tensor = |range: Range<usize>, width: usize| {
            let tensor = tracked(&p[range.clone()], [range.len() / width, width]);
            tensors.push(tensor.clone());
            tensor
        };
        let norm = |x: Tensor<2>, both: Tensor<2>| {
            let centred = x.clone() - x.mean_dim(1);
            let deviation = (centred.clone().square().mean_dim(1) + 1e-5).sqrt();
            let gain = both.clone().slice([0..1, 0..width]);
            centred / deviation * gain + both.slice([1..2, 0..width])
        };
        let x = tracked(&case.input, [rows, inputs]);
        let embedded =
            x.clone().matmul(tensor(shape.embedding(), width)) + tensor(shape.embedding_bias(), width);
        let positions = tensor(shape.positions(), width).reshape([1, window, width]);
        let mut y = (embedded.reshape([WINDOWS, window, width]) + positions).reshape([rows, width]);
        for index in 0..blocks {
            let at = shape.block(index);
            let normed = norm(y.clone(), tensor(at.attention_norm, width));
            let qkv = normed.matmul(tensor(at.qkv, 3 * width)) + tensor(at.qkv_bias, 3 * width);
            let part = |which: usize| {
                let columns = which * width..(which + 1) * width;
                let rows =
                    qkv.clone().slice([0..rows, columns]).reshape([WINDOWS, window, heads, width / heads]);
                rows.swap_dims(1, 2)
            };
            let scores = part(0).matmul(part(1).swap_dims(2, 3)) / ((width / heads) as f32).sqrt();
            let gathered = softmax(scores, 3).matmul(part(2)).swap_dims(1, 2).reshape([rows, width]);
            y = y + gathered.matmul(tensor(at.gather, width)) + tensor(at.gather_bias, width);
            let normed = norm(y.clone(), tensor(at.dense_norm, width));
            let up = silu(normed.matmul(tensor(at.up, 4 * width)) + tensor(at.up_bias, 4 * width));
            y = y + up.matmul(tensor(at.down, width)) + tensor(at.down_bias, width);
        }
        let last = y.reshape([WINDOWS, window, width]).slice([0..WINDOWS, window - 1..window, 0..width]);
        let result = norm(last.reshape([WINDOWS, width]), tensor(shape.last_norm(), width));
        let results = values(result.clone());
        let mut of = (result * constant(&case.d, [WINDOWS, width])).sum().backward();
        let reference: Vec<f32> =
            tensors.iter().flat_map(|tensor| values(tensor.grad_remove(&mut of).unwrap())).collect();
        agrees(&gradient, &reference);
        agrees(&d_input, &values(x.grad_remove(&mut of).unwrap()));
        agrees(shape.weights(p).forward(&case.input, &mut shape.workspace(WINDOWS)), &results);
    }
}

#[test]
fn gradients_of_transformers_agree_with_finite_differences() {
    let case = case(4, 5, 12, 3, 2);
    let (gradient, d_input) = case.gradients();
    let mut workspace = case.shape.workspace(WINDOWS);
    agrees_with_differences(&case.input, &d_input, 1, |input| {
        weigh(case.shape.weights(&case.parameters).forward(input, &mut workspace), &case.d)
    });
    agrees_with_differences(&case.parameters, &gradient, 7, |p| {
        weigh(case.shape.weights(p).forward(&case.input, &mut workspace), &case.d)
    });
}

#[test]
fn a_window_has_the_same_bits_alone_and_among_others() {
    let case = case(5, 6, 16, 4, 2);
    let (weights, mut workspace) = (case.shape.weights(&case.parameters), case.shape.workspace(WINDOWS));
    let all = weights.forward(&case.input, &mut workspace).to_vec();
    for (window, expected) in case.input.chunks(6 * 5).zip(all.chunks(16)) {
        assert_eq!(weights.forward(window, &mut workspace), expected);
    }
}
