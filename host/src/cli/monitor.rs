//! `tendon monitor`.

use super::flash::started_or;
use super::{Controller, read_image, write_file};
use crate::link::{Address, LinkError, Serial, Session};
use crate::monitor::{JointLabel, Snapshot, csv, fetch, joint_labels, line, page, table};
use anyhow::{Context, Result};
use clap::Args;
use indicatif::ProgressBar;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tendon_wire::message::Identity;

/// Looks at a controller: a live table in a terminal, one line per second elsewhere; ends with q or Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Monitor {
    /// Serial port of a controller that already runs, or qemu[:FLASH], stand-in[:FLASH]
    #[arg(long)]
    port: Option<Address>,
    /// Controller to launch
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "port")]
    controller: Controller,
    /// Image that runs there, for names and limits of the joints
    #[arg(long)]
    image: Option<PathBuf>,
    /// Print what the black box holds instead: the last seconds before a fault
    #[arg(long)]
    black_box: bool,
    /// Black box as a table (CSV) into this file
    #[arg(short, long, requires = "black_box")]
    output: Option<PathBuf>,
    /// Black box as plots (HTML) into this file
    #[arg(long, requires = "black_box")]
    html: Option<PathBuf>,
    /// End after so many seconds
    #[arg(long)]
    seconds: Option<f64>,
}

impl Monitor {
    pub(super) fn run(self) -> Result<()> {
        let labels = match &self.image {
            Some(path) => joint_labels(&super::run::contract_of(&read_image(path)?)?.0),
            None => Vec::new(),
        };
        let (_launched, port) = started_or(self.port.as_ref(), self.controller.kind())?;
        let (mut session, identity) = Session::open(Serial::open(&port)?)?;
        if self.black_box {
            return self.print_black_box(&mut session, &labels);
        }
        let until =
            self.seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
        if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
            live(&mut session, &identity, &labels, until)
        } else {
            lines(&mut session, &identity, until)
        }
    }

    fn print_black_box(&self, session: &mut Session<Serial>, labels: &[JointLabel]) -> Result<()> {
        let bar = ProgressBar::new(0);
        let records = fetch(session, |read, count| {
            bar.set_length(count.into());
            bar.set_position(read.into());
        })?;
        bar.finish_and_clear();
        let text = csv(&records, labels);
        if let Some(path) = &self.html {
            write_file(path, page(&records, labels).as_bytes())?;
            println!("{}: {} records", path.display(), records.len());
        }
        match &self.output {
            Some(path) => {
                write_file(path, text.as_bytes())?;
                println!("{}: {} records", path.display(), records.len());
            }
            None if self.html.is_none() => {
                ended(write!(std::io::stdout(), "{text}"))?;
            }
            None => {}
        }
        Ok(())
    }
}

/// Time between two tables, and between two lines.
const TABLE: Duration = Duration::from_millis(250);
const LINE: Duration = Duration::from_secs(1);

/// Looks, and takes silence for news and not for the end: a controller may be in a reset.
fn look(session: &mut Session<Serial>, identity: &Identity) -> Result<Option<Snapshot>> {
    match Snapshot::take(session, identity) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(LinkError::Timeout { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

const SILENT: &str = "no answer; check power and port, or whether another program reads it";

fn lines(session: &mut Session<Serial>, identity: &Identity, until: Option<Instant>) -> Result<()> {
    loop {
        let begin = Instant::now();
        let text = look(session, identity)?.map_or_else(|| SILENT.to_owned(), |snapshot| line(&snapshot));
        if !ended(writeln!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush()))? {
            return Ok(());
        }
        let next = begin + LINE;
        if until.is_some_and(|until| next > until) {
            return Ok(());
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// False: nobody reads any more, which is no error.
fn ended(written: std::io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("standard output"),
    }
}

fn live(
    session: &mut Session<Serial>,
    identity: &Identity,
    labels: &[JointLabel],
    until: Option<Instant>,
) -> Result<()> {
    let terminal = Terminal::take()?;
    loop {
        let begin = Instant::now();
        let text = look(session, identity)?
            .map_or_else(|| format!("{SILENT}\n"), |snapshot| table(&snapshot, labels, terminal_size().1));
        terminal.show(&text)?;
        let next = until.map_or(begin + TABLE, |until| until.min(begin + TABLE));
        if terminal.wait_for_end(next)? || until.is_some_and(|until| Instant::now() >= until) {
            return Ok(());
        }
    }
}

/// Rows and columns; 24 and 80 where the terminal does not say.
fn terminal_size() -> (usize, usize) {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)))
}

/// The terminal, keys read as they come; put back when this is dropped.
struct Terminal {
    before: Termios,
}

impl Terminal {
    fn take() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("terminal")?;
        let mut settings = before.clone();
        // Ctrl-C comes as a key, so that the terminal is put back.
        settings.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(&stdin, OptionalActions::Now, &settings).context("terminal")?;
        let this = Self { before };
        // Another screen, no cursor.
        write!(std::io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(this)
    }

    /// Shows what fits; each line is cleared behind its end, so that nothing flickers.
    fn show(&self, text: &str) -> Result<()> {
        let (rows, columns) = terminal_size();
        let mut out = String::from("\x1b[H");
        let lines = text.lines().take(rows.saturating_sub(2)).chain(["", "q or Ctrl-C ends"]);
        for (index, line) in lines.enumerate() {
            if index > 0 {
                out.push_str("\r\n");
            }
            out.extend(line.chars().take(columns));
            out.push_str("\x1b[K");
        }
        out.push_str("\x1b[J");
        let mut stdout = std::io::stdout();
        stdout.write_all(out.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Waits for a key that ends, at most until `next`.
    fn wait_for_end(&self, next: Instant) -> Result<bool> {
        let stdin = std::io::stdin();
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => {
                    let mut keys = [0; 16];
                    let read = stdin.lock().read(&mut keys)?;
                    // End of input, q, Ctrl-C.
                    if read == 0 || keys.iter().take(read).any(|key| matches!(key, b'q' | b'Q' | 3)) {
                        return Ok(true);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
        let mut stdout = std::io::stdout();
        let _ = write!(stdout, "\x1b[?25h\x1b[?1049l").and_then(|()| stdout.flush());
    }
}
