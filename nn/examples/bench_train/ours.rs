//! A training step of tendon-nn.

use crate::{GRU_STEPS, Net, best_of};
use tendon_nn::{Activation, Adam, AdamSettings, BLOCK, Gru, Mlp, Sequences, Sharded};

const RATE: f32 = 1e-3;

pub(crate) fn seconds_per_step(net: &Net, batch: usize, threads: usize, seconds: f64) -> f64 {
    match net.activation {
        "gru" => recurrent(net.sizes, batch, threads, seconds),
        "elu" => dense(net.sizes, Activation::Elu, batch, threads, seconds),
        _ => dense(net.sizes, Activation::Tanh, batch, threads, seconds),
    }
}

/// Writes d (mean-squared error of the whole batch) / d results.
fn mean_squared_error(y: &[f32], target: &[f32], factor: f32, d: &mut [f32]) {
    d.iter_mut().zip(y).zip(target).for_each(|((d, y), t)| *d = factor * (y - t));
}

fn dense(sizes: &[usize], hidden: Activation, batch: usize, threads: usize, seconds: f64) -> f64 {
    let mut normal = normal();
    let mlp = Mlp::new(sizes, hidden, Activation::None);
    let (inputs, outputs) = (mlp.inputs(), mlp.outputs());
    let mut parameters = mlp.initialise(1.0, &mut normal);
    let mut weights = mlp.weights(&parameters);
    let mut adam = Adam::new(parameters.len(), AdamSettings::default());
    let state = || (mlp.workspace(), vec![0.0; BLOCK * outputs]);
    let mut sharded = Sharded::new(threads, parameters.len(), state);
    let x: Vec<f32> = (0..batch * inputs).map(|_| normal() as f32).collect();
    let target: Vec<f32> = (0..batch * outputs).map(|_| normal() as f32).collect();
    let factor = 2.0 / (batch * outputs) as f32;
    best_of(seconds, || {
        sharded.gradient(batch, |rows, (workspace, d), gradient| {
            let x = &x[rows.start * inputs..rows.end * inputs];
            let d = &mut d[..rows.len() * outputs];
            let y = weights.forward(x, workspace);
            mean_squared_error(y, &target[rows.start * outputs..rows.end * outputs], factor, d);
            weights.backward(x, d, workspace, gradient, None);
        });
        let (pool, gradient) = sharded.pool();
        adam.step_on(pool, &mut parameters, gradient, RATE);
        weights.set_on(pool, &parameters);
    })
}

/// Sequences of a block: their states pass through the first cache at every step.
const SEQUENCES: usize = 8;

fn recurrent(sizes: &[usize], batch: usize, threads: usize, seconds: f64) -> f64 {
    let mut normal = normal();
    let [inputs, hidden, outputs] = *sizes else { unreachable!("a recurrent net has three sizes") };
    let (gru, head) =
        (Gru::new(inputs, hidden), Mlp::new(&[hidden, outputs], Activation::None, Activation::None));
    let split = gru.parameter_count();
    let mut parameters = [gru.initialise(&mut normal), head.initialise(1.0, &mut normal)].concat();
    let (mut weights, mut head_weights) =
        (gru.weights(&parameters[..split]), head.weights(&parameters[split..]));
    let mut adam = Adam::new(parameters.len(), AdamSettings::default());
    let rows = SEQUENCES * GRU_STEPS;
    let state = || {
        let (d, d_states) = (vec![0.0; rows * outputs], vec![0.0; rows * hidden]);
        (gru.workspace(SEQUENCES, GRU_STEPS), head.workspace(), d, d_states)
    };
    let mut sharded = Sharded::new(threads, parameters.len(), state).with_block(SEQUENCES);
    // Blocks lie one after the other, each with its steps in order.
    let x: Vec<f32> = (0..batch * inputs).map(|_| normal() as f32).collect();
    let target: Vec<f32> = (0..batch * outputs).map(|_| normal() as f32).collect();
    let (start, resets) = (vec![0.0; SEQUENCES * hidden], vec![false; rows]);
    let factor = 2.0 / (batch * outputs) as f32;
    best_of(seconds, || {
        sharded.gradient(batch / GRU_STEPS, |range, (workspace, head_space, d, d_states), gradient| {
            let rows = range.start * GRU_STEPS..range.end * GRU_STEPS;
            let input = &x[rows.start * inputs..rows.end * inputs];
            let sequences =
                Sequences { input, start: &start[..range.len() * hidden], resets: &resets[..rows.len()] };
            let (of_gru, of_head) = gradient.split_at_mut(split);
            let (d, d_states) = (&mut d[..rows.len() * outputs], &mut d_states[..rows.len() * hidden]);
            let states = weights.forward(sequences, workspace);
            let y = head_weights.forward(states, head_space);
            mean_squared_error(y, &target[rows.start * outputs..rows.end * outputs], factor, d);
            head_weights.backward(states, d, head_space, of_head, Some(d_states));
            weights.backward(sequences, d_states, workspace, of_gru, None);
        });
        let (pool, gradient) = sharded.pool();
        adam.step_on(pool, &mut parameters, gradient, RATE);
        weights.set(&parameters[..split]);
        head_weights.set(&parameters[split..]);
    })
}

fn normal() -> impl FnMut() -> f64 {
    let mut rng = fastrand::Rng::with_seed(7);
    move || (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}
