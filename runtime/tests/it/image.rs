use crate::controller::profiles;
use crate::world::{Parts, any_f32, seal, spec, state};
use fastrand::Rng;
use tendon_runtime::abstention::Window;
use tendon_runtime::{AlignedBytes, Contract, Controller, Image, ImageError, Memory, Profile, State};
use tendon_wire::image::{Header, Operator, Section};

/// Memory of the controller in these tests; an image that needs more is not run, as `Loader` would refuse it.
const ARENA: usize = 1 << 20;
const HISTORY: usize = 4096;

struct Room {
    arena: Vec<f32>,
    history: Vec<f32>,
    observation: Vec<f32>,
}

impl Room {
    fn new() -> Self {
        Self { arena: vec![0.0; ARENA], history: vec![0.0; HISTORY], observation: vec![0.0; ARENA] }
    }
}

fn span(bytes: &[u8], section: Section) -> (usize, usize) {
    let at = 64 + 8 * section as usize;
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    (word(at), word(at + 4))
}

/// A number that parsers get wrong: near limits, near the value that is there, or anything.
fn any_u32(rng: &mut Rng, now: u32) -> u32 {
    match rng.u8(0..8) {
        0 => 0,
        1 => now.wrapping_add(1),
        2 => now.wrapping_sub(1),
        3 => now.wrapping_mul(2),
        4 => u32::MAX - rng.u32(0..32),
        5 => 1 << rng.u32(0..32),
        6 => rng.u32(0..64),
        _ => rng.u32(..),
    }
}

fn edit_u32(bytes: &mut [u8], at: usize, rng: &mut Rng) {
    let Some(place) = bytes.get_mut(at..at + 4) else { return };
    let now = u32::from_le_bytes(place.try_into().unwrap());
    let new = if rng.u8(0..4) == 0 { any_f32(rng).to_bits() } else { any_u32(rng, now) };
    place.copy_from_slice(&new.to_le_bytes());
}

/// One change that knows the layout: a field of the header, a record, a count, a value, or the order of things.
fn mutate(image: &mut AlignedBytes, rng: &mut Rng) {
    let length = image.len();
    let sections = [
        Section::Contract,
        Section::Operators,
        Section::Weights,
        Section::Plan,
        Section::Golden,
        Section::Abstention,
    ];
    let (start, len) = span(image, sections[rng.usize(..sections.len())]);
    let (start, len) = if start + len <= length && len >= 4 { (start, len) } else { (0, length) };
    let bytes = image.as_mut_slice();
    match rng.u8(0..12) {
        0 => edit_u32(bytes, 8 + 4 * rng.usize(0..30), rng), // anywhere in the header
        1 => edit_u32(bytes, 64 + 4 * rng.usize(0..16), rng), // spans
        2..6 => edit_u32(bytes, start + rng.usize(..len / 4) * 4, rng),
        6 => bytes[start + rng.usize(..len)] = rng.u8(..),
        7 => {
            let (operators, len) = span(bytes, Section::Operators);
            let rows = len / size_of::<Operator>();
            if rows > 0 && operators + len <= length {
                edit_u32(
                    bytes,
                    operators + rng.usize(..rows) * size_of::<Operator>() + 4 * rng.usize(0..16),
                    rng,
                );
            }
        }
        8 => {
            let (operators, len) = span(bytes, Section::Operators);
            let size = size_of::<Operator>();
            if len >= 2 * size && operators + len <= length {
                let (a, b) = (rng.usize(..len / size), rng.usize(..len / size));
                let row = bytes[operators + a * size..][..size].to_vec();
                bytes[operators + b * size..][..size].copy_from_slice(&row);
            }
        }
        9 => {
            let (plan, _) = span(bytes, Section::Plan);
            edit_u32(bytes, plan.min(length) + 4 * rng.usize(0..12), rng);
        }
        10 => {
            let (contract, _) = span(bytes, Section::Contract);
            edit_u32(bytes, contract.min(length) + 4 * rng.usize(0..14), rng);
        }
        _ => {
            let (contract, _) = span(bytes, Section::Contract);
            let at = contract.min(length) + 4 + 2 * rng.usize(0..6);
            if at + 2 <= length {
                bytes[at..at + 2].copy_from_slice(&(any_u32(rng, 3) as u16).to_le_bytes());
            }
        }
    }
}

/// The bound of the instructions that a writer would put in, when the operators hold.
fn instructions(image: &AlignedBytes) -> Option<u32> {
    let section = |section| {
        let (start, len) = span(image, section);
        image.get(start..start.checked_add(len)?)
    };
    let operators = bytemuck::try_cast_slice(section(Section::Operators)?).ok()?;
    let weights = bytemuck::try_cast_slice(section(Section::Weights)?).ok()?;
    let plan = bytemuck::try_from_bytes(section(Section::Plan)?).ok()?;
    let network = tendon_runtime::Network::new(operators, weights, plan).ok()?;
    Some(tendon_runtime::cost::instructions(&network).min(u32::MAX.into()) as u32)
}

