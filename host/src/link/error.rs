//! What can go wrong on the link, each with what to do next.

use std::time::Duration;
use tendon_runtime::Refusal;

/// An error of the link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The port cannot be opened.
    #[error(
        "port {port}: {source}; check that the controller is connected and that you may open the port (group dialout)"
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
            "one inference takes up to {detail} us on this board, more than three quarters of the control period: make the network smaller, quantize it, or lengthen the period"
        ),
        Some(Refusal::Session) => "another host has begun a session since; open the link again".to_owned(),
        Some(Refusal::Rollback) => format!("the image is older than rollback counter {detail}"),
        Some(Refusal::Profile) => {
            format!("the contract has no such profile, only {detail}: `tendon inspect` lists them")
        }
        Some(Refusal::Looser) => format!(
            "torque is on and this profile would loosen a limit of profile {detail}: stop first, then choose it"
        ),
        None => format!("code {code}, detail {detail}, unknown to this program; build both from one version"),
    }
}
