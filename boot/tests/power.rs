//! Power cuts: at every operation of an update, of its confirmation, of a return and of a change of keys, torn at
//! many bytes, with a second cut during recovery. Old or new boots, verified, never neither.

mod common;

use common::*;
use tendon_boot::Boot;
use tendon_boot::sign::{hand_over, sign};
use tendon_boot::sim::Tear;
use tendon_runtime::store::{Part, Store};

/// What is done to a controller, until the power goes.
type Act = fn(&mut Boot<SimFlash>);

fn signed(seed: u64) -> Vec<u8> {
    sign(&policy(seed, 3), &key(1)).unwrap()
}

/// A controller with keys that boots policy 1 and firmware 1, both signed.
fn provisioned() -> Boot<SimFlash> {
    let mut boot = booted(new_flash());
    boot.provision(&key_set(0, [&key(1), &key(2)], "arm")).unwrap();
    update(&mut boot, Part::Policy, &signed(1)).unwrap();
    boot.confirm(Part::Policy).unwrap();
    update(&mut boot, Part::Firmware, &sign(&firmware(1, 0, 3), &key(1)).unwrap()).unwrap();
    let mut boot = reboot(boot);
    boot.confirm(Part::Firmware).unwrap();
    boot
}

fn update_policy(boot: &mut Boot<SimFlash>) {
    let _ = update(boot, Part::Policy, &signed(2));
}

fn update_and_confirm(boot: &mut Boot<SimFlash>) {
    update_policy(boot);
    let _ = boot.confirm(Part::Policy);
}

fn update_and_revert(boot: &mut Boot<SimFlash>) {
    update_policy(boot);
    let _ = boot.revert(Part::Policy);
}

fn update_firmware(boot: &mut Boot<SimFlash>) {
    let _ = update(boot, Part::Firmware, &sign(&firmware(2, 1, 3), &key(1)).unwrap());
}

fn rotate(boot: &mut Boot<SimFlash>) {
    let next = key_set(2, [&key(1), &key(3)], "arm");
    let _ = boot.rotate(&next, &hand_over(&next, &key(2)));
}

/// Many records, so that pages of the log are closed, emptied and used again.
fn wear_the_log(boot: &mut Boot<SimFlash>) {
    for _ in 0..40 {
        let _ = update(boot, Part::Policy, &sign(&small_policy(9), &key(1)).unwrap());
        let _ = boot.revert(Part::Policy);
    }
}

const ACTS: [(&str, Act); 6] = [
    ("update", update_policy),
    ("confirm", update_and_confirm),
    ("revert", update_and_revert),
    ("firmware", update_firmware),
    ("rotate", rotate),
    ("log", wear_the_log),
];

/// Boots after a cut and checks that what boots is one of the images there ever were, whole; that the keys are
/// those before or after; and that the controller can still be updated.
fn check(flash: SimFlash, what: &str) {
    let mut boot = booted(flash);
    let policy = running_image(&mut boot, Part::Policy);
    assert!(policy == signed(1) || policy == signed(2), "{what}: another policy boots");
    let firmware_1 = sign(&firmware(1, 0, 3), &key(1)).unwrap();
    let firmware_2 = sign(&firmware(2, 1, 3), &key(1)).unwrap();
    let found = running_image(&mut boot, Part::Firmware);
    assert!(found == firmware_1 || found == firmware_2, "{what}: another firmware boots");
    let slots = boot.slots();
    assert!([1, 2].contains(&slots.generation), "{what}: keys of generation {}", slots.generation);
    assert!(update(&mut boot, Part::Policy, &policy).is_ok(), "{what}: takes no image any more");
    boot.confirm(Part::Policy).unwrap_or_else(|refused| panic!("{what}: cannot confirm: {refused:?}"));
    assert_eq!(running_image(&mut reboot(boot), Part::Policy), policy, "{what}");
}

/// Cuts `act` at its operation `at`.
fn cut(act: Act, at: u64, tear: Tear) -> SimFlash {
    let mut boot = provisioned();
    let first = boot.flash().0.operations();
    boot.flash().0.cut_at(first + at, tear);
    act(&mut boot);
    let mut flash = boot.into_flash();
    flash.power_on();
    flash
}

fn operations(act: Act) -> u64 {
    let mut boot = provisioned();
    let first = boot.flash().0.operations();
    act(&mut boot);
    let count = boot.flash().0.operations() - first;
    assert_eq!(boot.flash().0.violations(), 0, "words are written once");
    count
}

const TEARS: [Tear; 6] =
    [Tear::Nothing, Tear::All, Tear::Bytes(0, 1), Tear::Bytes(5, 2), Tear::Random(3), Tear::Random(4)];

#[test]
fn old_or_new_boots_after_a_cut_at_any_operation() {
    for (name, act) in ACTS {
        let count = operations(act);
        for at in 0..count {
            for tear in TEARS {
                check(cut(act, at, tear), &format!("{name}, operation {at} of {count}, {tear:?}"));
            }
        }
        println!("{name}: {count} operations, each cut in {} ways", TEARS.len());
    }
}

#[test]
fn old_or_new_boots_after_a_second_cut_during_recovery() {
    for (name, act) in ACTS {
        let count = operations(act);
        let step = (count / 8).max(1);
        for at in (0..count).step_by(step as usize) {
            for tear in [Tear::Bytes(6, 5), Tear::Random(6)] {
                let flash = cut(act, at, tear);
                for second in 0..4 {
                    let mut flash = flash.clone();
                    let first = flash.operations();
                    flash.cut_at(first + second, Tear::Random(second));
                    let mut flash = booted(flash).into_flash();
                    flash.power_on();
                    check(flash, &format!("{name}, operation {at} of {count}, {tear:?}, then {second}"));
                }
            }
        }
    }
}

#[test]
fn a_cut_while_keys_are_given_leaves_none_or_all() {
    let give = |boot: &mut Boot<SimFlash>| {
        let _ = boot.provision(&key_set(0, [&key(1), &key(2)], "arm"));
    };
    let mut boot = booted(new_flash());
    give(&mut boot);
    let count = boot.flash().0.operations();
    for at in 0..count {
        for tear in TEARS {
            let mut flash = new_flash();
            flash.cut_at(at, tear);
            let mut boot = booted(flash);
            give(&mut boot);
            let mut flash = boot.into_flash();
            flash.power_on();
            let mut boot = booted(flash);
            match boot.slots().generation {
                0 => give(&mut boot),
                generation => assert_eq!(generation, 1, "operation {at}, {tear:?}"),
            }
            let mut boot = reboot(boot);
            assert_eq!(boot.slots().generation, 1, "operation {at}, {tear:?}");
            update(&mut boot, Part::Policy, &signed(1)).unwrap();
        }
    }
}
