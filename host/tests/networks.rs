//! Policies that remember, see images or attend, from training's own form to the runtime and the controller.

mod common;

use common::{in_process, open, start};
use tendon::export::{contract_keys, policy_onnx};
use tendon::link::{ControllerKind, Session, Transport};
use tendon_compiler::parity::ImageRunner;
use tendon_compiler::{Options, compile};
use tendon_learn::{Head, Hidden, NetworkConfig, NetworkKind, Normaliser, Policy, Rng};
use tendon_runtime::AlignedBytes;
use tendon_sim::Environment;
use tendon_sim::tasks::find;

/// One of each kind, for tasks whose observation is wide enough.
fn kinds() -> Vec<(&'static str, NetworkConfig)> {
    let transformer = NetworkConfig::of(NetworkKind::Transformer);
    let image = NetworkConfig {
        image: [6, 5, 1],
        kernels: vec![3, 2],
        strides: vec![1, 1],
        ..NetworkConfig::of(NetworkKind::Conv)
    };
    vec![
        ("cart-pole", NetworkConfig::of(NetworkKind::Gru)),
        ("cart-pole", transformer.clone()),
        ("cart-pole", NetworkConfig { window: 1, blocks: 2, ..transformer }),
        ("quadruped", image),
    ]
}

/// A policy of drawn weights for a task, and its image.
fn policy_and_image(task: &str, config: &NetworkConfig) -> (Policy, AlignedBytes) {
    let environment = find(task).unwrap().make().unwrap();
    let (n_obs, n_act) = (environment.observation_len(), environment.action_len());
    let mut rng = Rng::at(7, &[]);
    let mut normaliser = Normaliser::new(n_obs);
    normaliser.update(&(0..50 * n_obs).map(|_| rng.normal() as f32).collect::<Vec<f32>>());
    let network = config.build(n_obs, &[24], n_act, Hidden::Tanh).unwrap();
    let parameters = network.initialise(0.5, &mut || rng.normal());
    let policy = Policy { normaliser: normaliser.freeze(), head: Head::Direct, network, parameters };
    let contract = environment.contract();
    let onnx = policy_onnx(&policy, &contract.to_json(), &contract_keys(contract));
    let image = compile(&onnx, &Options::default()).unwrap().image;
    (policy, image)
}

fn observations(n_obs: usize) -> Vec<Vec<f32>> {
    let mut rng = Rng::at(8, &[]);
    (0..100).map(|_| (0..n_obs).map(|_| 1.5 * rng.normal() as f32).collect()).collect()
}

#[test]
fn the_runtime_computes_what_was_trained_memory_included() {
    for (task, config) in kinds() {
        let (policy, image) = policy_and_image(task, &config);
        let mut runtime = ImageRunner::new(&image).unwrap();
        let (mut actor, mut expected) = (policy.actor(), Vec::new());
        let (mut worst, mut largest) = (0.0f32, 0.0f32);
        for observation in observations(policy.observation_len()) {
            actor.act(&observation, &mut expected);
            for (a, b) in runtime.run(&observation).unwrap().iter().zip(&expected) {
                worst = worst.max((a - b).abs());
                largest = largest.max(a.abs());
            }
        }
        assert!(largest > 0.1, "{config:?}: actions of at most {largest} say nothing");
        assert!(worst <= 1e-5, "{config:?}: {worst}");
    }
}

fn inferred<T: Transport>(session: &mut Session<T>, image: &AlignedBytes, n_obs: usize) -> Vec<Vec<f32>> {
    session.upload(image, |_| ()).unwrap();
    observations(n_obs).iter().take(10).map(|row| session.infer(row).unwrap().0).collect()
}

#[test]
fn the_controller_gives_the_bits_of_this_process_for_every_kind_of_network() {
    let Some(controller) = start(ControllerKind::Qemu) else { return };
    for (task, config) in kinds() {
        let (policy, image) = policy_and_image(task, &config);
        let n_obs = policy.observation_len();
        let here = in_process(|session| inferred(session, &image, n_obs));
        assert_eq!(inferred(&mut open(&controller), &image, n_obs), here, "{config:?}");
    }
}
