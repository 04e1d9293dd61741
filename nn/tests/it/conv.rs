//! Convolutions.

use crate::reference::{
    activate, agrees, agrees_with_differences, constant, draws, normal, tracked, values, weigh,
};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use tendon_nn::{Activation, Conv2d};

const CASES: [Conv2d; 3] = [
    Conv2d {
        height: 20,
        width: 17,
        channels: 3,
        outputs: 16,
        kernel: 4,
        stride: 2,
        activation: Activation::Relu,
    },
    Conv2d {
        height: 9,
        width: 9,
        channels: 5,
        outputs: 33,
        kernel: 3,
        stride: 1,
        activation: Activation::Swish,
    },
    // The last column of pixels is seen by nothing.
    Conv2d {
        height: 5,
        width: 6,
        channels: 1,
        outputs: 2,
        kernel: 2,
        stride: 2,
        activation: Activation::Tanh,
    },
];
const IMAGES: usize = 4;

struct Case {
    parameters: Vec<f32>,
    images: Vec<f32>,
    d: Vec<f32>,
}

fn case(conv: &Conv2d) -> Case {
    let mut parameters = conv.initialise(&mut normal(1));
    parameters.iter_mut().zip(draws(2, conv.parameter_count())).for_each(|(p, d)| *p += 0.1 * d);
    Case { parameters, images: draws(3, IMAGES * conv.input_len()), d: draws(4, IMAGES * conv.output_len()) }
}

fn gradients(conv: &Conv2d, case: &Case) -> (Vec<f32>, Vec<f32>) {
    let (weights, mut workspace) = (conv.weights(&case.parameters), conv.workspace(IMAGES));
    let (mut gradient, mut d_images) = (vec![0.0; case.parameters.len()], vec![0.0; case.images.len()]);
    weights.forward(&case.images, &mut workspace);
    weights.backward(&case.images, &case.d, &mut workspace, &mut gradient, Some(&mut d_images));
    (gradient, d_images)
}

#[test]
fn gradients_of_convolutions_agree_with_burn() {
    for conv in CASES {
        let case = case(&conv);
        let (gradient, d_images) = gradients(&conv, &case);
        let (k, (height, width)) = (conv.kernel, conv.out_size());
        let filters = tracked(&case.parameters[conv.filters()], [k, k, conv.channels, conv.outputs]);
        let bias = tracked(&case.parameters[conv.biases()], [conv.outputs]);
        let images = tracked(&case.images, [IMAGES, conv.height, conv.width, conv.channels]);
        let options = ConvOptions::new([conv.stride; 2], [0, 0], [1, 1], 1);
        let y = conv2d(
            images.clone().permute([0, 3, 1, 2]),
            filters.clone().permute([3, 2, 0, 1]),
            Some(bias.clone()),
            options,
        );
        let y = activate(conv.activation, y.permute([0, 2, 3, 1]));
        let results = values(y.clone());
        let mut of = (y * constant(&case.d, [IMAGES, height, width, conv.outputs])).sum().backward();
        let reference =
            [values(filters.grad_remove(&mut of).unwrap()), values(bias.grad_remove(&mut of).unwrap())]
                .concat();
        agrees(&gradient, &reference);
        agrees(&d_images, &values(images.grad_remove(&mut of).unwrap()));
        agrees(conv.weights(&case.parameters).forward(&case.images, &mut conv.workspace(IMAGES)), &results);
    }
}

#[test]
fn gradients_of_convolutions_agree_with_finite_differences() {
    // Not the first: Relu has a kink.
    for conv in &CASES[1..] {
        let case = case(conv);
        let (gradient, d_images) = gradients(conv, &case);
        let mut workspace = conv.workspace(IMAGES);
        agrees_with_differences(&case.parameters, &gradient, 7, |p| {
            weigh(conv.weights(p).forward(&case.images, &mut workspace), &case.d)
        });
        let weights = conv.weights(&case.parameters);
        agrees_with_differences(&case.images, &d_images, 5, |images| {
            weigh(weights.forward(images, &mut workspace), &case.d)
        });
    }
}
