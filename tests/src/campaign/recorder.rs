//! A recorder that is killed: what it said was written can be read.

use super::{Campaign, Run, process};
use fastrand::Rng;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::Duration;
use tendon::recording::{Recorder, Recording};
use tendon_wire::message::{Action, Floats, Message, RawState};
use tendon_wire::mutation::Check;

pub(super) const RECORDER: Campaign =
    Campaign { name: "recorder", gates: &[22], guards: &[Check::RecorderFlush], run: recorder };

/// The word under which this program records.
pub(super) const CHILD: &str = "a-recorder";

fn recorder(run: &mut Run) -> Result<(), String> {
    let total = run.amount(500, 40);
    let mut rng = Rng::with_seed(run.seed);
    let folder = std::env::temp_dir().join(format!("tendon-recorder-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let (mut lost, mut damaged, mut most, mut ticks, mut example) = (0, 0, 0, 0u64, None);
    for round in 0..total {
        let file = folder.join(format!("{round}.tnr"));
        let mut child = process::child(&[CHILD, &file.to_string_lossy()])?;
        let lines = BufReader::new(child.stdout.take().ok_or("no standard output")?).lines();
        let reader =
            std::thread::spawn(move || lines.map_while(Result::ok).filter_map(|n| n.parse().ok()).last());
        std::thread::sleep(Duration::from_micros(rng.u64(2_000..80_000)));
        process::kill(&mut child);
        let said: u32 = reader.join().ok().flatten().unwrap_or(0);
        let recording = Recording::read(&file).unwrap_or_default();
        let read = recording.messages.iter().filter(|m| matches!(m, Message::Action(_))).count() as u32;
        damaged += recording.damaged as u64;
        ticks += u64::from(read);
        most = most.max(said.saturating_sub(read));
        if read < said {
            lost += 1;
            example.get_or_insert_with(|| format!("kill {round}: {said} ticks written, {read} read"));
        }
        let _ = std::fs::remove_file(&file);
        run.progress(round, total);
    }
    let _ = std::fs::remove_dir_all(&folder);
    run.count("recorders killed", "kills", total as f64);
    run.count("ticks in the recordings", "ticks", ticks as f64);
    run.none("recordings that lost a tick said to be written", "recordings", lost, example);
    run.count("most ticks lost", "ticks", most.into());
    run.none(
        "damaged frames before the end",
        "frames",
        damaged,
        Some("a frame in the middle is damaged".into()),
    );
    Ok(())
}

/// Records until it is killed; after each tick it says how many there are.
pub(super) fn record(words: &[String]) -> Result<(), String> {
    let file = PathBuf::from(words.first().ok_or("no file")?);
    let fail = |error: std::io::Error| error.to_string();
    let mut recorder = Recorder::create(&file).map_err(fail)?;
    let joints: Floats<32> = (0..12).map(|joint| joint as f32).collect();
    let mut out = std::io::stdout().lock();
    for sequence in 1.. {
        let state = RawState { sequence, joint_position: joints.clone(), ..RawState::default() };
        let action = Action { sequence, position: joints.clone(), ..Action::default() };
        recorder.tick(&state, &action).map_err(fail)?;
        writeln!(out, "{sequence}").and_then(|()| out.flush()).map_err(fail)?;
    }
    Ok(())
}
