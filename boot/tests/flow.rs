//! What boots after what, on a flash whose power fails.

mod common;

use common::*;
use tendon_boot::sign::{hand_over, sign};
use tendon_boot::{FIRMWARE_BOOTS, REFUSED, padded, vouch};
use tendon_runtime::Refusal;
use tendon_runtime::store::{KeysRefused, Part, Store};
use tendon_wire::flash::{KeySet, seal};
use tendon_wire::image::Header;
use tendon_wire::message::NO_SLOT;

#[test]
fn a_policy_runs_at_once_and_boots_only_once_it_is_confirmed() {
    let mut boot = booted(new_flash());
    assert_eq!(boot.running(Part::Policy), None);
    update(&mut boot, Part::Policy, &policy(1, 0)).unwrap();
    assert!(boot.running(Part::Policy).is_some(), "hot swap");
    let boot = reboot(boot);
    assert_eq!(boot.running(Part::Policy), None, "a reset ends the trial");
    let mut boot = boot;
    update(&mut boot, Part::Policy, &policy(1, 0)).unwrap();
    boot.confirm(Part::Policy).unwrap();
    let mut boot = reboot(boot);
    assert_eq!(running_image(&mut boot, Part::Policy), policy(1, 0));
}

#[test]
fn the_policy_before_returns_after_a_reset_without_confirmation() {
    let mut boot = with_confirmed(Part::Policy, &policy(1, 0));
    update(&mut boot, Part::Policy, &policy(2, 0)).unwrap();
    assert_eq!(running_image(&mut boot, Part::Policy), policy(2, 0));
    let mut boot = reboot(boot);
    assert_eq!(running_image(&mut boot, Part::Policy), policy(1, 0));
    assert_eq!(boot.slots().policy_trial, 0);
}

#[test]
fn a_trial_can_be_given_up_without_a_reset() {
    let mut boot = with_confirmed(Part::Policy, &policy(1, 0));
    update(&mut boot, Part::Policy, &policy(2, 0)).unwrap();
    boot.revert(Part::Policy).unwrap();
    assert_eq!(running_image(&mut boot, Part::Policy), policy(1, 0));
    assert_eq!(boot.revert(Part::Policy), Err((Refusal::Trial, 0)), "once");
}

#[test]
fn the_confirmed_slot_is_not_written_while_another_is_on_trial() {
    let mut boot = with_confirmed(Part::Policy, &policy(1, 0));
    update(&mut boot, Part::Policy, &policy(2, 0)).unwrap();
    assert_eq!(boot.slots().policy_target, NO_SLOT);
    assert_eq!(update(&mut boot, Part::Policy, &policy(3, 0)), Err((Refusal::Trial, 0)));
    assert_eq!(boot.write(Part::Policy, 0, &[0; 64]), Err((Refusal::Trial, 0)));
    let mut boot = reboot(boot);
    assert_eq!(running_image(&mut boot, Part::Policy), policy(1, 0));
}

#[test]
fn firmware_on_trial_gets_its_boots_and_then_the_one_before_returns() {
    let mut boot = with_confirmed(Part::Firmware, &firmware(1, 0, 0));
    update(&mut boot, Part::Firmware, &firmware(2, 1, 0)).unwrap();
    assert_eq!(running_image(&mut boot, Part::Firmware), firmware(1, 0, 0), "not before a restart");
    assert_eq!(boot.slots().firmware_trial, 2);
    for _ in 0..FIRMWARE_BOOTS {
        boot = reboot(boot);
        assert_eq!(running_image(&mut boot, Part::Firmware), firmware(2, 1, 0));
        assert_eq!(boot.slots().firmware_trial, 1);
    }
    boot = reboot(boot);
    assert_eq!(running_image(&mut boot, Part::Firmware), firmware(1, 0, 0));
    assert_eq!(boot.confirm(Part::Firmware), Err((Refusal::Trial, 0)), "too late");
}

#[test]
fn firmware_for_another_slot_or_board_is_refused() {
    let mut boot = with_confirmed(Part::Firmware, &firmware(1, 0, 0));
    assert_eq!(update(&mut boot, Part::Firmware, &firmware(2, 0, 0)), Err((Refusal::Robot, 0)));
    let mut other = firmware(2, 1, 0);
    other[32..38].copy_from_slice(b"other\0");
    seal(&mut other);
    assert_eq!(update(&mut boot, Part::Firmware, &other), Err((Refusal::Robot, 0)));
}

