//! The same step with burn's CPU backend, its automatic differentiation and its tanh. It brings its own threads; Adam is left out,
//! in its favour.

use crate::best_of;
use burn::tensor::{Device, Distribution, Tensor};

pub(crate) fn seconds_per_step(sizes: &[usize], batch: usize, seconds: f64) -> f64 {
    let device = Device::flex().autodiff();
    let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.1), &device);
    let layers: Vec<_> = sizes
        .windows(2)
        .map(|pair| (random([pair[0], pair[1]]).require_grad(), random([1, pair[1]]).require_grad()))
        .collect();
    let (x, target) = (random([batch, sizes[0]]), random([batch, sizes[sizes.len() - 1]]));
    best_of(seconds, || {
        let y = layers.iter().enumerate().fold(x.clone(), |x, (i, (w, b))| {
            let y = x.matmul(w.clone()) + b.clone();
            if i + 1 == layers.len() { y } else { y.tanh() }
        });
        let mut gradients = (y - target.clone()).square().mean().backward();
        for (w, b) in &layers {
            std::hint::black_box((w.grad_remove(&mut gradients), b.grad_remove(&mut gradients)));
        }
    })
}
