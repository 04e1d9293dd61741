//! Flash whose power fails, and images that must not run.

use super::{Campaign, Run};
use rayon::prelude::*;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tendon_boot::Boot;
use tendon_boot::sign::{hand_over, sign};
use tendon_boot::sim::{Tear, turn_record_bit};
use tendon_runtime::store::{Part, Store};
use tendon_wire::flash::KeySet;
use tendon_wire::mutation::Check;

#[path = "../../../boot/tests/common/mod.rs"]
mod common;

use common::*;

pub(super) const POWER: Campaign =
    Campaign { name: "power", gates: &[1, 2], guards: &[Check::TrialReturn], run: power };

pub(super) const ADMISSION: Campaign = Campaign {
    name: "admission",
    gates: &[17, 18],
    guards: &[Check::Signature, Check::RobotId, Check::Rollback, Check::BootVerify, Check::RecordCrc],
    run: admission,
};

/// Policies 1 and 2, firmware 1 and 2, signed once.
fn signed(index: usize) -> &'static [u8] {
    static ALL: OnceLock<[Vec<u8>; 4]> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let plain = [policy(1, 3), policy(2, 3), firmware(1, 0, 3), firmware(2, 1, 3)];
        plain.map(|image| sign(&image, &key(1)).unwrap_or_default())
    });
    &all[index]
}

/// A controller with keys that boots policy 1 and firmware 1.
fn provisioned() -> SimFlash {
    static FLASH: OnceLock<SimFlash> = OnceLock::new();
    let make = || {
        let mut boot = booted(new_flash());
        let _ = boot.provision(&key_set(0, [&key(1), &key(2)], "arm"));
        let _ = update(&mut boot, Part::Policy, signed(0));
        let _ = boot.confirm(Part::Policy);
        let _ = update(&mut boot, Part::Firmware, signed(2));
        let mut boot = reboot(boot);
        let _ = boot.confirm(Part::Firmware);
        boot.into_flash()
    };
    FLASH.get_or_init(make).clone()
}

/// What is done until the power goes, and which policies may boot after it.
struct Act {
    name: &'static str,
    run: fn(&mut Boot<SimFlash>),
    policies: &'static [usize],
    /// Bytes of an operation that are torn one by one; of longer ones every seventh.
    torn: u32,
}

const ACTS: [Act; 5] = [
    Act {
        name: "update",
        run: |boot| _ = update(boot, Part::Policy, signed(1)),
        // Not confirmed: a reset ends the trial.
        policies: &[0],
        torn: 512,
    },
    Act {
        name: "confirm",
        run: |boot| {
            let _ = update(boot, Part::Policy, signed(1));
            let _ = boot.confirm(Part::Policy);
        },
        policies: &[0, 1],
        torn: 512,
    },
    Act {
        name: "revert",
        run: |boot| {
            let _ = update(boot, Part::Policy, signed(1));
            let _ = boot.revert(Part::Policy);
        },
        policies: &[0],
        torn: 128,
    },
    Act {
        name: "firmware",
        run: |boot| _ = update(boot, Part::Firmware, signed(3)),
        policies: &[0],
        torn: 512,
    },
    Act {
        name: "rotate",
        run: |boot| {
            let next = key_set(2, [&key(1), &key(3)], "arm");
            let _ = boot.rotate(&next, &hand_over(&next, &key(2)));
        },
        policies: &[0],
        torn: 128,
    },
];

/// What boots is one of the images that may, whole, and the controller can still be updated.
fn check(flash: SimFlash, act: &Act) -> Result<(), String> {
    let mut boot = booted(flash);
    if boot.running(Part::Policy).is_none() || boot.running(Part::Firmware).is_none() {
        return Err("nothing boots".into());
    }
    let policy = running_image(&mut boot, Part::Policy);
    if !act.policies.iter().any(|&index| policy == signed(index)) {
        return Err("another policy boots".into());
    }
    let firmware = running_image(&mut boot, Part::Firmware);
    if ![2, 3].iter().any(|&index| firmware == signed(index)) {
        return Err("another firmware boots".into());
    }
    let generation = boot.slots().generation;
    if ![1, 2].contains(&generation) {
        return Err(format!("keys of generation {generation}"));
    }
    update(&mut boot, Part::Policy, &policy)
        .map_err(|refused| format!("takes no image any more: {refused:?}"))?;
    boot.confirm(Part::Policy).map_err(|refused| format!("cannot confirm: {refused:?}"))?;
    if running_image(&mut reboot(boot), Part::Policy) != policy {
        return Err("boots another policy after an update".into());
    }
    Ok(())
}

