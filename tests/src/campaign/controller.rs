//! The firmware in QEMU, whose process is killed while it is flashed.

use super::world::cart_pole_with;
use super::{Campaign, Run};
use fastrand::Rng;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tendon::link::{ControllerKind, Launched, LinkError, Serial, Session, launch_from};
use tendon_boot::sign::{SigningKey, sign};
use tendon_runtime::store::Part;
use tendon_wire::flash::KeySet;
use tendon_wire::mutation::Check;

pub(super) const KILL: Campaign =
    Campaign { name: "kill", gates: &[3], guards: &[Check::TrialReturn], run: kill };

fn open(controller: &Launched) -> Result<Session<Serial>, String> {
    let serial = Serial::open(controller.port()).map_err(|error| error.to_string())?;
    Session::open(serial).map(|(session, _)| session).map_err(|error| error.to_string())
}

/// A flash file that goes at the end.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Boards that are flashed and killed side by side: most of the time they wait for their line.
const BOARDS: u64 = 4;

/// What came of the kills of one board.
#[derive(Default)]
struct Kills {
    /// The whole image had been sent.
    whole: u64,
    /// The confirmation had been answered.
    confirmed: u64,
    wrong: u64,
    example: Option<String>,
}

/// QEMU is killed at random instants of flashing; what boots afterwards is what was confirmed, verified.
fn kill(run: &mut Run) -> Result<(), String> {
    let total = run.amount(2000, 6);
    let boards = run.amount(BOARDS, 2);
    let seed = run.seed;
    let key = SigningKey::from_bytes(&[7; 32]);
    let signed = |seed| -> Result<Vec<u8>, String> {
        sign(&cart_pole_with(seed, |_| ())?.0, &key).map_err(|error| format!("{error:?}"))
    };
    let policies = [signed(1)?, signed(2)?];
    let done = AtomicU64::new(0);
    let results: Vec<Result<Kills, String>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..boards)
            .map(|board| {
                let (key, policies, done) = (&key, &policies, &done);
                scope.spawn(move || {
                    let rounds = total / boards + u64::from(board < total % boards);
                    kill_board(board, rounds, seed << 8 | board, key, policies, done)
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            run.progress(done.load(Ordering::Relaxed), total);
            std::thread::sleep(Duration::from_millis(100));
        }
        workers.into_iter().map(|worker| worker.join().unwrap_or(Err("a worker panicked".into()))).collect()
    });
    let mut sum = Kills::default();
    for kills in results {
        let Kills { whole, confirmed, wrong, example } = kills?;
        sum.whole += whole;
        sum.confirmed += confirmed;
        sum.wrong += wrong;
        sum.example = sum.example.or(example);
    }
    run.count("kills of QEMU while it is flashed", "kills", total as f64);
    run.count("of them after the whole image was sent", "kills", sum.whole as f64);
    run.count("of them after it was confirmed", "kills", sum.confirmed as f64);
    run.none("boots of another policy than the confirmed one", "boots", sum.wrong, sum.example);
    Ok(())
}

/// One board with a flash of its own, killed `rounds` times.
fn kill_board(
    board: u64,
    rounds: u64,
    seed: u64,
    key: &SigningKey,
    policies: &[Vec<u8>; 2],
    done: &AtomicU64,
) -> Result<Kills, String> {
    let fail = |error: LinkError| error.to_string();
    let mut rng = Rng::with_seed(seed);
    let name = format!("tendon-kill-{}-{board}.img", std::process::id());
    let file = File(std::env::temp_dir().join(name));
    let crc =
        |image: &[u8]| image.get(4..8).map_or(0, |crc| u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]));
    let boot = || -> Result<(Launched, Session<Serial>), String> {
        let controller = launch_from(ControllerKind::Qemu, Some(&file.0)).map_err(fail)?;
        let session = open(&controller)?;
        Ok((controller, session))
    };
    let mut confirmed = 0;
    {
        let (_controller, mut session) = boot()?;
        let keys = [*key.verifying_key().as_bytes(), [0; 32]];
        session.upload(&policies[0], |_| ()).map_err(fail)?;
        session.confirm(Part::Policy).map_err(fail)?;
        // The firmware that boots has to be signed with one of the keys as well.
        let firmware =
            tendon::link::firmware_path(ControllerKind::Qemu).ok_or("the firmware is not built")?;
        let package = tendon::link::Package::read(&firmware).map_err(|error| error.to_string())?;
        let other = package.images.get(1).ok_or("no firmware for the second slot")?;
        let other = sign(other, key).map_err(|error| format!("{error:?}"))?;
        session.update(Part::Firmware, &other, |_| ()).map_err(fail)?;
        session.restart().map_err(fail)?;
        session.confirm(Part::Firmware).map_err(fail)?;
        session.provision(&KeySet { generation: 1, reserved: 0, keys, robot_id: [0; 32] }).map_err(fail)?;
    }
    let mut kills = Kills::default();
    for round in 0..rounds {
        let (mut controller, mut session) = boot()?;
        let next = 1 - confirmed;
        let confirms = rng.bool();
        let image = policies[next].clone();
        let confirm_began = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let began = std::sync::Arc::clone(&confirm_began);
        let worker = std::thread::spawn(move || {
            let sent = session.upload(&image, |_| ()).is_ok();
            if sent && confirms {
                began.store(true, Ordering::SeqCst);
                return (sent, session.confirm(Part::Policy).is_ok());
            }
            std::thread::sleep(Duration::from_millis(200));
            (sent, false)
        });
        std::thread::sleep(Duration::from_micros(rng.u64(1_000..900_000)));
        controller.kill();
        let (sent, is_confirmed) = worker.join().unwrap_or((false, false));
        kills.whole += u64::from(sent);
        kills.confirmed += u64::from(is_confirmed);
        let (_controller, mut session) = boot()?;
        let found = session.identity().map_err(fail)?.image_crc32c;
        let may = confirm_began.load(Ordering::SeqCst);
        let (old, new) = (crc(&policies[confirmed]), crc(&policies[next]));
        let is_right = if is_confirmed { found == new } else { found == old || (may && found == new) };
        if !is_right {
            kills.wrong += 1;
            kills.example.get_or_insert_with(|| {
                format!("board {board}, kill {round}: {found:08x} boots; confirmed {old:08x}, sent {new:08x}, confirmed: {is_confirmed}")
            });
        }
        if found == new {
            confirmed = next;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(kills)
}
