//! Campaigns: each tries to break one promise, counts what it tried, and fails when it found a hole.
//!
//! `cargo xtask campaign NAME` runs one; with `--short` it takes seconds and is what the tests run. With
//! `--mutate` the safety check that the promise rests on is taken away ([`tendon_wire::mutation`]), and the campaign
//! must find the hole that this leaves. The gates are those of the acceptance list that `docs/campaigns.md` repeats.

mod abstention;
mod controller;
mod envelope;
mod flash;
mod frames;
mod images;
mod names;
mod parsers;
mod process;
mod record;
mod recorder;
mod replay;
mod robots;
mod silence;
mod skip;
mod timer;
mod trainer;
mod world;

use names::NAMES;

use indicatif::{ProgressBar, ProgressStyle};
use std::cmp::Ordering;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Instant;
use tendon_wire::mutation::Check;

/// Holes whose description is printed; the others are counted.
const SHOWN: u64 = 5;

/// One campaign.
#[derive(Debug)]
pub struct Campaign {
    /// As in `names.rs`.
    pub name: &'static str,
    /// Acceptance gates that it covers.
    pub gates: &'static [u8],
    /// Checks that the promise rests on: without any one of them the campaign finds a hole.
    pub guards: &'static [Check],
    /// Runs it.
    pub run: fn(&mut Run) -> Result<(), String>,
}

/// Every campaign, in the order of `names.rs`.
pub const CAMPAIGNS: &[Campaign] = &[
    frames::FLIPS,
    frames::DECODER,
    frames::RESYNC,
    replay::REPLAY,
    silence::SILENCE,
    recorder::RECORDER,
    envelope::ENVELOPE,
    envelope::FAULTS,
    abstention::ABSTENTION,
    flash::POWER,
    flash::ADMISSION,
    images::IMAGES,
    parsers::PARSERS,
    robots::ROBOTS,
    controller::KILL,
    timer::OVERRUN,
    timer::HANG,
    timer::GARBAGE,
    trainer::TRAINER,
    skip::SKIP,
];

/// Words under which the program of the campaigns is what a campaign starts and kills.
const PARTS: &[(&str, fn(&[String]) -> Result<(), String>)] = &[
    ("controller", |_| tendon::link::stand_in::serve(None).map_err(|error| error.to_string())),
    (silence::HOST, silence::host),
    (recorder::CHILD, recorder::record),
    (trainer::CHILD, trainer::train_in),
];

/// How much is tried, and what came of it.
#[derive(Debug)]
pub struct Run {
    campaign: &'static str,
    short: bool,
    /// Of everything random in it.
    pub seed: u64,
    rows: Vec<Row>,
    holes: u64,
    bar: ProgressBar,
}

/// One figure, as `--json` writes it.
#[derive(Clone, Debug, serde::Serialize)]
struct Row {
    case: String,
    metric: String,
    unit: &'static str,
    tendon: f64,
    peers: serde_json::Map<String, serde_json::Value>,
    goal: Option<String>,
}

impl Run {
    /// A run that has tried nothing yet.
    #[must_use]
    pub fn new(campaign: &Campaign, short: bool, seed: u64) -> Self {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {percent}% {eta}");
        let bar = ProgressBar::no_length();
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(campaign.name);
        Self { campaign: campaign.name, short, seed, rows: Vec::new(), holes: 0, bar }
    }

    /// Whether it has to end within 30 seconds.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// How many are tried.
    #[must_use]
    pub fn amount(&self, full: u64, short: u64) -> u64 {
        if self.short { short } else { full }
    }

