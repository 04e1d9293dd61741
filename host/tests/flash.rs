//! Flash that outlives its controller: what boots after what, over the link, on the stand-in and in QEMU, whose
//! process is killed as a power cut would.

mod common;

use common::*;
use std::path::Path;
use tendon::link::{
    ControllerKind, HostFlash, Launched, LinkError, Package, Serial, Session, firmware_path, install,
};
use tendon_boot::Layout;
use tendon_boot::sign::{SigningKey, hand_over, sign};
use tendon_compiler::sample::{Hidden, mlp};
use tendon_compiler::{ContractChoice, Options, compile};
use tendon_runtime::store::Part;
use tendon_runtime::{AlignedBytes, Refusal};
use tendon_wire::flash::KeySet;
use tendon_wire::message::{DEVELOPMENT, NO_SLOT};

const EACH: [ControllerKind; 2] = [ControllerKind::StandIn, ControllerKind::Qemu];

/// Runs `check` on each controller with a flash file.
fn on_each(name: &str, check: impl Fn(ControllerKind, &Path)) {
    for kind in EACH {
        let folder = Temporary::new(&format!("{name}-{kind:?}"));
        let flash = folder.0.join("flash.img");
        if start_from(kind, &flash).is_some() {
            check(kind, &flash);
        }
    }
}

fn crc_of(image: &[u8]) -> u32 {
    u32::from_le_bytes(image[4..8].try_into().unwrap())
}

/// Starts the controller and says hello.
fn boot(kind: ControllerKind, flash: &Path) -> (Launched, Session<Serial>) {
    let controller = start_from(kind, flash).unwrap();
    let session = open(&controller);
    (controller, session)
}

