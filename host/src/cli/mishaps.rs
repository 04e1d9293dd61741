//! `hil --faults`.

use super::write_file;
use crate::faults::Plant;
use crate::link::{Session, Transport};
use crate::mishaps::{Mishap, Scene, play};
use crate::report::{Line, Page, line_plot};
use anyhow::{Result, ensure};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tendon_runtime::spec::ContractSpec;

/// Ticks before a mishap and after it, where no person chooses.
const BEFORE: u64 = 100;
const AFTER: u64 = 120;

/// Lets the robot walk again and again: a person chooses with keys what happens to it, or, where there is no terminal,
/// everything happens once. Leaves a page.
pub(super) fn mishaps<T: Transport>(
    session: &mut Session<T>,
    mut plant: impl FnMut() -> Result<Box<dyn Plant>>,
    contract: &ContractSpec,
    schema_hash: u64,
    image: &[u8],
    report: &Path,
) -> Result<()> {
    let keys = std::io::stdin().is_terminal().then(keys);
    if keys.is_some() {
        for mishap in Mishap::ALL {
            let (what, follows) = mishap.describe();
            println!("  {} + Enter: {what} ({follows})", mishap.key());
        }
        println!("  q + Enter: end, with a report");
    }
    let mut scenes: Vec<Scene> = Vec::new();
    let mut is_over = false;
    let mut script = Mishap::ALL.into_iter();
    while !is_over {
        let next = script.next();
        if keys.is_none() && next.is_none() {
            break;
        }
        let mut plant = plant()?;
        let mut due = Instant::now();
        let period_s = Duration::from_secs_f64(contract.control_period_s);
        let choose = |tick: u64| match &keys {
            None => next.filter(|_| tick == BEFORE),
            Some(keys) => {
                let key = keys.try_recv().ok()?;
                is_over |= key == 'q';
                // The way out is a mishap as well: it is the one that leaves no torque.
                Mishap::ALL
                    .into_iter()
                    .find(|mishap| mishap.key() == key || (key == 'q' && *mishap == Mishap::PullLink))
            }
        };
        let in_real_time = || {
            if keys.is_some() {
                due = (due + period_s).max(Instant::now());
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        };
        let scene = play(session, &mut *plant, contract, schema_hash, image, AFTER, choose, in_real_time)?;
        match scene {
            Some(_) if is_over => {}
            Some(scene) => {
                println!("{}", row(&scene).join(" | "));
                scenes.push(scene);
            }
            None => println!("the controller fell back by itself; it starts again"),
        }
    }
    write_file(report, page(&scenes).as_bytes())?;
    println!("{}", report.display());
    let broken = scenes.iter().filter(|scene| !scene.is_as_promised()).count();
    ensure!(
        broken == 0,
        "{broken} of {} mishaps ended otherwise than promised; see the report",
        scenes.len()
    );
    Ok(())
}

/// Letters that a person types, each behind Enter.
fn keys() -> Receiver<char> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            for key in line.trim().chars() {
                if sender.send(key).is_err() {
                    return;
                }
            }
        }
        // End of input ends the show.
        let _ = sender.send('q');
    });
    receiver
}

fn row(scene: &Scene) -> Vec<String> {
    let (what, follows) = scene.mishap.describe();
    let end = scene.end().map_or_else(String::new, |end| format!("{:?}, {:?}", end.state, end.cause));
    let refusal = scene.refusal.map_or_else(String::new, |refusal| format!("{refusal:?}"));
    let verdict = if scene.is_as_promised() { "as promised" } else { "NOT AS PROMISED" };
    [what.into(), format!("at {:.2} s", scene.at_s), end, refusal, follows.into(), verdict.into()].to_vec()
}

fn page(scenes: &[Scene]) -> String {
    let mut page = Page::new("What happened to the robot, and what its controller did");
    let head = ["mishap", "when", "state and cause at the end", "refusal", "promise", "verdict"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(scenes.iter().map(row));
    page.table(&rows);
    for scene in scenes {
        page.heading(&format!("{} at {:.2} s", scene.mishap.describe().0, scene.at_s));
        let line = |name: &str, of: fn(&crate::mishaps::Moment) -> f64| Line {
            name: name.into(),
            points: scene.moments.iter().map(|moment| (moment.time_s, of(moment))).collect(),
        };
        let lines = [
            line("state (4 Running, 5 Damping, 6 Fault)", |m| f64::from(m.state as u8)),
            line("largest torque bound / 10 N m", |m| f64::from(m.torque_limit) / 10.0),
            line("tilt, rad", |m| f64::from(m.tilt_rad)),
        ];
        page.plot(&line_plot("State, torque bound and tilt", "s since Running", &lines));
    }
    page.finish()
}
