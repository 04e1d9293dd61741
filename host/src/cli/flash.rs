//! `keys`, `sign`, `flash`.

use super::{print_table, read_file, write_file};
use crate::keys;
use crate::link::{Address, ControllerKind, Launched, Package, Serial, Session, launch, launch_from};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use tendon_boot::sign::{SigningKey, hand_over, sign, with_rollback_counter};
use tendon_runtime::store::Part;
use tendon_wire::flash::KeySet;
use tendon_wire::image::MAX_IMAGE;
use tendon_wire::message::{DEVELOPMENT, Identity, NO_SLOT, Slots, TABLE_HASH};

/// Where the controller is.
#[derive(Debug, Args)]
pub(super) struct Port {
    /// Serial port, or qemu[:FLASH], qemu-an500[:FLASH], stand-in[:FLASH]: a controller started here, its flash in a file
    #[arg(long)]
    port: Option<Address>,
}

impl Port {
    /// Opens it, for updates: whatever version the controller has.
    fn open(&self) -> Result<(Option<Launched>, Session<Serial>, Identity)> {
        let Some(address) = &self.port else { bail!("give --port: {}", ports()) };
        let (launched, name) = started(address)?;
        let (session, identity) = Session::open_any(Serial::open(&name)?)?;
        println!(
            "{name}: {} with firmware {}{}",
            identity.board,
            identity.firmware,
            if identity.flags & DEVELOPMENT != 0 {
                ", without keys: takes unsigned images (development mode)"
            } else {
                ""
            }
        );
        if identity.table_hash != TABLE_HASH {
            println!(
                "it speaks message table {:#018x} and this program {TABLE_HASH:#018x}: updates work, other commands need firmware of this version (`tendon flash --firmware`)",
                identity.table_hash
            );
        }
        Ok((launched, session, identity))
    }
}

/// Starts what an address asks for; the name of the port.
pub(super) fn started(address: &Address) -> Result<(Option<Launched>, String)> {
    match address {
        Address::Port(name) => Ok((None, name.clone())),
        Address::Launch(kind, flash) => Ok(named(launch_from(*kind, flash.as_deref())?)),
    }
}

/// [`started`]; without an address a controller of this kind.
pub(super) fn started_or(
    address: Option<&Address>,
    kind: ControllerKind,
) -> Result<(Option<Launched>, String)> {
    match address {
        Some(address) => started(address),
        None => Ok(named(launch(kind)?)),
    }
}

fn named(launched: Launched) -> (Option<Launched>, String) {
    let name = launched.port().to_owned();
    (Some(launched), name)
}

/// The ports there are, for people who gave none.
fn ports() -> String {
    let found: Vec<String> =
        serialport::available_ports().unwrap_or_default().into_iter().map(|port| port.port_name).collect();
    if found.is_empty() {
        "no serial port was found on this machine; connect the controller, or try `--port qemu:FLASH_FILE`"
            .into()
    } else {
        format!("serial ports of this machine are {}", found.join(", "))
    }
}

#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key: NAME.key (secret, mode 0600) and NAME.pub
    New {
        /// Name of the key
        name: String,
        /// Folder, instead of ~/.config/tendon/keys
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// List the keys of this user, and those of a controller
    Show {
        /// Folder, instead of ~/.config/tendon/keys
        #[arg(long)]
        dir: Option<PathBuf>,
        #[command(flatten)]
        port: Port,
    },
    /// Give a controller without keys its keys, once and for all
    Provision {
        #[command(flatten)]
        port: Port,
        /// Public keys (.pub) that the controller will know: one or two
        #[arg(long = "key", required = true, num_args = 1)]
        keys: Vec<PathBuf>,
        /// Robot that the controller belongs to: it then takes no policy of another
        #[arg(long, default_value = "")]
        robot: String,
    },
    /// Replace the keys of a controller
    Rotate {
        #[command(flatten)]
        port: Port,
        /// Secret key (.key) that the controller knows now
        #[arg(long)]
        key: PathBuf,
        /// Public keys (.pub) that it will know: one or two
        #[arg(long = "new", required = true, num_args = 1)]
        keys: Vec<PathBuf>,
    },
}

