use crate::controller::profiles;
use crate::world::{Parts, seal, spec};
use fastrand::Rng;
use tendon_runtime::{Image, ImageError};
use tendon_wire::image::Header;

#[path = "../examples/image_mutants.rs"]
mod mutants;

use mutants::{Room, one_mutant};

#[test]
fn refuses_an_abstention_section_that_does_not_hold() {
    let good = || Parts::of(&spec(), 1).abstaining(50.0);
    assert!(Image::parse(&good().image()).is_ok());
    let n = good().plan.n_inputs as usize;
    let cases: [(&str, usize, f32); 6] = [
        ("abstention window", 8, 0.0),
        ("abstention weights", 12, f32::NAN),
        ("abstention ranges", 40, 60.0),
        ("abstention values", 40 + 8 * n, f32::INFINITY),
        ("abstention scales", 40 + 12 * n, -1.0),
        ("abstention inputs", 0, 0.0),
    ];
    for (what, at, value) in cases {
        let mut parts = good();
        let bytes = if what == "abstention inputs" {
            Parts::bare(6, 3, 2).abstaining(1.0).abstention
        } else {
            parts.abstention.clone()
        };
        parts.abstention = bytes;
        if what != "abstention inputs" {
            parts.abstention[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        assert_eq!(Image::parse(&parts.image()).err(), Some(ImageError::Section(what)));
    }
    let mut short = good();
    short.abstention.truncate(100);
    assert!(matches!(Image::parse(&short.image()).err(), Some(ImageError::Section(_))));
}

#[test]
fn admitted_mutants_run_and_others_are_refused_without_panic() {
    let mutants = if cfg!(debug_assertions) { 20_000 } else { 300_000 };
    let seeds = [Parts::of(&profiles(), 1).abstaining(50.0).image(), Parts::bare(6, 3, 2).image()];
    let (mut rng, mut room) = (Rng::with_seed(13), Room::new());
    let mut admitted = 0;
    for mutant in 0..mutants {
        admitted +=
            u64::from(one_mutant(&seeds[usize::from(mutant % 8 == 0)], &mut room, &mut rng).is_some());
    }
    std::println!("{admitted} of {mutants} mutants admitted");
    assert!(admitted > mutants / 100, "the mutator reaches behind the checks: {admitted}");
}

#[test]
fn the_unchanged_image_parses_and_passes_its_golden_vectors() {
    for parts in [Parts::of(&spec(), 1), Parts::bare(6, 3, 2)] {
        let bytes = parts.image();
        let image = Image::parse(&bytes).unwrap();
        assert_eq!(image.robot_id(), "arm");
        let policy = image.policy(&bytes).unwrap();
        let mut arena = vec![f32::NAN; parts.plan.arena_len as usize];
        assert_eq!(policy.self_test(&mut arena), Ok(()));
        assert_eq!(policy.self_test(&mut []), Err(0));
    }
}

#[test]
fn names_the_golden_vector_that_differs_in_one_bit() {
    let mut parts = Parts::bare(6, 3, 2);
    let last = parts.golden.last_mut().unwrap();
    *last = f32::from_bits(last.to_bits() ^ 1);
    let bytes = parts.image();
    let policy = Image::parse(&bytes).unwrap().policy(&bytes).unwrap().self_test(&mut [0.0; 64]);
    assert_eq!(policy, Err(2));
}

#[test]
fn refuses_an_image_whose_parts_do_not_fit_together() {
    let good = || Parts::of(&spec(), 1);
    let parse = |parts: &Parts| Image::parse(&parts.image()).err();
    let mut parts = good();
    parts.plan.history_len += 1;
    assert_eq!(parse(&parts), Some(ImageError::Mismatch("history")));
    let mut parts = good();
    parts.plan.golden_count += 1;
    assert_eq!(parse(&parts), Some(ImageError::Section("golden")));
    let mut parts = Parts::bare(6, 2, 1);
    parts.contract = Some(spec().compile().unwrap());
    assert_eq!(parse(&parts), Some(ImageError::Mismatch("inputs")));
    let n = spec().compile().unwrap().view().header.n_observation;
    let mut parts = Parts::bare(n, 3, 1);
    parts.contract = Some(spec().compile().unwrap());
    assert_eq!(parse(&parts), Some(ImageError::Mismatch("outputs")));
    let mut parts = good();
    parts.operators[0].opcode = 77;
    assert!(matches!(parse(&parts), Some(ImageError::Network(error)) if error.field == "opcode"));
    let mut image = good().image();
    image.as_mut_slice()[24] ^= 1;
    seal(&mut image);
    assert_eq!(Image::parse(&image).err(), Some(ImageError::Mismatch("schema_hash")));
    for at in [14, 20] {
        let mut image = good().image();
        image.as_mut_slice()[at] = 1; // flags, reserved
        seal(&mut image);
        assert!(matches!(Image::parse(&image), Err(ImageError::Layout(error)) if error.field == "flags"));
    }
    assert_eq!(size_of::<Header>(), 128);
}

#[test]
fn refuses_every_single_bit_flip_and_truncation() {
    let image = Parts::of(&spec(), 1).image();
    for bit in 0..image.len() * 8 {
        let mut bad = image.clone();
        bad.as_mut_slice()[bit / 8] ^= 1 << (bit % 8);
        assert!(Image::parse(&bad).is_err(), "bit {bit}");
    }
    for length in 0..image.len() {
        assert!(Image::parse(&image[..length]).is_err(), "{length} bytes");
    }
}