fn cut(act: &Act, at: u64, tear: Tear) -> SimFlash {
    let mut boot = booted(provisioned());
    let first = boot.flash().0.operations();
    boot.flash().0.cut_at(first + at, tear);
    (act.run)(&mut boot);
    let mut flash = boot.into_flash();
    flash.power_on();
    flash
}

fn power(run: &mut Run) -> Result<(), String> {
    let (cuts, pairs) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut operations = 0;
    let mut holes: Vec<String> = Vec::new();
    for (index, act) in ACTS.iter().enumerate() {
        let mut boot = booted(provisioned());
        let first = boot.flash().0.operations();
        (act.run)(&mut boot);
        let count = boot.flash().0.operations() - first;
        if boot.flash().0.violations() > 0 {
            holes.push(format!("{}: a word was written twice", act.name));
        }
        operations += count;
        let mut tears: Vec<Tear> = vec![Tear::Nothing, Tear::All];
        let step = run.amount(1, 11) as usize;
        tears.extend((0..act.torn).step_by(step).map(|byte| Tear::Bytes(byte, u64::from(byte) + run.seed)));
        tears.extend((0..run.amount(64, 8)).map(|seed| Tear::Random(seed + run.seed)));
        // Each of them at each operation.
        let all: Vec<(u64, Tear)> =
            (0..count).flat_map(|at| tears.iter().map(move |&tear| (at, tear))).collect();
        let found: Vec<String> = all
            .par_iter()
            .filter_map(|&(at, tear)| {
                cuts.fetch_add(1, Ordering::Relaxed);
                let problem = check(cut(act, at, tear), act).err()?;
                Some(format!("{}, operation {at} of {count}, {tear:?}: {problem}", act.name))
            })
            .collect();
        holes.extend(found);
        // And again, in each of the first operations of the boot that mends it.
        let every = run.amount(1, 5) as usize;
        let found: Vec<String> = all
            .par_iter()
            .step_by(every)
            .flat_map_iter(|&(at, tear)| {
                let torn = cut(act, at, tear);
                (0..4).map(move |second| (at, tear, second, torn.clone()))
            })
            .filter_map(|(at, tear, second, mut flash)| {
                pairs.fetch_add(1, Ordering::Relaxed);
                let first = flash.operations();
                flash.cut_at(first + second, Tear::Random(second + at));
                let mut flash = booted(flash).into_flash();
                flash.power_on();
                let problem = check(flash, act).err()?;
                Some(format!("{}, operation {at} of {count}, {tear:?}, then {second}: {problem}", act.name))
            })
            .collect();
        holes.extend(found);
        run.progress(index as u64 + 1, ACTS.len() as u64);
    }
    run.count("operations of update, confirm, revert, firmware, rotation", "operations", operations as f64);
    run.count("power cuts, at each of them and torn", "cuts", cuts.into_inner() as f64);
    run.count("pairs with a second cut during recovery", "pairs", pairs.into_inner() as f64);
    run.none(
        "neither the old nor the new image boots whole",
        "cuts",
        holes.len() as u64,
        holes.first().cloned(),
    );
    Ok(())
}

/// Whether a provisioned controller commits this image.
fn is_taken(boot: &mut Boot<SimFlash>, part: Part, image: &[u8]) -> bool {
    let taken = update(boot, part, image).is_ok();
    if taken {
        let _ = boot.revert(part);
    }
    taken
}