impl Keys {
    pub(super) fn run(self) -> Result<()> {
        match self.command {
            KeysCommand::New { name, dir } => {
                let (path, public) = keys::create(&dir.unwrap_or_else(keys::default_folder), &name)?;
                println!("{}: secret, keep it to yourself", path.display());
                println!(
                    "{}: key {}",
                    path.with_extension(keys::PUBLIC_EXTENSION).display(),
                    keys::short(&public)
                );
                Ok(())
            }
            KeysCommand::Show { dir, port } => {
                let folder = dir.unwrap_or_else(keys::default_folder);
                let mut rows = vec![["key", "public key", "file"].map(String::from).to_vec()];
                for (file, key) in keys::list(&folder)? {
                    rows.push(vec![keys::short(&key), keys::hex(&key), file.display().to_string()]);
                }
                if rows.len() > 1 {
                    print_table(&rows);
                } else {
                    println!("{}: no keys; `tendon keys new NAME` makes one", folder.display());
                }
                if port.port.is_some() {
                    let (_launched, mut session, _) = port.open()?;
                    print_keys(&session.slots()?);
                }
                Ok(())
            }
            KeysCommand::Provision { port, keys, robot } => {
                ensure!(robot.len() <= 32, "--robot {robot}: at most 32 bytes");
                let set = key_set(1, &keys, robot.as_bytes())?;
                let (_launched, mut session, _) = port.open()?;
                session.provision(&set)?;
                print_keys(&session.slots()?);
                Ok(())
            }
            KeysCommand::Rotate { port, key, keys } => {
                let key = keys::read_secret(&key)?;
                let (_launched, mut session, _) = port.open()?;
                let before = session.slots()?;
                let generation = before.generation.wrapping_add(1);
                let set = key_set(generation, &keys, before.robot.as_bytes())?;
                session.rotate(&set, &hand_over(&set, &key))?;
                print_keys(&session.slots()?);
                Ok(())
            }
        }
    }
}

fn key_set(generation: u32, files: &[PathBuf], robot: &[u8]) -> Result<KeySet> {
    ensure!(files.len() <= 2, "{} keys given; a controller knows one or two", files.len());
    let mut set = KeySet { generation, reserved: 0, keys: [[0; 32]; 2], robot_id: [0; 32] };
    for (place, file) in set.keys.iter_mut().zip(files) {
        *place = keys::read_public(file)?;
    }
    for (to, from) in set.robot_id.iter_mut().zip(robot) {
        *to = *from;
    }
    Ok(set)
}

