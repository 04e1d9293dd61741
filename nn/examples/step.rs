//! Time of a training step.
use std::time::Instant;
use tendon_nn::*;
fn main() {
    for threads in [1, 2] {
        for (sizes, act) in [(vec![13, 64, 64, 4], Activation::Tanh), (vec![48, 256, 256, 12], Activation::Tanh), (vec![48, 512, 256, 128, 12], Activation::Elu)] {
            for batch in [256usize, 4096, 16384] {
                let mlp = Mlp::new(&sizes, act, Activation::None);
                let mut rng = fastrand_like(7);
                let mut parameters = mlp.initialise(1.0, &mut rng);
                let mut weights = mlp.weights(&parameters);
                let mut adam = Adam::new(parameters.len(), AdamSettings::default());
                let (ni, no) = (mlp.inputs(), mlp.outputs());
                let mut sharded = Sharded::new(threads, parameters.len(), || (mlp.workspace(), vec![0.0f32; BLOCK * no]));
                let x: Vec<f32> = (0..batch * ni).map(|_| rng() as f32).collect();
                let t: Vec<f32> = (0..batch * no).map(|_| rng() as f32).collect();
                let mut step = || {
                    let gradient = sharded.gradient(batch, |rows, (ws, d), g| {
                        let x = &x[rows.start * ni..rows.end * ni];
                        let t = &t[rows.start * no..rows.end * no];
                        let y = weights.forward(x, ws);
                        let d = &mut d[..y.len()];
                        for ((d, y), t) in d.iter_mut().zip(y).zip(t) { *d = 2.0 * (y - t) / (batch * no) as f32; }
                        weights.backward(x, d, ws, g, None);
                    });
                    adam.step(&mut parameters, gradient, 1e-3);
                    weights.set(&parameters);
                };
                for _ in 0..3 { step(); }
                let n = (2_000_000 / batch / (1 + sizes[1] / 32)).clamp(3, 2000);
                let mut best = f64::MAX;
                for _ in 0..5 {
                    let at = Instant::now();
                    for _ in 0..n { step(); }
                    best = best.min(at.elapsed().as_secs_f64() / n as f64);
                }
                let w: usize = sizes.windows(2).map(|p| p[0] * p[1]).sum();
                let flop = (batch * (6 * w - 2 * sizes[0] * sizes[1])) as f64;
                println!("{threads} threads {sizes:?} batch {batch}: {:.3} ms, {:.1} GFLOP/s, {:.0} samples/s", best * 1e3, flop / best * 1e-9, batch as f64 / best);
            }
        }
    }
}
fn fastrand_like(seed: u64) -> impl FnMut() -> f64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    move || (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}
