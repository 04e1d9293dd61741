//! The host's end of the link: one [`Session`] for a controller behind a serial port (a board, QEMU, the
//! stand-in process) and for one in this process.

mod error;
mod in_process;
mod launch;
mod serial;
mod session;
pub mod stand_in;

pub use error::LinkError;
pub use in_process::{InProcess, with_in_process};
pub use launch::{
    ControllerKind, Launched, firmware_path, launch, launch_program, launch_stand_in, qemu_is_there,
};
pub use serial::Serial;
pub use session::{Session, Transport, commands_of, joint_commands};