fn print_keys(slots: &Slots) {
    match slots.generation {
        0 => println!("no keys: takes unsigned images (development mode)"),
        u32::MAX => println!("its keys are damaged in flash: it takes nothing and runs nothing"),
        generation => {
            let shown = |key: &[u8; 8]| if *key == [0; 8] { "none".into() } else { keys::hex(key) };
            println!(
                "keys {} and {}, generation {generation}; robot {}",
                shown(&slots.key_a),
                shown(&slots.key_b),
                if slots.robot.is_empty() { "any" } else { &slots.robot }
            );
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// Policy image (.tnd), firmware package (.tfw), or BOARD.elf of `cargo xtask firmware build`
    file: PathBuf,
    /// Secret key (.key)
    #[arg(long)]
    key: PathBuf,
    /// Rollback counter to write: a controller takes no image below that of the last one confirmed
    #[arg(long)]
    rollback_counter: Option<u32>,
    /// Where the signed file goes; without it the file itself (an ELF: BOARD.tfw)
    #[arg(short, long)]
    output: Option<PathBuf>,
}

impl Sign {
    pub(super) fn run(self) -> Result<()> {
        let key = keys::read_secret(&self.key)?;
        let file = &self.file;
        let (images, default) = match read_images(file)? {
            Images::Policy(image) => (vec![image], file.clone()),
            Images::Firmware(package) => (package.images, file.with_extension("tfw")),
        };
        let mut signed = Vec::new();
        for image in images {
            signed.extend(
                signed_image(&image, Some(&key), self.rollback_counter)
                    .with_context(|| file.display().to_string())?,
            );
        }
        let output = self.output.unwrap_or(default);
        write_file(&output, &signed)?;
        println!("{}: signed with {}", output.display(), keys::short(key.verifying_key().as_bytes()));
        Ok(())
    }
}

/// What can be flashed.
enum Images {
    Policy(Vec<u8>),
    Firmware(Package),
}

fn read_images(path: &Path) -> Result<Images> {
    let mut head = [0; 4];
    let mut file =
        std::fs::File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let _ = std::io::Read::read(&mut file, &mut head);
    if head == tendon_wire::image::MAGIC {
        return Ok(Images::Policy(read_file(path, MAX_IMAGE as u64)?));
    }
    Ok(Images::Firmware(Package::read(path)?.for_release(path)?))
}

fn signed_image(image: &[u8], key: Option<&SigningKey>, counter: Option<u32>) -> Result<Vec<u8>> {
    let image = match counter {
        Some(counter) => with_rollback_counter(image, counter)?,
        None => image.to_vec(),
    };
    Ok(match key {
        Some(key) => sign(&image, key)?,
        None => image,
    })
}

#[derive(Debug, Args)]
pub(super) struct Flash {
    #[command(flatten)]
    port: Port,
    /// Policy image to run
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Firmware package (.tfw), or BOARD.elf
    #[arg(long, conflicts_with = "policy")]
    firmware: Option<PathBuf>,
    /// Secret key to sign with on the way
    #[arg(long)]
    key: Option<PathBuf>,
    /// Keep it: it boots from now on. Alone: keep what is on trial
    #[arg(long)]
    confirm: bool,
    /// Give up what is on trial
    #[arg(long, conflicts_with_all = ["policy", "firmware", "confirm"])]
    revert: bool,
    /// Chip to write through a debug probe, as probe-rs calls it: boot stage and firmware of a fresh board
    #[cfg(feature = "probe")]
    #[arg(long, requires = "firmware", conflicts_with = "port")]
    probe: Option<String>,
}

impl Flash {
    pub(super) fn run(self) -> Result<()> {
        let key = self.key.as_deref().map(keys::read_secret).transpose()?;
        #[cfg(feature = "probe")]
        if let (Some(chip), Some(file)) = (&self.probe, &self.firmware) {
            return super::probe::write(chip, file, key.as_ref());
        }
        match (&self.policy, &self.firmware) {
            (Some(file), _) => self.flash_policy(file, key.as_ref()),
            (None, Some(file)) => self.flash_firmware(file, key.as_ref()),
            (None, None) => self.end_trial(),
        }
    }

    fn end_trial(&self) -> Result<()> {
        ensure!(
            self.confirm || self.revert,
            "give --policy FILE or --firmware FILE, or --confirm or --revert alone"
        );
        let (_launched, mut session, _) = self.port.open()?;
        let slots = session.slots()?;
        let trials = [(Part::Policy, slots.policy_trial), (Part::Firmware, slots.firmware_trial)];
        let trials: Vec<Part> =
            trials.into_iter().filter(|(_, trial)| *trial != 0).map(|(part, _)| part).collect();
        ensure!(!trials.is_empty(), "nothing is on trial");
        for part in trials {
            if self.confirm {
                session.confirm(part)?;
            } else {
                session.revert(part)?;
            }
        }
        print_slots(&session.slots()?);
        Ok(())
    }

    fn flash_policy(&self, file: &Path, key: Option<&SigningKey>) -> Result<()> {
        let Images::Policy(image) = read_images(file)? else {
            bail!("{}: is firmware; give it with --firmware", file.display())
        };
        let image = signed_image(&image, key, None).with_context(|| file.display().to_string())?;
        let (_launched, mut session, _) = self.port.open()?;
        let before = session.slots()?;
        print_slots(&before);
        send(&mut session, Part::Policy, &image)?;
        let after = session.slots()?;
        println!(
            "runs now: policy {:08x} in slot {}; ran before: {}",
            policy_crc(&after, after.policy_slot),
            after.policy_slot,
            described(&before)
        );
        self.keep(&mut session, Part::Policy)
    }

    fn flash_firmware(&self, file: &Path, key: Option<&SigningKey>) -> Result<()> {
        let Images::Firmware(package) = read_images(file)? else {
            bail!("{}: is a policy; give it with --policy", file.display())
        };
        let (_launched, mut session, identity) = self.port.open()?;
        ensure!(
            package.board == identity.board.as_str(),
            "{}: is for board {}, the controller is {}; build it with `cargo xtask firmware build --board {}`",
            file.display(),
            package.board,
            identity.board,
            identity.board
        );
        let before = session.slots()?;
        ensure!(
            before.firmware_slot_len > 0,
            "{}: its firmware cannot be updated over the link",
            identity.board
        );
        let target = if before.firmware_slot == 0 { 1 } else { 0 };
        let image = package
            .images
            .get(target)
            .with_context(|| format!("{}: has no image for slot {target}; build it again", file.display()))?;
        let image = signed_image(image, key, None).with_context(|| file.display().to_string())?;
        print_slots(&before);
        send(&mut session, Part::Firmware, &image)?;
        println!("restarts ...");
        let identity = session
            .restart()
            .context("the new firmware does not answer; a reset or two brings the one before back")?;
        let after = session.slots()?;
        ensure!(
            usize::from(after.firmware_slot) == target,
            "the controller started the firmware before: the new one did not verify or did not start"
        );
        println!(
            "runs now: firmware {} in slot {target}; ran before: slot {}",
            identity.firmware, before.firmware_slot
        );
        self.keep(&mut session, Part::Firmware)
    }

    /// Ends the trial, or says how.
    fn keep(&self, session: &mut Session<Serial>, part: Part) -> Result<()> {
        if self.confirm || asked("keep it?")? {
            session.confirm(part)?;
            println!("confirmed: it boots from now on");
            return Ok(());
        }
        println!(
            "on trial: {} unless it is confirmed (`tendon flash --confirm`); `tendon flash --revert` gives it up now",
            match part {
                Part::Policy => "the next reset brings the one before back",
                Part::Firmware => "a few resets bring the one before back",
            }
        );
        Ok(())
    }
}

/// Asks a person; no, where there is none.
fn asked(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Ok(false);
    }
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y") || answer.trim().eq_ignore_ascii_case("yes"))
}

/// Sends with a progress bar.
fn send(session: &mut Session<Serial>, part: Part, image: &[u8]) -> Result<()> {
    let bar = ProgressBar::new(image.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    let held = session.update(part, image, |sent| bar.set_position(sent as u64))?;
    bar.finish_and_clear();
    match held {
        0 => println!("{} bytes sent", image.len()),
        _ => println!("{} bytes sent; the slot already held the first {held}", image.len() - held),
    }
    Ok(())
}

fn policy_crc(slots: &Slots, slot: u8) -> u32 {
    if slot == 0 { slots.policy_crc_0 } else { slots.policy_crc_1 }
}

fn described(slots: &Slots) -> String {
    match slots.policy_slot {
        NO_SLOT => "none".into(),
        slot => format!("policy {:08x} in slot {slot}", policy_crc(slots, slot)),
    }
}

fn print_slots(slots: &Slots) {
    let trial = |on: u8| match on {
        0 => "",
        1 => ", on trial",
        _ => ", the other slot at the next restart",
    };
    println!(
        "policy: {}{}; rollback counter at least {}",
        described(slots),
        trial(slots.policy_trial),
        slots.policy_floor
    );
    if slots.firmware_slot_len > 0 {
        println!(
            "firmware: slot {}{}; rollback counter at least {}",
            slots.firmware_slot,
            trial(slots.firmware_trial),
            slots.firmware_floor
        );
    }
}

/// For [`super::probe`]: images of a package, signed where there is a key.
#[cfg(feature = "probe")]
pub(super) fn signed_package(file: &Path, key: Option<&SigningKey>) -> Result<Vec<Vec<u8>>> {
    let package = Package::read(file)?.for_release(file)?;
    package.images.iter().map(|image| signed_image(image, key, None)).collect()
}
