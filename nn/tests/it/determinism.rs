//! The same bits on any number of threads.

use crate::reference::{draws, normal};
use tendon_nn::{Activation, Adam, AdamSettings, BLOCK, Mlp, Sharded};

/// Parameters after some steps of mean-squared error, and the loss of each step.
fn trained(threads: usize, rows: usize) -> (Vec<f32>, Vec<f64>) {
    let mlp = Mlp::new(&[7, 64, 33, 3], Activation::Tanh, Activation::None);
    let mut parameters = mlp.initialise(1.0, &mut normal(1));
    let mut weights = mlp.weights(&parameters);
    let mut adam = Adam::new(parameters.len(), AdamSettings { max_norm: 0.5, ..AdamSettings::default() });
    let mut sharded = Sharded::new(threads, parameters.len(), || (mlp.workspace(), 0.0f64));
    let (x, target) = (draws(2, rows * 7), draws(3, rows * 3));
    let mut losses = Vec::new();
    for _ in 0..10 {
        let gradient = sharded.gradient(rows, |rows, (workspace, loss), gradient| {
            let x = &x[rows.start * 7..rows.end * 7];
            let target = &target[rows.start * 3..rows.end * 3];
            let y = weights.forward(x, workspace);
            let difference: Vec<f32> = y.iter().zip(target).map(|(y, t)| y - t).collect();
            *loss += difference.iter().map(|d| f64::from(d * d)).sum::<f64>();
            weights.backward(x, &difference, workspace, gradient, None);
        });
        adam.step(&mut parameters, gradient, 1e-2);
        weights.set(&parameters);
        losses.push(sharded.states().map(|(_, loss)| std::mem::take(loss)).sum());
    }
    (parameters, losses)
}

#[test]
fn training_has_the_same_bits_on_any_number_of_threads() {
    for rows in [1, BLOCK - 1, 3 * BLOCK + 5, 11 * BLOCK] {
        let one = trained(1, rows);
        assert!(one.1[9] < one.1[0], "{:?}", one.1);
        for threads in [2, 3, 8] {
            assert_eq!(trained(threads, rows), one, "{rows} rows, {threads} threads");
        }
    }
}

#[test]
fn every_row_of_a_batch_counts_once() {
    for rows in [0, 1, BLOCK, BLOCK + 1, 20 * BLOCK + 7] {
        let mut sharded = Sharded::new(2, 1, || vec![0u32; rows]);
        sharded.gradient(rows, |range, seen, gradient| {
            assert!(range.len() <= BLOCK);
            gradient[0] += range.len() as f32;
            range.for_each(|row| seen[row] += 1);
        });
        let mut seen = vec![0; rows];
        sharded.states().for_each(|state| seen.iter_mut().zip(state).for_each(|(a, b)| *a += *b));
        assert!(seen.iter().all(|times| *times == 1), "{rows} rows: {seen:?}");
    }
}
