//! The one door to burn: gradients of a loss with respect to packed weights.

use burn::tensor::{Device, Tensor, TensorData};

use crate::mlp::{Mlp, tanh};

/// A loss, its gradient and what the loss function wants to report.
#[derive(Clone, Debug)]
pub(crate) struct Gradient {
    /// d loss / d parameters, in the order of the parameters.
    pub(crate) values: Vec<f32>,
    /// Scalars from the loss function, summed over shards.
    pub(crate) report: Vec<f64>,
}

/// Shards of a batch whose gradients are computed side by side. It is a constant, not the number of cores: the sum over shards, and
/// so every bit of the result, is the same on one thread and on two.
const SHARDS: usize = 2;

/// Gradient of `loss` over `rows` (indices into the caller's data), computed in [`SHARDS`] parts on up to `threads` threads.
///
/// `shapes` cuts `parameters` into matrices; `loss` gets them as tracked tensors with its share of the rows and returns a **sum** over
/// these rows (so that shards add up to the whole), already divided by the size of the full batch, and scalars to report.
pub(crate) fn sharded_gradient<L>(
    shapes: &[[usize; 2]],
    parameters: &[f32],
    rows: &[usize],
    threads: usize,
    loss: L,
) -> Gradient
where
    L: Fn(&[Tensor<2>], &[usize]) -> (Tensor<1>, Vec<Tensor<1>>) + Sync,
{
    let shards: Vec<&[usize]> = rows.chunks(rows.len().div_ceil(SHARDS).max(1)).collect();
    let run = |rows: &[usize]| gradient(shapes, parameters, |tensors| loss(tensors, rows));
    parallel_map(&shards, threads, |_, rows| run(rows))
        .into_iter()
        .reduce(|mut sum, part| {
            sum.values.iter_mut().zip(&part.values).for_each(|(a, b)| *a += b);
            sum.report.iter_mut().zip(&part.report).for_each(|(a, b)| *a += b);
            sum
        })
        .unwrap_or_else(|| Gradient { values: vec![0.0; parameters.len()], report: Vec::new() })
}

/// Applies `work` to every item on at most `threads` threads; results come in the order of the items.
pub(crate) fn parallel_map<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(usize, &T) -> R + Sync,
) -> Vec<R> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    if items.len() <= share {
        return items.iter().enumerate().map(|(i, item)| work(i, item)).collect();
    }
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = items
            .chunks(share)
            .enumerate()
            .map(|(c, chunk)| {
                scope.spawn(move || {
                    chunk.iter().enumerate().map(|(i, item)| work(c * share + i, item)).collect::<Vec<R>>()
                })
            })
            .collect();
        handles
            .into_iter()
            .flat_map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// The device on which gradients are computed: burn's CPU backend.
pub(crate) fn device() -> Device {
    Device::flex().autodiff()
}

/// A constant matrix `[rows, columns]`.
pub(crate) fn matrix(values: Vec<f32>, columns: usize) -> Tensor<2> {
    let rows = values.len() / columns;
    Tensor::from_data(TensorData::new(values, [rows, columns]), &device())
}

/// Shapes of an [`Mlp`]'s matrices in packed order, biases as `[1, outputs]`.
pub(crate) fn shapes(mlp: &Mlp) -> Vec<[usize; 2]> {
    mlp.layers().flat_map(|layer| [[layer.inputs, layer.outputs], [1, layer.outputs]]).collect()
}

/// [`Mlp::infer`] on tracked tensors; `tensors` in the order of [`shapes`].
pub(crate) fn forward(tensors: &[Tensor<2>], input: Tensor<2>) -> Tensor<2> {
    let layers = tensors.len() / 2;
    tensors.chunks_exact(2).enumerate().fold(input, |x, (i, layer)| {
        let y = x.matmul(layer[0].clone()) + layer[1].clone();
        if i + 1 == layers { y } else { fast_tanh(y) }
    })
}

/// tanh with the rational approximation of rollouts, so that training and inference see the same function.
///
/// burn-flex's own takes about 14 ns per element. Here the value is computed outside the graph and enters it as
/// `y + (x - x) (1 - y^2)`, where only the first `x` is tracked: the value is exactly `y`, the derivative exactly `1 - y^2`.
fn fast_tanh(x: Tensor<2>) -> Tensor<2> {
    let shape = x.dims();
    let constant = x.clone().without_autodiff();
    let values: Vec<f32> = constant.to_data().try_to_vec().expect("every tensor here is f32");
    let y: Vec<f32> = values.iter().map(|&v| tanh(v)).collect();
    let slope: Vec<f32> = y.iter().map(|v| 1.0 - v * v).collect();
    let device = Device::flex();
    let y = Tensor::<2>::from_data(TensorData::new(y, shape), &device).autodiff();
    let slope = Tensor::<2>::from_data(TensorData::new(slope, shape), &device).autodiff();
    (x - constant.autodiff()) * slope + y
}