/// Makes what a correct writer computes right again: instructions, schema hash and CRC.
fn reseal(image: &mut AlignedBytes) {
    if let Some(instructions) = instructions(image) {
        let (plan, _) = span(image, Section::Plan);
        let place = plan + std::mem::offset_of!(tendon_wire::image::Plan, instructions);
        image.as_mut_slice()[place..place + 4].copy_from_slice(&instructions.to_le_bytes());
    }
    let (start, len) = span(image, Section::Contract);
    let hash = match image.get(start..start.saturating_add(len)) {
        Some(contract) if len > 0 => tendon_wire::fnv1a(tendon_wire::FNV1A_START, contract),
        _ => 0,
    };
    image.as_mut_slice()[24..32].copy_from_slice(&hash.to_le_bytes());
    seal(image);
}

/// Everything that a controller does with an admitted image.
fn exercise(bytes: &[u8], image: &Image, room: &mut Room, rng: &mut Rng) {
    let policy = image.policy(bytes).expect("an admitted image has its content");
    let plan = policy.network.plan();
    assert!(plan.arena_len as usize <= ARENA, "{plan:?}");
    assert!(plan.n_inputs <= plan.arena_len && plan.n_outputs <= plan.arena_len, "{plan:?}");
    let input: Vec<f32> = (0..plan.n_inputs).map(|_| rng.f32() - 0.5).collect();
    let output = policy.network.run(&input, &mut room.arena[..plan.arena_len as usize]).expect("it runs");
    assert_eq!(output.len(), plan.n_outputs as usize);
    if let Some(abstention) = policy.abstention {
        let score = abstention.score(&input);
        assert!(score >= 0.0, "{score}");
        assert!(!Window::default().push(abstention.header, score).is_nan());
    }
    let Some(contract) = policy.contract else { return };
    for index in 0..contract.profiles.len() as u8 {
        controller_limits(&contract, index);
    }
    assert!(plan.history_len as usize <= HISTORY, "{plan:?}");

    let mut memory = Memory {
        arena: &mut room.arena[..plan.arena_len as usize],
        history: &mut room.history[..plan.history_len as usize],
        observation: &mut room.observation[..plan.n_inputs as usize],
    };
    let mut state = state();
    state.joint_position.resize(contract.joints.len(), 0.0).unwrap();
    state.joint_velocity.resize(contract.joints.len(), 0.0).unwrap();
    state.command.resize(contract.header.n_commands.into(), 0.0).unwrap();
    state.preference.resize(contract.header.n_preferences.into(), 0.0).unwrap();
    state.sensors.resize(contract.header.n_sensors.into(), 0.0).unwrap();
    for joint in contract.joints {
        state.joint_position[joint.robot_index as usize] = joint.default_position;
    }
    let mut controller = Controller::default();
    controller.image_changed(false, None);
    let dwell = u64::from(contract.header.dwell_us);
    let mut now = 0;
    let mut tick = |controller: &mut Controller, now: u64| {
        controller.host_alive(now);
        let applied = controller.tick(&policy, Some(&state), now, &mut memory);
        for c in &applied.commands {
            let members = [c.position, c.velocity, c.torque, c.kp, c.kd, c.torque_limit];
            assert!(members.iter().all(|v| v.is_finite()), "{c:?}");
        }
        assert_ne!(applied.cause, tendon_runtime::Cause::Internal);
    };
    tick(&mut controller, now);
    now += dwell;
    tick(&mut controller, now);
    controller.arm(Some(&contract), 0, 0, now).expect("a healthy dwell");
    tick(&mut controller, now);
    now += dwell;
    tick(&mut controller, now);
    assert_eq!(controller.state(), State::Ready);
    if controller.run(Some(&contract), now).is_ok() {
        tick(&mut controller, now);
        tick(&mut controller, now);
    }
}

/// A profile never loosens what the contract says.
fn controller_limits(contract: &Contract<'_>, index: u8) {
    let profile = Profile::of(contract, index).expect("it has this one");
    for joint in contract.joints {
        let limits = profile.limits(joint);
        assert!(limits.torque <= joint.torque_limit && limits.velocity <= joint.velocity_limit);
    }
    assert!(!profile.loosens(&profile, contract));
}

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
    let mut rng = Rng::with_seed(13);
    let mut room = Room::new();
    let seeds = [Parts::of(&profiles(), 1).abstaining(50.0).image(), Parts::bare(6, 3, 2).image()];
    let mut admitted = 0;
    for mutant in 0..mutants {
        let mut image = seeds[usize::from(mutant % 8 == 0)].clone();
        for _ in 0..rng.usize(1..4) {
            mutate(&mut image, &mut rng);
        }
        if rng.u8(0..20) != 0 {
            reseal(&mut image);
        }
        if let Ok(parsed) = Image::parse(&image) {
            admitted += 1;
            exercise(&image, &parsed, &mut room, &mut rng);
        }
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