fn running(session: &mut Session<Serial>) -> u32 {
    session.identity().unwrap().image_crc32c
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn key_set(generation: u32, keys: [&SigningKey; 2]) -> KeySet {
    let keys = keys.map(|key| *key.verifying_key().as_bytes());
    KeySet { generation, reserved: 0, keys, robot_id: [0; 32] }
}

#[test]
fn a_confirmed_policy_boots_by_itself_and_one_on_trial_is_left() {
    on_each("trial", |kind, flash| {
        let (first, second) = (bare(1), bare(2));
        let (mut controller, mut session) = boot(kind, flash);
        assert_eq!(running(&mut session), 0, "{kind:?}");
        session.update(Part::Policy, &first, |_| ()).unwrap();
        session.confirm(Part::Policy).unwrap();
        controller.kill();
        let (mut controller, mut session) = boot(kind, flash);
        assert_eq!(running(&mut session), crc_of(&first), "{kind:?} boots what was confirmed");
        let before = session.infer(&[0.5; 5]).unwrap().0;
        session.update(Part::Policy, &second, |_| ()).unwrap();
        assert_eq!(running(&mut session), crc_of(&second), "{kind:?} runs it at once");
        assert_eq!(refused(session.update(Part::Policy, &first, |_| ())), Some(Refusal::Trial), "{kind:?}");
        controller.kill();
        let (_controller, mut session) = boot(kind, flash);
        assert_eq!(running(&mut session), crc_of(&first), "{kind:?} leaves what was not confirmed");
        assert_eq!(session.infer(&[0.5; 5]).unwrap().0, before, "{kind:?}");
        // The same by a reset that the host asks for, and by giving it up.
        for by_restart in [true, false] {
            session.update(Part::Policy, &second, |_| ()).unwrap();
            if by_restart {
                session.restart().unwrap();
            } else {
                session.revert(Part::Policy).unwrap();
            }
            assert_eq!(running(&mut session), crc_of(&first), "{kind:?}, restart {by_restart}");
        }
        session.update(Part::Policy, &second, |_| ()).unwrap();
        session.confirm(Part::Policy).unwrap();
        session.restart().unwrap();
        assert_eq!(running(&mut session), crc_of(&second), "{kind:?}");
    });
}

/// Some erase units of policy.
fn large() -> AlignedBytes {
    let onnx = mlp(&[5, 64, 64, 2], Hidden::Relu, 3);
    compile(&onnx, &Options { contract: ContractChoice::Bare, ..Options::default() }).unwrap().image
}

fn refused<T: std::fmt::Debug>(result: Result<T, LinkError>) -> Option<Refusal> {
    refusal(result.map(|_| ()))
}

#[test]
fn a_controller_killed_while_it_is_flashed_boots_the_old_policy_and_the_upload_goes_on() {
    on_each("killed", |kind, flash| {
        let (old, new) = (bare(1), large());
        assert!(new.len() > 3 * 4096, "{} bytes", new.len());
        let (mut controller, mut session) = boot(kind, flash);
        session.update(Part::Policy, &old, |_| ()).unwrap();
        session.confirm(Part::Policy).unwrap();
        let mut last = 0;
        for kill_at in [new.len() / 2, new.len() * 9 / 10] {
            let result = session.update(Part::Policy, &new, |sent| {
                if sent >= kill_at {
                    controller.kill();
                }
            });
            assert!(result.is_err(), "{kind:?}");
            (controller, session) = boot(kind, flash);
            assert_eq!(running(&mut session), crc_of(&old), "{kind:?}, killed at {kill_at}");
            last = kill_at;
        }
        let held = session.update(Part::Policy, &new, |_| ()).unwrap();
        assert!(held + 2 * 4096 > last, "{kind:?}: {held} bytes held of {last} sent");
        assert_eq!(running(&mut session), crc_of(&new), "{kind:?}");
    });
}

#[test]
fn without_keys_it_says_so_and_with_keys_it_takes_signed_images_only() {
    on_each("keys", |kind, flash| {
        if kind == ControllerKind::Qemu {
            // Over the link this takes a while: firmware that is signed from the start.
            std::fs::remove_file(flash).unwrap();
            let package = Package::read(&firmware_path(kind).unwrap()).unwrap();
            let image = sign(&package.images[0], &key(1)).unwrap();
            let installed =
                install(HostFlash::memory(16 << 20), Layout::QEMU, "qemu-an386", Part::Firmware, &image);
            std::fs::write(flash, installed.unwrap().bytes()).unwrap();
        }
        let image = bare(1);
        let signed = |seed| sign(&image, &key(seed)).unwrap();
        let (_controller, mut session) = boot(kind, flash);
        assert_ne!(session.identity().unwrap().flags & DEVELOPMENT, 0, "{kind:?}");
        session.provision(&key_set(1, [&key(1), &key(2)])).unwrap();
        assert_eq!(session.identity().unwrap().flags & DEVELOPMENT, 0, "{kind:?}");
        assert_eq!(
            refused(session.update(Part::Policy, &image, |_| ())),
            Some(Refusal::Signature),
            "unsigned"
        );
        assert_eq!(
            refused(session.update(Part::Policy, &signed(3), |_| ())),
            Some(Refusal::Signature),
            "unknown"
        );
        assert_eq!(running(&mut session), 0);
        session.update(Part::Policy, &signed(2), |_| ()).unwrap();
        session.confirm(Part::Policy).unwrap();
        let other = key_set(1, [&key(4), &key(5)]);
        assert_eq!(refused(session.provision(&other)), Some(Refusal::Keys), "once");
        let next = key_set(2, [&key(1), &key(2)]);
        session.rotate(&next, &hand_over(&next, &key(2))).unwrap();
        session.restart().unwrap();
        assert_eq!(session.slots().unwrap().generation, 2, "{kind:?}");
        assert_eq!(running(&mut session), crc_of(&signed(2)), "{kind:?} verified at boot");
    });
}

#[test]
fn firmware_is_updated_over_the_link_and_the_one_before_returns() {
    let folder = Temporary::new("firmware");
    let (kind, flash) = (ControllerKind::Qemu, folder.0.join("flash.img"));
    if start_from(kind, &flash).is_none() {
        return;
    }
    let package = Package::read(&firmware_path(kind).unwrap()).unwrap();
    let (mut controller, mut session) = boot(kind, &flash);
    assert_eq!(session.slots().unwrap().firmware_slot, 0);
    assert_eq!(
        refused(session.update(Part::Firmware, &package.images[0], |_| ())),
        Some(Refusal::Robot),
        "linked for the slot that runs"
    );
    session.update(Part::Firmware, &package.images[1], |_| ()).unwrap();
    assert_eq!(session.slots().unwrap().firmware_slot, 0, "until it restarts");
    session.restart().unwrap();
    let slots = session.slots().unwrap();
    assert_eq!((slots.firmware_slot, slots.firmware_trial), (1, 1));
    // Never confirmed: after its boots the one before is back.
    for _ in 0..tendon_boot::FIRMWARE_BOOTS {
        controller.kill();
        (controller, session) = boot(kind, &flash);
    }
    assert_eq!(session.slots().unwrap().firmware_slot, 0);
    // It is still there, so nothing has to be sent.
    let held = session.update(Part::Firmware, &package.images[1], |_| ()).unwrap();
    assert!(held > package.images[1].len() - 4096, "{held} bytes held");
    session.restart().unwrap();
    session.confirm(Part::Firmware).unwrap();
    controller.kill();
    (controller, session) = boot(kind, &flash);
    assert_eq!((session.slots().unwrap().firmware_slot, session.slots().unwrap().policy_slot), (1, NO_SLOT));
    drop(controller);
}