#[test]
fn an_image_older_than_what_was_confirmed_is_refused_and_one_of_a_trial_does_not_count() {
    let mut boot = with_confirmed(Part::Policy, &policy(1, 5));
    update(&mut boot, Part::Policy, &policy(2, 9)).unwrap();
    let mut boot = reboot(boot);
    assert_eq!(boot.slots().policy_floor, 5, "9 was never confirmed");
    assert_eq!(update(&mut boot, Part::Policy, &policy(3, 4)), Err((Refusal::Rollback, 5)));
    update(&mut boot, Part::Policy, &policy(3, 5)).unwrap();
    assert_eq!(boot.slots().firmware_floor, 0, "each part has its own");
}

#[test]
fn the_second_decision_refuses_by_itself_what_is_older_damaged_or_nowhere() {
    let mut boot = with_confirmed(Part::Firmware, &firmware(1, 0, 5));
    let slot = boot.running(Part::Firmware).unwrap();
    let mut flash = boot.flash().0.clone();
    let asked = |flash: &mut SimFlash, slot| vouch(flash, &LAYOUT, &padded(BOARD), Part::Firmware, slot);
    assert_eq!(asked(&mut flash, slot), LAYOUT.address(Part::Firmware, slot));
    for nowhere in [1 - slot, 2, NO_SLOT] {
        assert_eq!(asked(&mut flash, nowhere), REFUSED);
    }
    let start = LAYOUT.slot(Part::Firmware, slot).start as usize;
    let mut put = |image: &[u8]| {
        flash.bytes_mut()[start..start + image.len()].copy_from_slice(image);
        asked(&mut flash, slot)
    };
    assert_eq!(put(&firmware(2, slot, 4)), REFUSED, "older");
    assert_ne!(put(&firmware(2, slot, 5)), REFUSED);
    let mut damaged = firmware(2, slot, 5);
    damaged[100] ^= 1;
    assert_eq!(put(&damaged), REFUSED);
}

#[test]
fn nothing_is_committed_that_was_not_verified_as_it_is_now() {
    let mut boot = booted(new_flash());
    assert_eq!(boot.commit(Part::Policy), Err((Refusal::Order, 0)));
    let image = policy(1, 0);
    write(&mut boot, Part::Policy, &image, 0).unwrap();
    boot.verify(Part::Policy, image.len() as u32).unwrap();
    boot.write(Part::Policy, 3 * ERASE as u32, &[0; 4]).unwrap();
    assert_eq!(boot.commit(Part::Policy), Err((Refusal::Order, 0)), "written after it was verified");
    boot.verify(Part::Policy, image.len() as u32).unwrap();
    assert_eq!(boot.commit(Part::Firmware), Err((Refusal::Order, 0)), "another part");
}

#[test]
fn an_upload_goes_on_where_the_slot_holds_its_beginning() {
    let mut boot = booted(new_flash());
    let image = policy(1, 0);
    let crc = |bytes: &[u8]| tendon_wire::CRC32C.checksum(bytes);
    write(&mut boot, Part::Policy, &image[..ERASE + 300], 0).unwrap();
    let mut boot = reboot(boot);
    let total = image.len() as u32;
    assert_eq!(boot.begin(Part::Policy, total, 100, crc(&image[..100])), Err((Refusal::Order, ERASE as u32)));
    let two = 2 * ERASE;
    assert_eq!(boot.begin(Part::Policy, total, two as u32, crc(&image[..two])), Err((Refusal::Order, 0)));
    boot.begin(Part::Policy, total, ERASE as u32, crc(&image[..ERASE])).unwrap();
    write(&mut boot, Part::Policy, &image, ERASE).unwrap();
    boot.verify(Part::Policy, total).unwrap();
    boot.commit(Part::Policy).unwrap();
    assert_eq!(running_image(&mut boot, Part::Policy), image);
}

#[test]
fn rot_in_the_confirmed_firmware_boots_the_other_and_in_a_policy_none() {
    let mut boot = with_confirmed(Part::Firmware, &firmware(1, 0, 0));
    update(&mut boot, Part::Firmware, &firmware(2, 1, 0)).unwrap();
    boot = reboot(boot);
    boot.confirm(Part::Firmware).unwrap();
    update(&mut boot, Part::Policy, &policy(1, 0)).unwrap();
    boot.confirm(Part::Policy).unwrap();
    let slot = boot.running(Part::Policy).unwrap();
    let mut flash = boot.into_flash();
    flash.bytes_mut()[LAYOUT.firmware[1].start as usize + 1500] ^= 1;
    flash.bytes_mut()[LAYOUT.slot(Part::Policy, slot).start as usize + 200] ^= 1;
    let mut boot = booted(flash);
    assert_eq!(running_image(&mut boot, Part::Firmware), firmware(1, 0, 0));
    assert_eq!(boot.running(Part::Policy), None);
    update(&mut boot, Part::Policy, &policy(4, 0)).unwrap();
    assert_ne!(boot.running(Part::Policy), Some(slot), "the rotten slot is still the one that was confirmed");
}