fn gradient(
    shapes: &[[usize; 2]],
    parameters: &[f32],
    loss: impl FnOnce(&[Tensor<2>]) -> (Tensor<1>, Vec<Tensor<1>>),
) -> Gradient {
    let device = device();
    let mut offset = 0;
    let tensors: Vec<Tensor<2>> = shapes
        .iter()
        .map(|&shape| {
            let values = parameters[offset..offset + shape[0] * shape[1]].to_vec();
            offset += values.len();
            Tensor::from_data(TensorData::new(values, shape), &device).require_grad()
        })
        .collect();
    let (loss, report) = loss(&tensors);
    let mut gradients = loss.backward();
    let mut values = Vec::with_capacity(parameters.len());
    for (tensor, shape) in tensors.iter().zip(shapes) {
        match tensor.grad_remove(&mut gradients) {
            Some(gradient) => {
                values.extend(gradient.into_data().try_to_vec::<f32>().expect("every tensor here is f32"))
            }
            // The loss does not depend on this matrix.
            None => values.extend(std::iter::repeat_n(0.0, shape[0] * shape[1])),
        }
    }
    let report = report.into_iter().map(|scalar| f64::from(scalar.into_scalar::<f32>())).collect();
    Gradient { values, report }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    #[test]
    fn plain_inference_agrees_with_burn() {
        let mlp = Mlp::new(7, &[64, 40], 3);
        let mut rng = Rng::at(5, &[]);
        let parameters = mlp.initialise(1.0, &mut rng);
        let input: Vec<f32> = (0..7 * 100).map(|_| 2.0 * rng.normal() as f32).collect();
        let mut plain = Vec::new();
        mlp.infer(&parameters, &input, &mut plain);
        let exact = {
            let tensor = |range: std::ops::Range<usize>, shape| {
                Tensor::<2>::from_data(TensorData::new(parameters[range].to_vec(), shape), &Device::flex())
            };
            let layers: Vec<_> = mlp.layers().collect();
            layers.iter().fold(matrix(input, 7).without_autodiff(), |x, l| {
                let y = x.matmul(tensor(l.weight..l.bias, [l.inputs, l.outputs]))
                    + tensor(l.bias..l.bias + l.outputs, [1, l.outputs]);
                if l.last { y } else { y.tanh() }
            })
        };
        let exact: Vec<f32> = exact.into_data().try_to_vec().unwrap();
        let worst = plain.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{worst}");
    }

    #[test]
    fn gradient_agrees_with_finite_differences_and_ignores_threads() {
        let mlp = Mlp::new(3, &[8], 2);
        let mut rng = Rng::at(6, &[]);
        let mut parameters = mlp.initialise(1.0, &mut rng);
        let input: Vec<f32> = (0..3 * 10).map(|_| rng.normal() as f32).collect();
        let rows: Vec<usize> = (0..10).collect();
        let loss = |tensors: &[Tensor<2>], rows: &[usize]| {
            let x = rows.iter().flat_map(|&r| input[r * 3..r * 3 + 3].to_vec()).collect();
            let sum = forward(tensors, matrix(x, 3)).square().sum();
            (sum.clone(), vec![sum])
        };
        let one = sharded_gradient(&shapes(&mlp), &parameters, &rows, 1, loss);
        let two = sharded_gradient(&shapes(&mlp), &parameters, &rows, 2, loss);
        assert_eq!(one.values, two.values);
        let value = |parameters: &[f32]| {
            let mut y = Vec::new();
            mlp.infer(parameters, &input, &mut y);
            y.iter().map(|v| f64::from(v * v)).sum::<f64>()
        };
        for i in (0..parameters.len()).step_by(5) {
            let kept = parameters[i];
            parameters[i] = kept + 1e-2;
            let above = value(&parameters);
            parameters[i] = kept - 1e-2;
            let below = value(&parameters);
            parameters[i] = kept;
            let numeric = (above - below) / 2e-2;
            assert!(
                (numeric - f64::from(one.values[i])).abs() < 1e-2 * (1.0 + numeric.abs()),
                "{i}: {numeric} {}",
                one.values[i]
            );
        }
    }
}
