//! Structure-aware mutants of policy images, and everything that a controller does with those that it admits: for the
//! tests of this folder and the campaigns of `tests/`, which include this file.

use crate::numbers::any_f32;
use fastrand::Rng;
use tendon_runtime::abstention::Window;
use tendon_runtime::{AlignedBytes, Contract, Controller, Image, Memory, Profile, RawState, State};
use tendon_wire::CRC32C;
use tendon_wire::image::{CRC_FROM, Operator, Section};

/// Memory of the controller in these tests; an image that needs more is not run, as `Loader` would refuse it.
const ARENA: usize = 1 << 20;
const HISTORY: usize = 4096;

pub(crate) struct Room {
    arena: Vec<f32>,
    history: Vec<f32>,
    observation: Vec<f32>,
}

impl Room {
    pub(crate) fn new() -> Self {
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
    let mut state = RawState { base_orientation: [1.0, 0.0, 0.0, 0.0], ..RawState::default() };
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

/// Changes a copy of `seed` in one to three places and makes its checksums right again, but for one in twenty; what is
/// admitted is run. `Some`: admitted; true: with a checksum that the change left wrong.
///
/// # Panics
/// Where an admitted image does what none may.
pub(crate) fn one_mutant(seed: &AlignedBytes, room: &mut Room, rng: &mut Rng) -> Option<bool> {
    let mut image = seed.clone();
    for _ in 0..rng.usize(1..4) {
        mutate(&mut image, rng);
    }
    let is_sealed = rng.u8(0..20) != 0;
    if is_sealed {
        reseal(&mut image);
    }
    let parsed = Image::parse(&image).ok()?;
    let is_wrong = !is_sealed && *image != **seed;
    if !is_wrong {
        exercise(&image, &parsed, room, rng);
    }
    Some(is_wrong)
}

/// Makes the CRC right again, as far as there is a header.
fn seal(image: &mut AlignedBytes) {
    let bytes = image.as_mut_slice();
    let total = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
    let end = total.clamp(CRC_FROM, bytes.len());
    let crc = CRC32C.checksum(&bytes[CRC_FROM..end]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}