#[test]
fn keys_are_given_once_and_then_only_signed_images_of_this_robot_run() {
    let mut boot = with_confirmed(Part::Policy, &policy(1, 0));
    assert_eq!(boot.slots().generation, 0, "development mode, and says so");
    let set = key_set(0, [&key(1), &key(2)], "arm");
    let locked = Err((Refusal::Keys, KeysRefused::Locked as u32));
    assert_eq!(boot.provision(&set), locked, "what boots is unsigned");
    let signed = |seed, by| sign(&policy(seed, 0), &key(by)).unwrap();
    update(&mut boot, Part::Policy, &signed(1, 1)).unwrap();
    assert_eq!(boot.provision(&set), Err((Refusal::Trial, 0)));
    boot.confirm(Part::Policy).unwrap();
    boot.provision(&set).unwrap();
    assert_eq!(boot.provision(&set), Err((Refusal::Keys, KeysRefused::Provisioned as u32)));
    for _ in 0..2 {
        assert_eq!(boot.slots().generation, 1);
        assert_eq!(update(&mut boot, Part::Policy, &policy(2, 0)), Err((Refusal::Signature, 0)), "unsigned");
        assert_eq!(
            update(&mut boot, Part::Policy, &signed(2, 3)),
            Err((Refusal::Signature, 1)),
            "unknown key"
        );
        let mut other = policy(2, 0);
        other[32..36].copy_from_slice(b"leg\0");
        let other = sign(&other, &key(1)).unwrap();
        assert_eq!(update(&mut boot, Part::Policy, &other), Err((Refusal::Robot, 0)));
        let mut moved = signed(2, 1);
        let end = moved.len();
        moved.copy_within(end - 80..end, end - 96);
        seal(&mut moved);
        assert!(update(&mut boot, Part::Policy, &moved).is_err());
        boot = reboot(boot);
        assert_eq!(running_image(&mut boot, Part::Policy), signed(1, 1), "undisturbed");
    }
    for by in [1, 2] {
        update(&mut boot, Part::Policy, &signed(3, by)).unwrap();
        boot.confirm(Part::Policy).unwrap();
    }
}

#[test]
fn a_signature_of_one_kind_is_none_of_another() {
    let mut boot = booted(new_flash());
    boot.provision(&key_set(0, [&key(1), &key(2)], "")).unwrap();
    // Signed as a firmware, then called a policy: same bytes from the checksum on.
    let mut image = policy(1, 0);
    image[..4].copy_from_slice(b"TNDF");
    let mut image = sign(&image, &key(1)).unwrap();
    image[..4].copy_from_slice(b"TNDP");
    assert_eq!(update(&mut boot, Part::Policy, &image), Err((Refusal::Signature, 2)));
}

#[test]
fn weak_malformed_and_repeated_keys_are_refused() {
    let weak = Err((Refusal::Keys, KeysRefused::Weak as u32));
    let mut boot = booted(new_flash());
    let good = *key(1).verifying_key().as_bytes();
    let mut one = [0; 32];
    one[0] = 1;
    // y = 1 (the identity), y = -1 (order 2), y = p + 1 (not canonical), no point (y = 2), all ones.
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let mut not_canonical = [0xff; 32];
    (not_canonical[0], not_canonical[31]) = (0xee, 0x7f);
    let mut no_point = [0; 32];
    no_point[0] = 2;
    for bad in [one, minus_one, not_canonical, no_point, [0xff; 32], good] {
        let set = KeySet { generation: 1, reserved: 0, keys: [good, bad], robot_id: [0; 32] };
        assert_eq!(boot.provision(&set), weak, "{bad:02x?}");
        if bad != good {
            let set = KeySet { keys: [bad, good], ..set };
            assert_eq!(boot.provision(&set), weak, "{bad:02x?}");
        }
    }
    let none = KeySet { generation: 1, reserved: 0, keys: [[0; 32]; 2], robot_id: [0; 32] };
    assert_eq!(boot.provision(&none), weak, "no key at all");
    boot.provision(&KeySet { keys: [good, [0; 32]], ..none }).unwrap();
}

