//! What can go wrong on the link, each with what to do next.

use std::time::Duration;
use tendon_runtime::Refusal;
use tendon_runtime::store::KeysRefused;

/// An error of the link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The port cannot be opened.
    #[error(
        "port {port}: {source}; {}", open_advice(.source)
    )]
    Open {
        /// Path of the port.
        port: String,
        /// What the system said.
        source: serialport::Error,
    },
    /// The port broke.
    #[error("port {port}: {source}; the controller may have been unplugged or its process ended")]
    Io {
        /// Path of the port.
        port: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No answer.
    #[error(
        "no answer to {waiting_for} within {timeout:?}; check power and port, or whether another program reads it"
    )]
    Timeout {
        /// Message sent.
        waiting_for: &'static str,
        /// How long.
        timeout: Duration,
    },
    /// The controller speaks another version.
    #[error(
        "controller {board} with firmware {firmware} speaks message table {found:#018x}, this program {expected:#018x}; \
         build both from one version (cargo xtask firmware build)"
    )]
    Version {
        /// Board name.
        board: String,
        /// Firmware version.
        firmware: String,
        /// Its table hash.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// A message does not fit its frame.
    #[error("{message} cannot be framed: {reason}")]
    Encode {
        /// Message.
        message: &'static str,
        /// Why.
        reason: String,
    },
    /// The controller refused.
    #[error("controller refused {message}: {}", refusal_text(*.refusal, *.code, *.detail))]
    Refused {
        /// What it refused.
        message: &'static str,
        /// Why, if this program knows the code.
        refusal: Option<Refusal>,
        /// The code.
        code: u8,
        /// Number that belongs to it.
        detail: u32,
    },
    /// A controller process could not be started.
    #[error("cannot start {program}: {problem}")]
    Launch {
        /// Program.
        program: String,
        /// What happened and what to do.
        problem: String,
    },
}

fn open_advice(error: &serialport::Error) -> &'static str {
    match error.kind() {
        serialport::ErrorKind::NoDevice | serialport::ErrorKind::Io(std::io::ErrorKind::NotFound) => {
            "there is no such port: check that the controller is connected and has power; `ls /dev/ttyACM* /dev/ttyUSB*` shows what is there"
        }
        serialport::ErrorKind::Io(std::io::ErrorKind::PermissionDenied) => {
            "you may not open it: run `sudo usermod -aG dialout $USER` and log in again"
        }
        _ => "another program may have it open, or it is no serial port",
    }
}

fn keys_text(detail: u32) -> String {
    match KeysRefused::from_code(detail) {
        Some(KeysRefused::Weak) => "a key is weak, malformed or there twice; make others with `tendon keys new`",
        Some(KeysRefused::Provisioned) => "the controller has keys already; replace them with `tendon keys rotate`",
        Some(KeysRefused::NotProvisioned) => "the controller has no keys yet; `tendon keys provision` gives it some",
        Some(KeysRefused::Generation) => "the keys were replaced meanwhile; read them again with `tendon keys show --port`",
        Some(KeysRefused::Signature) => "the key that signed is none of the controller's; use one that `tendon keys show --port` prints",
        Some(KeysRefused::Locked) => {
            "what runs is not signed with one of the new keys and would not boot again; flash it signed with such a key first"
        }
        Some(KeysRefused::Robot) => "the robot of a controller does not change",
        Some(KeysRefused::Damaged) => "the keys in its flash are damaged; erase the flash with a debug probe and provision it again",
        None => return format!("key set refused, detail {detail}"),
    }
    .to_owned()
}

fn refusal_text(refusal: Option<Refusal>, code: u8, detail: u32) -> String {
    let state =
        || tendon_runtime::State::from_code(detail as u8).map_or("unknown".into(), |s| format!("{s:?}"));
    match refusal {
        Some(Refusal::State) => format!("not in state {}; stop first", state()),
        Some(Refusal::NoContract) => {
            "no active image, or a bare network without contract; compile with --contract and send it".into()
        }
        Some(Refusal::Schema) => {
            format!("its contract has another schema hash (low half {detail:#010x}); send your image")
        }
        Some(Refusal::Dwell) => {
            format!("measurements healthy for too short a time, {detail} us to go; keep sending raw states")
        }
        Some(Refusal::Pose) => {
            format!("joint {detail} is too far from its default pose; wait in Ready or move it by hand")
        }
        Some(Refusal::TooLarge) => format!("the image is larger than a slot ({detail} bytes)"),
        Some(Refusal::Order) => format!("the next byte of the image is {detail}; start the update again"),
        Some(Refusal::Image) => "the image does not hold together; compile it again".into(),
        Some(Refusal::SelfTest) => {
            format!("golden vector {detail} gives other bits on the controller: do not use it, report a bug")
        }
        Some(Refusal::Memory) => {
            format!("the image needs {detail} f32 in a buffer that is smaller on this board")
        }
        Some(Refusal::Input) => format!("the network takes {detail} inputs"),
        Some(Refusal::Slow) => format!(
            "by the response-time analysis of this board a tick may take {detail} us and miss its deadline: make the network smaller, quantize it, or lengthen the control period (docs/timing.md)"
        ),
        Some(Refusal::Unsupported) => {
            "this firmware does not do that; late ticks are injected into firmware with feature `inject` only"
                .into()
        }
        Some(Refusal::Session) => "another host has begun a session since; open the link again".to_owned(),
        Some(Refusal::Rollback) => {
            format!(
                "the image is older than what was confirmed before: its rollback counter is below {detail}; compile it with --rollback-counter {detail} or more and sign it again"
            )
        }
        Some(Refusal::Signature) => match detail {
            0 => "the image is not signed and the controller has keys; give --key FILE, or sign it with `tendon sign`".into(),
            1 => "the image is signed with a key that this controller does not know; `tendon keys show` prints both".into(),
            _ => "the signature does not fit the image: it was changed after signing; sign it again".into(),
        },
        Some(Refusal::Robot) => {
            "the image is for another robot or board; `tendon inspect` prints for which, `tendon keys show --port` who the controller is".into()
        }
        Some(Refusal::Keys) => keys_text(detail),
        Some(Refusal::Flash) => format!(
            "flash could not be written or has no boot stage (at {detail}); try again, then suspect the flash"
        ),
        Some(Refusal::Trial) => {
            "what runs is on trial: confirm it or go back first (`tendon flash --confirm`, `--revert`); or nothing is on trial".into()
        }
        Some(Refusal::Profile) => format!("the contract has no such profile, only {detail}: `tendon inspect` lists them"),
        Some(Refusal::Looser) => format!(
            "torque is on and this profile would loosen a limit of profile {detail}: stop first, then choose it"
        ),
        None => format!("code {code}, detail {detail}, unknown to this program; build both from one version"),
    }
}