fn admission(run: &mut Run) -> Result<(), String> {
    let good = sign(&policy(2, 3), &key(1)).map_err(|error| format!("{error:?}"))?;
    // Bits, spread over threads; each has its own flash.
    let bits = good.len() * 8;
    let stride = run.amount(1, 7) as usize;
    let accepted: Vec<usize> = (0..8usize)
        .into_par_iter()
        .flat_map_iter(|shard| {
            let mut boot = booted(provisioned());
            let mut image = good.clone();
            let mut accepted = Vec::new();
            for bit in (shard..bits).step_by(8 * stride) {
                image[bit / 8] ^= 1 << (bit % 8);
                if is_taken(&mut boot, Part::Policy, &image) {
                    accepted.push(bit);
                }
                image[bit / 8] ^= 1 << (bit % 8);
            }
            accepted
        })
        .collect();
    run.progress(1, 4);
    run.count("single-bit flips of a signed image", "images", bits.div_ceil(stride) as f64);
    let example = accepted.first().map(|bit| format!("bit {bit}"));
    run.none("of them taken", "images", accepted.len() as u64, example);

    let mut boot = booted(provisioned());
    let short: Vec<usize> =
        (0..good.len()).filter(|&length| is_taken(&mut boot, Part::Policy, &good[..length])).collect();
    run.progress(2, 4);
    run.count("truncations, at every byte", "images", good.len() as f64);
    run.none(
        "of them taken",
        "images",
        short.len() as u64,
        short.first().map(|length| format!("{length} bytes")),
    );

    let for_robot = |robot: &str| {
        let mut image = policy(2, 3);
        image[32..64].fill(0);
        image[32..32 + robot.len()].copy_from_slice(robot.as_bytes());
        tendon_wire::flash::seal(&mut image);
        image
    };
    let by = |image: &[u8], seed: u8| sign(image, &key(seed)).unwrap_or_default();
    let wrong: Vec<(&str, Part, Vec<u8>)> = vec![
        ("unsigned", Part::Policy, policy(2, 3)),
        ("signed with an unknown key", Part::Policy, by(&policy(2, 3), 9)),
        ("an older rollback counter", Part::Policy, by(&policy(2, 2), 1)),
        ("rollback counter 0", Part::Policy, by(&policy(2, 0), 1)),
        ("another robot", Part::Policy, by(&for_robot("leg"), 1)),
        ("a robot whose name is longer", Part::Policy, by(&for_robot("arms"), 1)),
        ("no robot", Part::Policy, by(&for_robot(""), 1)),
        ("a policy as firmware", Part::Firmware, by(&policy(2, 3), 1)),
        ("firmware as a policy", Part::Policy, by(&firmware(2, 1, 3), 1)),
        ("firmware for the other slot", Part::Firmware, by(&firmware(2, 0, 3), 1)),
        ("older firmware", Part::Firmware, by(&firmware(2, 1, 2), 1)),
        ("unsigned firmware", Part::Firmware, firmware(2, 1, 3)),
    ];
    let taken: Vec<&str> = wrong
        .iter()
        .filter(|(_, part, image)| is_taken(&mut booted(provisioned()), *part, image))
        .map(|(what, ..)| *what)
        .collect();
    run.count("images of the wrong kind, key, age or robot", "images", wrong.len() as f64);
    run.none("of them taken", "images", taken.len() as u64, taken.first().map(|what| (*what).to_owned()));

    // Keys under which anything verifies, or nothing: points of small order, and what is no point.
    let mut weak = vec![[0; 32], [0xff; 32]];
    weak.push({
        let mut one = [0; 32];
        one[0] = 1;
        one
    });
    let set =
        |key_a: [u8; 32]| KeySet { generation: 0, reserved: 0, keys: [key_a, [0; 32]], robot_id: [0; 32] };
    let taken = weak.iter().filter(|key| booted(new_flash()).provision(&set(**key)).is_ok()).count();
    run.none("weak or malformed keys taken", "keys", taken as u64, None);
    run.progress(3, 4);

    // What was admitted once is not believed for ever: rot in the slot that boots.
    let (mut tried, mut booted_rotten) = (0, 0);
    let slot =
        LAYOUT.slot(Part::Policy, booted(provisioned()).running(Part::Policy).ok_or("no policy boots")?);
    for byte in (0..good.len()).step_by(run.amount(1, 29) as usize) {
        let mut flash = provisioned();
        flash.bytes_mut()[slot.start as usize + byte] ^= 0x10;
        tried += 1;
        booted_rotten += u64::from(booted(flash).running(Part::Policy).is_some());
    }
    run.count("rot in the confirmed policy, one bit of each byte", "flashes", f64::from(tried));
    run.none("of them booted", "flashes", booted_rotten, Some("a rotten policy boots".into()));

    // A commit record that was damaged before the log took it: in the other slot lies a policy that was given up.
    let mut boot = booted(provisioned());
    update(&mut boot, Part::Policy, signed(1)).map_err(|refused| format!("{refused:?}"))?;
    boot.revert(Part::Policy).map_err(|refused| format!("{refused:?}"))?;
    let given_up = boot.into_flash();
    let (mut damaged, mut believed) = (0, Vec::new());
    for bit in 0.. {
        let mut flash = given_up.clone();
        if !turn_record_bit(&mut flash, &LAYOUT, bit) {
            break;
        }
        damaged += 1;
        let mut boot = booted(flash);
        let runs = boot.running(Part::Policy).is_some();
        if runs && running_image(&mut boot, Part::Policy) != signed(0) {
            believed.push(bit);
        }
    }
    run.count("commit records with one bit turned", "records", f64::from(damaged));
    run.none(
        "of them booted a policy that was given up",
        "records",
        believed.len() as u64,
        believed.first().map(|bit| format!("bit {bit}")),
    );
    run.progress(4, 4);
    Ok(())
}