#[test]
fn keys_are_replaced_by_a_key_that_counts_and_never_so_that_nothing_boots() {
    let mut boot = booted(new_flash());
    boot.provision(&key_set(0, [&key(1), &key(2)], "arm")).unwrap();
    let signed = |seed, by| sign(&policy(seed, 0), &key(by)).unwrap();
    update(&mut boot, Part::Policy, &signed(1, 1)).unwrap();
    boot.confirm(Part::Policy).unwrap();
    let next = key_set(2, [&key(2), &key(3)], "arm");
    let refused = |why: KeysRefused| Err((Refusal::Keys, why as u32));
    assert_eq!(boot.rotate(&next, &hand_over(&next, &key(3))), refused(KeysRefused::Signature), "by itself");
    let skipped = key_set(3, [&key(2), &key(3)], "arm");
    assert_eq!(boot.rotate(&skipped, &hand_over(&skipped, &key(1))), refused(KeysRefused::Generation));
    let robot = key_set(2, [&key(2), &key(3)], "leg");
    assert_eq!(boot.rotate(&robot, &hand_over(&robot, &key(1))), refused(KeysRefused::Robot));
    assert_eq!(
        boot.rotate(&next, &hand_over(&next, &key(1))),
        refused(KeysRefused::Locked),
        "the policy is signed with key 1"
    );
    update(&mut boot, Part::Policy, &signed(1, 2)).unwrap();
    boot.confirm(Part::Policy).unwrap();
    let statement = hand_over(&next, &key(1));
    boot.rotate(&next, &statement).unwrap();
    assert_eq!(boot.rotate(&next, &statement), refused(KeysRefused::Generation), "not twice");
    let mut boot = reboot(boot);
    assert_eq!(boot.slots().generation, 2);
    assert_eq!(update(&mut boot, Part::Policy, &signed(4, 1)), Err((Refusal::Signature, 1)), "key 1 is gone");
    update(&mut boot, Part::Policy, &signed(4, 3)).unwrap();
}

#[test]
fn keys_that_can_no_longer_be_read_stop_everything() {
    let mut boot = booted(new_flash());
    boot.provision(&key_set(0, [&key(1), &key(2)], "")).unwrap();
    update(&mut boot, Part::Policy, &sign(&policy(1, 0), &key(1)).unwrap()).unwrap();
    boot.confirm(Part::Policy).unwrap();
    let mut flash = boot.into_flash();
    let keys = LAYOUT.keys;
    flash.bytes_mut()[keys.start as usize..keys.end() as usize].fill(0xff);
    let mut boot = booted(flash);
    assert_eq!(boot.running(Part::Policy), None);
    assert_ne!(boot.slots().generation, 0, "not development mode");
    let damaged = Err((Refusal::Keys, KeysRefused::Damaged as u32));
    assert_eq!(update(&mut boot, Part::Policy, &policy(1, 0)), damaged);
    assert_eq!(boot.provision(&key_set(0, [&key(1), &key(2)], "")), damaged);
}

#[test]
fn every_bit_of_a_signed_image_counts_and_every_truncation_is_refused() {
    for repaired in [false, true] {
        let mut boot = booted(new_flash());
        boot.provision(&key_set(0, [&key(1), &key(2)], "")).unwrap();
        let image = sign(&small_policy(7), &key(1)).unwrap();
        for bit in 0..8 * image.len() {
            let mut flipped = image.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // An attacker can compute the checksum as well.
            if repaired {
                seal(&mut flipped);
            }
            let is_checksum = repaired && (4..8).contains(&(bit / 8));
            let result = update(&mut boot, Part::Policy, &flipped);
            assert_eq!(result.is_ok(), is_checksum, "bit {bit}, checksum repaired {repaired}: {result:?}");
            if is_checksum {
                boot.revert(Part::Policy).unwrap();
            }
        }
        for length in 0..image.len() {
            let mut cut = image[..length].to_vec();
            let result = update(&mut boot, Part::Policy, &cut);
            assert!(result.is_err(), "length {length}");
            if repaired && length >= size_of::<Header>() {
                cut[8..12].copy_from_slice(&(length as u32).to_le_bytes());
                seal(&mut cut);
                assert!(update(&mut boot, Part::Policy, &cut).is_err(), "length {length}");
            }
        }
        assert_eq!(boot.running(Part::Policy), None);
    }
}
