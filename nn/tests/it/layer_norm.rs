//! Layer normalisation.

use crate::reference::{agrees, agrees_with_differences, constant, draws, tracked, values, weigh};
use tendon_nn::LayerNorm;

#[test]
fn gradients_of_layer_normalisation_agree_with_burn_and_with_finite_differences() {
    for (rows, width) in [(1, 5), (9, 64)] {
        let norm = LayerNorm { width };
        let mut parameters = norm.initialise();
        parameters.iter_mut().zip(draws(1, 2 * width)).for_each(|(p, d)| *p += 0.3 * d);
        let (x, w) = (draws(2, rows * width), draws(3, rows * width));
        let (mut y, mut gradient, mut d_x) = (vec![0.0; x.len()], vec![0.0; 2 * width], vec![0.0; x.len()]);
        norm.forward(&parameters, &x, &mut y);
        norm.backward(&parameters, &x, &w, &mut gradient, &mut d_x);

        let gain = tracked(&parameters[..width], [1, width]);
        let bias = tracked(&parameters[width..], [1, width]);
        let input = tracked(&x, [rows, width]);
        let centred = input.clone() - input.clone().mean_dim(1);
        let deviation = (centred.clone().square().mean_dim(1) + 1e-5).sqrt();
        let result = centred / deviation * gain.clone() + bias.clone();
        agrees(&y, &values(result.clone()));
        let mut of = (result * constant(&w, [rows, width])).sum().backward();
        let reference =
            [values(gain.grad_remove(&mut of).unwrap()), values(bias.grad_remove(&mut of).unwrap())].concat();
        agrees(&gradient, &reference);
        agrees(&d_x, &values(input.grad_remove(&mut of).unwrap()));

        let mut loss = |p: &[f32], x: &[f32]| {
            norm.forward(p, x, &mut y);
            weigh(&y, &w)
        };
        agrees_with_differences(&parameters, &gradient, 1, |p| loss(p, &x));
        agrees_with_differences(&x, &d_x, 1, |x| loss(&parameters, x));
    }
}
