//! What gradients are compared with.

use burn::tensor::{Device, Tensor, TensorData};
use tendon_nn::Activation;

/// Seeded standard normal draws.
pub(crate) fn normal(seed: u64) -> impl FnMut() -> f64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    move || (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// `count` seeded standard normal numbers.
pub(crate) fn draws(seed: u64, count: usize) -> Vec<f32> {
    let mut normal = normal(seed);
    (0..count).map(|_| normal() as f32).collect()
}

/// The loss that turns results into one number: the sum of results times fixed weights.
pub(crate) fn weigh(results: &[f32], weights: &[f32]) -> f64 {
    assert_eq!(results.len(), weights.len());
    results.iter().zip(weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
}

/// Fails where `gradient` is not the slope of `loss` between `at - step` and `at + step`, for every `stride`-th number. The bound
/// is that of `f32` sums and of the step's curvature, relative to the largest slope.
pub(crate) fn agrees_with_differences(
    at: &[f32],
    gradient: &[f32],
    stride: usize,
    mut loss: impl FnMut(&[f32]) -> f64,
) {
    const STEP: f32 = 1e-2;
    assert_eq!(at.len(), gradient.len());
    let scale = gradient.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    assert!(scale > 0.0, "a gradient of zeros says nothing");
    let mut moved = at.to_vec();
    for i in (0..at.len()).step_by(stride) {
        moved[i] = at[i] + STEP;
        let (above, right) = (loss(&moved), moved[i]);
        moved[i] = at[i] - STEP;
        let (below, left) = (loss(&moved), moved[i]);
        moved[i] = at[i];
        let slope = (above - below) / f64::from(right - left);
        let error = (slope - f64::from(gradient[i])).abs();
        assert!(
            error < 3e-3 * f64::from(scale) + 1e-4,
            "{i}: slope {slope}, gradient {}, of at most {scale}",
            gradient[i]
        );
    }
}

/// Fails where two gradients differ by more than `f32` sums in another order do, relative to the largest.
pub(crate) fn agrees(ours: &[f32], reference: &[f32]) {
    assert_eq!(ours.len(), reference.len());
    let scale = reference.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    assert!(scale > 0.0, "a gradient of zeros says nothing");
    for (i, (a, b)) in ours.iter().zip(reference).enumerate() {
        assert!((a - b).abs() <= 1e-5 * scale, "{i}: {a}, reference {b}, of at most {scale}");
    }
}

/// A tracked tensor of burn's.
pub(crate) fn tracked<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
    constant(values, shape).require_grad()
}

/// A tensor of burn's that has no gradient.
pub(crate) fn constant<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex().autodiff())
}

/// Numbers of a tensor.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

/// burn's function of that name.
pub(crate) fn activate<const D: usize>(kind: Activation, z: Tensor<D>) -> Tensor<D> {
    use burn::tensor::activation::{elu, relu, sigmoid, silu};
    match kind {
        Activation::None => z,
        Activation::Tanh => z.tanh(),
        Activation::Relu => relu(z),
        Activation::Elu => elu(z, 1.0),
        Activation::Swish => silu(z),
        Activation::Sigmoid => sigmoid(z),
    }
}