    /// Work done of the whole.
    pub fn progress(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// A figure without a goal.
    pub fn count(&mut self, metric: impl Display, unit: &'static str, value: f64) {
        self.row(metric, unit, value, None);
    }

    /// A figure that has to be zero: each one is a hole.
    pub fn none(&mut self, metric: impl Display, unit: &'static str, value: u64, example: Option<String>) {
        self.row(metric, unit, value as f64, Some("0".into()));
        if value > 0 {
            self.hole(value, example.unwrap_or_default());
        }
    }

    /// A figure that has to be at least `limit`.
    pub fn at_least(&mut self, metric: impl Display, unit: &'static str, value: f64, limit: f64) {
        let metric = metric.to_string();
        self.row(&metric, unit, value, Some(format!(">= {limit}")));
        if value.partial_cmp(&limit).is_none_or(Ordering::is_lt) {
            self.hole(1, format!("{metric}: {value} {unit}, at least {limit}"));
        }
    }

    /// A figure that has to be at most `limit`.
    pub fn at_most(&mut self, metric: impl Display, unit: &'static str, value: f64, limit: f64) {
        let metric = metric.to_string();
        self.row(&metric, unit, value, Some(format!("<= {limit}")));
        if value.partial_cmp(&limit).is_none_or(Ordering::is_gt) {
            self.hole(1, format!("{metric}: {value} {unit}, at most {limit}"));
        }
    }

    /// A figure that has to be exactly `expected`.
    pub fn exactly(&mut self, metric: impl Display, unit: &'static str, value: u64, expected: u64) {
        let metric = metric.to_string();
        self.row(&metric, unit, value as f64, Some(expected.to_string()));
        if value != expected {
            self.hole(1, format!("{metric}: {value} {unit}, expected {expected}"));
        }
    }

    /// Holes found so far.
    #[must_use]
    pub fn holes(&self) -> u64 {
        self.holes
    }

    fn hole(&mut self, count: u64, what: String) {
        if self.holes < SHOWN {
            let campaign = self.campaign;
            self.bar.suspend(|| eprintln!("{campaign}: HOLE: {what}"));
        }
        self.holes += count;
    }

    fn row(&mut self, metric: impl Display, unit: &'static str, value: f64, goal: Option<String>) {
        self.rows.push(Row {
            case: self.campaign.to_owned(),
            metric: metric.to_string(),
            unit,
            tendon: value,
            peers: serde_json::Map::new(),
            goal,
        });
    }

    fn table(&self) {
        self.bar.finish_and_clear();
        for row in &self.rows {
            let goal = row.goal.as_ref().map_or(String::new(), |goal| format!("  (goal {goal})"));
            println!("{:<12} {:<52} {:>16} {}{goal}", row.case, row.metric, grouped(row.tendon), row.unit);
        }
    }
}

fn grouped(value: f64) -> String {
    if value.fract() != 0.0 {
        return format!("{value:.3}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The campaign of this name.
///
/// # Errors
/// With the names there are.
pub fn find(name: &str) -> Result<&'static Campaign, String> {
    CAMPAIGNS.iter().find(|campaign| campaign.name == name).ok_or_else(|| {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        format!("there is no campaign `{name}`: it is one of {}", names.join(", "))
    })
}

/// What the command line asks.
#[derive(Debug, Default, PartialEq)]
pub struct Options {
    /// Names; none: all.
    pub names: Vec<String>,
    /// Seconds instead of hours.
    pub short: bool,
    /// Take the guards away, one after the other.
    pub mutate: bool,
    /// Rows as JSON.
    pub json: Option<PathBuf>,
    /// Of everything random.
    pub seed: u64,
    /// Write the figures into docs/campaigns.md.
    pub record: bool,
}

impl Options {
    /// Reads `[NAME..] [--short] [--mutate] [--json FILE] [--seed N] [--record]`.
    ///
    /// # Errors
    /// The word that is not understood.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { seed: 1, ..Self::default() };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = |what| words.next().ok_or(format!("{word} needs {what}"));
            match word.as_str() {
                "--short" => options.short = true,
                "--mutate" => options.mutate = true,
                "--record" => options.record = true,
                "--json" => options.json = Some(value("a file")?.into()),
                "--seed" => {
                    let number = value("a number")?;
                    options.seed = number.parse().map_err(|_| format!("--seed: `{number}` is no number"))?;
                }
                other if other.starts_with('-') => return Err(format!("`{other}` is no option")),
                _ => options.names.push(word),
            }
        }
        Ok(options)
    }
}

/// Environment variable that names the check which is taken away, in this process and in those that it starts.
pub const WITHOUT: &str = "TENDON_WITHOUT";

/// The whole program: a campaign, or what one starts. `true`: every promise held; with `--mutate`: no campaign found
/// the hole that some check left.
///
/// # Errors
/// Words that are not understood, a campaign that could not run, or a file that could not be written.
pub fn program(words: &[String]) -> Result<bool, String> {
    take_away()?;
    if let Some((_, part)) = PARTS.iter().find(|(word, _)| words.first().is_some_and(|first| first == word)) {
        return part(&words[1..]).map(|()| true);
    }
    run(&Options::parse(words.iter().cloned())?)
}

#[cfg(feature = "mutate")]
fn take_away() -> Result<(), String> {
    let Ok(name) = std::env::var(WITHOUT) else { return Ok(()) };
    let check = Check::ALL.iter().find(|check| check.name() == name);
    tendon_wire::mutation::remove(Some(*check.ok_or(format!("{WITHOUT}: there is no check `{name}`"))?));
    Ok(())
}

#[cfg(not(feature = "mutate"))]
fn take_away() -> Result<(), String> {
    match std::env::var(WITHOUT) {
        Ok(_) => Err(format!("{WITHOUT} is set, and this program carries every check: unset it")),
        Err(_) => Ok(()),
    }
}

fn run(options: &Options) -> Result<bool, String> {
    let chosen: Vec<&Campaign> = if options.names.is_empty() {
        CAMPAIGNS.iter().collect()
    } else {
        options.names.iter().map(|name| find(name)).collect::<Result<_, _>>()?
    };
    let mut rows = Vec::new();
    let (mut held, mut survived) = (true, false);
    for campaign in chosen {
        if options.mutate {
            survived |= survives(campaign, options, &mut rows)?;
            continue;
        }
        let mut run = Run::new(campaign, options.short, options.seed);
        let start = Instant::now();
        let result = (campaign.run)(&mut run);
        let took = start.elapsed();
        run.table();
        result.map_err(|problem| format!("{}: {problem}", campaign.name))?;
        println!("{}: {}", campaign.name, if run.holes == 0 { "held" } else { "BROKEN" });
        held &= run.holes == 0;
        if options.record {
            let file = crate::root().join("docs/campaigns.md");
            let fail = |error: std::io::Error| format!("{}: {error}", file.display());
            let promise =
                NAMES.iter().find(|(name, _)| *name == campaign.name).map_or("", |(_, promise)| promise);
            let document = std::fs::read_to_string(&file).map_err(fail)?;
            let document = record::put(&document, campaign, promise, &run.rows, took);
            std::fs::write(&file, document).map_err(fail)?;
        }
        rows.extend(run.rows);
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&rows).unwrap_or_default();
        std::fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(if options.mutate { survived } else { held })
}

/// Takes each guard away, in a process of its own; whether the campaign missed the hole of one.
#[cfg(feature = "mutate")]
fn survives(campaign: &Campaign, options: &Options, rows: &mut Vec<Row>) -> Result<bool, String> {
    let mut survived = false;
    for guard in campaign.guards {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = std::process::Command::new(program);
        command.arg(campaign.name).args(["--seed", &options.seed.to_string()]).env(WITHOUT, guard.name());
        command.args(options.short.then_some("--short")).stdout(std::process::Stdio::null());
        let status = command.status().map_err(|error| error.to_string())?;
        // 0: held. 2: could not run. Else a hole, a panic, or a signal: with the check there is none of them.
        if status.code() == Some(2) {
            return Err(format!("{} without {}: could not run", campaign.name, guard.name()));
        }
        let found = !status.success();
        println!("{} without {}: {}", campaign.name, guard.name(), if found { "found" } else { "SURVIVED" });
        rows.push(Row {
            case: campaign.name.to_owned(),
            metric: format!("hole without {} found", guard.name()),
            unit: "0 or 1",
            tendon: f64::from(u8::from(found)),
            peers: serde_json::Map::new(),
            goal: Some("1".to_owned()),
        });
        survived |= !found;
    }
    Ok(survived)
}

#[cfg(not(feature = "mutate"))]
fn survives(_: &Campaign, _: &Options, _: &mut [Row]) -> Result<bool, String> {
    Err("this program carries every check: use `cargo xtask campaign NAME --mutate`, which builds another"
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_every_campaign_and_each_has_a_gate_a_test_and_a_check_to_take_away() {
        let source = include_str!("../../tests/campaigns.rs");
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        assert_eq!(CAMPAIGNS.iter().map(|campaign| campaign.name).collect::<Vec<_>>(), names);
        for campaign in CAMPAIGNS {
            assert!(source.contains(&format!("_held \"{}\"", campaign.name)), "{}: no test", campaign.name);
            assert!(!campaign.guards.is_empty() && !campaign.gates.is_empty(), "{}", campaign.name);
        }
    }
}
