//! Dense networks.

use crate::reference::{
    activate, agrees, agrees_with_differences, constant, draws, normal, tracked, values, weigh,
};
use tendon_nn::{Activation, BLOCK, Mlp};

const KINDS: [Activation; 5] =
    [Activation::Tanh, Activation::Relu, Activation::Elu, Activation::Swish, Activation::Sigmoid];

/// Gradients of parameters and input of `weigh(results, w)`.
fn gradients(mlp: &Mlp, parameters: &[f32], x: &[f32], w: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (weights, mut workspace) = (mlp.weights(parameters), mlp.workspace());
    let (mut gradient, mut d_input) = (vec![0.0; parameters.len()], vec![0.0; x.len()]);
    weights.forward(x, &mut workspace);
    weights.backward(x, w, &mut workspace, &mut gradient, Some(&mut d_input));
    (gradient, d_input)
}

#[test]
fn gradients_agree_with_burn_for_every_activation_and_for_sizes_that_fill_no_tile() {
    for (case, kind) in KINDS.into_iter().enumerate() {
        for (sizes, rows) in [(vec![13, 64, 64, 4], 37), (vec![48, 100, 33, 12], BLOCK), (vec![1, 1, 1], 1)] {
            let mlp = Mlp::new(&sizes, kind, kind);
            let mut parameters = mlp.initialise(1.0, &mut normal(case as u64));
            // Biases of zero would hide a bias that is left out.
            parameters.iter_mut().zip(draws(9, mlp.parameter_count())).for_each(|(p, d)| *p += 0.1 * d);
            let (x, w) = (draws(1, rows * mlp.inputs()), draws(2, rows * mlp.outputs()));
            let (gradient, d_input) = gradients(&mlp, &parameters, &x, &w);

            let tensors: Vec<_> = mlp
                .layers()
                .iter()
                .map(|l| {
                    let weight = tracked(&parameters[l.weights()], [l.inputs, l.outputs]);
                    (weight, tracked(&parameters[l.biases()], [1, l.outputs]))
                })
                .collect();
            let input = tracked(&x, [rows, mlp.inputs()]);
            let y = tensors
                .iter()
                .fold(input.clone(), |x, (w, b)| activate(kind, x.matmul(w.clone()) + b.clone()));
            let results = values(y.clone());
            let mut of = (y * constant(&w, [rows, mlp.outputs()])).sum().backward();
            let reference: Vec<f32> = tensors
                .iter()
                .flat_map(|(w, b)| {
                    [values(w.grad_remove(&mut of).unwrap()), values(b.grad_remove(&mut of).unwrap())]
                        .concat()
                })
                .collect();
            agrees(&gradient, &reference);
            agrees(&d_input, &values(input.grad_remove(&mut of).unwrap()));
            agrees(mlp.weights(&parameters).forward(&x, &mut mlp.workspace()), &results);
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    // Not Relu: where a step crosses its kink, differences say nothing.
    for kind in [Activation::Tanh, Activation::Elu, Activation::Swish, Activation::Sigmoid] {
        let mlp = Mlp::new(&[5, 20, 17, 3], kind, Activation::None);
        let parameters = mlp.initialise(1.0, &mut normal(3));
        let (x, w) = (draws(4, 10 * 5), draws(5, 10 * 3));
        let (gradient, d_input) = gradients(&mlp, &parameters, &x, &w);
        let mut workspace = mlp.workspace();
        agrees_with_differences(&parameters, &gradient, 3, |p| {
            weigh(mlp.weights(p).forward(&x, &mut workspace), &w)
        });
        let weights = mlp.weights(&parameters);
        agrees_with_differences(&x, &d_input, 1, |x| weigh(weights.forward(x, &mut workspace), &w));
    }
}

#[test]
fn a_gradient_is_added_to_what_is_there() {
    let mlp = Mlp::new(&[3, 40, 2], Activation::Tanh, Activation::None);
    let parameters = mlp.initialise(1.0, &mut normal(0));
    let (weights, mut workspace) = (mlp.weights(&parameters), mlp.workspace());
    let (x, w) = (draws(1, 3 * 8), draws(2, 2 * 8));
    let (mut once, mut twice) = (vec![0.0; parameters.len()], vec![0.0; parameters.len()]);
    for gradient in [&mut once, &mut twice] {
        weights.forward(&x, &mut workspace);
        weights.backward(&x, &w, &mut workspace, gradient, None);
    }
    weights.backward(&x, &w, &mut workspace, &mut twice, None);
    let doubled: Vec<f32> = once.iter().map(|g| 2.0 * g).collect();
    agrees(&twice, &doubled);
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_a_batch() {
    for kind in KINDS {
        let mlp = Mlp::new(&[48, 70, 256, 12], kind, Activation::None);
        let parameters = mlp.initialise(1.0, &mut normal(6));
        let (weights, mut workspace) = (mlp.weights(&parameters), mlp.workspace());
        let rows = BLOCK + 77;
        let x = draws(7, rows * 48);
        let (mut batch, mut alone) = (vec![0.0; rows * 12], vec![0.0; 12]);
        weights.infer(&x, &mut batch, &mut workspace);
        for (x, y) in x.chunks(48).zip(batch.chunks(12)) {
            weights.infer(x, &mut alone, &mut workspace);
            assert_eq!(alone, y);
        }
    }
}

#[test]
fn initial_weights_are_orthogonal() {
    let mlp = Mlp::new(&[64, 5], Activation::None, Activation::None);
    let weight = &mlp.initialise(2.0, &mut normal(3))[..64 * 5];
    for a in 0..5 {
        for b in 0..5 {
            let dot: f32 = (0..64).map(|i| weight[i * 5 + a] * weight[i * 5 + b]).sum();
            let expected = if a == b { 4.0 } else { 0.0 };
            assert!((dot - expected).abs() < 1e-4, "{a} {b} {dot}");
        }
    }
}
